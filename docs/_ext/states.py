"""Draws the states of an operation, from the table that decides when it is complete."""

from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.graphviz import graphviz
from sphinx.util.docutils import SphinxDirective

from async_vmapi.models.vm import DELETING
from async_vmapi.tasks.rules import RULES, Rule

# Legible on light and dark pages.
_INK = "#6e7f91"
_COLOURS = {"passing": "#4a90d9", "target": "#2f9e60", "failing": "#d0573f"}
_STYLE = (
    'rankdir=LR; bgcolor="transparent"; nodesep=0.15; ranksep=0.3; '
    f'node [shape=box, style="rounded", fontname="sans-serif", fontsize=12, color="{_INK}", '
    f'fontcolor="{_INK}", penwidth=1.5, height=0.3]; '
    f'edge [color="{_INK}", fontcolor="{_INK}", fontname="sans-serif", fontsize=11, arrowsize=0.7];'
)


def _node(name: str, label: str, kind: str) -> str:
    colour = _COLOURS[kind]
    double = ", peripheries=2" if kind == "target" else ""
    return f'{name} [label="{label}", color="{colour}", fontcolor="{colour}"{double}];'


def _or(states: frozenset[str]) -> str:
    return r" or\n".join(sorted(states))


def _cycle(rule: Rule) -> Iterator[str]:
    (end,) = rule.target_states
    yield _node("before", end, "passing")
    yield _node("offline", _or(rule.intermediate_states), "passing")
    yield _node("end", end, "target")
    yield "request -> before -> offline -> end;"
    missed = rf"never observed offline:\nassumed after {rule.grace:g} s"
    yield f'before -> end [style=dashed, label="{missed}"];'


def _resize(rule: Rule) -> Iterator[str]:
    yield _node("before", r"online\nold size", "passing")
    yield _node("down", r"offline\nany size", "passing")
    yield "request -> before -> down;"
    for end in sorted(rule.target_states):
        yield _node(end, rf"{end}\nnew size", "target")
    yield 'down -> online; down -> offline [label="stays"];'
    missed = r"never observed down:\nafter wait_for"
    yield f'before -> online [style=dashed, label="{missed}"];'


def _one_way(rule: Rule) -> Iterator[str]:
    yield _node("end", _or(rule.target_states) or "absent", "target")
    yield _node("before", _or(rule.intermediate_states - {DELETING}), "passing")
    if rule.new_vm:
        yield f'hidden [label="not found\\nyet", color="{_INK}", style="rounded,dashed"];'
        yield "request -> hidden -> before -> end;"
    elif DELETING in rule.intermediate_states:
        yield _node("deleting", DELETING, "passing")
        yield "request -> before -> deleting -> end; before -> end;"
    else:
        yield "request -> before -> end;"


def picture(operation: str, rule: Rule) -> str:
    """Return an operation's states as a graph in DOT."""
    lines = [f'request [label="{operation}", shape=plaintext, fontsize=13];']
    lines += _cycle(rule) if rule.cycle else _resize(rule) if rule.resized else _one_way(rule)
    if rule.failing_states:
        lines.append(_node("failing", _or(rule.failing_states), "failing"))
        lines.append("request -> failing [style=dashed];")
    return f"digraph {operation} {{ {_STYLE} {' '.join(lines)} }}"


def words(operation: str, rule: Rule) -> str:
    """Return the alternative text of the picture."""
    target = " or ".join(sorted(rule.target_states)) or "absent"
    if rule.cycle:
        target = f"{target} again, or, if it was never observed offline, after {rule.grace:g} s"
    elif rule.resized:
        target += " with the new size, after it was down"
    failing = f"; fails: {', '.join(sorted(rule.failing_states))}" if rule.failing_states else ""
    return f"{operation} is complete: {target}{failing}"


class OperationStates(SphinxDirective):
    """``{operation-states} create``: the picture of one operation."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the picture with its alternative text."""
        operation = self.arguments[0]
        rule: Rule = {str(name): rule for name, rule in RULES.items()}[operation]
        node = graphviz()
        node["code"] = picture(operation, rule)
        node["options"] = {}
        node["alt"] = words(operation, rule)
        return [node]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("operation-states", OperationStates)
    return {"parallel_read_safe": True}
