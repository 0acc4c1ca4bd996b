"""The error classes: what catches what, and what they say."""

import copy
import pickle
import re

import pytest

from async_vmapi import errors
from async_vmapi.errors import (
    APIError,
    AuthenticationError,
    BadRequest,
    Conflict,
    ConnectError,
    DecodingError,
    InvalidArgument,
    InvalidState,
    JobExists,
    JobNotFound,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    ServerError,
    TaskError,
    TaskFailed,
    TaskTimeout,
    TransportError,
    TransportTimeout,
    VMAPIError,
    VMVanished,
)

TREE = {
    VMAPIError: {Exception},
    InvalidArgument: {VMAPIError, ValueError},
    JobNotFound: {InvalidArgument},
    JobExists: {InvalidArgument},
    InvalidState: {VMAPIError, RuntimeError},
    APIError: {VMAPIError},
    BadRequest: {APIError},
    AuthenticationError: {APIError},
    NotFound: {APIError},
    Conflict: {APIError},
    RateLimited: {APIError},
    ServerError: {APIError},
    TransportError: {VMAPIError},
    ConnectError: {TransportError},
    TransportTimeout: {TransportError, TimeoutError},
    DecodingError: {VMAPIError},
    OutcomeUnknown: {VMAPIError},
    TaskError: {VMAPIError},
    TaskFailed: {TaskError},
    TaskTimeout: {TaskError, TimeoutError},
    VMVanished: {TaskError},
}

FULL = [
    VMAPIError("words"),
    InvalidArgument("words", argument="cpus"),
    JobNotFound("words", name="night"),
    JobExists("words", name="night"),
    InvalidState("words"),
    *(
        kind("words", status=418, method="GET", path="/v2/x", from_api=False)
        for kind in TREE
        if issubclass(kind, APIError)
    ),
    *(
        kind("words", method="GET", path="/v2/x")
        for kind in TREE
        if issubclass(kind, TransportError)
    ),
    DecodingError("words", where="$.a[3]", method="GET", path="/v2/x", malformed=True),
    OutcomeUnknown("words", operation="create", name="web", candidates=("1", "2"), token="{}"),
    *(
        kind(
            "words",
            vm_id="1",
            operation="resize",
            last_state="offline",
            history=((0.5, "online"), (1.5, None)),
            last_poll_error="gone",
            token="{}",
        )
        for kind in TREE
        if issubclass(kind, TaskError)
    ),
]


class TestTree:
    @pytest.mark.parametrize(("kind", "bases"), TREE.items(), ids=[kind.__name__ for kind in TREE])
    def test_each_class_has_the_bases_that_are_documented(self, kind, bases):
        """What `except` catches is what the tree in the module shows."""
        assert set(kind.__bases__) == bases

    def test_all_classes_are_in_the_table(self):
        """A class that nobody tests does not slip in."""
        assert {kind.__name__ for kind in TREE} == set(errors.__all__)

    def test_the_drawn_tree_names_every_class_once(self):
        """The picture at the module's top is complete."""
        drawn = re.findall(r"(?:── |^    )([A-Z]\w+)", errors.__doc__, re.MULTILINE)
        assert sorted(drawn) == sorted(errors.__all__)


class TestText:
    def test_a_refusal_tells_call_status_and_the_servers_words(self):
        """One line is enough to know what happened."""
        error = Conflict("still installing", status=409, method="POST", path="/v2/a/reset")
        assert str(error) == "POST /v2/a/reset was refused with status 409: still installing"

    def test_a_refusal_without_words_says_so(self):
        """An empty explanation does not leave a dangling colon."""
        text = str(ServerError(status=502, method="GET", path="/v2/a"))
        assert text.endswith("status 502: no explanation given")

    def test_a_lost_connection_tells_the_call(self):
        """One line is enough to know what happened."""
        error = TransportTimeout("not within 3 s", method="PUT", path="/v2/a")
        assert str(error) == "PUT /v2/a got no response: not within 3 s"

    def test_a_decoding_error_tells_the_place(self):
        """The place is a JSON path; the call is named where it is known."""
        error = DecodingError("no id", where="$.vms[3]", method="GET", path="/v2/a")
        assert str(error) == "GET /v2/a: cannot decode the response at $.vms[3]: no id"
        assert str(DecodingError("no id")) == "cannot decode the response at $: no id"


class TestCopies:
    @pytest.mark.parametrize("error", FULL, ids=lambda error: type(error).__name__)
    @pytest.mark.parametrize(
        "clone", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))], ids=["copy", "pickle"]
    )
    def test_errors_cross_process_borders_whole(self, error, clone):
        """A copied or pickled error says the same and has the same attributes."""
        again = clone(error)
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)

    @pytest.mark.parametrize("kind", [RateLimited, ServerError])
    def test_a_time_to_wait_is_kept(self, kind):
        """It is unknown until the server names one, and then survives a copy."""
        error = kind("slow down")
        assert error.retry_after is None
        error.retry_after = 1.5
        assert copy.copy(error).retry_after == 1.5
