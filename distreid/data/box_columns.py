"""What the columns of a table of boxes are called, as `image_table.plain_name` writes names."""

from __future__ import annotations

from collections.abc import Collection

FIRST = {"x": ("x", "left", "bbleft", "bboxleft"), "y": ("y", "top", "bbtop", "bboxtop")}
SIZE = {
    "w": ("w", "width", "bbwidth", "bboxwidth"),
    "h": ("h", "height", "bbheight", "bboxheight"),
}
TWO_CORNERS = {
    "x1": ("x1", "xmin", "left"),
    "y1": ("y1", "ymin", "top"),
    "x2": ("x2", "xmax", "right"),
    "y2": ("y2", "ymax", "bottom"),
}
TOGETHER = "bbox"  # one column with `[x, y, w, h]`, as COCO and wildlife-datasets write a box


def box_columns(plain: Collection[str]) -> list[str]:
    """Those of the plain names that say boxes, if together they do."""
    if TOGETHER in plain and not any(name in plain for name in FIRST["x"]):
        return [TOGETHER]
    for wanted in (TWO_CORNERS, FIRST | SIZE):
        found = [name for names in wanted.values() for name in names if name in plain]
        if len(found) == len(wanted):
            return found
    return []
