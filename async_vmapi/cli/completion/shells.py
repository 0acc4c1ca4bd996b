"""How each shell passes the words of a command line, and takes the candidates. Pure.

The values are untrusted: VM names are chosen by others. A shell never evaluates them: zsh and fish
quote what they insert, and for bash, which inserts them unchanged, they are quoted here.
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

__all__ = ["FILES", "Candidate", "Line", "for_bash", "for_others", "split"]

FILES: Final = ":files"
"""The answer that makes a shell complete names of files."""

_PLAIN: Final = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_@%+=:,./-"
)
_SPECIAL_IN_DOUBLE_QUOTES: Final = '\\"$`'


class Candidate(NamedTuple):
    """A word that may follow.

    Attributes:
        value: The word.
        help: A description of one line; may be empty.
    """

    value: str
    help: str = ""


class Line(NamedTuple):
    """A command line up to the cursor.

    Attributes:
        words: The complete words, without their quotes; the first one is the program.
        current: The word at the cursor, as far as it is typed, without quotes.
        raw: The same as it was typed.
        quote: The quote that is open at the cursor; empty if none.
    """

    words: Sequence[str]
    current: str
    raw: str = ""
    quote: str = ""


def split(text: str) -> Line:
    """Split a command line up to the cursor into words, as a shell does."""
    words, word, raw, quote = list[str](), "", "", ""
    escaped, inside = False, False
    for character in text:
        if not (escaped or quote) and character.isspace():
            if inside:
                words.append(word)
            word, raw, inside = "", "", False
            continue
        raw, inside = raw + character, True
        if escaped:
            special = not quote or character in _SPECIAL_IN_DOUBLE_QUOTES
            word, escaped = word + ("" if special else "\\") + character, False
        elif character == "\\" and quote != "'":
            escaped = True
        elif character == quote:
            quote = ""
        elif character in "'\"" and not quote:
            quote = character
        else:
            word += character
    return Line(words, word, raw, quote)


def for_bash(line: Line, current: str, candidates: Iterable[Candidate]) -> list[str]:
    """Return the texts to replace what bash takes for the current word.

    Args:
        line: The command line.
        current: The current word as bash sees it: it begins after a quote, a colon or an ``=``.
        candidates: The candidates, each of which begins with ``line.current``.
    """
    kept = len(split(line.raw.removesuffix(current)).current)
    texts: list[str] = []
    for candidate in candidates:
        rest = candidate.value[kept:]
        if line.quote == "'":
            if "'" not in rest:
                texts.append(rest)
        elif line.quote:
            # Within double quotes nothing keeps bash from expanding an exclamation mark.
            if "!" not in rest:
                texts.append(
                    "".join(f"\\{c}" if c in _SPECIAL_IN_DOUBLE_QUOTES else c for c in rest)
                )
        else:
            texts.append("".join(c if c in _PLAIN or c.isalnum() else f"\\{c}" for c in rest))
    return texts


def for_others(candidates: Iterable[Candidate]) -> list[str]:
    """Return lines for zsh and fish, which quote: the value, a tab, and the description."""
    return [f"{value}\t{help_}" if help_ else value for value, help_ in candidates]
