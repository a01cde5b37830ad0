"""JSON, whose strings may hold what is no text: half of a character."""

from __future__ import annotations

import json
import re
from typing import Any

HALF = re.compile("[\ud800-\udfff]")


def loads(text: str) -> Any:
    r"""What json.loads makes of it, with `\ud83d` alone, which no file can hold, as an escape;
    raises what that does: ValueError, RecursionError."""
    content = json.loads(text)
    if "\\u" not in text:
        return content
    plain = json.dumps(content, ensure_ascii=False)
    if not HALF.search(plain):
        return content
    return json.loads(HALF.sub(lambda half: f"\\\\u{ord(half[0]):04x}", plain))
