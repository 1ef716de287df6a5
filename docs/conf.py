"""How the documentation is built: `make docs`. Nothing is fetched, and no page that is built fetches anything."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "stforecast"
author = "the stforecast authors"
copyright = author
version = release = version_of("stforecast")

extensions = [
    # docs/generated_pages.py, before autosummary reads them, and docs/page_checks.py
    "generated_pages",
    "page_checks",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "myst_nb",
    "sphinx_design",
]
# Pages that stand on others.
exclude_patterns = ["_build", "generated/errors.md"]
templates_path = ["_templates"]

# Options begin with two hyphens, not with a dash.
smartquotes = False
# Single backticks in docstrings: a link where there is something to link to, else code.
default_role = "py:obj"
nitpicky = True
# Nothing is fetched, so what other packages document cannot be linked to.
nitpick_ignore_regex = [("py:obj", ".*"), ("py:.*", r"(?!stforecast\.).*")]
# Parts of the inside that signatures name.
nitpick_ignore = [
    ("py:class", f"stforecast.{name}")
    for name in (
        "alignment.Alignment",
        "intervals.UsualError",
        "models.first_guess.TimeColumns",
        "networks.NetworkShape",
        "normalization.Moments",
        "planning.Fitted",
    )
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
autosummary_imported_members = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
# Notebooks are shown as `make notebooks` left them.
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}

html_theme = "pydata_sphinx_theme"
html_title = f"stforecast {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
# Summaries in the list of what a search found are fetched, which no browser does from a file.
html_show_search_summary = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "logo": {"text": "stforecast"},
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}
# The first page of a section needs no list of itself.
html_sidebars = {"index": []}
