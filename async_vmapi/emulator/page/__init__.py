"""A page for the cloud, in a browser. Its files are served as they are, without a build step.

It does all by the control API, so it can do no more than that. The control token is in the fragment
of its URL, which browsers do not send: it is in no request line, ``Referer`` header or log.
"""

import importlib.resources
from collections.abc import Mapping
from typing import Final

import attrs

__all__ = ["HEADERS", "PageFile", "load"]

_TYPES: Final[Mapping[str, str]] = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "connect", "img")),
        *(f"{name} 'none'" for name in ("base-uri", "form-action", "frame-ancestors")),
        # Texts of clients, such as names of VMs, cannot become markup or code.
        "require-trusted-types-for 'script'; trusted-types 'none'",
    )
)

HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # A later version of the emulator has other files at the same address.
    "Cache-Control": "no-store",
}
"""Headers of each of its responses."""


@attrs.frozen
class PageFile:
    """A file of the page."""

    content_type: str
    body: bytes


def load() -> Mapping[str, PageFile]:
    """Return the files of the page by their paths on the server."""
    files: dict[str, PageFile] = {}
    for file in importlib.resources.files(__name__).iterdir():
        kind = file.name.rpartition(".")[2]
        if kind in _TYPES:
            path = "/" if file.name == "index.html" else f"/_page/{file.name}"
            files[path] = PageFile(_TYPES[kind], file.read_bytes())
    return files
