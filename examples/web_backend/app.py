"""The service's routes. What a worker remembers is a cache: any other worker can do without it.

The client is made when the application starts and closed when it ends; the answer to a request
that takes time is 202 with a token: the SDK's own, with this service's signature. It holds no
secret, and from it any worker, of this service or of the next deployment, resumes the task.
"""

import contextlib
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from async_vmapi import (
    Client,
    Conflict,
    ImageBoot,
    InvalidArgument,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    Task,
    TransportError,
    VMAPIError,
)
from web_backend.fleet import Fleet, shown
from web_backend.seal import Seal
from web_backend.stream import stream
from web_backend.tracker import Tracker

STATIC: Final = Path(__file__).parent / "static"

STATUS: Final[dict[type[VMAPIError], int]] = {
    InvalidArgument: 400,
    NotFound: 404,
    Conflict: 409,
    RateLimited: 503,
    TransportError: 504,
}
"""What of the SDK's errors is told by which status; of all others it is 502."""


class NewVM(BaseModel):
    """What a user asks for: a name and a size."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,61}$")
    cpus: int = Field(ge=1, le=16)
    ram: int = Field(ge=512, le=32_000, description="MB")


class Size(BaseModel):
    """The size that a machine is to have."""

    cores: int = Field(ge=1, le=16)
    ram: int = Field(ge=512, le=32_000, description="MB")


class Backend:
    """What the requests of one worker share."""

    def __init__(self, client: Client, seal: Seal) -> None:
        self.client = client
        self.seal = seal
        self.fleet = Fleet(client)
        self.tracker = Tracker(client, seal)
        self._place: tuple[str, str] | None = None

    async def place(self) -> tuple[str, str]:
        """Return the zone and the template that new machines get."""
        if self._place is None:
            regions = await self.client.regions.list()
            zones = [zone.id for region in regions for zone in region.zones if zone.available]
            templates = [template.id for template in await self.client.templates.list()]
            if not (zones and templates):
                raise HTTPException(503, "no zone takes new machines at present")
            self._place = zones[0], templates[0]
        return self._place


async def backend_of(request: Request) -> Backend:
    """Return what the lifespan made."""
    backend: Backend = request.app.state.backend
    return backend


Shared = Annotated[Backend, Depends(backend_of)]
Tokens = Annotated[Sequence[str], Query(max_length=50)]


def create_app(make_client: Callable[[], Client] = Client.from_env) -> FastAPI:
    """Return the application.

    Args:
        make_client: What makes the client; by default the environment says how, as it does for
            the key that tokens are signed with.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with make_client() as client:
            app.state.backend = backend = Backend(client, Seal.from_env())
            try:
                yield
            finally:
                backend.tracker.close()

    # No page for trying the API out: FastAPI's loads its scripts from elsewhere.
    app = FastAPI(
        title="VMs",
        lifespan=lifespan,
        dependencies=[Depends(refuse_other_sites)],
        docs_url=None,
        redoc_url=None,
    )
    # By any other name, a page of somebody else's could have the browser reach this service.
    hosts = os.environ.get("WEB_BACKEND_HOSTS", "localhost,127.0.0.1").split(",")
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    app.add_exception_handler(VMAPIError, refuse)
    app.add_api_route("/", page, include_in_schema=False)
    app.add_api_route("/api/vms", list_vms, methods=["GET"])
    app.add_api_route("/api/vms", create, methods=["POST"], status_code=202)
    app.add_api_route("/api/vms/{vm_id}/resize", resize, methods=["POST"], status_code=202)
    app.add_api_route("/api/vms/{vm_id}", delete, methods=["DELETE"], status_code=202)
    app.add_api_route("/api/tasks/{token}", status, methods=["GET"])
    app.add_api_route("/api/events", events, methods=["GET"])
    app.mount("/static", StaticFiles(directory=STATIC))
    return app


async def refuse_other_sites(request: Request) -> None:
    """Refuse what another site's page has a browser send; browsers name that site."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers["host"]:
        raise HTTPException(403, "requests of other sites are refused")


async def page() -> FileResponse:
    """The page. It may load nothing that is not from here."""
    policy = {"Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'"}
    return FileResponse(STATIC / "index.html", headers=policy)


async def list_vms(backend: Shared) -> list[dict[str, Any]]:
    """All machines as they are now."""
    return [shown(vm) for vm in await backend.client.vms.list()]


async def create(new: NewVM, backend: Shared, response: Response) -> dict[str, Any]:
    """Accept a new machine: it is known, but not there yet."""
    zone, template = await backend.place()
    try:
        task = await backend.client.vms.create(
            name=new.name,
            cpus=new.cpus,
            ram=new.ram,
            zone_id=zone,
            boot=ImageBoot(os=template),
        )
    except OutcomeUnknown as doubt:
        # The machine may be there. This token, too, is for any worker, which looks for it.
        token = backend.seal.close(doubt.token)
        return accepted(response, token, operation="create", name=new.name)
    return accepted_task(backend, response, task, new.name)


async def resize(vm_id: str, size: Size, backend: Shared, response: Response) -> dict[str, Any]:
    """Accept another size for a machine."""
    task = await backend.client.vms.resize(vm_id, cores=size.cores, ram=size.ram)
    return accepted_task(backend, response, task)


async def delete(vm_id: str, backend: Shared, response: Response) -> dict[str, Any]:
    """Accept the end of a machine."""
    return accepted_task(backend, response, await backend.client.vms.delete(vm_id))


async def status(
    token: str, backend: Shared, wait: Annotated[float, Query(ge=0.1, le=30)] = 2.0
) -> dict[str, Any]:
    """What has become of a task, or will have in so many seconds."""
    return await backend.tracker.status(token, wait)


async def events(backend: Shared, task: Tokens = ()) -> StreamingResponse:
    """The whole fleet whenever it changes, and each change that these tasks see."""
    for token in task:
        # What is no token of this service is refused at once, before there is a stream.
        await backend.tracker.find(token, 0.01)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(
        stream(backend.fleet, backend.tracker, list(task)),
        media_type="text/event-stream",
        headers=headers,
    )


def accepted_task(
    backend: Backend, response: Response, task: Task[Any], name: str | None = None
) -> dict[str, Any]:
    """Return a task that has begun."""
    token = backend.seal.close(task.token())
    return accepted(response, token, operation=task.operation, vm_id=task.vm_id, name=name)


def accepted(response: Response, token: str, **about: object) -> dict[str, Any]:
    """Return what has begun, and where to ask about it."""
    response.headers["Location"] = f"/api/tasks/{token}"
    return {"token": token, **about}


async def refuse(_: Request, error: Exception) -> JSONResponse:
    """Tell the user why not, in the words of the SDK, which hold no secret."""
    found = (number for kind, number in STATUS.items() if isinstance(error, kind))
    return JSONResponse({"error": str(error)}, status_code=next(found, 502))
