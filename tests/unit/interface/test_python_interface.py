"""The names that Python users hold: what they give, and what they refuse."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import LIMIT_S, Pack, Run
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet
from small_runs import DIM, make_run

import distreid
from distreid.errors import CheckpointError, DataError, ImageError, OptionError, StoreError
from distreid.interface import extraction
from distreid.models.checkpoint import file_of
from distreid.models.weights import read_checkpoint
from distreid.store import FeatureStore

PUBLIC = {
    "Gallery",
    *("extract_features", "open_gallery", "open_store", "load_model", "evaluate"),
    *("Store", "Model", "Scores", "Preprocess"),
    "errors",
}


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, distreid.Store]:
    """21 images of 7 persons in two cameras, one of which cannot be read, and their run."""
    root = tmp_path_factory.mktemp("interface")
    lines = ["path,person_id,camera_id,split,shop"]
    for row in range(21):
        split = "query" if row < 7 else "gallery"
        noise = np.random.default_rng(row % 7).integers(0, 256, (32, 16, 3), dtype=np.uint8)
        noise[row % 5] = row
        Image.fromarray(noise).resize((50 + row, 120)).save(root / f"{row}.png")
        lines.append(f"{row}.png,{row % 7 + 1},{row // 7 % 2 + 1},{split},s{row}")
    (root / "20.png").write_bytes(b"no image")
    (root / "rows.csv").write_text("\n".join(lines) + "\n")
    store = distreid.extract_features(
        root / "rows.csv",
        "sample",
        root / "run",
        shard_rows=8,
        on_bad_image="record",
        num_workers=0,
    )
    assert isinstance(store, distreid.Store)
    return root, store


@pytest.fixture(scope="session")
def model() -> distreid.Model:
    return distreid.load_model("sample")


def test_the_public_names_are_these() -> None:
    assert set(distreid.__all__) == PUBLIC
    assert set(dir(distreid)) >= PUBLIC
    for name in PUBLIC:
        assert getattr(distreid, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'open_camera'"):
        distreid.open_camera  # noqa: B018


def test_no_function_has_the_name_of_a_module_beside_it() -> None:
    folder = Path(distreid.__file__).parent
    modules = {path.stem for path in folder.iterdir() if not path.name.startswith("_")}
    assert modules & PUBLIC == {"errors"}  # the module itself


def test_the_errors_are_there_without_another_import() -> None:
    code = "import distreid; assert issubclass(distreid.errors.StoreError, ValueError) is False"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_thread_extracts_too(small: tuple[Path, distreid.Store], tmp_path: Path) -> None:
    root, store = small
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(
            distreid.extract_features,
            root / "rows.csv",
            "sample",
            tmp_path / "run",
            on_bad_image="record",
            evaluate=False,
            num_workers=0,
        ).result()
    assert isinstance(found, distreid.Store)
    assert np.array_equal(found.features[:20], store.features[:20])


def test_importing_takes_no_torch_and_no_numpy() -> None:
    code = "import sys, distreid; assert not {'torch', 'numpy', 'h5py', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_gives_its_columns_in_the_original_order(
    small: tuple[Path, distreid.Store],
) -> None:
    root, store = small
    assert len(store) == 21
    assert store.paths == [f"{row}.png" for row in range(21)]
    assert store.root == root
    assert store.person_id.tolist() == [row % 7 + 1 for row in range(21)]
    assert store.camera_id.tolist() == [row // 7 % 2 + 1 for row in range(21)]
    assert store.split.tolist() == ["query"] * 7 + ["gallery"] * 14
    assert store.rows("query").tolist() == list(range(7))
    assert store.has_image.tolist() == [True] * 20 + [False]
    assert store.identity["dim"] == 512
    assert repr(store) == f"<distreid.Store {root}/run: 21 rows × 512>"


def test_features_are_indexed_by_rows(small: tuple[Path, distreid.Store]) -> None:
    _, store = small
    features = store.features
    whole = np.concatenate(list(features.blocks()))
    assert features.shape == (21, 512) and features.dtype == np.float32 and len(features) == 21
    for rows in (slice(None), slice(6, 18, 3), slice(None, None, -1), [20, 0, 9, 9], [], [-1]):
        assert np.array_equal(features[rows], whole[rows], equal_nan=True), rows
    assert np.array_equal(features[np.arange(21) % 2 == 0], whole[::2], equal_nan=True)
    assert features[9].shape == (512,)
    assert np.array_equal(features[-2], whole[19])
    assert np.array_equal(np.asarray(features), whole, equal_nan=True)
    assert np.isnan(features[20]).all() and np.isfinite(features[:20]).all()
    features[3][:] = 0  # a copy
    assert np.array_equal(features[3], whole[3])
    for wrong in (21, [0, 21], (0, 1), [[0], [1]], True, np.False_):
        with pytest.raises(IndexError):
            features[wrong]  # type: ignore[index]


def test_what_was_stored_as_float16_stays_float16(
    small: tuple[Path, distreid.Store], tmp_path: Path
) -> None:
    root, store = small
    half = distreid.extract_features(
        root / "rows.csv",
        "sample",
        tmp_path / "half",
        dtype="float16",
        on_bad_image="record",
        num_workers=0,
        evaluate=False,
    )
    assert isinstance(half, distreid.Store)
    assert half.features[:].dtype == np.float16
    assert np.array_equal(half.features[:20], store.features[:20].astype(np.float16))


def test_opening_checks_every_byte_unless_told_not_to(
    small: tuple[Path, distreid.Store], tmp_path: Path
) -> None:
    root, _ = small
    shutil.copytree(root / "run", tmp_path / "run")
    shard = tmp_path / "run/shards/000001.h5"
    content = bytearray(shard.read_bytes())
    content[-2000] ^= 1
    shard.write_bytes(content)
    assert len(distreid.open_store(tmp_path / "run", verify=False)) == 21
    with pytest.raises(StoreError, match="do not fit their checksum"):
        distreid.open_store(tmp_path / "run")
    with pytest.raises(StoreError, match="a folder of runs; give one of them: run"):
        distreid.open_store(str(tmp_path))


def test_the_columns_go_to_pandas_and_to_files(
    small: tuple[Path, distreid.Store], tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'distreid[tables]'")
    _, store = small
    table = store.dataframe()
    assert list(table) == [
        *("path", "person_id", "camera_id", "split", "shop", "has_image"),
    ]
    assert table.shop[20] == "s20"
    read = parquet.read_table(store.to_parquet(tmp_path / "store.parquet"))
    assert read.column_names == [*table, "feature"]
    assert read["path"].to_pylist() == store.paths
    features = np.stack(read["feature"].to_numpy())
    assert np.array_equal(features, store.features[:], equal_nan=True)
    assert store.to_npz(tmp_path / "store").name == "store"
    with np.load(tmp_path / "store") as arrays:
        assert np.array_equal(arrays["features"], store.features[:], equal_nan=True)
        assert arrays["person_id"].tolist() == store.person_id.tolist()
        assert arrays["path"].tolist() == store.paths


def test_a_model_gives_the_very_bytes_of_the_job(
    small: tuple[Path, distreid.Store], model: distreid.Model
) -> None:
    root, store = small
    rows = [19, 3, 11]
    files = [root / store.paths[row] for row in rows]
    arrays = [np.array(Image.open(file)) for file in files]
    expected = store.features[rows].tobytes()
    assert model.features(files).tobytes() == expected
    assert model.features([str(file) for file in files]).tobytes() == expected
    assert model.features([file.read_bytes() for file in files]).tobytes() == expected
    assert model.features([Image.open(file) for file in files]).tobytes() == expected
    assert model.features(arrays).tobytes() == expected
    frames = [array[:, :, ::-1] for array in arrays]  # as OpenCV has them
    assert model.features(frames, bgr=True).tobytes() == expected
    assert model.features([files[0], frames[1], files[2]], bgr=True).tobytes() == expected
    assert model.features(iter(files)).tobytes() == expected

    def many() -> Iterator[NDArray[np.uint8]]:
        for array in itertools.islice(itertools.cycle(arrays), 150):
            held.append(weakref.ref(copy := array.copy()))
            assert sum(one() is not None for one in held) <= 130  # two batches
            yield copy

    held: list[Any] = []
    assert model.features(many()).tobytes() == expected * 50
    one = model.features(files[0])
    assert one.shape == (512,) and one.dtype == np.float32
    assert one.tobytes() == store.features[19].tobytes()
    assert model.identity["weights"] == store.identity["weights"]


def test_more_images_than_are_held_at_once_come_in_their_order(
    small: tuple[Path, distreid.Store], model: distreid.Model
) -> None:
    root, store = small
    rows = [row % 20 for row in range(70)]
    found = model.features([root / store.paths[row] for row in rows])
    assert np.array_equal(found, store.features[rows])


def test_grey_and_transparent_arrays_are_what_the_same_file_would_be(
    model: distreid.Model, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 20, 4), dtype=np.uint8)
    Image.fromarray(noise[:, :, 0]).save(tmp_path / "grey.png")
    Image.fromarray(noise, "RGBA").save(tmp_path / "rgba.png")
    grey, rgba = model.features([tmp_path / "grey.png", tmp_path / "rgba.png"])
    assert np.array_equal(model.features(noise[:, :, 0]), grey)
    assert np.array_equal(model.features(noise[:, :, :1]), grey)
    assert np.array_equal(model.features(noise), rgba)
    assert np.array_equal(model.features(noise[:, :, [2, 1, 0, 3]], bgr=True), rgba)
    stacked = np.stack([noise[:, :, :3]] * 2)
    assert model.features(stacked).shape == (2, 512)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((8, 8, 3), np.uint16), ValueError, "image 1 is an array of uint16"),
        (np.zeros((8, 8, 3), np.float32), ValueError, "image 1 is an array of float32"),
        (np.zeros((8, 8, 2), np.uint8), ValueError, r"shape \(8, 8, 2\)"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, r"shape \(0, 8, 3\)"),
        (np.zeros(8, np.uint8), ValueError, r"shape \(8,\)"),
        (3.5, ValueError, "image 1 is a float"),
        (None, ValueError, "image 1 is a NoneType"),
        (torch.zeros(3, 8, 8), ValueError, r"image 1 is a Tensor; .*\.permute\(1, 2, 0\)"),
        ("a\0.jpg", ImageError, "no file has a NUL in its name"),
        ("no/such.jpg", ImageError, "image 1, no/such.jpg: no such file"),
        (b"no image", ImageError, "image 1: no image of a known kind"),
    ],
)
def test_what_is_no_image_is_named_by_its_place(
    model: distreid.Model, image: Any, error: type[Exception], message: str
) -> None:
    good = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(error, match=message):
        model.features([good, image])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "--precision int4: choose one of"),
        ({"device": "tpu"}, "--device tpu: choose one of"),
        ({"scales": (0,)}, "--scales 0: positive numbers"),
        ({"scales": 1.1}, "scales=1.1: several values are wanted, such as (1, 1.1)"),
        ({"scales": "1;2"}, "scales=1;2: positive numbers separated by commas"),
        ({"flip": "x"}, "--flip 'x': True or False"),
        ({"model": 3}, "--model 3: a text is wanted"),
        ({"device": torch.device("cuda", 7)}, "--device cuda:7: choose one of auto, cuda, cpu"),
        ({"scale_mode": "x"}, "--scale-mode x: choose one of"),
        ({"camera_embedding": "x"}, "--camera-embedding x: choose one of"),
        ({"input_size": 256}, "input_size=256: several values are wanted, such as (256, 128)"),
        ({"input_size": "256"}, "input_size=256: height and width, such as 256x128"),
        ({"input_size": (0, 128)}, "--input-size: height x width"),
    ],
)
def test_an_option_of_a_model_that_cannot_be_meant_is_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=re.escape(message)):
        distreid.load_model("sample", **options)


@pytest.mark.parametrize("images", [None, 3])
def test_what_is_neither_an_image_nor_several_is_refused(
    model: distreid.Model, images: Any
) -> None:
    with pytest.raises(ValueError, match="an image or several are wanted"):
        model.features(images)


def test_an_option_of_another_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--batch-size '8': a whole number is wanted"):
        distreid.extract_features("sample", "sample", tmp_path / "run", batch_size="8")
    with pytest.raises(OptionError, match="input_size=256"):
        distreid.extract_features("sample", "sample", tmp_path / "run", input_size=256)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["", 3, None, "a\0b"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: Any) -> None:
    run = tmp_path / "run"
    for what, call in (
        ("out", lambda: distreid.extract_features("sample", "sample", name)),
        ("data", lambda: distreid.extract_features(name, "sample", run)),
        ("checkpoint", lambda: distreid.extract_features("sample", name, run)),
        ("checkpoint", lambda: distreid.extract_features("sample", ["sample", name], run)),
        ("cache", lambda: distreid.extract_features("sample", "sample", run, cache=name)),
        ("checkpoint", lambda: distreid.load_model(name)),
        ("path", lambda: distreid.open_store(name)),
    ):
        if what == "cache" and name is None:
            continue  # none is kept
        with pytest.raises(OptionError, match=f"{what}="):
            call()
    assert not run.exists()


def test_options_may_be_written_as_on_the_command_line() -> None:
    model = distreid.load_model(
        "sample", input_size="128x64", scales="1,1.1", device=torch.device("cpu")
    )
    assert (model.preprocess.height, model.preprocess.width) == (128, 64)
    assert model.identity["augmentation"]["scales"] == (1.0, 1.1)


def test_columns_and_words_of_the_split_may_be_texts_or_dictionaries() -> None:
    as_text = extraction._known({"columns": "path=my file", "split_names": "query=B,query=C"})
    same = {"columns": {"path": "my file"}, "split_names": {"B": "query", "C": "query"}}
    assert as_text == same == extraction._known(same)
    with pytest.raises(OptionError, match="columns=path: pairs such as path=image"):
        extraction._known({"columns": "path"})


def test_persons_and_cameras_of_features_may_be_names() -> None:
    features = np.eye(4, dtype=np.float32)
    query, gallery = features[:2], features[[0, 1, 2]]
    scores = distreid.evaluate(
        query_features=query,
        gallery_features=gallery,
        query_ids=["bert", "ann"],
        gallery_ids=np.array(["bert", "ann", "ann"]),
        query_cameras=["hall", "door"],
        gallery_cameras=["door", "hall", "door"],
        protocol="fastreid",
    )
    assert scores.to_dict()["scores"][0]["mAP"] == 1
    assert scores.evaluation.scores[0].per_query.matches.tolist() == [1, 1]


def test_texts_that_are_numbers_are_these_numbers() -> None:
    random = np.random.default_rng(0)
    persons = random.integers(-2, 4, 40)
    cameras = random.integers(-1, 3, 40)
    features = random.normal(size=(40, 8)).astype(np.float32)

    def scored(persons: Any, cameras: Any) -> dict[str, Any]:
        return distreid.evaluate(
            query_features=features[:10],
            gallery_features=features[10:],
            query_ids=persons[:10],
            gallery_ids=persons[10:],
            query_cameras=cameras[:10],
            gallery_cameras=cameras[10:],
        ).to_dict()

    texts = np.where(persons == -2, "", persons.astype(str))
    assert scored(texts, np.where(cameras < 0, "", cameras.astype(str))) == scored(persons, cameras)
    names = ["-1" if person == "-1" else person and f"p{person}" for person in texts.tolist()]
    places = [camera and f"c{camera}" for camera in np.where(cameras < 0, "", cameras).tolist()]
    assert scored(names, places)["scores"] == scored(persons, cameras)["scores"]


def test_no_image_gives_no_feature(model: distreid.Model) -> None:
    assert model.features([]).shape == (0, 512)


def test_the_caller_keeps_its_threads(model: distreid.Model) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        distreid.load_model("sample").features(np.zeros((8, 8, 3), np.uint8))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_a_network_with_camera_embeddings_wants_cameras(pack: Any, tmp_path: Path) -> None:
    with_cameras: Pack = pack("transreid/vit_transreid_stride12")
    file = with_cameras.save(tmp_path)
    images = with_cameras.images[:2]
    network = distreid.load_model(file)
    with pytest.raises(ValueError, match="give cameras="):
        network.features(images)
    with pytest.raises(ValueError, match="2 numbers from 1 to"):
        network.features(images, cameras=[1])
    cameras = with_cameras.cameras
    assert cameras is not None
    found = network.features(images, cameras=[int(camera) + 1 for camera in cameras[:2]])
    expected = with_cameras.features[:2]
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    assert (found * expected).sum(axis=1).min() > 0.99999


def test_scores_are_those_of_the_command(small: tuple[Path, distreid.Store], run_here: Run) -> None:
    root, store = small
    printed = run_here("distreid", "evaluate", root / "run", "--protocol", "fastreid,layumi")
    assert printed.returncode == 0, printed.stderr
    scores = distreid.evaluate(store, protocol=["fastreid", "layumi"])
    assert scores.table().strip() == printed.stdout.strip()
    assert str(scores) == scores.table()
    assert [each["protocol"]["name"] for each in scores.to_dict()["scores"]] == [
        *("fastreid", "layumi"),
    ]
    assert distreid.evaluate(root / "run", protocol="fastreid,layumi").to_dict() == scores.to_dict()


def test_features_with_labels_have_the_scores_of_their_store(
    small: tuple[Path, distreid.Store],
) -> None:
    _, store = small
    query, gallery = store.rows("query"), store.rows("gallery")[:-1]
    of_store = distreid.evaluate(store, protocol="fastreid").to_dict()
    of_arrays = distreid.evaluate(
        query_features=2 * store.features[query],  # normalised before they are compared
        gallery_features=store.features[gallery],
        query_ids=store.person_id[query],
        gallery_ids=store.person_id[gallery].astype(float),
        query_cameras=store.camera_id[query],
        gallery_cameras=store.camera_id[gallery].tolist(),
        protocol="fastreid",
    ).to_dict()
    assert of_arrays["scores"][0]["mAP"] == pytest.approx(of_store["scores"][0]["mAP"], abs=1e-12)
    assert of_arrays["scores"][0]["cmc"] == of_store["scores"][0]["cmc"]
    assert of_arrays["counts"] == of_store["counts"] | {"bad_gallery": 0}


def test_without_cameras_there_is_no_camera_rule(small: tuple[Path, distreid.Store]) -> None:
    _, store = small
    query = store.features[:7]
    scores = distreid.evaluate(
        query_features=query, gallery_features=query, query_ids=range(7), gallery_ids=range(7)
    ).to_dict()
    assert {each["protocol"]["camera_rule"] for each in scores["scores"]} == {"none"}
    assert scores["scores"][0]["rank1"] == 1


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query_ids": None}, ValueError, "query_ids: missing; or give a store"),
        ({"query_ids": [1]}, ValueError, r"query_ids of shape \(1,\); \(2,\) is wanted"),
        ({"query_ids": [1.5, 2]}, ValueError, "query_ids: whole numbers"),
        ({"query_ids": ["1", "2"]}, ValueError, "query_ids are names, and those of the other side"),
        ({"gallery_ids": ["1", "2"]}, ValueError, "gallery_ids are names, and those"),
        ({"query_features": [[1.0], [2.0, 3.0]]}, ValueError, "query_features: .* is wanted"),
        ({"gallery_features": np.eye(2, 4) * 1e300}, ValueError, "gallery_features: .* float32"),
        ({"query_features": [1.0, 2.0]}, ValueError, r"query_features of shape \(2,\)"),
        ({"query_features": np.eye(2, 5)}, ValueError, "have 5 dimensions, gallery features 4"),
        ({"query_features": np.zeros((2, 4))}, DataError, "query feature 0 .* or is zero"),
        ({"gallery_features": np.full((2, 4), np.nan)}, DataError, "gallery feature 0"),
        ({"query_features": np.zeros((0, 4)), "query_ids": []}, DataError, "no query feature"),
        ({"query_features": np.eye(2, 4) * 1j}, ValueError, "query_features of complex128; real"),
        ({"gallery_features": [["1"], ["2"]]}, ValueError, "gallery_features of <U1; real numbers"),
        ({"gallery_cameras": [1, 2]}, ValueError, "gallery_cameras without query_cameras"),
        ({"query_cameras": [1, 2]}, ValueError, "query_cameras without gallery_cameras"),
        ({"protocol": []}, OptionError, r"protocol=\[\]: a name, or several, of torchreid"),
        ({"protocol": 3}, OptionError, "protocol=3: a name, or several"),
        ({"protocol": [3]}, OptionError, r"protocol=\[3\]: a name, or several"),
        ({"protocol": "mine"}, OptionError, "--protocol mine: no such name; "),
        ({"precision": "x"}, OptionError, "--precision x: choose one of fp32, fp64"),
        ({"device": "x"}, OptionError, "--device x: choose one of cpu, cuda"),
        ({"name": "x"}, OptionError, "no convention is named name"),
        ({"colour": "red"}, OptionError, "no convention is named colour"),
        ({"rerank": "best"}, OptionError, "--rerank best: choose one of"),
        ({"query": "multi"}, DataError, "extracted with --multi-query"),
    ],
)
def test_what_cannot_be_scored_is_said(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    given: dict[str, Any] = {
        "query_features": np.eye(2, 4),
        "gallery_features": np.eye(2, 4),
        "query_ids": [1, 2],
        "gallery_ids": [1, 2],
    }
    with pytest.raises(error, match=message):
        distreid.evaluate(**given | change)


def test_a_store_and_features_at_once_are_refused(small: tuple[Path, distreid.Store]) -> None:
    with pytest.raises(ValueError, match="not both: query_features"):
        distreid.evaluate(small[1], query_features=np.eye(2))


def test_an_option_that_there_is_not_is_answered_with_those_near_it(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"no option batchsize; near it: batch_size"):
        distreid.extract_features("sample", "sample", tmp_path, batchsize=3)


def test_several_checkpoints_give_a_store_each(
    small: tuple[Path, distreid.Store], tmp_path: Path
) -> None:
    root, store = small
    state = read_checkpoint(file_of("sample")).state
    for name in ("net_1", "net_2"):
        torch.save(state, tmp_path / f"{name}.pth")
    stores = distreid.extract_features(
        root / "rows.csv",
        [tmp_path / "net_1.pth", tmp_path / "net_2.pth"],
        tmp_path / "runs",
        on_bad_image="record",
        evaluate=False,
        num_workers=0,
    )
    assert isinstance(stores, list)
    assert [each.folder.name for each in stores] == ["net_1", "net_2"]
    for each in stores:
        assert np.array_equal(each.features[:20], store.features[:20])


def test_notebooks_show_counts_identity_rows_and_images(
    small: tuple[Path, distreid.Store], model: distreid.Model
) -> None:
    _, store = small
    shown = store._repr_html_()
    for text in ("21 rows × 512", "query: 7", "0.png", "weights", "data:image/png;base64,"):
        assert text in shown
    assert "osnet_x0_25" in model._repr_html_()
    scores = distreid.evaluate(store, protocol="fastreid")
    assert "Rank-1" in scores._repr_html_() and "mAP" in scores._repr_html_()


def test_the_reader_of_stores_stays_where_it_was(small: tuple[Path, distreid.Store]) -> None:
    root, store = small
    reader = FeatureStore.open(root / "run")
    rows = reader.manifest.rows("query")
    assert np.array_equal(reader.features(rows), store.features[:7])


def test_an_open_file_is_an_image_alone_and_among_others(
    model: distreid.Model, tmp_path: Path
) -> None:
    picture = Image.new("RGB", (30, 60), "red")
    picture.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    expected = model.features(picture)
    assert np.array_equal(model.features([io.BytesIO(content)])[0], expected)
    assert np.array_equal(model.features(io.BytesIO(content)), expected)
    assert np.array_equal(model.features(memoryview(content)), expected)
    with (tmp_path / "a.png").open("rb") as file:
        assert np.array_equal(model.features(file), expected)
    with tempfile.NamedTemporaryFile() as wrapped:
        wrapped.write(content)
        wrapped.seek(0)
        assert np.array_equal(model.features(wrapped), expected)


def test_a_file_that_cannot_be_read_as_bytes_is_named_by_its_place(
    model: distreid.Model, tmp_path: Path
) -> None:
    good, file = np.zeros((8, 8, 3), np.uint8), tmp_path / "a.png"
    Image.fromarray(good).save(file)
    closed = file.open("rb")
    closed.close()
    with file.open() as text, (tmp_path / "b").open("wb") as written:
        streams: list[tuple[Any, str]] = [
            (closed, "that was closed"),
            (text, "opened for text; open it with 'rb'"),
            (written, "opened for writing; open it with 'rb'"),
        ]
        for stream, what in streams:
            with pytest.raises(ValueError, match=f"image 1 is a file {what}"):
                model.features([good, stream])
            with pytest.raises(ValueError, match=f"image 0 is a file {what}"):
                model.features(stream)
    with pytest.raises(ImageError, match="image 0: the file is empty"):
        model.features(io.BytesIO())


def test_a_pil_image_that_has_no_pixels_is_named_by_its_place(
    model: distreid.Model, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    cut = Image.open(io.BytesIO(content[: len(content) // 2]))
    with pytest.raises(ImageError, match="image 1: image file is truncated"):
        model.features([noise, cut])
    with pytest.raises(ValueError, match="image 0 is a PIL image of 0 × 8 pixels"):
        model.features(Image.new("RGB", (0, 8)))


def test_a_pil_image_of_any_mode_is_what_its_file_would_be(
    model: distreid.Model, tmp_path: Path
) -> None:
    values = np.arange(0, 64 * 32 * 30, 30, dtype=np.uint16).reshape(64, 32)
    Image.fromarray(values).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.mode.startswith("I;16")
        found = model.features(opened)
    assert np.array_equal(found, model.features(tmp_path / "a.png"))


def test_arrays_of_paths_and_of_images_are_several(
    small: tuple[Path, distreid.Store], model: distreid.Model
) -> None:
    root, store = small
    files = [str(root / path) for path in store.paths[:2]]
    assert np.array_equal(model.features(np.array(files)), store.features[:2])
    pictures = np.empty(2, object)
    pictures[:] = [np.array(Image.open(file)) for file in files]
    assert np.array_equal(model.features(pictures), store.features[:2])


def test_no_bgr_but_true_and_false(model: distreid.Model) -> None:
    with pytest.raises(OptionError, match="bgr='yes': True or False is wanted"):
        model.features([], bgr="yes")  # type: ignore[arg-type]


def test_a_gpu_is_not_touched_by_a_forked_process() -> None:
    model = distreid.load_model("sample")
    model._extract.device = torch.device("cuda")
    model._process += 1  # as a child sees its parent's
    with pytest.raises(OptionError, match=r"this process was forked .* `spawn`"):
        model.features([])


def test_a_model_is_pickled_as_its_file_and_options(tmp_path: Path) -> None:
    file = tmp_path / "net.pth"
    shutil.copy(file_of("sample"), file)
    model = distreid.load_model(file, flip=True, input_size=(64, 32), device="cpu")
    pickled = pickle.dumps(model)
    assert len(pickled) < 10_000
    picture = Image.new("RGB", (30, 60), "red")
    again = pickle.loads(pickled)
    assert again.identity == model.identity
    assert np.array_equal(again.features(picture), model.features(picture))
    torch.save(read_checkpoint(file).state, file)
    with pytest.raises(CheckpointError, match=r"net\.pth: another file than the one that"):
        pickle.loads(pickled)


def test_a_store_is_pickled_as_its_folder(
    small: tuple[Path, distreid.Store], tmp_path: Path
) -> None:
    root, _ = small
    shutil.copytree(root / "run", tmp_path / "run")
    pickled = pickle.dumps(distreid.open_store(tmp_path / "run"))
    again = pickle.loads(pickled)
    assert again.folder == tmp_path / "run" and again.features[:20].shape == (20, 512)
    shutil.rmtree(tmp_path / "run")
    distreid.extract_features(
        root / "rows.csv",
        "sample",
        tmp_path / "run",
        flip=True,
        on_bad_image="record",
        num_workers=0,
        evaluate=False,
    )
    with pytest.raises(StoreError, match="another run than the pickled store was of"):
        pickle.loads(pickled)


def test_a_shard_that_was_cut_since_the_opening_is_an_error_and_no_signal(
    small: tuple[Path, distreid.Store], tmp_path: Path
) -> None:
    root, _ = small
    shutil.copytree(root / "run", tmp_path / "run")
    store = distreid.open_store(tmp_path / "run")
    assert np.isfinite(store.features[9]).all()  # it is mapped
    os.truncate(tmp_path / "run/shards/000001.h5", 5000)
    with pytest.raises(StoreError, match=r"000001\.h5: was cut since the store was opened"):
        store.features[9]
    with pytest.raises(StoreError, match="was cut"):
        store.to_npz(tmp_path / "a.npz")
    assert np.isfinite(store.features[3]).all()


def test_a_store_is_not_written_over_what_is_no_file(
    small: tuple[Path, distreid.Store], tmp_path: Path
) -> None:
    _, store = small
    os.mkfifo(tmp_path / "pipe")
    for target, why in (
        (tmp_path / "pipe", "a device, pipe or socket, which is not replaced"),
        (tmp_path, "a folder, which is not replaced"),
        (tmp_path / "no" / "a.npz", "no such folder"),
    ):
        with pytest.raises(StoreError, match=why):
            store.to_npz(target)
    with pytest.raises(OptionError, match="file='': the name of a file"):
        store.to_npz("")


def test_a_split_that_there_is_not_is_answered_with_those_near_it(
    small: tuple[Path, distreid.Store],
) -> None:
    _, store = small
    with pytest.raises(OptionError, match="no row has the split 'quary'; near it: query"):
        store.rows("quary")
    assert store.rows("multi-query").tolist() == []


def test_a_forked_process_is_told_that_it_has_no_engine() -> None:
    model = distreid.load_model("sample", engine="openvino")
    image = np.zeros((128, 64, 3), np.uint8)
    expected = model.features(image)
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def ask() -> None:
        try:
            sender.send(model.features(image))
        except OptionError as error:
            sender.send(str(error))

    child = multiprocessing.get_context("fork").Process(target=ask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of forks and threads
        child.start()
    try:
        assert receiver.poll(LIMIT_S), "it waits for threads that it does not have"
        assert "nor the threads of openvino; start it by" in receiver.recv()
        child.join(LIMIT_S)
    finally:
        child.kill()
    assert np.array_equal(model.features(image), expected)


def test_columns_of_a_table_that_are_called_as_our_own_are_kept(tmp_path: Path) -> None:
    names = ["features", "feature", "has_image", "file"]
    run = make_run(tmp_path / "run", 1, 3, extra={name: list("abc") for name in names})
    store = distreid.open_store(run)
    with np.load(store.to_npz(tmp_path / "x.npz")) as arrays:
        assert arrays["features"].shape == (3, DIM)
        for name in names:
            assert arrays[f"{name}_in_table"].tolist() == ["a", "b", "c"]
    table = parquet.read_table(store.to_parquet(tmp_path / "x.parquet"))
    assert table["feature_in_table"].to_pylist() == ["a", "b", "c"]
    assert len(table["feature"][0]) == DIM
    assert store.dataframe()["has_image"].tolist() == [True] * 3


def test_a_name_that_is_no_utf8_is_exported_as_escapes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 1, 2, paths=["a.jpg", "b.jpg"])
    store = distreid.open_store(run)
    store.feature_store.manifest.path[1] = b"\xff.jpg"
    table = parquet.read_table(store.to_parquet(tmp_path / "x.parquet"))
    assert table["path"].to_pylist() == ["a.jpg", "\\xff.jpg"]


def test_callers_at_once_leave_torch_its_threads(model: distreid.Model) -> None:
    before, image = torch.get_num_threads(), np.zeros((8, 4, 3), np.uint8)
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: model.features([image]), range(8)))
            found = list(pool.map(lambda _: torch.get_num_threads(), range(8)))
        assert {*found, torch.get_num_threads()} == {2}
    finally:
        torch.set_num_threads(before)


def test_words_of_an_option_may_be_one_text() -> None:
    assert extraction._known({"classes": "12,car"})["classes"] == ("12", "car")
    assert extraction._known({"classes": ["12"]})["classes"] == ("12",)
