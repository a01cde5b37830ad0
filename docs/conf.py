"""How Sphinx builds the manual; `./launch/docs` runs it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import generated  # noqa: E402

import distreid  # noqa: E402

project = "distreid"
author = "the distreid maintainers"
release = distreid.__version__
html_title = "distreid"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["manual.css"]
html_copy_source = False
html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}
extensions = ["myst_nb", "sphinx.ext.autodoc"]
exclude_patterns = ["_build", "_generated"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# A page's console blocks show commands, and what is printed stands in text blocks.
highlight_language = "text"

nb_execution_mode = "auto"  # the notebook lies in the repository without its outputs
nb_execution_in_temp = True  # what it writes is not wanted
nb_execution_timeout = 300
nb_output_stderr = "remove"  # the bar and the log of the extraction
nb_execution_raise_on_error = True

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}
python_maximum_signature_line_length = 80


# Pages are read in a checkout too, where nothing is included: what stands in between is for there.
INCLUDED = re.compile(r"^<!-- built: (\S+) -->\n.*?^<!-- end -->$", re.MULTILINE | re.DOTALL)


def setup(app: Any) -> None:
    """Called by Sphinx before it looks for pages."""
    generated.write(HERE / "_generated")
    app.connect("source-read", with_included)
    app.connect("autodoc-process-docstring", as_restructured_text)
    app.connect("autodoc-process-signature", with_short_types)


def with_included(app: Any, page: str, source: list[str]) -> None:
    """Puts MyST's directives where a page says that a file is to be included."""
    source[0] = INCLUDED.sub(lambda match: included(match[1]), source[0])


def included(file: str) -> str:
    """The directive that shows a file, whose path is from the page's folder."""
    if file.endswith(".html"):
        return f"```{{raw}} html\n:file: {file}\n```"
    # The batch scripts' own page becomes a part of another one.
    offset = ":heading-offset: 1\n" if file == "../slurm/README.md" else ""
    return f"```{{include}} {file}\n{offset}```"


def with_short_types(
    app: Any, what: str, name: str, thing: Any, options: Any, signature: str | None, gives: Any
) -> tuple[str, Any] | None:
    """`ArrayLike` stands for itself, not for the union of a page that it is."""
    if not signature:
        return None
    return re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", signature), gives


def as_restructured_text(
    app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Docstrings write `code`, and indent what is to be shown as it is."""
    text = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``\\ ", "\n".join(lines))
    text = re.sub(r"(?m)^(\S.*\n)\n(?= {2,}\S)", r"\1\n::\n\n", text)
    lines[:] = text.split("\n")
