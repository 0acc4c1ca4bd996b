"""The names that the API, the profiles file and the jobs' database know, for completion.

A request is sent by `http.client`, as importing the client takes longer than a completion may. It
is signed, and its endpoint checked, by the same code.
"""

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from async_vmapi.cli.completion.shells import Candidate
from async_vmapi.cli.profile_file import configured, profiles_path, read
from async_vmapi.redaction import Secret

if TYPE_CHECKING:
    from async_vmapi.signing import Credentials

__all__ = ["SOURCES", "Context", "candidates", "fetch"]

LIMIT: Final = 1.0
"""Seconds after which the answer is given without the values."""

_LARGEST: Final = 32 * 1024 * 1024


class Context(NamedTuple):
    """What the command line says about where the values are.

    Attributes:
        profile: The profile.
        database: The URL of the jobs' database.
        prefix: What is typed of the value.
    """

    profile: str | None = None
    database: str | None = None
    prefix: str = ""


def candidates(kind: str, context: Context) -> list[Candidate]:
    """Return the values of a kind; none if they are not known in time, or at all."""
    found: list[Candidate] = []

    def look_up() -> None:
        # Whatever goes wrong, a shell's prompt is no place to say so.
        with suppress(Exception):
            found.extend(c for c in SOURCES[kind](context) if c.value.isprintable())

    # A lookup of a host's name cannot be interrupted, so it is left behind.
    thread = threading.Thread(target=look_up, daemon=True)
    thread.start()
    thread.join(LIMIT)
    return [] if thread.is_alive() else sorted(set(found))


def _vms(context: Context) -> Iterator[Candidate]:
    """Yield names; ids of VMs without a usable one; other ids only where no name begins so."""
    vms = fetch(context, "/v2/virtual-machines")["virtual_machines"]
    labels = [str(vm.get("label") or "") for vm in vms]
    usable = {
        label
        for label, count in Counter(labels).items()
        if count == 1 and label.isprintable() and label[:1] not in ("", "-")
    }
    wants_ids = not any(label.startswith(context.prefix) for label in usable)
    for vm, label in zip(vms, labels, strict=True):
        vm_id, state = str(vm["id"]), _text(vm.get("state"))
        if label in usable:
            yield Candidate(label, f"{state}, {vm_id}")
        if label not in usable or wants_ids:
            yield Candidate(vm_id, f"{state}, {_text(label)}")


def _zones(context: Context) -> Iterator[Candidate]:
    for region in fetch(context, "/v2/regions")["regions"]:
        for zone in region["zones"]:
            yield Candidate(str(zone["label"]), _text(region.get("name")))


def _templates(context: Context) -> Iterator[Candidate]:
    for template in fetch(context, "/v2/templates")["templates"]:
        yield Candidate(str(template["label"]), _text(template["id"]))


def _keys(context: Context) -> Iterator[Candidate]:
    # The response also has the account's secrets (WIRE §2), of which nothing is kept.
    for key in fetch(context, "/v2/account")["account"]["sshkeys"]:
        yield Candidate(str(key["name"]), _text(key.get("fingerprint")))


def _groups(context: Context) -> Iterator[Candidate]:
    for vm in fetch(context, "/v2/virtual-machines")["virtual_machines"]:
        for group in vm.get("groups") or ():
            yield Candidate(str(group["name"]))


def _states(context: Context) -> Iterator[Candidate]:
    for vm in fetch(context, "/v2/virtual-machines")["virtual_machines"]:
        yield Candidate(str(vm["state"]))


def _profiles(_: Context) -> Iterator[Candidate]:
    for name in read(profiles_path()).profiles:
        yield Candidate(name)


def _jobs(context: Context) -> Iterator[Candidate]:
    url = context.database or os.environ.get("VMAPI_DATABASE") or ""
    for (workflow_id,) in _sqlite(url) if url.startswith("sqlite:") else _postgresql(url):
        yield Candidate(str(workflow_id).removeprefix("job:"))


SOURCES: Final[Mapping[str, Callable[[Context], Iterable[Candidate]]]] = {
    "vm": _vms,
    "zone": _zones,
    "template": _templates,
    "key": _keys,
    "group": _groups,
    "state": _states,
    "profile": _profiles,
    "job": _jobs,
}
"""Where the values of each kind come from."""


def _text(value: object) -> str:
    text = "" if value is None else str(value)
    return text if text.isprintable() else ""


# --- the API ------------------------------------------------------------------------------------


def fetch(context: Context, path: str) -> Any:
    """Request a path of the API and return the JSON of the response."""
    import http.client
    import ssl

    from async_vmapi.signing import Signer
    from async_vmapi.transport.endpoint import origin_of

    url, credentials = _endpoint(context)
    origin = origin_of(url)
    host = origin.host_subcomponent or ""
    if not origin.is_default_port():
        host = f"{host}:{origin.port}"
    connection: http.client.HTTPConnection
    if origin.scheme == "https":
        tls = ssl.create_default_context()
        connection = http.client.HTTPSConnection(
            origin.host or "", origin.port, timeout=LIMIT, context=tls
        )
    else:
        connection = http.client.HTTPConnection(origin.host or "", origin.port, timeout=LIMIT)
    with closing(connection):
        connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
        for name, value in Signer(credentials, host).sign("GET", path, b"", time.time()).items():
            connection.putheader(name, value)
        connection.endheaders()
        return json.loads(connection.getresponse().read(_LARGEST))


def _endpoint(context: Context) -> "tuple[str, Credentials]":
    from async_vmapi.signing import Credentials
    from async_vmapi.transport.endpoint import key_of, url_of_region

    profile = context.profile or os.environ.get("VMAPI_PROFILE") or None
    if profile is None and configured():
        settings = {
            name: Secret(os.environ[variable])
            for name in ("url", "region", "api_key", "api_secret")
            if os.environ.get(variable := f"VMAPI_{name.upper()}")
        }
    else:
        file = read(profiles_path())
        settings = file.settings(profile or file.default)
    url = settings["url"].text() if "url" in settings else None
    return (
        url or url_of_region(settings["region"].text()),
        Credentials(key_of(settings["api_key"].text()), settings["api_secret"]),
    )


# --- the jobs' database -------------------------------------------------------------------------

# DBOS documents this table. Its client takes longer to import than a completion may.
_QUERY: Final = (
    "SELECT workflow_uuid FROM {}workflow_status WHERE workflow_uuid LIKE 'job:%' "
    "ORDER BY created_at DESC LIMIT 1000"
)


def _sqlite(url: str) -> list[tuple[str]]:
    import sqlite3

    path = Path(url.removeprefix("sqlite:///").partition("?")[0]).absolute()
    # Read-only: otherwise a missing file would be created.
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=LIMIT)) as database:
        return database.execute(_QUERY.format("")).fetchall()


def _postgresql(url: str) -> list[tuple[str]]:
    import psycopg

    scheme, _, rest = url.partition("://")
    plain = f"{scheme.partition('+')[0]}://{rest}"
    with psycopg.connect(plain, connect_timeout=max(2, int(LIMIT))) as connection:
        return connection.execute(_QUERY.format("dbos.")).fetchall()
