"""SYSU-MM01: infrared images search for visible ones."""

from distreid.evaluation.protocols.rule import NO_CAMERAS, Benchmark, Draw

BENCHMARKS = tuple(
    Benchmark(
        name=f"sysu-mm01-{mode}-{shots}",
        data="SYSU-MM01",
        rule=f"infrared images (cameras 3, 6) search for {take} visible "
        f"image{'s' * (take > 1)} of each person and camera ({cameras.replace(' | ', ', ')}); a "
        "query of camera 3 does not see camera 2, whoever is there; ten draws",
        source="mangye16/Cross-Modal-Re-ID-baseline e817a26; wuancong/SYSU-MM01 0499112",
        trap="The CMC counts each person once, by the best image, so Rank-k is above that of other "
        "data sets. Draws: by the permutations of exp/rand_perm_cam.mat where that is there, else "
        "as the Python project draws; the two give other figures.",
        layouts=("sysu_mm01",),
        asks="camera = 3 | 6 and split != train | val | other",
        asked=f"camera = {cameras} and split != train | val | other",
        leaves_out=("same location",),
        places=(("3", "2"),),
        draw=Draw(
            listed="permutation",
            take=take,
            each=("person", "camera"),
            order="number",
            seeded="each",
        ),
        cmc="persons",
        counting=NO_CAMERAS,
    )
    for mode, cameras in (("all", "1 | 2 | 4 | 5"), ("indoor", "1 | 2"))
    for shots, take in (("single", 1), ("multi", 10))
)
