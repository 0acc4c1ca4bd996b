"""What error trackers show of an error: the local variables of all its frames.

sentry-sdk shows the `repr` of each, going into mappings, sequences and sets; rich goes into attrs
and dataclasses too, where their `repr` does, and cuts long texts before it takes their `repr`. This
goes further: into all attributes of other objects of this package.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from urllib.parse import quote

import attrs

DEEP = 4
CUT = 80


def chain(error):
    """Yield an error and all errors attached to it."""
    seen, todo = [], [error]
    while todo:
        current = todo.pop()
        if current is not None and not any(current is one for one in seen):
            seen.append(current)
            todo += [current.__cause__, current.__context__, *getattr(current, "exceptions", ())]
    return seen


def frames(error):
    """Yield the frames of an error and of all errors attached to it."""
    for one in chain(error):
        trace = one.__traceback__
        while trace is not None:
            yield trace.tb_frame
            trace = trace.tb_next


def shown(value, path="", deep=DEEP):
    """Yield all that a tracker could show of a value, each with its place."""
    yield path, _repr(value)
    if isinstance(value, str | bytes):
        yield f"{path}[:{CUT}]", repr(value[:CUT])
        return
    if deep == 0:
        return
    inside = []
    if isinstance(value, Mapping):
        inside = [(f"[{key!r}]", inner) for key, inner in value.items()]
        yield from ((path, repr(key)) for key in value)
    elif isinstance(value, Sequence | AbstractSet):
        inside = [(f"[{place}]", inner) for place, inner in enumerate(value)]
    kind = type(value)
    if kind.__module__.startswith("async_vmapi") and ".emulator" not in kind.__module__:
        names = [*getattr(value, "__dict__", ())]
        names += [name for base in kind.__mro__ for name in getattr(base, "__slots__", ())]
        if attrs.has(kind):
            names = [field.name for field in attrs.fields(kind) if field.repr]
        inside += [(f".{name}", getattr(value, name, None)) for name in names]
    for name, inner in inside:
        yield from shown(inner, path + name, deep - 1)


def _repr(value):
    # An object whose constructor is in the traceback may have none.
    try:
        return repr(value)
    except AttributeError:
        return f"<{type(value).__name__}>"


def forms(secret):
    """Return the forms of a secret in a `repr`."""
    whole = [secret, quote(secret), base64.b64encode(secret.encode()).decode()]
    whole += [json.dumps(secret)[1:-1], repr(secret)[1:-1], repr(secret.encode())[2:-1]]
    return {form for form in whole if form}


def leaks(error, secrets, *, besides=()):
    """Return where in an error's frames a secret is shown.

    Args:
        error: The error.
        secrets: The secrets.
        besides: Files whose frames are the caller's, and may hold what they like.
    """
    wanted = {form for secret in secrets for form in forms(secret)}
    found = []
    for frame in frames(error):
        code = frame.f_code
        if code.co_filename in besides:
            continue
        for name, value in list(frame.f_locals.items()):
            for path, text in shown(value, name):
                if any(form in text for form in wanted):
                    found.append(f"{code.co_filename}:{code.co_qualname}: {path}")
    for one in chain(error):
        for text in (str(one), repr(one), repr(vars(one)), *getattr(one, "__notes__", ())):
            if any(form in text for form in wanted):
                found.append(f"{type(one).__name__}: {text[:200]}")
    return found
