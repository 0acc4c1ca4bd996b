"""requests in 50 threads that sleep between polls, like the published Python client.

That client (e24py) is a synchronous wrapper of ``requests``. The guide in its repository
("Reference & guide") says to create, to ``sleep(30)`` and then to poll. Here every thread has a
`requests.Session`, and the signature is a `requests.auth.AuthBase`, as in Requests' documentation
("Advanced Usage": Session Objects, Custom Authentication).

All VMs are created first; otherwise 20 rounds of 50 VMs would take 20 times as long. As documented:
a `ThreadPoolExecutor` of 50 then waits for one VM after the other, with 30 s between polls. Tuned:
every thread polls its share of the VMs once per interval; one after the other, most would be
observed minutes late.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import requests

from contenders.signed import ONLINE, VMS_PATH, Signer, create_body, vm_of

THREADS = 50
SLEEP = 30.0


class Signature(requests.auth.AuthBase):
    def __init__(self, signer):
        self._signer = signer

    def __call__(self, request):
        body = request.body or b""
        request.headers.update(self._signer.headers(request.method, request.path_url, body))
        return request


class API:
    def __init__(self, job):
        self._job = job
        self._signature = Signature(Signer(job.url, job.key, job.secret))
        self._local = threading.local()

    def _session(self):
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.auth = self._signature
        return self._local.session

    def create(self, name):
        url = self._job.url + VMS_PATH
        response = self._session().put(url, data=create_body(name))
        response.raise_for_status()
        return response.json()["virtual_machine"]["id"]

    def is_online(self, vm_id):
        response = self._session().get(f"{self._job.url}{VMS_PATH}/{vm_id}")
        if response.status_code == 404:
            return False
        response.raise_for_status()
        return vm_of(response.json())["state"] == ONLINE


def wait_for_one(job, api, seconds, vm_id):
    while not api.is_online(vm_id):
        time.sleep(seconds)
    job.saw(vm_id)


def wait_for_share(job, api, seconds, vm_ids):
    while vm_ids:
        began = time.monotonic()
        left = []
        for vm_id in vm_ids:
            if api.is_online(vm_id):
                job.saw(vm_id)
            else:
                left.append(vm_id)
        vm_ids = left
        time.sleep(max(0.0, began + seconds - time.monotonic()) if left else 0.0)


def run(job):
    api = API(job)
    with ThreadPoolExecutor(THREADS) as pool:
        vm_ids = list(pool.map(api.create, job.names))
        if job.interval is None:
            wait, parts = partial(wait_for_one, job, api, job.real(SLEEP)), vm_ids
        else:
            wait = partial(wait_for_share, job, api, job.real(job.interval))
            parts = [vm_ids[first::THREADS] for first in range(THREADS)]
        for _ in pool.map(wait, parts):
            pass
