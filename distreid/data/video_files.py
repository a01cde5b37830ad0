"""Videos: their frames by number in the order of presentation, found by seeking to key frames.

To layouts a video is an archive of images `000001.ppm`, `000002.ppm`, …, as MOTChallenge numbers
frames; nothing is unpacked to a disk. FFmpeg decodes, through PyAV, and its swscale makes RGB of
the planes (bilinear, PyAV's default). A frame is turned and mirrored as its display matrix says,
which is how players show it: a phone writes the pixels as its sensor lies. In names: pts is
FFmpeg's presentation time stamp, in the stream's unit.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distreid.data.archive_index import STORED, Index, Stamp, build_index
from distreid.data.file_bytes import open_stream
from distreid.data.locators import is_address
from distreid.errors import DataError, ImageError, OptionError

NOT_THERE = "the video is damaged there, and has no such frame"
SEEK_S = 2.0
"""What lies further ahead is sought; what is nearer is reached by decoding on."""
BEFORE_S = 10.0
"""So much earlier is tried if a key frame was not the one that a frame needs."""
ORDERED = 48
"""Of so many frames the times are compared with the order: more than groups with B-frames have."""
DIGITS = 6
MATRIX = "DISPLAYMATRIX"
UPRIGHT = "as the display matrix says"
"""How frames are turned, for a run's identity."""


def scan_video(file: Path, stamp: Stamp) -> Index:
    """The frames of the first video stream; DataError without one."""
    times = _pts(file)
    digits = digits_of(len(times))
    names = [f"{number:0{digits}d}.ppm".encode() for number in range(1, len(times) + 1)]
    places: list[tuple[int, ...]] = [(pts, -1, -1, 0, STORED) for pts in times]
    return build_index(names, places, stamp, [f"{len(times):,} frames", *_said_of_first(file)])


def digits_of(count: int) -> int:
    """How many a frame's name has, of so many frames."""
    return max(DIGITS, len(str(count)))


def frame_times(file: Path, index: Index) -> NDArray[np.float64]:
    """Of each frame that the index has, in order, the seconds since the first one."""
    times = index.places["offset"].astype(np.float64)
    with _opened(file) as container:
        return (times - times[:1]) * float(_stream(file, container).time_base)


def library_version() -> str:
    """PyAV's."""
    return str(_library().__version__)


class VideoFile:
    """An open video. Of one process and one thread at a time."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.container = _opened(file)
        self.stream = _stream(file, self.container)
        # What is damaged is an error, rather than a picture that is made up of its neighbours.
        self.stream.codec_context.options = {"err_detect": "explode"}
        self.stream.thread_count = 1  # the cores are the decoding processes'
        self.second = 1 / float(self.stream.time_base)
        self.frames: Iterator[Any] | None = None
        self.last: Any = None

    def image(self, pts: int, limit: int) -> bytes:
        """A frame as a PPM file; raises what `pixels` does."""
        pixels = self.pixels(pts, limit)
        return b"P6 %d %d 255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes()

    def pixels(self, pts: int, limit: int) -> NDArray[np.uint8]:
        """A frame as (h, w, 3) RGB; ImageError if it is not there, or of more bytes than the
        limit."""
        try:
            return self._pixels(pts, limit)
        except _library().error.FFmpegError as error:
            raise ImageError(f"{NOT_THERE} ({_one_line(error)})") from error

    def _pixels(self, pts: int, limit: int) -> NDArray[np.uint8]:
        size = 3 * self.stream.width * self.stream.height
        if size > limit:
            raise ImageError(f"a frame of {size:,} bytes, where {limit:,} are the limit")
        at = None if self.last is None else self.last.pts
        near = at is not None and at <= pts <= at + SEEK_S * self.second
        if near and (found := self._forward(pts)):
            return _rgb(found)
        for start in (pts, pts - round(BEFORE_S * self.second), None):
            self._seek(start)
            if found := self._forward(pts):
                return _rgb(found)
        raise ImageError(NOT_THERE)

    def close(self) -> None:
        """Lets go of the file."""
        self.container.close()

    def _seek(self, pts: int | None) -> None:
        """To the key frame before; None: to the start."""
        first = self.stream.start_time or 0
        self.container.seek(
            first if pts is None else max(pts, first), stream=self.stream, backward=True
        )
        self.frames, self.last = self._decoded(), None

    def _forward(self, pts: int) -> Any:
        """The frame of this time if it comes, whole; the one after it is kept."""
        if self.last is not None and self.last.pts == pts:
            return self.last
        for frame in self.frames or ():
            if frame.pts is None or frame.is_corrupt:
                continue
            self.last = frame
            if frame.pts >= pts:
                break
        return self.last if self.last is not None and self.last.pts == pts else None

    def _decoded(self) -> Iterator[Any]:
        """Frames by their times. What follows a damaged packet is made up of what was before it,
        up to the next key frame, and left out."""
        errors = _library().error.FFmpegError
        packets = self.container.demux(self.stream)
        whole = True
        while True:
            try:
                decoded = next(packets).decode()
            except StopIteration:
                return
            except errors:
                whole = False
                continue
            for frame in decoded:
                whole |= bool(frame.key_frame)
                if whole:
                    yield frame


def _said_of_first(file: Path) -> list[str]:
    """What a person should know of how the first frame is turned. DataError if the first frames
    have not the order of their times: an AVI has times of decoding alone, and H.264's B-frames
    would get those of their neighbours, also when they are copied to another kind of file."""
    times: list[int] = []
    notes: list[str] = []
    with _opened(file) as container:
        stream = _stream(file, container)
        stream.thread_count = 1
        try:
            for frame in islice(container.decode(stream), ORDERED):
                if not times and (matrix := _matrix(frame)) is not None:
                    notes = [_said_of_turn(matrix)]
                if frame.pts is not None:
                    times.append(frame.pts)
        except _library().error.FFmpegError:
            pass  # what is damaged is said where it is read
    if any(after <= before for before, after in pairwise(times)):
        raise DataError(
            f"{file}: its frames have not the order of their times, as B-frames in an AVI, so none "
            f"can be found by its time; encode it anew: ffmpeg -i {file.name} -crf 10 "
            f"{file.stem}-anew.mp4"
        )
    return notes


def _said_of_turn(matrix: NDArray[np.int32]) -> str:
    if _is_by_right_angles(matrix):
        return "turned as players show it"
    return "its frames are shown aslant by players, and taken as they are stored"


def _matrix(frame: Any) -> NDArray[np.int32] | None:
    """(2, 2) of a frame that is to be turned or mirrored: a pixel at (x, y) goes to (x, y) times
    this; 1 is 65,536."""
    for each in frame.side_data:
        if each.type.name == MATRIX:
            nine: NDArray[np.int32] = np.frombuffer(each, np.int32).copy()
            return nine.reshape(3, 3)[:2, :2]
    return None


def _is_by_right_angles(matrix: NDArray[np.int32]) -> bool:
    """Whether one axis goes to one axis."""
    (a, b), (c, d) = matrix.tolist()
    return bool(a and d and not b and not c) or bool(b and c and not a and not d)


def upright(pixels: NDArray[np.uint8], matrix: NDArray[np.int32]) -> NDArray[np.uint8]:
    """(H, W, 3) turned and mirrored by right angles; by other angles not at all."""
    if not _is_by_right_angles(matrix):
        return pixels
    if matrix[0, 0] == 0:
        pixels = pixels.transpose(1, 0, 2)
    to_x, to_y = matrix.sum(axis=0, dtype=np.int64).tolist()  # what is 0 adds nothing
    return pixels[:: -1 if to_y < 0 else 1, :: -1 if to_x < 0 else 1]


def _rgb(frame: Any) -> NDArray[np.uint8]:
    # By this thread alone: swscale's own do not follow into decoding processes, which were seen to
    # wait for ever with them; and the cores are those processes' anyway.
    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24", threads=1)
    if (matrix := _matrix(frame)) is not None:
        pixels = np.ascontiguousarray(upright(pixels, matrix))
    return pixels


def _pts(file: Path) -> list[int]:
    """Of all packets that have one and are shown, ascending, each once. What an edit list cuts
    off is decoded for what is shown after it, and players neither show nor count it."""
    errors = _library().error.FFmpegError
    with _opened(file) as container:
        stream = _stream(file, container)
        found: set[int] = set()
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except errors:
                continue
            if packet.pts is not None and packet.size and not packet.is_discard:
                found.add(packet.pts)
    if not found:
        raise DataError(f"{file}: its video has no frame that can be told by its time")
    return sorted(found)


def _opened(file: Path) -> Any:
    library = _library()
    try:
        return library.open(open_stream(file) if is_address(file) else str(file))
    except (library.error.FFmpegError, OSError, ValueError) as error:
        raise DataError(f"{file}: no video, or a damaged one ({_one_line(error)})") from error


def _stream(file: Path, container: Any) -> Any:
    if not container.streams.video:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise DataError(f"{file}: it has no pictures ({kinds} alone)")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise DataError(f"{file}: its pictures are of a kind that this FFmpeg does not decode")
    return stream


def _library() -> Any:
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise OptionError("PyAV is not there: pip install 'distreid[video]'") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
