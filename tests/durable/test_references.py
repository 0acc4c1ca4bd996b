"""Which of a worker's secrets a job may put into its VMs."""

import pytest

from async_vmapi import ImageBoot, InvalidArgument, SecretRef
from async_vmapi.durable.secrets import SecretStore

from .fleets import requests

OWN = [
    *("VMAPI_API_KEY", "VMAPI_API_SECRET", "VMAPI_DATABASE", "DATABASE_URL"),
    *("PGPASSWORD", "PGSERVICEFILE", "DBOS_SYSTEM_DATABASE_URL", "vmapi_api_secret"),
]
VALUE = "correct horse battery staple"


async def found(store, name):
    request = requests(1, boot=ImageBoot(os="2268", password=SecretRef(f"env:{name}")))[0]
    return (await store.resolved(request)).boot.password


class TestVariables:
    async def test_variables_with_the_prefix_are_for_jobs(self, monkeypatch):
        """The prefix is the permission."""
        monkeypatch.setenv("VMAPI_SECRET_ROOT", VALUE)
        assert await found(SecretStore(), "VMAPI_SECRET_ROOT") == VALUE

    async def test_other_variables_must_be_named_by_the_worker(self, monkeypatch):
        """Else a job could read any variable."""
        monkeypatch.setenv("ROOT_PASSWORD", VALUE)
        assert await found(SecretStore(names=["ROOT_PASSWORD"]), "ROOT_PASSWORD") == VALUE
        with pytest.raises(InvalidArgument, match=r"env:ROOT_PASSWORD.*--secret ROOT_") as refused:
            await found(SecretStore(names=["ROOT"]), "ROOT_PASSWORD")
        assert VALUE not in str(refused.value)

    @pytest.mark.parametrize("name", OWN)
    async def test_the_workers_own_credentials_are_never_available(self, monkeypatch, name):
        """Neither by the job nor by the worker."""
        monkeypatch.setenv(name, VALUE)
        with pytest.raises(InvalidArgument, match=f"env:{name}.*credential") as refused:
            await found(SecretStore(), name)
        assert VALUE not in str(refused.value)
        with pytest.raises(InvalidArgument, match=f"{name}.*credential") as refused:
            SecretStore(names=[name])
        assert refused.value.argument == "secret_names"
