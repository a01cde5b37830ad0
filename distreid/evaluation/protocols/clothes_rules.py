"""Persons who change their clothes: LTCC, PRCC, VC-Clothes, DeepChange, Celeb-reID, LaST."""

from dataclasses import replace

from distreid.evaluation.protocols.rule import NO_CAMERAS, Benchmark, Draw

SIMPLE_CCREID = "guxinqian/Simple-CCReID f773d01"
CHANGED = ("same person, same clothes",)
SAME = ("same person, other clothes",)
DROPPED = "A query without such a match is dropped, so the three figures are of different queries."
PRCC_DRAWS = Draw()  # random.choice for each person in the order of the paths, one generator


def _by_clothes(data: str, prefix: str, layouts: tuple[str, ...]) -> tuple[Benchmark, ...]:
    rules = (
        ("general", (), "the query's person in the query's camera is left out"),
        (
            "same-clothes",
            SAME,
            "the query's person in the query's camera or in other clothes is left out",
        ),
        (
            "changed-clothes",
            CHANGED,
            "the query's person in the query's camera or in the same clothes is left out",
        ),
    )
    return tuple(
        Benchmark(
            name=f"{prefix}-{name}",
            data=data,
            rule=rule,
            source=f"{SIMPLE_CCREID}, tools/eval_metrics.py",
            trap=DROPPED,
            layouts=layouts,
            leaves_out=leaves_out,
        )
        for name, leaves_out, rule in rules
    )


def _prcc(name: str, camera: str, clothes: str) -> tuple[Benchmark, Benchmark]:
    # Simple-CCReID numbers the cameras A, B, C from 0.
    asks, asked = f"camera = {camera} | {'ABC'.index(camera)}", "camera = A | 0"
    split = " and split != train | val | other"
    return (
        Benchmark(
            name=f"prcc-{name}",
            data="PRCC",
            rule=f"images of camera {camera} ({clothes}) search for all of camera A",
            source=f"{SIMPLE_CCREID}, test.py test_prcc",
            trap="The paper's gallery is one image of each person: that is the protocol with "
            "-single at its end.",
            layouts=("prcc",),
            asks=asks + split,
            asked=asked + split,
            counting=NO_CAMERAS,
        ),
        Benchmark(
            name=f"prcc-{name}-single",
            data="PRCC",
            rule=f"images of camera {camera} ({clothes}) search for one of camera A for each "
            "person; ten draws",
            source=f"{SIMPLE_CCREID}, data/datasets/prcc.py; PRCC's paper, TPAMI 2021",
            trap="Simple-CCReID prepares these draws (seed 3) and scores the whole of A all the "
            "same.",
            asks=asks + split,
            asked=asked + split,
            draw=PRCC_DRAWS,
            counting=replace(NO_CAMERAS, seed=3),
        ),
    )


def _vc_clothes(name: str, cameras: str, clothes: str) -> Benchmark:
    return Benchmark(
        name=f"vc-clothes-{name}",
        data="VC-Clothes",
        rule=f"query images search for gallery images, both of {clothes}; the query's person in "
        "its own camera is left out",
        source=f"{SIMPLE_CCREID}, data/datasets/vcclothes.py",
        trap="Not compared with the project's own run, only with its rule.",
        layouts=("vc_clothes",),
        asks=f"split = query{cameras}",
        asked=f"split = gallery{cameras}",
    )


OTHERS = (
    _vc_clothes("general", "", "all cameras"),
    _vc_clothes("same-clothes", " and camera = 2 | 3", "cameras 2 and 3"),
    _vc_clothes("changed-clothes", " and camera = 3 | 4", "cameras 3 and 4"),
    Benchmark(
        name="deepchange",
        data="DeepChange",
        rule="the query's person in its own track is left out; the same camera is not",
        source=f"{SIMPLE_CCREID}, data/datasets/deepchange.py, after the data set's paper",
        trap="Matches of the query's own camera count, unlike in other data sets.",
        layouts=("deepchange",),
        leaves_out=("same person, same track",),
        counting=NO_CAMERAS,
    ),
    Benchmark(
        name="last",
        data="LaST",
        rule="query images search for gallery images; no cameras, and nothing is left out",
        source=f"{SIMPLE_CCREID}, data/datasets/last.py",
        trap="Clothes are not labelled in the test set.",
        layouts=("last",),
        counting=NO_CAMERAS,
    ),
    Benchmark(
        name="celeb-reid",
        data="Celeb-reID",
        rule="query images search for gallery images; no cameras, and nothing is left out",
        source="Huang et al., Beyond Scalar Neuron, TCSVT 2020",
        trap="Written from the paper; not compared with a project's code.",
        layouts=("celeb_reid",),
        counting=NO_CAMERAS,
    ),
)

BENCHMARKS = (
    *_by_clothes("LTCC", "ltcc", ("ltcc",)),
    *_prcc("same-clothes", "B", "the same clothes"),
    *_prcc("changed-clothes", "C", "changed clothes"),
    *OTHERS,
)
