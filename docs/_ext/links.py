"""Resolves the short names in docstrings, as users import them."""

from typing import Any, cast

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

# Search order for an unqualified name.
_PLACES = (
    "async_vmapi",
    "async_vmapi.vms",
    "async_vmapi.vms.VirtualMachines",
    "async_vmapi.durable",
    "async_vmapi.testing",
    "async_vmapi.emulator",
    "async_vmapi.emulator.cloud",
)


def find(
    app: Sphinx, env: BuildEnvironment, node: nodes.Element, content: nodes.TextElement
) -> nodes.Node | None:
    """Resolve a reference that Sphinx could not; the name of an argument is no reference."""
    target = cast(str, node.get("reftarget", ""))
    if node.get("refdomain") != "py" or node.get("reftype") not in ("obj", "class"):
        return None
    domain = env.get_domain("py")
    for place in _PLACES:
        found = domain.resolve_xref(
            env,
            cast(str, node["refdoc"]),
            app.builder,
            "obj",
            f"{place}.{target.rpartition('async_vmapi.')[2]}",
            cast(Any, node),
            content,
        )
        if found is not None:
            return found
    if node.get("reftype") == "obj" and target.isidentifier() and target.islower():
        return content
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the resolver."""
    app.connect("missing-reference", find)
    return {"parallel_read_safe": True}
