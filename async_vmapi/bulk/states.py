"""The states of a bulk call. Pure.

=============== =========================================== ====================================
state           what happens in it                          left by
=============== =========================================== ====================================
``RUNNING``     items start                                 ``pause``, failures, ``stop``,
                                                            completion
``PAUSED``      no item starts; operations in progress      ``pause(False)``, failures,
                continue                                    ``stop``, completion
``SUSPENDED``   the same, because of failures               ``forgive``, ``stop``, completion
``STOPPING``    no further item starts; operations in       completion
                progress are awaited
``INTERRUPTED`` the iteration was left early; operations    the workers' completion
                in progress are no longer awaited
``CLOSED``      nothing, and no event is reported
=============== =========================================== ====================================
"""

import enum
from typing import Final

__all__ = ["TRANSITIONS", "State"]


class State(enum.Enum):
    """The state of a bulk call; see the module's table."""

    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    STOPPING = "stopping"
    INTERRUPTED = "interrupted"
    CLOSED = "closed"


TRANSITIONS: Final = {
    State.RUNNING: {
        *(State.PAUSED, State.SUSPENDED),
        *(State.STOPPING, State.INTERRUPTED, State.CLOSED),
    },
    State.PAUSED: {
        *(State.RUNNING, State.SUSPENDED),
        *(State.STOPPING, State.INTERRUPTED, State.CLOSED),
    },
    State.SUSPENDED: {State.RUNNING, State.STOPPING, State.INTERRUPTED, State.CLOSED},
    State.STOPPING: {State.INTERRUPTED, State.CLOSED},
    State.INTERRUPTED: {State.CLOSED},
    State.CLOSED: set[State](),
}
"""The states that may follow each state; an event that leads to another one has no effect."""
