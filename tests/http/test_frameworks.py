"""The client as a resource of web applications, on either event loop, and in several at once."""

import asyncio
import contextlib
import threading

import httpx
import pytest
import uvicorn
import uvloop
from aiohttp import web
from fastapi import FastAPI, Request

from async_vmapi import Client, InvalidState

LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
each_loop = pytest.mark.parametrize("loop_factory", LOOPS, ids=["asyncio", "uvloop"])


async def create_and_delete(client, cloud, name):
    """Do what a request handler does; each framework runs it in another task."""
    vm = await (await client.vms.create(cloud.create_request(name)))
    await (await client.vms.delete(vm))
    return vm.label


def fastapi_app(server):
    @contextlib.asynccontextmanager
    async def lifespan(app):
        async with server.client() as client:
            app.state.client = client
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/{name}")
    async def handle(name: str, request: Request) -> str:
        return await create_and_delete(request.app.state.client, server.cloud, name)

    return app


def aiohttp_app(server):
    key = web.AppKey("client", Client)

    async def resource(app):
        async with server.client() as client:
            app[key] = client
            yield

    async def handle(request):
        name = request.match_info["name"]
        return web.json_response(await create_and_delete(request.app[key], server.cloud, name))

    app = web.Application()
    app.cleanup_ctx.append(resource)
    app.router.add_get("/{name}", handle)
    return app


async def ask(url):
    """Make three requests at once, and return the responses."""
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        responses = await asyncio.gather(*(client.get(f"{url}/web-{n}") for n in range(3)))
    return [response.raise_for_status().json() for response in responses]


def all_is_gone(cloud):
    return cloud.vms == () and cloud.requests["create"] == cloud.requests["delete"] == 3


class TestFastAPI:
    @each_loop
    def test_served_by_uvicorn(self, vm_server, loop_factory):
        """The lifespan has one task, each request another, and all share the client."""
        config = uvicorn.Config(fastapi_app(vm_server), port=0, log_config=None, ws="none")

        async def run():
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve())
            while not server.started:  # noqa: ASYNC110 - it sets no event
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            try:
                return await ask(f"http://127.0.0.1:{port}")
            finally:
                server.should_exit = True
                await serving

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            assert runner.run(run()) == ["web-0", "web-1", "web-2"]
        assert all_is_gone(vm_server.cloud)

    async def test_a_lifespan_of_two_tasks(self, vm_server):
        """A test's fixture may enter it in one task, and leave it in another."""
        app = fastapi_app(vm_server)
        lifespan = app.router.lifespan_context(app)
        await asyncio.create_task(lifespan.__aenter__())
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            response = await client.get("/web-01")
        await asyncio.create_task(lifespan.__aexit__(None, None, None))
        assert response.json() == "web-01"


class TestAiohttp:
    @each_loop
    def test_entered_and_left_in_different_tasks(self, vm_server, loop_factory):
        """The application is set up in one task and cleaned up in another."""

        async def run():
            runner = web.AppRunner(aiohttp_app(vm_server), access_log=None)
            await asyncio.create_task(runner.setup())
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            try:
                return await ask(f"http://127.0.0.1:{runner.addresses[0][1]}")
            finally:
                await asyncio.create_task(runner.cleanup())

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            assert runner.run(run()) == ["web-0", "web-1", "web-2"]
        assert all_is_gone(vm_server.cloud)


class TestLoops:
    def test_two_loops_in_one_process(self, vm_server):
        """Each thread has its loop and its client, of either kind, and both work at once."""
        both_run = threading.Barrier(2, timeout=60)
        found = {}

        async def work(name):
            async with vm_server.client() as client:
                both_run.wait()
                found[name] = await create_and_delete(client, vm_server.cloud, name)
                both_run.wait()

        def run(name, loop_factory):
            with asyncio.Runner(loop_factory=loop_factory) as runner:
                runner.run(work(name))

        threads = [
            threading.Thread(target=run, args=(f"web-{n}", factory))
            for n, factory in enumerate(LOOPS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {"web-0": "web-0", "web-1": "web-1"}

    def test_one_client_in_two_loops_at_once(self, vm_server):
        """It is refused with a clear error, and the first loop is not disturbed."""
        vm_server.cloud.adjust(create=0.5)
        client = vm_server.client()
        with asyncio.Runner() as first, asyncio.Runner() as second:

            async def begin():
                task = await client.vms.create(vm_server.cloud.create_request("web-01"))
                waiting = asyncio.create_task(task.wait())
                await asyncio.sleep(0)
                return task, waiting

            async def wait(task):
                return (await task).state

            async def close():
                await client.close()

            task, waiting = first.run(begin())
            with pytest.raises(InvalidState, match="one loop at a time"):
                second.run(wait(task))
            assert first.run(wait(waiting)) == "online"
            first.run(close())
