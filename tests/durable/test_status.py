"""What a job's status says it waits for, from what is stored of it."""

from types import SimpleNamespace

import pytest

from async_vmapi.durable.job import status_of
from async_vmapi.durable.store import VERSION, job_id


def status(workflow="PENDING", *, progress, **attributes):
    return status_of(
        SimpleNamespace(
            workflow_id=job_id("roll"),
            status=workflow,
            attributes={"operation": "reboot", "total": 5, "progress": progress, **attributes},
            created_at=1000,
            updated_at=2000,
            app_version=VERSION,
        )
    )


HELD = {"held": 2, "done": {"succeeded": 2}}
SUSPENDED = {"suspended": "more than 1 failed", "done": {"failed": 1, "unknown": 1}}


@pytest.mark.parametrize(
    ("progress", "attributes", "state", "held", "paused"),
    [
        ({}, {}, "running", None, None),
        (HELD, {}, "held", 2, None),
        (HELD, {"promoted": 1}, "held", 2, None),
        (HELD, {"promoted": 2}, "running", None, None),
        (HELD, {"paused": True}, "paused", 2, "it was paused"),
        (HELD, {"cancelled": True}, "cancelling", None, None),
        (SUSPENDED, {}, "paused", None, "more than 1 failed"),
        (SUSPENDED, {"forgiven": 1}, "paused", None, "more than 1 failed"),
        (SUSPENDED, {"forgiven": 2}, "running", None, None),
        (SUSPENDED, {"cancelled": True}, "cancelling", None, None),
        (HELD | SUSPENDED, {}, "paused", 2, "more than 1 failed"),
    ],
)
def test_what_it_waits_for(progress, attributes, state, held, paused):
    """Also just after it was promoted or resumed, when the coordinator does not know that yet."""
    found = status(progress=progress, **attributes)
    assert (found.state, found.held, found.paused) == (state, held, paused)


def test_a_job_that_has_ended_waits_for_nothing():
    found = status("SUCCESS", progress=HELD | SUSPENDED)
    assert (found.state, found.held, found.paused) == ("finished", None, None)
