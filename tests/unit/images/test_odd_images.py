"""Every odd image: Pillow's pixels bit for bit, or one line that says what is wrong with it."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from conftest import GOLDEN, LIMIT_S, little_memory
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from distreid.data.manifest import Status, build_manifest
from distreid.errors import ImageError
from distreid.images.loader import ImageRows
from distreid.images.preprocess import MAX_BYTES, MAX_PIXELS, Preprocess, decode, read
from distreid.store.bad_images import OUT_OF_MEMORY

RANDOM = np.random.default_rng(0)
RGB = Image.fromarray(RANDOM.integers(0, 256, (37, 21, 3), dtype=np.uint8))
RGBA = Image.fromarray(RANDOM.integers(0, 256, (37, 21, 4), dtype=np.uint8))
DEEP = Image.fromarray(RANDOM.integers(0, 65536, (37, 21), dtype=np.uint16))
FLOATS = Image.fromarray(RANDOM.random((37, 21), dtype=np.float32) * 300)
ORIENTATION = 0x0112


def encoded(image: Image.Image, kind: str, **how: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


def turned(orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(RGB, kind, exif=exif)


def jpeg_of(colours: str) -> bytes:
    pixels = np.ascontiguousarray(RGB)
    return bytes(simplejpeg.encode_jpeg(pixels, colorsubsampling=colours))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_16_bits() -> bytes:
    """RGB with 16 bits each, which Pillow reads and does not write."""
    rows = b"".join(b"\0" + RANDOM.bytes(21 * 6) for _ in range(37))
    header = struct.pack(">IIBBBBB", 21, 37, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


ODD = {
    "palette": encoded(RGB.quantize(16), "PNG"),
    "palette with transparency": encoded(RGB.quantize(16), "PNG", transparency=3),
    "1-bit": encoded(RGB.convert("1"), "PNG"),
    "gray": encoded(RGB.convert("L"), "PNG"),
    "gray with transparency": encoded(RGB.convert("L"), "PNG", transparency=7),
    "gray and alpha": encoded(RGBA.convert("LA"), "PNG"),
    "alpha": encoded(RGBA, "PNG"),
    "16-bit gray png": encoded(DEEP, "PNG"),
    "16-bit colour png": png_of_16_bits(),
    "16-bit tiff": encoded(DEEP, "TIFF"),
    "float tiff": encoded(FLOATS, "TIFF"),
    "cmyk tiff": encoded(RGB.convert("CMYK"), "TIFF"),
    "lab tiff": encoded(RGB.convert("LAB"), "TIFF"),
    "compressed tiff": encoded(RGB, "TIFF", compression="tiff_lzw"),
    "animated gif": encoded(RGB, "GIF", save_all=True, append_images=[ImageOps.invert(RGB)]),
    "animated webp": encoded(RGB, "WEBP", save_all=True, append_images=[ImageOps.invert(RGB)]),
    "webp with alpha": encoded(RGBA, "WEBP", lossless=True),
    "16-bit pgm": encoded(DEEP, "PPM"),
    "bmp": encoded(RGB, "BMP"),
    "gray jpeg": encoded(RGB.convert("L"), "JPEG"),
    "cmyk jpeg": encoded(RGB.convert("CMYK"), "JPEG"),
    "rgb jpeg": encoded(RGB, "JPEG", keep_rgb=True),
    "progressive jpeg": encoded(RGB, "JPEG", progressive=True),
    "optimised jpeg with a comment": encoded(RGB, "JPEG", optimize=True, comment=b"hello"),
    "jpeg with restarts": encoded(RGB, "JPEG", restart_marker_blocks=1),
    "jpeg of two pictures": encoded(RGB, "MPO", save_all=True, append_images=[RGB]),
    "jpeg with bytes after its end": encoded(RGB, "JPEG") + b"\xff\xd8litter",
    "turned jpeg": turned(6),
    "turned png": turned(6, "PNG"),
} | {f"jpeg {colours}": jpeg_of(colours) for colours in ("444", "422", "440", "420", "411")}


def by_pillow(data: bytes, exif_transpose: bool = False) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data)) as image:
            upright = ImageOps.exif_transpose(image) if exif_transpose else image
            return np.asarray(upright.convert("RGB"))


@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
def test_every_kind_gives_pillows_pixels_whatever_its_name(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    assert np.array_equal(decode(read(tmp_path / "a.jpg")), by_pillow(data))


def test_adobes_ycck_gives_pillows_pixels() -> None:
    ycck = bytearray(ODD["cmyk jpeg"])
    place = ycck.index(b"Adobe") + 11  # of the byte that says which colours: 0 CMYK, 2 YCCK
    assert ycck[place] == 0
    ycck[place] = 2
    assert simplejpeg.decode_jpeg_header(bytes(ycck))[2] == "YCCK"
    assert np.array_equal(decode(bytes(ycck)), by_pillow(bytes(ycck)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))
def test_an_orientation_is_ignored_or_applied_as_asked_for(orientation: int, kind: str) -> None:
    data = turned(orientation, kind)
    lying = (21, 37, 3) if 5 <= orientation <= 8 else (37, 21, 3)
    # A TIFF's orientation is no EXIF: Pillow applies it for every peer as it decodes.
    assert decode(data).shape == (lying if kind == "TIFF" else (37, 21, 3))
    assert np.array_equal(decode(data), by_pillow(data))
    upright = decode(data, exif_transpose=True)
    assert upright.shape == lying
    assert np.array_equal(upright, by_pillow(data, exif_transpose=True))


def test_an_orientation_in_adobes_xmp_is_applied_as_pillow_applies_it() -> None:
    data = encoded(RGB, "JPEG", xmp=b'<x tiff:Orientation="6"/>')
    assert decode(data, exif_transpose=True).shape == (21, 37, 3)
    assert decode(data).shape == (37, 21, 3)


def test_a_damaged_exif_turns_nothing() -> None:
    data = turned(6).replace(b"Exif\0\0MM", b"Exif\0\0??").replace(b"Exif\0\0II", b"Exif\0\0??")
    assert np.array_equal(decode(data, exif_transpose=True), by_pillow(data))


def test_the_golden_image_is_turned_by_the_preset_that_asks_for_it() -> None:
    golden = GOLDEN / "images" / "0015_c3s1_000015_00.jpg"
    plain, upright = Preprocess(), Preprocess(exif_transpose=True)
    assert not np.array_equal(plain.load(golden), upright.load(golden))
    pixels = by_pillow(golden.read_bytes(), exif_transpose=True)
    assert np.array_equal(upright.load(golden), pixels)
    assert plain.identity()["exif_orientation"] == "ignored"
    assert upright.identity() == plain.identity() | {"exif_orientation": "applied"}


def claiming(width: int, height: int, progressive: bool = False, mode: str = "RGB") -> bytes:
    """A JPEG of 37 × 21 whose header claims another size."""
    data = bytearray(encoded(RGB.convert(mode), "JPEG", progressive=progressive))
    place = data.index(b"\xff\xc2" if progressive else b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def png_claiming(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**6)))
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "bomb",
    [
        png_claiming(50_000, 50_000),
        png_claiming(10_000, 10_000),
        claiming(50_000, 50_000),
        claiming(10_000, 10_000),
        claiming(50_000, 50_000, progressive=True),
        claiming(50_000, 50_000, mode="L"),
        claiming(10_000, 10_000, mode="CMYK"),
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, 50_000, 50_000, 1, 24, *[0] * 6),
        b"P6 50000 50000 255\n",
        encoded(Image.new("1", (12_000, 12_000)), "PNG"),
    ],
    ids=["png", "png10", "jpeg", "jpeg10", "progressive", "gray", "cmyk", "bmp", "ppm", "real"],
)
def test_a_bomb_is_refused_by_its_header_before_memory_is_taken(bomb: bytes) -> None:
    message = f"a decompression bomb: more than {MAX_PIXELS:,} pixels"
    with little_memory(), pytest.raises(ImageError, match=message):
        decode(bomb)


def test_an_image_just_within_the_limit_is_decoded() -> None:
    image = Image.new("1", (MAX_PIXELS // 1000, 1000))
    assert decode(encoded(image, "PNG")).shape == (1000, MAX_PIXELS // 1000, 3)


def test_a_file_larger_than_any_image_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.jpg").open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    message = "715,827,881 bytes, where 715,827,880 are the limit"
    with little_memory(), pytest.raises(ImageError, match=message):
        read(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"hello", "no image of a known kind"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n", "no image of a known"),
        (ODD["jpeg 420"][:700], "truncated"),
        (ODD["progressive jpeg"][:900], "truncated"),
        (ODD["alpha"][:300], "truncated"),
        (b"\xff\xd8\xff", "no image of a known kind"),
    ],
    ids=["empty", "text", "postscript", "half a jpeg", "half a progressive", "half a png", "magic"],
)
def test_what_is_no_whole_image_is_one_line(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)


def unix_socket(file: Path) -> None:
    here = os.open(".", os.O_RDONLY)
    os.chdir(file.parent)  # the path of a socket has at most 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(file.name)
    finally:
        os.fchdir(here)
        os.close(here)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "not a regular file"),
        (Path.mkdir, "not a regular file"),
        (unix_socket, "No such device or address"),
        (lambda file: file.symlink_to("/dev/zero"), "not a regular file"),
        (lambda file: file.symlink_to(file.name), "Too many levels of symbolic links"),
    ],
    ids=["pipe", "folder", "socket", "device", "link to itself"],
)
def test_what_is_no_file_neither_hangs_nor_is_read(
    make: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    make(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match=message):
        read(tmp_path / "a.jpg")


def test_a_file_that_changes_while_it_is_read_is_no_image(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(bytes(100_000_000))
    stop = threading.Event()

    def touch() -> None:
        for second in itertools.count():
            if stop.is_set():
                return
            os.utime(file, (0, second))

    def read_until_it_changes() -> None:
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            read(file)

    thread = threading.Thread(target=touch)
    thread.start()
    try:
        with pytest.raises(ImageError, match="changed while it was read"):
            read_until_it_changes()
    finally:
        stop.set()
        thread.join()


NAMES = [
    b"a b.jpg",
    b"\"quoted\" 'twice'.jpg",
    b"two\nlines\r.jpg",
    "emoji \N{SNOWMAN}.jpg".encode(),
    b"no utf-8 \xff\xfe.jpg",
    b"\x1b[2J.jpg",
    b"$HOME *~%s{}.jpg",
    b"~.jpg",
    b"-rf.jpg",
    b"x" * 251 + b".jpg",
]


def test_any_name_is_read_and_every_row_says_what_happened(tmp_path: Path) -> None:
    top = os.fsencode(tmp_path)
    for name in NAMES:
        with open(os.path.join(top, name), "wb") as stream:
            stream.write(ODD["jpeg 420"])
    (tmp_path / "text.jpg").write_text("hello")
    rows = [*NAMES, b"gone.jpg", b"text.jpg", b"~", b"*.jpg", b"x" * 300 + b".jpg", b"~.jpg/a.jpg"]
    manifest = build_manifest(root=tmp_path, layout="folder", path=rows)
    batch = ImageRows(manifest, Preprocess())[range(len(rows))]
    expected = [Status.OK] * len(NAMES)
    expected += [Status.MISSING, Status.UNREADABLE, Status.MISSING, Status.MISSING]
    assert batch.status_B.tolist() == [*expected, Status.UNREADABLE, Status.UNREADABLE]
    assert batch.failures[len(NAMES)] == "no such file"
    assert batch.failures[len(rows) - 2] == "File name too long"
    assert batch.failures[len(rows) - 1] == "Not a directory"
    assert not batch.images_BCHW[len(NAMES) :].any()


LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from distreid.data.manifest import build_manifest
from distreid.images.loader import ImageRows
from distreid.images.preprocess import Preprocess

manifest = build_manifest(root=Path(sys.argv[1]), layout="folder", path=[b"a.jpg"])
images = ImageRows(manifest, Preprocess())
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 100_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(images[range(1)].failures)
"""


def test_want_of_memory_is_told_from_a_bad_image(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(Image.new("1", (80_000, 1000)), "PNG"))
    # In a process of its own: what other tests have freed here would be enough.
    found = subprocess.run(
        [sys.executable, "-c", LITTLE_MEMORY, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == f"{ {0: OUT_OF_MEMORY} }\n"


def test_hundreds_of_odd_images_leak_neither_memory_nor_handles(tmp_path: Path) -> None:
    rows = []
    for number, data in enumerate([*ODD.values(), *(data[:200] for data in ODD.values())]):
        (tmp_path / f"{number}").write_bytes(data)
        rows.append(f"{number}".encode())
    os.mkfifo(tmp_path / "pipe")
    rows += [b"pipe", b"gone"]
    images = ImageRows(build_manifest(root=tmp_path, layout="folder", path=rows), Preprocess())

    def used() -> tuple[int, int]:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        return len(os.listdir("/proc/self/fd")), resident

    for _ in range(2):
        images[range(len(rows))]
    handles, resident = used()
    for _ in range(16):
        images[range(len(rows))]
    assert used()[0] == handles
    assert used()[1] - resident < 30_000_000  # a batch is 7 MB, and the allocator keeps some


SEEDS = [*ODD.values(), claiming(300, 300), png_claiming(99, 99)]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=4)), max_size=6),
    st.integers(0, 3000),
    st.booleans(),
)
def test_damaged_bytes_give_pixels_or_an_image_error(
    data: bytes, changes: list[tuple[int, bytes]], length: int, exif_transpose: bool
) -> None:
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place : place + len(value)] = value
    with contextlib.suppress(ImageError):
        pixels = decode(bytes(damaged[:length]), exif_transpose=exif_transpose)
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
