"""Groups of rows that were linked, as a table, CSV, JSON, and one HTML page with pictures."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table as RichTable

from distreid.data.manifest import CAMERA_NAME, NO_CAMERA, NO_PERSON, PERSON_NAME, TRACKLET
from distreid.data.summary import known_persons
from distreid.errors import printable
from distreid.evaluation.cluster_agreement import Agreement
from distreid.host.counts import counted
from distreid.report.frames_picture import frames_gallery
from distreid.report.html import Picture, Table, render
from distreid.report.plots import percent
from distreid.report.ranking_picture import RANKS, RankedImage, RankedQuery, ranking_gallery
from distreid.store import FeatureStore

COLUMNS = ("row", "path", "camera", "tracklet", "person", "group")
NO_GROUP = -1
SHOWN = 40
"""Groups on the page, the largest first."""


@dataclass(frozen=True, kw_only=True)
class LinkedGroups:
    """What `distreid link` found in a store of N rows."""

    store: FeatureStore
    group: NDArray[np.int64]
    """(N,) from 0; `NO_GROUP` of a row without a feature."""
    units: int
    """How many were grouped: rows, or tracklets."""
    by_tracklet: bool
    how: str
    """For people."""
    agreement: Agreement | None
    """With the persons that are known; None where nobody is."""

    @property
    def count(self) -> int:
        """Of groups."""
        return int(self.group.max(initial=NO_GROUP)) + 1

    def facts(self) -> list[str]:
        """For people."""
        units = counted(self.units, "tracklet" if self.by_tracklet else "row")
        missing = int((self.group == NO_GROUP).sum())
        lines = [f"{units} to {counted(self.count, 'group')}, {self.how}"]
        if missing:
            lines.append(f"{counted(missing, 'row has', 'rows have')} no feature, and no group")
        return lines

    def figures(self) -> list[tuple[str, str]]:
        """The agreement's names and values."""
        found = self.agreement
        if found is None:
            return []
        return [
            ("known persons", f"{found.persons:,}"),
            ("their groups", f"{found.groups:,}"),
            ("V-measure", percent(found.v_measure)),
            ("homogeneity", percent(found.homogeneity)),
            ("completeness", percent(found.completeness)),
            ("purity", percent(found.purity)),
            ("pairwise F1", percent(found.pairwise_f1)),
            ("IDF1", percent(found.idf1)),
            ("association accuracy (HOTA)", percent(found.association)),
        ]

    def table(self) -> RichTable:
        """For a terminal."""
        table = RichTable("groups and known persons", "")
        table.columns[1].justify = "right"
        for name, value in self.figures():
            table.add_row(name, value)
        return table

    def to_json(self) -> str:
        """The groups' rows, and the figures."""
        content: dict[str, Any] = {
            "run": str(self.store.run),
            "units": self.units,
            "unit": "tracklet" if self.by_tracklet else "row",
            "how": self.how,
            "groups": [rows.tolist() for rows in self.members()],
            "agreement": self.agreement and self.agreement.to_json(),
        }
        return json.dumps(content, indent=2)

    def members(self) -> list[NDArray[np.intp]]:
        """The rows of each group, ascending."""
        rows = np.flatnonzero(self.group != NO_GROUP)
        order = rows[np.argsort(self.group[rows], kind="stable")]
        return np.split(order, np.cumsum(np.bincount(self.group[rows], minlength=self.count))[:-1])

    def csv(self) -> str:
        """A line for each row of the store; empty what is not known."""
        manifest = self.store.manifest
        persons, cameras = manifest.names(PERSON_NAME), manifest.names(CAMERA_NAME)
        tracklets = manifest.extra.get(TRACKLET)
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for row, group in enumerate(self.group.tolist()):
            person, camera = int(manifest.person_id[row]), int(manifest.camera_id[row])
            writer.writerow(
                [
                    row,
                    printable(os.fsdecode(manifest.path[row])),
                    "" if camera == NO_CAMERA else cameras.get(camera, camera),
                    "" if tracklets is None else tracklets[row].decode(),
                    "" if person == NO_PERSON else persons.get(person, person),
                    "" if group == NO_GROUP else group,
                ]
            )
        return stream.getvalue()

    def page(self) -> str:
        """HTML 5 in a single file: a row of pictures for each of the largest groups."""
        largest = sorted(self.members(), key=lambda rows: (-len(rows), rows[0]))[:SHOWN]
        tables = [
            Table(title="Groups and known persons", header=["", "value"], rows=self.figures())
        ]
        return render(
            "search_page.html",
            title=f"Linked rows of {self.store.run}",
            lines=[
                *self.facts(),
                f"The {len(largest)} largest groups, up to {RANKS + 1} images each",
            ],
            pictures=self._pictures(largest) if largest else [],
            tables=tables if self.agreement else [],
        )

    def _pictures(self, groups: list[NDArray[np.intp]]) -> list[Picture]:
        """The groups' images, and of boxes the first ones in their frames."""
        manifest = self.store.manifest
        persons, cameras = manifest.names(PERSON_NAME), manifest.names(CAMERA_NAME)
        shown = []
        for rows in groups:
            # Evenly spaced, so that more than the first camera is seen.
            some = rows[np.linspace(0, len(rows) - 1, min(len(rows), RANKS + 1), dtype=np.intp)]
            features = self.store.features(some)
            first = int(some[0])
            known = known_persons(manifest, manifest.person_id[rows])
            found = [
                RankedImage(
                    image=manifest.file(int(row)),
                    person=int(manifest.person_id[row]),
                    camera=int(manifest.camera_id[row]),
                    person_name=persons.get(int(manifest.person_id[row]), ""),
                    camera_name=cameras.get(int(manifest.camera_id[row]), ""),
                    score=float(feature @ features[0]),
                    correct=bool(manifest.person_id[row] == manifest.person_id[first])
                    if {int(manifest.person_id[row]), int(manifest.person_id[first])} <= known
                    else None,
                )
                for row, feature in zip(some[1:], features[1:], strict=True)
            ]
            shown.append(
                RankedQuery(
                    image=manifest.file(first),
                    person=int(manifest.person_id[first]),
                    camera=int(manifest.camera_id[first]),
                    person_name=persons.get(int(manifest.person_id[first]), ""),
                    camera_name=cameras.get(int(manifest.camera_id[first]), ""),
                    ap=math.nan,
                    above=f"group {self.group[first]}",
                    ranked=found,
                )
            )
        caption = "Groups: the first row of each, and others with their cosine to it"
        pictures = [Picture(caption=caption, png=ranking_gallery(shown))]
        if frames := frames_gallery(shown):
            pictures.append(Picture(caption="The same in their frames", png=frames))
        return pictures
