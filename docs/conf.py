"""Configuration of the documentation build: ``nox -s docs``."""

import sys
from pathlib import Path

import async_vmapi

sys.path.insert(0, str(Path(__file__).with_name("_ext")))

project = "async_vmapi"
author = "The async_vmapi authors"
version = release = async_vmapi.__version__
project_copyright = author

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.graphviz",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "commands",
    "links",
    "states",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [
    # External names: the build fetches nothing.
    (
        r"py:.*",
        r"(aiohttp|asyncio|opentelemetry|collections|contextlib|datetime|pathlib|typing|yarl)\..*",
    ),
    (r"py:class", r"(ipaddress|os)\..*"),
    # Type variables, and the marker for the default timeout.
    (r"py:class", r"async_vmapi\.(bulk\.operations\.R|tasks\.task\.(T_co|_Default))"),
    # Internal: the emulator's record of a VM for stale reads.
    (r"py:class", r"async_vmapi\.emulator\.versions\.ViewHistory"),
    # Internal: the conditions that `Ready` has; they are shown as text.
    (r"py:class", r"async_vmapi\.readiness\.conditions\.\w+"),
    # Internal: wraps secrets in models.
    (r"py:class", r"async_vmapi\.redaction\.Secret"),
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

graphviz_output_format = "svg"

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["narrow.css"]
html_js_files = ["narrow.js"]
html_title = "async_vmapi"
html_show_copyright = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b62b8", "color-brand-content": "#0b62b8"},
    "dark_css_variables": {"color-brand-primary": "#58a6ff", "color-brand-content": "#58a6ff"},
}
