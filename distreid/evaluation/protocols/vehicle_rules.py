"""Vehicles: VeRi-776, VehicleID, VERI-Wild."""

from dataclasses import replace

from distreid.evaluation.protocols.rule import NO_CAMERAS, STANDARD, Benchmark, Draw

TRAPEZOID = replace(STANDARD, name="veri-776", as_in="", ap="trapezoid", denominator="all")
TRANSREID_DRAW = Draw(order="list", rest_asks=True)
FASTREID_DRAW = Draw(how="shuffle", order="list", seeded="each", rest_asks=True)
LISTED = "split != train | val | other"
SIZES = {800: "small", 1600: "medium", 2400: "large"}

VERI = (
    Benchmark(
        name="veri-776",
        data="VeRi-776",
        rule="query images search for test images; the query's vehicle in its own camera is left "
        "out; all queries count; AP by trapezoids",
        source="JDAI-CV/VeRidataset 09ccfce, compute_AP.m",
        trap="mAP is below that of fast-reid and TransReID, whose AP is the mean precision.",
        layouts=("veri776",),
        counting=TRAPEZOID,
    ),
    Benchmark(
        name="veri-776-standard",
        data="VeRi-776",
        rule="the same with the mean of the precisions at the matches; queries without a match are "
        "dropped",
        source="JDAI-CV/fast-reid c9bc3ce; damo-cv/TransReID dec5504",
        trap="This is what most papers since 2020 report.",
        layouts=("veri776",),
    ),
    Benchmark(
        name="veri-776-track",
        data="VeRi-776",
        rule="query images search for test tracks, each the mean feature of its images, by "
        "Euclidean distance; tracks of the query's vehicle in its own camera are left out",
        source="lxc86739795/vehiclereid_baseline 6eb9163, eval_track.py",
        trap="That script loses the last image of every track; here all count.",
        layouts=("veri776",),
        gallery_unit="tracklet",
        tracklets=("track", "tracklet"),
        tracklet_length="kept",
    ),
)


def _vehicleid(size: int, name: str, draw: Draw, how: str, source: str, trap: str) -> Benchmark:
    return Benchmark(
        name=name,
        data="VehicleID",
        rule=f"of each of {size:,} vehicles one image is drawn for the gallery, all others search "
        f"({how}); nothing is left out; ten draws",
        source=source,
        trap=trap,
        layouts=(f"vehicleid_{SIZES[size]}",),
        asks=LISTED,
        asked=LISTED,
        draw=draw,
        counting=NO_CAMERAS,
    )


VEHICLEID = tuple(
    benchmark
    for size in SIZES
    for benchmark in (
        _vehicleid(
            size,
            f"vehicleid-{size}",
            TRANSREID_DRAW,
            "random.choice for each vehicle in the order of the list, one generator",
            "damo-cv/TransReID dec5504, datasets/vehicleid.py",
            "The project does not say its seed; --seed is that of the first draw, 0 unless given.",
        ),
        _vehicleid(
            size,
            f"vehicleid-{size}-fastreid",
            FASTREID_DRAW,
            "the first of each vehicle in the shuffled list, a seed for each draw",
            "JDAI-CV/fast-reid c9bc3ce, data/datasets/vehicleid.py",
            "The project makes one draw a run; here ten, of which the mean is given.",
        ),
    )
)
BENCHMARKS = (*VERI, *VEHICLEID)
