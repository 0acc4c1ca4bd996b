"""The command's errors for databases that cannot be used, in this process."""

import asyncio
import contextlib
import sqlite3

import pytest
from typer.testing import CliRunner

from async_vmapi.cli.app import app
from async_vmapi.durable import DurableFleet


@pytest.fixture
def said(tmp_path, monkeypatch):
    """Run the command, expect an exit code, and return its message."""
    for name in ("VMAPI_DATABASE", "VMAPI_API_SECRET", "VMAPI_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VMAPI_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("VMAPI_API_KEY", "key")
    monkeypatch.setenv("VMAPI_API_SECRET", "secret")
    monkeypatch.setenv("COLUMNS", "300")

    def call(*arguments, code, silent=True):
        result = CliRunner().invoke(app, arguments)
        assert (result.exit_code, result.stdout == "") == (code, silent), result.output
        return result.stderr

    return call


class TestDatabases:
    def test_no_database(self, said):
        """The error comes before any other."""
        assert "VMAPI_DATABASE" in said("job", "watch", "--database", "", code=2)
        fleet = ["fleet", "reboot", "--all"]
        assert "--database, or" in said(*fleet, "--database", "", "--durable", "x", code=2)
        assert "--durable NAME" in said(*fleet, "--database", "sqlite:///x", code=2)

    @pytest.mark.parametrize(
        "url", ["sqlite:///:memory:", "sqlite://", "postgresql://me@x:y/z", "mysql://me@x/y", "x"]
    )
    def test_an_invalid_url(self, said, url):
        """It is wrong usage."""
        assert "--database (or VMAPI_DATABASE) is neither" in said(
            "job", "list", "--database", url, code=2
        )

    def test_a_url_that_the_driver_cannot_read(self, said):
        """It is wrong usage too."""
        url = "postgresql://me@/x?host=/none&port=y"
        assert "is not a database URL" in said("job", "list", "--database", url, code=2)

    def test_a_file_that_is_no_database(self, said, tmp_path):
        """The error has the reason, and what to check."""
        file = tmp_path / "text"
        file.write_text("no database, but a text that is long enough to be looked at")
        assert "file is not a database" in said(
            "job", "list", "--database", f"sqlite:///{file}", code=1
        )
        url = f"sqlite:///{tmp_path}/none/jobs"
        for command in (["job", "list"], ["job", "pause", "x"], ["worker"]):
            assert "check that the folder exists" in said(*command, "--database", url, code=1)

    def test_an_unavailable_server(self, said, monkeypatch):
        """It is named, without its password, wherever that is in the URL."""
        monkeypatch.setenv(
            "VMAPI_DATABASE", "postgresql://me:planted@127.0.0.1:1/x?password=planted"
        )
        shown = said("job", "list", code=1)
        assert "database postgresql://me:***@127.0.0.1:1/x cannot be used (" in shown
        assert "refused" in shown
        assert "check that the server runs" in shown
        assert "planted" not in shown
        assert "Continuing" not in shown
        for url in ("postgresql://me:planted@x/y", "postgresql:///x?password=planted"):
            shown = said("job", "list", "--database", url, code=2)
            assert "PGPASSWORD" in shown
            assert "planted" not in shown

    def test_a_job_of_another_version(self, said, tmp_path):
        """It waits for a worker that can read it."""
        url = f"sqlite:///{tmp_path}/jobs"

        async def submit():
            async with DurableFleet(url) as fleet:
                await fleet.submit("old").reset([])
                await fleet.submit("new").reset([])

        asyncio.run(submit())
        with contextlib.closing(sqlite3.connect(tmp_path / "jobs")) as connection, connection:
            old = (
                "UPDATE workflow_status SET application_version='v0' WHERE workflow_uuid='job:old'"
            )
            connection.execute(old)
        waits = "waits for a worker of 'v0'"
        assert said("job", "list", "--database", url, code=0, silent=False).splitlines() == [
            f"async-vmapi: old: submitted by another version; {waits}"
        ]
        assert waits in said("job", "show", "old", "--database", url, code=0, silent=False)
        assert waits not in said("job", "show", "new", "--database", url, code=0, silent=False)

    def test_a_database_without_jobs(self, said, tmp_path):
        """It is named, for it may be the wrong one."""
        url = f"sqlite:///{tmp_path}/jobs"
        listed = said("job", "list", "--database", url, code=0, silent=False)
        assert f"no jobs in {url}" in listed
        assert f"no job is running in {url}" in said("job", "watch", "--database", url, code=0)
        assert "give its NAME" in said("job", "watch", "--report", "x", "--database", url, code=2)
        assert "no job 'x'" in said("job", "show", "x", "--database", url, code=2)
