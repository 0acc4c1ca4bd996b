"""How the documentation is built: ``nox -s docs``."""

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
    "links",
    "states",
]
exclude_patterns = ["_build"]

# The README's picture and figures are shown here too, from where they are.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [
    # Not documented here, and nothing is fetched while this is built.
    (
        r"py:.*",
        r"(aiohttp|asyncio|opentelemetry|collections|contextlib|datetime|pathlib|typing|yarl)\..*",
    ),
    # Type variables, and the stand-in for "as long as the operation may take".
    (r"py:class", r"async_vmapi\.(bulk\.operations\.R|tasks\.task\.T_co|tasks\.task\._Default)"),
    # What the emulator keeps of a VM for its stale reads: nothing that users touch.
    (r"py:class", r"async_vmapi\.emulator\.versions\.ViewHistory"),
    # What hides a secret from whoever prints an object.
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
html_title = "async_vmapi"
html_show_copyright = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b62b8", "color-brand-content": "#0b62b8"},
    "dark_css_variables": {"color-brand-primary": "#58a6ff", "color-brand-content": "#58a6ff"},
}
