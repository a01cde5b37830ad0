from typing import Any

import pytest

from distreid.errors import CheckpointError
from distreid.models.peer_config import settings

DEFAULTS = {"INPUT.SIZE_TEST": (256, 128), "MODEL.SIE_COE": 3.0, "MODEL.NECK": "bnneck"}


def test_a_value_of_the_file_is_taken_and_a_default_is_told() -> None:
    options = {"INPUT": {"SIZE_TEST": (384, 128)}, "MODEL": {"NECK": "no"}}
    values, notes = settings(options, DEFAULTS)
    assert values == {"INPUT.SIZE_TEST": (384, 128), "MODEL.SIE_COE": 3.0, "MODEL.NECK": "no"}
    (note,) = notes
    assert note.startswith("not in the weights: MODEL.SIE_COE taken as 3.0 (")


def test_a_list_stands_for_a_tuple_and_a_whole_number_for_a_fraction() -> None:
    options = {"INPUT": {"SIZE_TEST": [384, 128]}, "MODEL": {"SIE_COE": 2, "NECK": "no"}}
    values, notes = settings(options, DEFAULTS)
    assert values["INPUT.SIZE_TEST"] == (384, 128)
    assert values["MODEL.SIE_COE"] == 2.0
    assert type(values["MODEL.SIE_COE"]) is float
    assert notes == ()


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("INPUT", "SIZE_TEST", "384x128"),
        ("INPUT", "SIZE_TEST", 384),
        ("MODEL", "SIE_COE", "3"),
        ("MODEL", "SIE_COE", True),
        ("MODEL", "NECK", ["bnneck"]),
        ("MODEL", "NECK", 1),
    ],
)
def test_a_value_of_another_kind_is_refused_as_it_was_written(
    section: str, name: str, value: Any
) -> None:
    with pytest.raises(CheckpointError) as caught:
        settings({section: {name: value}}, DEFAULTS)
    default = DEFAULTS[f"{section}.{name}"]
    message = f"config.yaml: {section}.{name} is {value!r}, not such as {default}"
    assert str(caught.value) == message
