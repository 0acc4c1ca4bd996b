"""Everything that this package raises on purpose.

::

    VMAPIError
    ├── InvalidArgument            (ValueError)    nothing was sent
    │   ├── JobNotFound                            no durable job has that name
    │   └── JobExists                              a durable job has that name, and does other work
    ├── InvalidState               (RuntimeError)  the client or task cannot do that now
    ├── APIError                                   the server answered, and refused
    │   ├── BadRequest                             400, 422 and other 4xx
    │   ├── AuthenticationError                    401, 403
    │   ├── NotFound                               404, 410
    │   ├── Conflict                               409, 412, 423
    │   ├── RateLimited                            429
    │   └── ServerError                            5xx
    ├── TransportError                             no whole answer came
    │   ├── ConnectError                          the request surely never left
    │   └── TransportTimeout       (TimeoutError)
    ├── DecodingError                              an answer came that makes no sense
    ├── OutcomeUnknown                             a write that is not to be repeated is in doubt
    └── TaskError                                  what was awaited did not come to be
        ├── TaskFailed
        ├── TaskTimeout            (TimeoutError)
        └── VMVanished

No message and no attribute carries a secret (WIRE §5.6).
"""

from http import HTTPStatus

__all__ = [
    "APIError",
    "AuthenticationError",
    "BadRequest",
    "Conflict",
    "ConnectError",
    "DecodingError",
    "InvalidArgument",
    "InvalidState",
    "JobExists",
    "JobNotFound",
    "NotFound",
    "OutcomeUnknown",
    "RateLimited",
    "ServerError",
    "TaskError",
    "TaskFailed",
    "TaskTimeout",
    "TransportError",
    "TransportTimeout",
    "VMAPIError",
    "VMVanished",
]


class VMAPIError(Exception):
    """The root: ``except VMAPIError`` catches all that this package raises on purpose."""


class InvalidArgument(VMAPIError, ValueError):
    """An argument or a setting is wrong; nothing was sent. Correct it and call again.

    Attributes:
        argument: The argument's (or environment variable's) name.
    """

    def __init__(self, message: str = "", *, argument: str = "") -> None:
        super().__init__(message)
        self.argument = argument


class JobNotFound(InvalidArgument):
    """The fleet's database has no job of that name. Submit it, or check name and database.

    Attributes:
        name: The job's name.
    """

    def __init__(self, message: str = "", *, argument: str = "name", name: str = "") -> None:
        super().__init__(message, argument=argument)
        self.name = name


class JobExists(InvalidArgument):
    """A job of that name was submitted with another operation, plan or items.

    Submit under another name; or, if only the items differ, with ``attach=True``, which returns
    the job that is there.

    Attributes:
        name: The job's name.
    """

    def __init__(self, message: str = "", *, argument: str = "name", name: str = "") -> None:
        super().__init__(message, argument=argument)
        self.name = name


class InvalidState(VMAPIError, RuntimeError):
    """The object cannot do that now: a task without a result, a client of another event loop."""


class APIError(VMAPIError):
    """The server answered and refused the call (WIRE §1). It did not carry it out.

    Raised itself where the kind of refusal is not told, for instance ``success: false`` on
    status 200, or a redirect, which is never followed.

    Attributes:
        message: The server's own words, shortened; empty if it gave none. They are withheld
            where the call carried a password or user data, or where they repeat the API secret or
            the signature; then it says so.
        status: The HTTP status.
        method: The HTTP method of the call.
        path: The path of the call.
        from_api: Whether the answer had the API's envelope; False for a proxy's page.
    """

    def __init__(
        self,
        message: str = "",
        *,
        status: int = 0,
        method: str = "",
        path: str = "",
        from_api: bool = True,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.method = method
        self.path = path
        self.from_api = from_api

    def __str__(self) -> str:
        words = self.message or "no explanation given"
        return f"{self.method} {self.path} was refused with status {self.status}: {words}"


class BadRequest(APIError):
    """The server found the request wrong (400, 422 and other 4xx). Sending it again is no use."""


class AuthenticationError(APIError):
    """Key, secret or clock is wrong, or the account may not do that (401, 403)."""

    def __str__(self) -> str:
        told = super().__str__()
        if self.status != HTTPStatus.UNAUTHORIZED:
            return told
        return (
            f"{told} (look at api_key and api_secret, which are VMAPI_API_KEY and "
            "VMAPI_API_SECRET in the environment, and at this machine's clock)"
        )


class NotFound(APIError):
    """The server knows no such thing (404, 410)."""


class Conflict(APIError):
    """The machine's state does not allow that now (409, 412, 423)."""


class RateLimited(APIError):
    """Too many requests (429). Wait before asking again.

    Attributes:
        retry_after: Seconds that the server asked to wait; None if it did not say.
    """

    retry_after: float | None = None


class ServerError(APIError):
    """The server, or a proxy before it, failed (5xx). A write may have been carried out.

    Attributes:
        retry_after: Seconds that the server asked to wait; None if it did not say.
    """

    retry_after: float | None = None


class TransportError(VMAPIError):
    """The connection failed before a whole answer came. A write may have been carried out.

    Attributes:
        method: The HTTP method of the call.
        path: The path of the call.
    """

    def __init__(self, message: str = "", *, method: str = "", path: str = "") -> None:
        super().__init__(message)
        self.method = method
        self.path = path

    def __str__(self) -> str:
        return f"{self.method} {self.path} got no answer: {super().__str__()}"


class ConnectError(TransportError):
    """No connection was made, so the request surely never left. It is safe to send again.

    Attributes:
        permanent: Whether no retry can mend it, for instance a certificate that is not valid:
            then it is raised at once.
    """

    def __init__(
        self, message: str = "", *, method: str = "", path: str = "", permanent: bool = False
    ) -> None:
        super().__init__(message, method=method, path=path)
        self.permanent = permanent


class TransportTimeout(TransportError, TimeoutError):
    """The answer did not come in time. A write may have been carried out."""


class DecodingError(VMAPIError):
    """An answer came that does not fit the wire (WIRE §2, §3). A write may have been carried out.

    Attributes:
        where: The place in the answer, as a JSON path like ``$.virtual_machines[3]``.
        method: The HTTP method of the call.
        path: The path of the call.
        malformed: Whether it is not even JSON, for instance a proxy's page.
    """

    def __init__(
        self,
        message: str = "",
        *,
        where: str = "$",
        method: str = "",
        path: str = "",
        malformed: bool = False,
    ) -> None:
        super().__init__(message)
        self.where = where
        self.method = method
        self.path = path
        self.malformed = malformed

    def __str__(self) -> str:
        call = f"{self.method} {self.path}: " if self.method else ""
        return f"{call}cannot read the answer at {self.where}: {super().__str__()}"


class OutcomeUnknown(VMAPIError):
    """Nobody can tell whether a write was carried out, and sending it again could do it twice.

    Its ``__cause__`` is what went wrong on the wire. Go on with ``client.reconcile(error.token)``,
    which looks again and sends nothing; or look at the candidates yourself.

    Attributes:
        operation: ``"create"``, ``"reboot"`` or ``"reset"``.
        name: The name that the machine was to have, of a create; else None.
        vm_id: The machine, of a reboot or reset; else None.
        candidates: Ids of machines that may be what the create made.
        token: A text to go on with; it holds no secret.
    """

    def __init__(
        self,
        message: str = "",
        *,
        operation: str = "",
        name: str | None = None,
        vm_id: str | None = None,
        candidates: tuple[str, ...] = (),
        token: str = "",
    ) -> None:
        super().__init__(message)
        self.operation = operation
        self.name = name
        self.vm_id = vm_id
        self.candidates = candidates
        self.token = token


class TaskError(VMAPIError):
    """What a `Task` waited for did not come to be; the attributes tell what was seen.

    Attributes:
        vm_id: The machine.
        operation: What was asked of it, for instance ``"resize"``.
        last_state: The state seen last; None if the machine was never seen.
        history: Each change seen, as pairs of seconds since the request was accepted and the
            state word, or None where the machine was absent.
        last_poll_error: The text of the last look that failed; None if none did.
        token: The task's token, to go on watching with `Client.resume`.
    """

    def __init__(
        self,
        message: str = "",
        *,
        vm_id: str = "",
        operation: str = "",
        last_state: str | None = None,
        history: tuple[tuple[float, str | None], ...] = (),
        last_poll_error: str | None = None,
        token: str = "",
    ) -> None:
        super().__init__(message)
        self.vm_id = vm_id
        self.operation = operation
        self.last_state = last_state
        self.history = history
        self.last_poll_error = last_poll_error
        self.token = token


class TaskFailed(TaskError):
    """The machine was seen in a state from which the operation cannot succeed."""


class TaskTimeout(TaskError, TimeoutError):
    """The end was not seen in time. The operation may go on; the task can be awaited again."""


class VMVanished(TaskError):
    """The machine is gone while something other than its deletion was awaited."""
