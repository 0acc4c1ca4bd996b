"""The service's routes. A worker's memory is only a cache: requests can go to any worker.

The client is opened when the application starts and closed when it ends. The response to a write is
202 with a token: the SDK's, signed by this service. It contains no secret, and any worker, also of
the next deployment, can resume the task from it.
"""

import contextlib
import mimetypes
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
"""HTTP status by SDK error; 502 for all others."""


class NewVM(BaseModel):
    """The name and size of a new VM."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,61}$")
    cpus: int = Field(ge=1, le=16)
    ram: int = Field(ge=512, le=32_000, description="MB")


class Size(BaseModel):
    """The new size of a VM."""

    cores: int = Field(ge=1, le=16)
    ram: int = Field(ge=512, le=32_000, description="MB")


class Backend:
    """The state shared by the requests of one worker."""

    def __init__(self, client: Client, seal: Seal) -> None:
        self.client = client
        self.seal = seal
        self.fleet = Fleet(client)
        self.tracker = Tracker(client, seal)
        self._place: tuple[str, str] | None = None

    async def place(self) -> tuple[str, str]:
        """Return the zone and the template for new VMs."""
        if self._place is None:
            regions = await self.client.regions.list()
            zones = [zone.id for region in regions for zone in region.zones if zone.available]
            templates = [template.id for template in await self.client.templates.list()]
            if not (zones and templates):
                raise HTTPException(503, "no zone is available at present")
            self._place = zones[0], templates[0]
        return self._place


async def backend_of(request: Request) -> Backend:
    """Return the backend of the application."""
    backend: Backend = request.app.state.backend
    return backend


Shared = Annotated[Backend, Depends(backend_of)]
Tokens = Annotated[Sequence[str], Query(max_length=50)]


def create_app(make_client: Callable[[], Client] = Client.from_env) -> FastAPI:
    """Return the application.

    Args:
        make_client: Returns the client; by default, it is configured by the environment, like the
            key that signs tokens.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with make_client() as client:
            app.state.backend = backend = Backend(client, Seal.from_env())
            try:
                yield
            finally:
                backend.tracker.close()

    # No interactive docs: FastAPI's load scripts from other sites.
    app = FastAPI(
        title="VMs",
        lifespan=lifespan,
        dependencies=[Depends(refuse_other_sites)],
        docs_url=None,
        redoc_url=None,
    )
    # Otherwise other sites could reach this service by DNS rebinding.
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
    # On Windows, types come from its registry, where a program may have changed this one.
    mimetypes.add_type("text/javascript", ".js")
    app.mount("/static", StaticFiles(directory=STATIC))
    return app


async def refuse_other_sites(request: Request) -> None:
    """Reject requests that a browser sends for another site's page, by their ``Origin``."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers["host"]:
        raise HTTPException(403, "requests from other sites are not allowed")


async def page() -> FileResponse:
    """The page; it may only load resources of this service."""
    policy = {"Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'"}
    return FileResponse(STATIC / "index.html", headers=policy)


async def list_vms(backend: Shared) -> list[dict[str, Any]]:
    """List all VMs."""
    return [shown(vm) for vm in await backend.client.vms.list()]


async def create(new: NewVM, backend: Shared, response: Response) -> dict[str, Any]:
    """Create a VM; the response comes before it exists."""
    zone, template = await backend.place()
    try:
        task = await backend.client.vms.create(
            name=new.name,
            cpus=new.cpus,
            ram=new.ram,
            zone_id=zone,
            boot=ImageBoot(os=template),
        )
    except OutcomeUnknown as unknown:
        # The VM may exist. With this token, any worker can reconcile the create.
        token = backend.seal.close(unknown.token)
        return accepted(response, token, operation="create", name=new.name)
    return accepted_task(backend, response, task, new.name)


async def resize(vm_id: str, size: Size, backend: Shared, response: Response) -> dict[str, Any]:
    """Resize a VM."""
    task = await backend.client.vms.resize(vm_id, cores=size.cores, ram=size.ram)
    return accepted_task(backend, response, task)


async def delete(vm_id: str, backend: Shared, response: Response) -> dict[str, Any]:
    """Delete a VM."""
    return accepted_task(backend, response, await backend.client.vms.delete(vm_id))


async def status(
    token: str, backend: Shared, wait: Annotated[float, Query(ge=0.1, le=30)] = 2.0
) -> dict[str, Any]:
    """Return the status of a task, after waiting up to `wait` seconds for its completion."""
    return await backend.tracker.status(token, wait)


async def events(backend: Shared, task: Tokens = ()) -> StreamingResponse:
    """Stream the fleet whenever it changes, and each change of these tasks."""
    for token in task:
        # Reject invalid tokens before the stream starts.
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
    """Return the response for an accepted task."""
    token = backend.seal.close(task.token())
    return accepted(response, token, operation=task.operation, vm_id=task.vm_id, name=name)


def accepted(response: Response, token: str, **fields: object) -> dict[str, Any]:
    """Return the response for an accepted write, with the URL of its status."""
    response.headers["Location"] = f"/api/tasks/{token}"
    return {"token": token, **fields}


async def refuse(_: Request, error: Exception) -> JSONResponse:
    """Return the SDK's error message, which contains no secret."""
    found = (number for kind, number in STATUS.items() if isinstance(error, kind))
    return JSONResponse({"error": str(error)}, status_code=next(found, 502))
