"""RegDB and LLCM: visible images search for thermal or infrared ones, and back."""

from distreid.evaluation.protocols.rule import NO_CAMERAS, Benchmark, Draw


def _regdb(asks: str, asked: str) -> Benchmark:
    return Benchmark(
        name=f"regdb-{asks}-to-{asked}",
        data="RegDB",
        rule=f"all {asks} images of half of the persons search for all their {asked} ones; nothing "
        "is left out; ten halves, as the data set lists them",
        source="mangye16/Cross-Modal-Re-ID-baseline e817a26, eval_regdb",
        trap="Papers train a model for each half; one model of one half has seen persons of the "
        "other nine.",
        layouts=("regdb",),
        asks=f"modality = {asks}",
        asked=f"modality = {asked}",
        draw=Draw(how="listed", listed="trials"),
        counting=NO_CAMERAS,
    )


def _llcm(asks: str, asked: str) -> Benchmark:
    return Benchmark(
        name=f"llcm-{asks}-to-{asked}",
        data="LLCM",
        rule=f"all {asks} images search for one {asked} image of each person and camera; the "
        "query's person in its own camera is left out; ten draws",
        source="ZYK100/LLCM 3532877, DEEN/data_manager.py; d62fc3a, AGW/eval_metrics.py eval_llcm",
        trap="The CMC counts each person once. Compared with the project's rule, not with its run.",
        layouts=("llcm",),
        asks=f"modality = {asks} and split != train | val | other",
        asked=f"modality = {asked} and split != train | val | other",
        draw=Draw(each=("person", "camera"), order="number", seeded="each"),
        cmc="persons",
    )


BENCHMARKS = (
    _regdb("visible", "thermal"),
    _regdb("thermal", "visible"),
    _llcm("visible", "infrared"),
    _llcm("infrared", "visible"),
)
