"""Data sets that are scored by the rule of Market-1501, and by it without cameras."""

from distreid.evaluation.protocols.rule import NO_CAMERAS, STANDARD, Benchmark, Draw

CROSS = "query images search for gallery images; the query's person in its own camera is left out"
TRACKS = "query tracklets search for gallery tracklets, each by its mean feature"
WRITTEN = "Written from the data set's description; there is no code of its own to compare with."

# name, data set, source
IMAGES = (
    ("market-1501", "Market-1501", "Zheng et al., ICCV 2015"),
    ("dukemtmc-reid", "DukeMTMC-reID", "Zheng et al., ICCV 2017"),
    ("msmt17", "MSMT17", "Wei et al., CVPR 2018"),
    ("cuhk03", "CUHK03, 767/700", "Zhong et al., CVPR 2017"),
    ("occluded-duke", "Occluded-Duke", "Miao et al., ICCV 2019"),
    ("p-dukemtmc", "P-DukeMTMC-reID", "Zhuo et al., ICME 2018"),
    ("veri-wild-3000", "VERI-Wild, 3,000 vehicles", "Lou et al., CVPR 2019; fast-reid"),
    ("veri-wild-5000", "VERI-Wild, 5,000 vehicles", "Lou et al., CVPR 2019; fast-reid"),
    ("veri-wild-10000", "VERI-Wild, 10,000 vehicles", "Lou et al., CVPR 2019; fast-reid"),
)
WITHOUT_CAMERAS = (
    ("occluded-reid", "Occluded-REID", "Zhuo et al., ICME 2018"),
    ("partial-reid", "Partial-REID", "Zheng et al., ICCV 2015 (Partial)"),
    ("partial-ilids", "Partial-iLIDS", "He et al., CVPR 2018"),
)
VIDEO = (
    ("dukemtmc-videoreid", "DukeMTMC-VideoReID", "Wu et al., CVPR 2018; torchreid"),
    ("ls-vid", "LS-VID", "Li et al., ICCV 2019"),
)
HALVES = (
    ("ilids-vid", "iLIDS-VID", "Wang et al., ECCV 2014; torchreid"),
    ("prid2011", "PRID2011", "Hirzer et al., SCIA 2011; torchreid"),
)

BENCHMARKS = (
    *(
        Benchmark(name=name, data=data, rule=CROSS, source=source, trap=WRITTEN)
        for name, data, source in IMAGES
    ),
    *(
        Benchmark(
            name=name,
            data=data,
            rule="query images search for gallery images; nothing is left out",
            source=source,
            trap=WRITTEN,
            counting=NO_CAMERAS,
        )
        for name, data, source in WITHOUT_CAMERAS
    ),
    *(
        Benchmark(
            name=name,
            data=data,
            rule=f"{TRACKS}; the query's person in its own camera is left out",
            source=source,
            trap=WRITTEN,
            query_unit="tracklet",
            gallery_unit="tracklet",
            counting=STANDARD,
        )
        for name, data, source in VIDEO
    ),
    *(
        Benchmark(
            name=name,
            data=data,
            rule=f"{TRACKS}, camera 1 in camera 2; ten halves of the persons, by the column trials",
            source=source,
            trap=WRITTEN,
            query_unit="tracklet",
            gallery_unit="tracklet",
            layouts=(f"{name.replace('-', '_')}_halves",),
            draw=Draw(how="listed", listed="trials"),
            counting=NO_CAMERAS,
        )
        for name, data, source in HALVES
    ),
)
