"""azure-core's `AsyncLROPoller`, as in "Azure Core Library - Client library developer reference".

An `AsyncPipelineClient` over azure-core's own transport (aiohttp), with the policies of that page:
request id (which its polling sends again), user agent, headers, retries, and a `SansIOHTTPPolicy`
for authentication, after the retries as each attempt is signed separately. The polling method is
`AsyncLROBasePolling` with a `LongRunningOperation` for this API in ``lro_algorithms``; as "not
found" for a new VM is not a failure, ``update_status`` is overridden for that response only.

As documented: ``timeout``, the polling interval, has its default of 30 s. Tuned: it is the
interval.
"""

import asyncio

from azure.core import AsyncPipelineClient
from azure.core.pipeline.policies import (
    AsyncRetryPolicy,
    HeadersPolicy,
    RequestIdPolicy,
    SansIOHTTPPolicy,
    UserAgentPolicy,
)
from azure.core.pipeline.transport import AioHttpTransport
from azure.core.polling import AsyncLROPoller
from azure.core.polling.async_base_polling import AsyncLROBasePolling
from azure.core.polling.base_polling import LongRunningOperation
from azure.core.rest import HttpRequest

from contenders.signed import ONLINE, VMS_PATH, Signer, create_body, vm_of

TIMEOUT = 30.0


class Signature(SansIOHTTPPolicy):
    def __init__(self, signer):
        self._signer = signer

    def on_request(self, request):
        asked = request.http_request
        path = "/" + asked.url.split("/", 3)[3]
        asked.headers.update(self._signer.headers(asked.method, path, asked.content or b""))


class CreateOperation(LongRunningOperation):
    """Maps the state of a VM to the status of its create."""

    def __init__(self):
        self._url = ""

    def can_poll(self, pipeline_response):
        response = pipeline_response.http_response
        self._url = f"{response.request.url}/{response.json()['virtual_machine']['id']}"
        return True

    def get_polling_url(self):
        return self._url

    def set_initial_status(self, pipeline_response):  # noqa: ARG002 - the base's signature
        return "InProgress"

    def get_status(self, pipeline_response):
        state = vm_of(pipeline_response.http_response.json())["state"]
        return "Succeeded" if state == ONLINE else "InProgress"

    def get_final_get_url(self, pipeline_response):  # noqa: ARG002 - the base's signature
        return None


class Polling(AsyncLROBasePolling):
    async def update_status(self):
        self._pipeline_response = await self.request_status(self._operation.get_polling_url())
        response = self._pipeline_response.http_response
        if response.status_code == 404:
            return
        response.raise_for_status()
        self._status = self._operation.get_status(self._pipeline_response)


def deserialize(pipeline_response):
    return vm_of(pipeline_response.http_response.json())


async def create(job, client, name):
    request = HttpRequest(
        "PUT",
        client.format_url(VMS_PATH),
        content=create_body(name),
        headers={"Content-Type": "application/json"},
    )
    response = await client.send_request(request, _return_pipeline_response=True)
    response.http_response.raise_for_status()
    polling = Polling(timeout=job.real(job.interval or TIMEOUT), lro_algorithms=[CreateOperation()])
    poller = AsyncLROPoller(client, response, deserialize, polling)
    vm = await poller.result()
    job.saw(vm["id"])


async def create_all(job):
    policies = [
        RequestIdPolicy(),
        UserAgentPolicy("benchmark"),
        HeadersPolicy(),
        AsyncRetryPolicy(),
        Signature(Signer(job.url, job.key, job.secret)),
    ]
    # Its default transport; given explicitly, it is imported before the measurement.
    transport = AioHttpTransport()
    async with AsyncPipelineClient(job.url, policies=policies, transport=transport) as client:
        await asyncio.gather(*(create(job, client, name) for name in job.names))


def run(job):
    asyncio.run(create_all(job))
