"""The pages as a site: `make docs`. Markdown and notebooks by MyST, the reference from docstrings, the theme furo."""

import re

import robustok

project, author, release = "robustok", "The robustok authors", robustok.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc"]
html_theme, html_title = "furo", "robustok"
html_copy_source = False

nb_execution_mode = "force"  # notebooks are run as they are built, each in a folder of its own
nb_execution_in_temp = True
nb_execution_timeout = 3600  # for a cell; a busy machine is slow
nb_execution_raise_on_error = True
nb_merge_streams = True

myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # parts of the README begin below its first level

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False  # those of torch are not ours
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "show-inheritance": False}


def plain(app, what, name, obj, options, lines):
    """Docstrings are plain text: code in single backticks, paragraphs, and now and then a table of aligned words."""
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines).strip())
    lines[:] = "\n\n".join(map(as_rst, paragraphs)).splitlines() + [""]


def as_rst(paragraph: str) -> str:
    """A paragraph as reStructuredText: as it stands where it is aligned or indented, else flowing."""
    if re.search(r"^\s|\S {2,}\S", paragraph, re.MULTILINE):
        return "::\n\n" + "\n".join(f"    {line}" for line in paragraph.splitlines())
    parts = re.split(r"`+([^`]+)`+", paragraph)
    return "".join(
        f"\\ ``{part.strip()}``\\ " if i % 2 else re.sub(r"([\\*|_])", r"\\\1", part) for i, part in enumerate(parts)
    )


def setup(app):
    app.connect("autodoc-process-docstring", plain)
