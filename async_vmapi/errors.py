"""The exceptions that this package raises.

::

    VMAPIError
    ├── InvalidArgument            (ValueError)    nothing was sent
    │   ├── JobNotFound                            no durable job has that name
    │   └── JobExists                              a durable job with other work has that name
    ├── InvalidState               (RuntimeError)  the client or task cannot do that now
    ├── APIError                                   the server refused the call
    │   ├── BadRequest                             400, 422 and other 4xx
    │   ├── AuthenticationError                    401, 403
    │   ├── NotFound                               404, 410
    │   ├── Conflict                               409, 412, 423
    │   ├── RateLimited                            429
    │   └── ServerError                            5xx
    ├── TransportError                             no complete response was received
    │   ├── ConnectError                           the request was never sent
    │   └── TransportTimeout       (TimeoutError)
    ├── DecodingError                              the response cannot be decoded
    ├── OutcomeUnknown                             the response to a write was lost
    └── TaskError                                  an operation did not reach its target state
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
    """The base class of all exceptions of this package."""

    @property
    def may_have_happened(self) -> bool:
        """Whether a write that failed with this error may have been carried out nevertheless."""
        return False


class InvalidArgument(VMAPIError, ValueError):
    """An argument or a setting is invalid; nothing was sent. Correct it and call again.

    Attributes:
        argument: The argument's (or environment variable's) name.
    """

    def __init__(self, message: str = "", *, argument: str = "") -> None:
        super().__init__(message)
        self.argument = argument


class JobNotFound(InvalidArgument):
    """The fleet's database has no job with that name. Submit it, or check name and database.

    Attributes:
        name: The job's name.
    """

    def __init__(self, message: str = "", *, argument: str = "name", name: str = "") -> None:
        super().__init__(message, argument=argument)
        self.name = name


class JobExists(InvalidArgument):
    """A job with that name was submitted with another operation, plan or items.

    Use another name; or, if only the items differ, submit with ``attach=True``, which returns
    the existing job.

    Attributes:
        name: The job's name.
    """

    def __init__(self, message: str = "", *, argument: str = "name", name: str = "") -> None:
        super().__init__(message, argument=argument)
        self.name = name


class InvalidState(VMAPIError, RuntimeError):
    """The object cannot do that now: the client is closed, or belongs to another event loop."""


class APIError(VMAPIError):
    """The server refused the call and did not carry it out (WIRE §1).

    This class itself is raised if the status does not show the kind of refusal, for example for
    ``success: false`` with status 200, or for a redirect, which is never followed.

    Attributes:
        message: The server's explanation, shortened; empty if it gave none. It is replaced by a
            notice if the call carried a password or user data, or if the explanation repeats the
            API secret or the signature.
        status: The HTTP status.
        method: The HTTP method of the call.
        path: The path of the call.
        from_api: Whether the response had the API's envelope; False for a proxy's page.
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

    @property
    def may_have_happened(self) -> bool:
        """Whether the status may come from a proxy (5xx, 408), not from the API itself."""
        return self.status >= 500 or self.status == HTTPStatus.REQUEST_TIMEOUT

    def __str__(self) -> str:
        explanation = self.message or "no explanation given"
        return f"{self.method} {self.path} was refused with status {self.status}: {explanation}"


class BadRequest(APIError):
    """The server rejected the request as invalid (400, 422 and other 4xx). Do not retry it."""

    def __str__(self) -> str:
        text = super().__str__()
        if self.method != "PUT":
            return text
        return (
            f"{text} (check the ids of zone, template and key: client.regions.list(), "
            "client.templates.list() and client.account.ssh_keys() list them)"
        )


class AuthenticationError(APIError):
    """The key, secret or clock is wrong, or the account lacks the permission (401, 403)."""

    def __str__(self) -> str:
        text = super().__str__()
        if self.status != HTTPStatus.UNAUTHORIZED:
            return text
        return (
            f"{text} (check api_key and api_secret, which are VMAPI_API_KEY and "
            "VMAPI_API_SECRET in the environment, and this computer's clock)"
        )


class NotFound(APIError):
    """The VM or path does not exist (404, 410)."""


class Conflict(APIError):
    """The VM's state does not allow the call now (409, 412, 423)."""


class RateLimited(APIError):
    """Too many requests (429). Wait before you send more.

    Attributes:
        retry_after: Seconds that the server asks to wait; None if it gave no time.
    """

    retry_after: float | None = None


class ServerError(APIError):
    """The server, or a proxy before it, failed (5xx). A write may have been carried out.

    Attributes:
        retry_after: Seconds that the server asks to wait; None if it gave no time.
    """

    retry_after: float | None = None


class TransportError(VMAPIError):
    """The connection failed before the response was complete. A write may have been carried out.

    Attributes:
        method: The HTTP method of the call.
        path: The path of the call.
    """

    def __init__(self, message: str = "", *, method: str = "", path: str = "") -> None:
        super().__init__(message)
        self.method = method
        self.path = path

    @property
    def may_have_happened(self) -> bool:
        """True, since the server may have received the request."""
        return True

    def __str__(self) -> str:
        return f"{self.method} {self.path} got no response: {super().__str__()}"


class ConnectError(TransportError):
    """No connection was made, so the request was never sent. It is safe to retry.

    Attributes:
        permanent: Whether no retry can help, for example for an invalid certificate: then it is
            raised at once.
    """

    def __init__(
        self, message: str = "", *, method: str = "", path: str = "", permanent: bool = False
    ) -> None:
        super().__init__(message, method=method, path=path)
        self.permanent = permanent

    @property
    def may_have_happened(self) -> bool:
        """False: the request was never sent."""
        return False


class TransportTimeout(TransportError, TimeoutError):
    """The response did not arrive in time. A write may have been carried out."""


class DecodingError(VMAPIError):
    """The response does not fit the API (WIRE §2, §3). A write may have been carried out.

    Attributes:
        where: The place in the response, as a JSON path like ``$.virtual_machines[3]``.
        method: The HTTP method of the call.
        path: The path of the call.
        malformed: Whether the response is not even JSON, for example a proxy's page.
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

    @property
    def may_have_happened(self) -> bool:
        """True, since the server received the request."""
        return True

    def __str__(self) -> str:
        call = f"{self.method} {self.path}: " if self.method else ""
        return f"{call}cannot decode the response at {self.where}: {super().__str__()}"


class OutcomeUnknown(VMAPIError):
    """The response to a write was lost, and a retry could carry out a duplicate.

    ``__cause__`` is the error of the request. Call ``client.reconcile(error.token)``, which polls
    and sends no write; or check the candidates yourself.

    Attributes:
        operation: ``"create"``, ``"reboot"`` or ``"reset"``.
        name: The requested name for a create; None otherwise.
        vm_id: The VM's id for a reboot or reset; None otherwise.
        candidates: Ids of VMs that the create may have made.
        token: A token for `Client.reconcile`; it holds no secret.
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

    @property
    def may_have_happened(self) -> bool:
        """True, always."""
        return True


class TaskError(VMAPIError):
    """A `Task` did not observe its target state; the attributes show what it observed.

    Attributes:
        vm_id: The VM's id.
        operation: The operation, for example ``"resize"``.
        last_state: The last state observed; None if the VM was never observed.
        history: Each change observed, as pairs of seconds since the request was accepted and the
            state, or None where the VM was absent.
        last_poll_error: The text of the latest poll error; None if no poll failed.
        token: The task's token, for `Client.resume`.
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
    """The VM was observed in a state from which the operation cannot succeed."""


class TaskTimeout(TaskError, TimeoutError):
    """The task timed out. The operation may still be running; the task can be awaited again.

    Attributes:
        missing: For a task with ``ready``, what the VM did not meet: ``"online"``, and conditions
            like ``"ssh:22"``. Empty for others.
    """

    missing: tuple[str, ...] = ()


class VMVanished(TaskError):
    """The VM is gone, although the operation was not a delete."""
