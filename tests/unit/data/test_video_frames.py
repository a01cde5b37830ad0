"""Frames of videos: sought in any order they are those of decoding on, and rows tell which."""

from __future__ import annotations

import random
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from distreid.data.archive_index import Index, Stamp, save_indexes
from distreid.data.archives import check_unchanged, list_archive, read_member
from distreid.data.box_request import BoxRequest
from distreid.data.locators import locate
from distreid.data.manifest import NO_PERSON, Manifest, text_column
from distreid.data.source import SAMPLE_VIDEO, SAMPLE_VIDEO_FOLDER, open_data
from distreid.data.video_files import VideoFile, frame_times, scan_video
from distreid.errors import DataError, ImageError, OptionError, StoreError
from distreid.images.preprocess import decode, pixels_of, read

Pixels = NDArray[np.uint8]
LIMIT = 1 << 26
STAMP = Stamp(0, 0)


def picture(number: int, height: int = 96, width: int = 128) -> NDArray[np.uint8]:
    """Another for each number, smooth enough to be compressed."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + number * (c + 1) / 5) + np.cos(y / 7 - number / 3) for c in range(3)]
    return (np.stack(waves, axis=-1) * 60 + 128).clip(0, 255).astype(np.uint8)


def write(
    file: Path,
    count: int,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    *,
    times: list[int] | None = None,
    options: dict[str, str] | None = None,
    matrix: list[int] | None = None,
) -> Path:
    """A video of `picture`s at 25 a second, or at `times` in 1/1000 s; with a display matrix."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, pixels
        stream.options = options or {}
        if matrix:
            if not hasattr(stream, "set_display_matrix"):
                pytest.skip("PyAV before 18 writes no display matrix")
            stream.set_display_matrix(matrix)
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def in_order(file: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(file)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    ("ending", "options"),
    [
        (".mp4", {"bf": "3", "g": "12"}),
        (".mkv", {"bf": "3", "g": "12", "x264-params": "open-gop=1"}),
        (".mp4", {"bf": "0", "g": "250"}),
    ],
)
def test_frames_in_any_order_are_those_of_decoding_on(
    ending: str, options: dict[str, str], tmp_path: Path
) -> None:
    file = write(tmp_path / f"v{ending}", 150, options=options)
    wanted, index = in_order(file), scan_video(file, STAMP)
    assert index.names.tolist() == [b"%06d.ppm" % number for number in range(1, 151)]
    video = VideoFile(file)
    order = list(range(150))
    random.Random(0).shuffle(order)
    for number in [*order[:60], *range(100, 110), 149, 149, 0]:
        found = decode(video.image(int(index.places["offset"][number]), LIMIT))
        assert (found == wanted[number]).all(), number
    video.close()


def cut(file: Path, frames: int) -> Path:
    """Without its first frames, as `ffmpeg -ss … -c copy` makes it: they are still in the file,
    from the key frame on, and an edit list says that they are not shown."""
    return copied(file, file.with_stem("shorter"), Fraction(frames, 25))


def copied(file: Path, copy: Path, start: Fraction = Fraction(0)) -> Path:
    """Its packets in another file, from the key frame before `start`, which is time 0."""
    with av.open(str(file)) as source, av.open(str(copy), "w") as target:
        stream = source.streams.video[0]
        theirs = target.add_stream_from_template(stream)
        zero = round(start / stream.time_base)
        source.seek(zero, stream=stream, backward=True)
        for packet in source.demux(stream):
            if packet.dts is not None and packet.pts is not None:
                packet.pts, packet.dts = packet.pts - zero, packet.dts - zero
                packet.stream = theirs
                target.mux(packet)
    return copy


def test_frames_that_an_edit_list_cuts_off_are_not_counted(tmp_path: Path) -> None:
    whole = write(tmp_path / "v.mp4", 40, options={"bf": "2", "g": "12"})
    file = cut(whole, 17)
    wanted = in_order(whole)[17:]
    index = list_archive(file)
    assert len(index) == len(wanted) == len(in_order(file))
    for number in (22, 0, 1, 5, 10, 3):
        assert (pixels_of(Path(f"{file}#/{number + 1:06d}.ppm")) == wanted[number]).all()
    manifest = open_data(str(file))
    assert manifest.extra["time"][:2].tolist() == [b"0", b"0.04"]
    # A run that was begun when they were counted.
    more = np.concatenate([index.places[:5], index.places])
    names = text_column([b"%06d.ppm" % number for number in range(1, len(more) + 1)])
    save_indexes(tmp_path, {file: Index(names=names, places=more, stamp=index.stamp)})
    with pytest.raises(StoreError, match=r"shorter\.mp4: .* numbers its frames otherwise"):
        check_unchanged(tmp_path, manifest)


@pytest.mark.parametrize("ending", [".avi", ".mkv"])
def test_b_frames_with_times_of_decoding_are_refused(ending: str, tmp_path: Path) -> None:
    """As an AVI has them, and what is copied from one."""
    file = write(tmp_path / "v.avi", 40, options={"bf": "2", "g": "12"})
    if ending == ".mkv":
        file = copied(file, file.with_suffix(ending))
    with pytest.raises(DataError, match=rf"v\{ending}: .* encode it anew: ffmpeg -i v"):
        scan_video(file, STAMP)
    for codec, options in (("libx264", {"bf": "0"}), ("mpeg4", {"bf": "2"})):
        sound = write(tmp_path / f"{codec}.avi", 40, codec, options=options)
        index, wanted = scan_video(sound, STAMP), in_order(sound)
        video = VideoFile(sound)
        for number in (30, 3, 17):
            found = decode(video.image(int(index.places["offset"][number]), LIMIT))
            assert (found == wanted[number]).all()


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg: apt-get install ffmpeg")
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p"])
def test_frames_have_the_pixels_that_ffmpeg_writes(pixels: str, tmp_path: Path) -> None:
    file = write(tmp_path / "v.mkv", 30, pixels=pixels, options={"bf": "3", "g": "12"})
    command = ["ffmpeg", "-v", "error", "-i", str(file), "-fps_mode", "passthrough"]
    raw = subprocess.run(
        [*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], stdout=subprocess.PIPE, check=True
    ).stdout
    theirs = np.frombuffer(raw, np.uint8).reshape(30, 96, 128, 3)
    for number, frame in enumerate(theirs, start=1):
        assert (pixels_of(Path(f"{file}#/{number:06d}.ppm")) == frame).all()


def test_a_lossless_video_has_the_pixels_of_its_pictures(tmp_path: Path) -> None:
    file = write(tmp_path / "v.mov", 5, "png", "rgb24")
    for number in range(5):
        locator = Path(f"{file}#/{number + 1:06d}.ppm")
        assert (decode(read(locator)) == picture(number)).all()


def test_rows_are_frames_with_their_numbers_and_times(tmp_path: Path) -> None:
    file = write(tmp_path / "v.mp4", 60)
    manifest = open_data(str(file))
    assert len(manifest) == 60
    assert manifest.path[:2].tolist() == [b"000001.ppm", b"000002.ppm"]
    assert manifest.extra["frame"][59] == b"60"
    assert manifest.extra["time"][:3].tolist() == [b"0", b"0.04", b"0.08"]
    each_second = open_data(str(file), every="1s")
    assert each_second.extra["frame"].tolist() == [b"1", b"26", b"51"]
    tenth = open_data(str(file), every="20")
    assert tenth.extra["frame"].tolist() == [b"1", b"21", b"41"]
    assert "3 of 60 rows taken: every 20" in tenth.notes


def test_times_of_a_variable_rate_are_the_frames_own(tmp_path: Path) -> None:
    times = [0, 40, 500, 510, 520, 1700, 1740]
    file = write(tmp_path / "v.mkv", 7, times=times)
    assert frame_times(file, scan_video(file, STAMP)) == pytest.approx(np.array(times) / 1000)
    taken = open_data(str(file), every="0.5s").extra["frame"].tolist()
    assert taken == [b"1", b"3", b"6"]


def test_several_videos_of_a_folder_are_one_after_the_other(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", 3)
    write(tmp_path / "b.mp4", 2)
    manifest = open_data(str(tmp_path))
    assert manifest.path.tolist() == [
        *(b"a.mp4#/%06d.ppm" % n for n in (1, 2, 3)),
        *(b"b.mp4#/%06d.ppm" % n for n in (1, 2)),
    ]


@pytest.mark.parametrize("kind", ["mot", "csv"])
def test_boxes_of_a_tracker_are_cut_from_frames(kind: str, tmp_path: Path) -> None:
    file = write(tmp_path / "cam1.mov", 4, "png", "rgb24")
    boxes = tmp_path / ("det.txt" if kind == "mot" else "det.csv")
    boxes.write_text(
        "2,7,10,20,30,40,0.9,-1,-1,-1\n4,7,12,20,30,40,0.5,-1,-1,-1\n"
        if kind == "mot"
        else "frame,x,y,w,h,score,track\n2,10,20,30,40,0.9,7\n4,12,20,30,40,0.5,7\n"
    )
    manifest = open_data(str(file), boxes=BoxRequest(file=str(boxes)))
    assert manifest.path[0] == b"000002.ppm#xyxy=10,20,40,60"
    assert manifest.extra["frame"].tolist() == [b"2", b"4"]
    assert manifest.extra["time"].tolist() == [b"0.04", b"0.12"]
    track = b"cam1_7" if kind == "mot" else b"7"
    assert manifest.extra["tracklet"].tolist() == [track, track]
    assert (decode(read(manifest.file(0))) == picture(1)[20:60, 10:40]).all()
    if kind == "mot":
        assert manifest.names("camera_name") == {0: "cam1"} or "camera_name" in manifest.extra
        text = boxes.read_text()
        boxes.write_text("2,7,10,20,30\n" + text)
        with pytest.raises(DataError, match=r"det\.txt, line 1: frame, id, x, y, w, h are wanted"):
            open_data(str(file), boxes=BoxRequest(file=str(boxes)))
        shutil.copy(file, tmp_path / "cam2.mov")
        (tmp_path / "cam1.txt").write_text(text)
        (tmp_path / "cam2.txt").write_text("")
        boxes.unlink()
        both = open_data(str(tmp_path), boxes=BoxRequest(file=str(tmp_path)))
        assert f"cam2.mov: no boxes, as {tmp_path}/cam2.txt is empty" in both.notes


def test_a_damaged_middle_leaves_the_rest(tmp_path: Path) -> None:
    file = write(tmp_path / "v.mp4", 100, options={"bf": "2", "g": "10"})
    wanted, index = in_order(file), scan_video(file, STAMP)
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 600] = random.Random(1).randbytes(600)
    file.write_bytes(data)
    video, good, bad = VideoFile(file), 0, 0
    for number, place in enumerate(index.places):
        try:
            found = decode(video.image(int(place["offset"]), LIMIT))
        except ImageError:
            bad += 1
            continue
        good += bool((found == wanted[number]).all())
    assert bad + good == 100  # none is made up
    assert good >= 70
    assert bad


def test_what_is_no_video_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--every 5: of videos"):
        open_data("sample", every="5")
    file = write(tmp_path / "v.mp4", 3)
    for every in ("0", "-1s", "half", "0s", "inf"):
        with pytest.raises(OptionError, match="seconds such as"):
            open_data(str(file), every=every)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DataError, match=r"text\.mp4: no video, or a damaged one"):
        open_data(str(tmp_path / "text.mp4"))
    whole = file.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: whole.index(b"stsd") + 20])
    with pytest.raises(DataError, match=r"cut\.mp4: no video, or a damaged one"):
        open_data(str(tmp_path / "cut.mp4"))
    unknown = whole.rpartition(b"avc1")
    (tmp_path / "unknown.mp4").write_bytes(unknown[0] + b"xxxx" + unknown[2])
    with pytest.raises(DataError, match="of a kind that this FFmpeg does not decode"):
        open_data(str(tmp_path / "unknown.mp4"))
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(DataError, match=r"it has no pictures \(audio alone\)"):
        open_data(str(tmp_path / "sound.mkv"))


def test_a_frame_beyond_the_limit_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    file = write(tmp_path / "v.mp4", 3)
    with pytest.raises(ImageError, match="a frame of 36,864 bytes, where 1,000 are the limit"):
        read_member(file, "000002.ppm", 1000)


def test_rows_that_are_no_frames_have_neither_number_nor_time(tmp_path: Path) -> None:
    write(tmp_path / "v.mp4", 60)
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    names = ["a.png", "v.mp4#/000026.ppm", "v.mp4#/000027.ppm", "v.mp4#/999999.ppm", "v.mp4#/x.ppm"]
    table = tmp_path / "rows.csv"
    table.write_text("".join(f"{name}\n" for name in ("path", *names)))
    manifest = open_data(str(table))
    assert manifest.extra["frame"].tolist() == [b"", b"26", b"27", b"", b""]
    assert manifest.extra["time"].tolist() == [b"", b"1", b"1.04", b"", b""]
    taken = open_data(str(table), every="1s").path.tolist()  # frame 27 is within the second
    assert taken == [name.encode() for name in names if name != "v.mp4#/000027.ppm"]
    with pytest.raises(ImageError, match=r"the video has 60 frames, and no 999999\.ppm"):
        read(manifest.file(3))
    table.write_text("path\nv.mp4#/000026.ppm\nv.mp4#/000027.ppm\n")
    with pytest.raises(DataError, match="--every 50 takes none of 2 rows; take more"):
        open_data(str(table), every="50")


def test_a_folder_of_a_video_and_an_archive_has_both(tmp_path: Path) -> None:
    write(tmp_path / "v.mp4", 2)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("one.ppm", b"P6 1 1 255\n000")
    manifest = open_data(str(tmp_path))
    assert manifest.path.tolist() == [
        b"v.mp4#/000001.ppm",
        b"v.mp4#/000002.ppm",
        b"x.zip#/one.ppm",
    ]
    assert manifest.extra["frame"].tolist() == [b"1", b"2", b""]


def test_a_video_that_ends_early_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    """Cut off after it was listed: what is left is right, the rest is told, and nothing escapes."""
    file = write(tmp_path / "v.mkv", 100, options={"g": "10"})
    wanted, index = in_order(file), scan_video(file, STAMP)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    video, missing = VideoFile(file), 0
    for number in (0, 20, 99, 40, 98, 5):
        try:
            found = decode(video.image(int(index.places["offset"][number]), LIMIT))
            assert (found == wanted[number]).all()
        except ImageError:
            missing += 1
    assert missing >= 2


ONE, SLANT = 1 << 16, 46341  # of a matrix, and half a right angle's
# What the pixel at (x, y) has as x and y after it: a, b, c, d of (a x + c y, b x + d y).
TURNS: dict[str, tuple[tuple[int, ...], Callable[[Pixels], Pixels]]] = {
    "90 counter-clockwise": ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
    "180": ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
    "90 clockwise": ((0, 1, -1, 0), lambda p: np.rot90(p, 3)),
    "left and right": ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
    "transposed": ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2)),
}


@pytest.mark.parametrize("turn", TURNS)
def test_a_rotated_phone_is_read_as_players_show_it(turn: str, tmp_path: Path) -> None:
    (a, b, c, d), wanted = TURNS[turn]
    matrix = [a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30]
    file = write(tmp_path / "v.mov", 3, "png", "rgb24", matrix=matrix)
    (tmp_path / "boxes.csv").write_text("frame,x,y,w,h\n3,5,60,40,50\n1,10,20,30,40\n")
    manifest = open_data(str(file), boxes=BoxRequest(file=str(tmp_path / "boxes.csv")))
    assert "v.mov: turned as players show it" in manifest.notes
    for number in (3, 1):
        found = decode(read(Path(f"{file}#/{number:06d}.ppm")))
        assert (found == wanted(picture(number - 1))).all()
    # Boxes are of what is seen.
    assert (decode(read(manifest.file(0))) == wanted(picture(0))[20:60, 10:40]).all()


def test_a_slanted_video_is_not_turned_which_is_said(tmp_path: Path) -> None:
    matrix = [SLANT, -SLANT, 0, SLANT, SLANT, 0, 0, 0, 1 << 30]
    file = write(tmp_path / "v.mov", 2, "png", "rgb24", matrix=matrix)
    assert any("shown aslant by players" in note for note in open_data(str(file)).notes)
    assert (decode(read(Path(f"{file}#/000002.ppm"))) == picture(1)).all()


def test_each_video_of_a_folder_has_the_boxes_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "tracks").mkdir()
    for name in ("a", "b", "c"):
        write(tmp_path / f"videos/{name}.mov", 2, "png", "rgb24")
    for name, line in {"a": "2,7,10,20,30,40,0.9", "b": "1,7,5,6,30,40,0.5"}.items():
        (tmp_path / f"tracks/{name}.txt").write_text(line + ",-1,-1,-1\n")
    boxes = BoxRequest(file=str(tmp_path / "tracks"))
    manifest = open_data(str(tmp_path / "videos"), boxes=boxes)
    assert manifest.path.tolist() == [
        b"a.mov#/000002.ppm#xyxy=10,20,40,60",
        b"b.mov#/000001.ppm#xyxy=5,6,35,46",
    ]
    assert manifest.extra["tracklet"].tolist() == [b"a_7", b"b_7"]
    assert manifest.person_id.tolist() == [-2, -2] and "id" not in manifest.extra
    assert any(note.startswith("c.mov: no boxes, as there is no") for note in manifest.notes)
    assert (decode(read(manifest.file(1))) == picture(0)[6:46, 5:35]).all()
    # Ids that are persons, whatever the video.
    persons = open_data(str(tmp_path / "videos"), boxes=boxes, columns={"person": "id"})
    assert persons.person_id.tolist() == [7, 7]


@pytest.fixture
def two_videos(tmp_path: Path) -> Path:
    """`a.mov` of 3 frames and `b.mov` of 2, each frame of 128 × 96 pixels."""
    for name, count in (("a", 3), ("b", 2)):
        (tmp_path / "videos").mkdir(exist_ok=True)
        write(tmp_path / f"videos/{name}.mov", count, "png", "rgb24")
    return tmp_path / "videos"


def boxed(videos: Path, boxes: Path, **columns: str) -> Manifest:
    return open_data(str(videos), boxes=BoxRequest(file=str(boxes)), columns=columns)


@pytest.mark.parametrize("header", ["path,frame", "video,frame", "file,Frame ID"])
def test_a_table_names_the_video_and_the_frame(
    header: str, two_videos: Path, tmp_path: Path
) -> None:
    table = tmp_path / "boxes.csv"
    rows = "x,y,w,h,track\nb.mov,2,5,6,30,40,7\nsome/where/a.mov,3,1,2,30,40,8\na,1,1,2,30,40,8\n"
    table.write_text(f"{header},{rows}")
    manifest = boxed(two_videos, table)
    assert manifest.path.tolist() == [
        b"a.mov#/000001.ppm#xyxy=1,2,31,42",
        b"a.mov#/000003.ppm#xyxy=1,2,31,42",
        b"b.mov#/000002.ppm#xyxy=5,6,35,46",
    ]
    assert manifest.extra["frame"].tolist() == [b"1", b"3", b"2"]
    assert manifest.extra["time"].tolist() == [b"0", b"0.08", b"0.04"]
    assert (decode(read(manifest.file(2))) == picture(1)[6:46, 5:35]).all()
    one = tmp_path / "one.csv"
    one.write_text(f"{header},x,y,w,h\na.mov,2,5,6,30,40\n")
    assert boxed(two_videos / "a.mov", one).path.tolist() == [b"000002.ppm#xyxy=5,6,35,46"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("c.mov,1", r"line 3: no video c.mov in .*; there is a.mov, b.mov"),
        ("a.mov,first", "line 3: frame is 'first'; it must be a number from 1"),
    ],
)
def test_a_table_of_other_videos_or_frames_is_refused(
    row: str, why: str, two_videos: Path, tmp_path: Path
) -> None:
    table = tmp_path / "boxes.csv"
    table.write_text(f"path,frame,x,y,w,h\na.mov,1,5,6,30,40\n{row},5,6,30,40\n")
    with pytest.raises(DataError, match=why):
        boxed(two_videos, table)


def test_one_trackers_file_is_not_that_of_two_videos(two_videos: Path, tmp_path: Path) -> None:
    (tmp_path / "det.txt").write_text("1,7,10,20,30,40,0.9,-1,-1,-1\n")
    with pytest.raises(DataError, match="boxes of one video, and --data has 2; give a folder"):
        boxed(two_videos, tmp_path / "det.txt")


def test_videos_that_differ_in_their_endings_alone_are_told_apart(
    two_videos: Path, tmp_path: Path
) -> None:
    write(two_videos / "a.mkv", 2)
    (tmp_path / "tracks").mkdir()
    (tmp_path / "tracks/a.txt").write_text("1,7,10,20,30,40,0.9,-1,-1,-1\n")
    with pytest.raises(DataError, match=r"a\.mkv and a\.mov: .* one name, a; rename one"):
        boxed(two_videos, tmp_path / "tracks")
    table = tmp_path / "boxes.csv"
    table.write_text("path,frame,x,y,w,h\na.mov,1,5,6,30,40\n")
    assert boxed(two_videos, table).path.tolist() == [b"a.mov#/000001.ppm#xyxy=5,6,35,46"]
    table.write_text("path,frame,x,y,w,h\na,1,5,6,30,40\n")
    with pytest.raises(DataError, match="line 2: no video a in"):
        boxed(two_videos, table)


@pytest.mark.parametrize(
    ("more", "score", "track"),
    [
        (" 0.75 7", b"0.75", b"a_7"),
        (" 7", None, b"a_7"),
        (" 0.75", b"0.75", None),
        ("", None, None),
    ],
    ids=["score and track", "track", "score", "neither"],
)
def test_the_text_files_that_ultralytics_writes_of_a_video(
    more: str, score: bytes | None, track: bytes | None, two_videos: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    (labels / "a_3.txt").write_text(f"0 0.25 0.5 0.25 0.5{more}\n")
    for data, before in ((two_videos, b"a.mov#/"), (two_videos / "a.mov", b"")):
        manifest = boxed(data, labels)
        # Of 128 × 96 pixels: x from 0.125 to 0.375, y from 0.25 to 0.75.
        assert manifest.path.tolist() == [before + b"000003.ppm#xyxy=16,24,48,72"]
        assert [manifest.extra.get(name, [None])[0] for name in ("score", "tracklet")] == [
            score,
            track,
        ]
        assert manifest.names("camera_name") == {0: "a"}
        said = any("sixth field is taken for a track" in note for note in manifest.notes)
        assert said == (more == " 7")
    if track:
        assert boxed(two_videos, labels, person="id").person_id.tolist() == [7]


def test_a_frame_after_the_end_is_a_bad_image_that_says_so(
    two_videos: Path, tmp_path: Path
) -> None:
    (tmp_path / "det.txt").write_text("9,7,10,20,30,40,0.9,-1,-1,-1\n")
    manifest = boxed(two_videos / "a.mov", tmp_path / "det.txt")
    with pytest.raises(ImageError, match=r"the video has 3 frames, and no 000009\.ppm"):
        read(manifest.file(0))


def test_the_sample_video_has_eight_persons_in_two_cameras() -> None:
    manifest = open_data(SAMPLE_VIDEO)
    assert sum(file.stat().st_size for file in SAMPLE_VIDEO_FOLDER.iterdir()) < 2_000_000
    assert set(manifest.names("camera_name").values()) == {"park", "plaza"}
    seen = set(zip(manifest.person_id.tolist(), manifest.camera_id.tolist(), strict=True))
    assert {person for person, _ in seen} == {*range(1, 9)} and len(seen) == 16
    assert len(set(manifest.extra["tracklet"].tolist())) == 16
    assert manifest.numbers("time").max() < 20 and manifest.numbers("score").min() >= 0.6
    # A box holds its person: clothes of other colours than the place around.
    row = int(np.argmax(manifest.numbers("score")))
    box, frame = locate(manifest.file(row)).box, locate(manifest.file(row)).frame
    assert box is not None and decode(read(frame)).shape == (288, 384, 3)
    x1, y1, x2, y2 = box
    assert decode(read(manifest.file(row))).shape == (y2 - y1, x2 - x1, 3)


def test_no_video_of_a_folder_is_a_person(tmp_path: Path) -> None:
    for file in SAMPLE_VIDEO_FOLDER.glob("*.mp4"):
        shutil.copy(file, tmp_path)
    manifest = open_data(str(tmp_path), every="1s")
    assert manifest.layout == "folder"
    assert (manifest.person_id == NO_PERSON).all()
