"""Draws what an operation passes through from the very table that decides when it is done."""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.graphviz import graphviz
from sphinx.util.docutils import SphinxDirective

from async_vmapi.completion import RULES, Rule

# Both are read well on a light page and on a dark one.
_INK = "#6e7f91"
_COLOURS = {"passing": "#4a90d9", "expected": "#2f9e60", "failing": "#d0573f"}
_STYLE = (
    'rankdir=LR; bgcolor="transparent"; nodesep=0.15; ranksep=0.5; '
    f'node [shape=box, style="rounded", fontname="sans-serif", fontsize=12, color="{_INK}", '
    f'fontcolor="{_INK}", penwidth=1.5, height=0.3]; '
    f'edge [color="{_INK}", fontcolor="{_INK}", fontname="sans-serif", fontsize=10, arrowsize=0.7];'
)


def _node(name: str, kind: str) -> str:
    colour = _COLOURS[kind]
    ends = ", peripheries=2" if kind == "expected" else ""
    return f'"{name}" [color="{colour}", fontcolor="{colour}"{ends}];'


def picture(operation: str, rule: Rule) -> str:
    """Return an operation's states as a graph in DOT."""
    lines = [f'"{operation}" [shape=plaintext, fontsize=13];']
    ends = sorted(rule.expected) or ["not found"]
    passing = sorted(rule.passing - rule.expected)
    lines += [_node(state, "passing") for state in passing]
    lines += [_node(state, "expected") for state in ends]
    failing = ", ".join(sorted(rule.failing)) or None
    for end in ends:
        if rule.cycle:
            lines.append(f'"{operation}" -> "{end}";')
            lines += [f'"{end}" -> "{state}" [dir=both];' for state in passing]
        elif passing:
            lines += [f'"{state}" -> "{end}";' for state in passing]
        else:
            held = "wanted size" if rule.resized else ""
            lines.append(f'"{operation}" -> "{end}" [label="{held}"];')
    if not rule.cycle:
        lines += [f'"{operation}" -> "{state}";' for state in passing]
    if rule.fresh:
        lines.append(f'"not found yet" [color="{_INK}", style="rounded,dashed"];')
        lines.append(f'"{operation}" -> "not found yet";')
        lines += [f'"not found yet" -> "{state}";' for state in passing]
    if failing:
        lines.append(_node(failing, "failing"))
        lines.append(f'"{operation}" -> "{failing}" [style=dashed];')
    return f"digraph {operation} {{ {_STYLE} {' '.join(lines)} }}"


class OperationStates(SphinxDirective):
    """``{operation-states} create``: the picture of one operation."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the picture, with words for who cannot see it."""
        operation = self.arguments[0]
        rule: Rule = {str(name): rule for name, rule in RULES.items()}[operation]
        node = graphviz()
        node["code"] = picture(operation, rule)
        node["options"] = {}
        ends = " or ".join(sorted(rule.expected)) or "not found"
        node["alt"] = f"{operation} ends {ends}; failing: {', '.join(sorted(rule.failing))}"
        return [node]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("operation-states", OperationStates)
    return {"parallel_read_safe": True}
