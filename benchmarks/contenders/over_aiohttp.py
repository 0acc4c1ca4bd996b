"""Two calls of this API on an aiohttp session, for contenders without an HTTP client."""

import contextlib
import json

import aiohttp

from contenders.signed import VMS_PATH, Signer, create_body, vm_of


class Calls:
    """Creates and gets on one session, as aiohttp's documentation recommends ("Don't create a
    session per request"), with its default limit of 100 connections."""

    def __init__(self, session, job):
        self._session = session
        self._url = job.url
        self._signer = Signer(job.url, job.key, job.secret)

    async def create(self, name):
        """Create a VM and return its id."""
        body = create_body(name)
        headers = self._signer.headers("PUT", VMS_PATH, body)
        async with self._session.put(self._url + VMS_PATH, data=body, headers=headers) as response:
            response.raise_for_status()
            return json.loads(await response.read())["virtual_machine"]["id"]

    async def get(self, vm_id):
        """Return the status of the response, and the VM if there is one."""
        path = f"{VMS_PATH}/{vm_id}"
        headers = self._signer.headers("GET", path)
        async with self._session.get(self._url + path, headers=headers) as response:
            body = await response.read()
            if response.status == 404:
                return 404, None
            response.raise_for_status()
            return response.status, vm_of(json.loads(body))


@contextlib.asynccontextmanager
async def calls(job):
    """Open a session for calls."""
    async with aiohttp.ClientSession() as session:
        yield Calls(session, job)
