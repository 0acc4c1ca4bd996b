"""A client in memory whose transport a test can change."""

from async_vmapi import Client
from async_vmapi.emulator import InMemoryTransport


def client_and_transport(api, *, latency=0.0, **options):
    """Return a client of a cloud, and its transport, whose `send` may be replaced."""
    transport = InMemoryTransport(api, latency=latency)
    credentials = {"api_key": api.api_key, "api_secret": api.api_secret}
    return Client("https://vm.invalid", **credentials, transport=transport, **options), transport
