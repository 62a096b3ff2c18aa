"""The documentation site: `nox -s docs` builds it to docs/_build/html."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import version as version_of
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.directives.code import CodeBlock

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "FIBER"
author = "The FIBER developers"
project_copyright = author
version = release = version_of("fiber-train")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "mathml",
    "public_names",
    "repository_links",
]
exclude_patterns = ["_build", "_extensions"]
# Tutorials and notebooks are listed by their folders, and a folder may be empty.
logging.getLogger("sphinx.sphinx.directives.other").addFilter(lambda record: "glob pattern" not in str(record.msg))

# Every reference to a name of ours has to resolve; those of other libraries are not looked up.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?s)(?!fiber_(backbone|heads|data|eval|train)\b).*")]
default_role = "py:obj"  # what a docstring has in single backticks

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4

autosummary_generate = False
autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_class_signature = "mixed"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "FIBER"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
copybutton_prompt_text = "$ "

linkcheck_timeout = 20
linkcheck_anchors = False


class CodeCell(CodeBlock):
    """A cell of a notebook that is kept as text."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Python, whatever the kernel is called."""
        self.arguments = ["python"]
        return super().run()


def setup(app: Sphinx) -> None:
    """Let pages be notebooks."""
    app.add_directive("code-cell", CodeCell)
