"""`profile create`, `list`, `use` and `delete`, as programs and on terminals."""

import errno
import getpass
import os
import subprocess
import threading
import tomllib
import warnings
from pathlib import Path

import pytest
import typer

from async_vmapi.cli import prompts
from async_vmapi.cli.profile_editing import editing

from .programs import LONG, Program

SECRET = "planted-secret-of-the-test"
GIVEN = f"key-1\n{SECRET}\n"


@pytest.fixture
def program(cloud, tmp_path):
    """The command without a profile."""
    with Program(cloud, tmp_path) as program:
        program.profiles.unlink()
        yield program


@pytest.fixture
def create(program):
    """Store a profile, with credentials of no account."""

    def create(name, *options, code=0):
        place = options or ("--url", program.cloud.url)
        done = program("profile", "create", name, *place, "--stdin", given=GIVEN, code=code)
        assert SECRET not in done.stdout + done.stderr
        return done

    return create


def content(program):
    return tomllib.loads(program.profiles.read_text())


@pytest.mark.programs
class TestCreate:
    def test_on_a_terminal(self, program, cloud):
        """It asks for what it needs, does not show the secret, and the profile works."""
        create = ["profile", "create", "mine", "--url", cloud.url]
        with program.terminal(*create, columns=200) as terminal:
            terminal.until("API key")
            terminal.type(f"{cloud.api_key}\n")
            terminal.until("API secret (not shown)")
            terminal.type(f"{cloud.api_secret}\n")
            assert terminal.end() == 0
            assert "profile 'mine' is stored in" in terminal.shown
            assert cloud.api_secret.encode() not in terminal.raw
        assert "DC1/PUBLIC-1" in program("region", "list").stdout
        assert "DC1/PUBLIC-1" in program("--profile", "mine", "region", "list").stdout

    def test_it_asks_for_the_region(self, program):
        """Unless one is given."""
        with program.terminal("profile", "create", "mine", columns=200) as terminal:
            terminal.until("Region, like eu-poland-1warszawa")
            terminal.type("eu-poland-1poznan\n")
            terminal.until("API key")
            terminal.type("key-1\n")
            terminal.until("API secret (not shown)")
            terminal.type(f"{SECRET}\n")
            assert terminal.end() == 0
        assert content(program)["mine"] == {
            "region": "eu-poland-1poznan",
            "api_key": "key-1",
            "api_secret": SECRET,
        }

    @pytest.mark.parametrize("how", ["end of input", "signal"])
    def test_an_interruption_stores_nothing(self, program, how):
        """At the question for the secret."""
        create = ["profile", "create", "mine", "--region", "eu-poland-1poznan"]
        with program.terminal(*create, columns=200) as terminal:
            terminal.until("API key")
            terminal.type("key-1\n")
            terminal.until("API secret (not shown)")
            if how == "signal":
                terminal.interrupt()
            else:
                terminal.type("\x04")
            assert terminal.end() == 130
        assert not program.profiles.exists()

    def test_showing_one(self, program, create):
        """Without its credentials."""
        create("mine", "--region", "eu-poland-1poznan")
        for form in ("table", "json", "yaml"):
            shown = program("profile", "show", "mine", "-o", form).stdout
            assert "eu-poland-1poznan" in shown
            assert "key-1" not in shown
        unknown = program("profile", "get", "x", code=1).stderr
        assert "no profile is named 'x'; there are: mine" in unknown

    def test_the_file_is_for_its_owner(self, program, create):
        """Also if everyone could read new files; the folder is new, too."""
        program.profiles.parent.rmdir()
        before = os.umask(0)
        try:
            create("mine")
        finally:
            os.umask(before)
        assert program.profiles.stat().st_mode & 0o777 == 0o600
        assert program.profiles.parent.stat().st_mode & 0o777 == 0o700
        assert [path.name for path in program.profiles.parent.iterdir()] == ["profiles.toml"]

    def test_the_first_one_becomes_the_default(self, program, create):
        """The others do not, and each says what it is."""
        assert "it is the default" in create("one").stderr
        assert "async-vmapi profile use two" in create("two").stderr
        assert content(program)["default_profile"] == "one"

    def test_the_name_default_needs_no_choice(self, program, create):
        """It is the default without a key that names it."""
        assert "it is the default" in create("default").stderr
        assert "default_profile" not in content(program)
        assert "async-vmapi profile use two" in create("two").stderr

    def test_comments_and_other_profiles_stay(self, program, create):
        """The file is the user's."""
        text = '# mine\n[default]\nurl = "http://127.0.0.1:1" # local\napi_key = """\n[x]"""\n'
        program.profiles.write_text(text)
        program.profiles.chmod(0o600)
        create("new")
        assert program.profiles.read_text().startswith(text)
        assert set(content(program)) == {"default", "new"}

    def test_a_loop_of_links_is_reported(self, program, create):
        """Of the file, or of its folder; by each command."""
        file = program.profiles
        for at in (file, file.parent):
            if at == file.parent:
                file.unlink()
                file.parent.rmdir()
            at.symlink_to(at)
            problem = f"{file} cannot be read: {os.strerror(errno.ELOOP)}"
            assert problem in create("mine", code=2).stderr
            for command in (("list",), ("use", "mine"), ("delete", "mine", "--yes")):
                assert problem in program("profile", *command, code=2).stderr
            assert problem in program("vm", "list", code=2).stderr

    def test_a_link_stays_a_link(self, program, create, tmp_path):
        """Its target is replaced."""
        target = tmp_path / "elsewhere.toml"
        target.touch(0o600)
        program.profiles.symlink_to(target)
        create("mine")
        assert program.profiles.is_symlink()
        assert "mine" in tomllib.loads(target.read_text())

    def test_profiles_created_at_once_are_all_stored(self, program):
        """None undoes another's change."""
        names = [f"p{number}" for number in range(4)]
        processes = [
            program.popen(
                *("profile", "create", name, "--url", program.cloud.url, "--stdin"),
                stdin=subprocess.PIPE,
            )
            for name in names
        ]
        for process in processes:
            process.communicate(GIVEN, timeout=LONG)
        assert set(content(program)) == {"default_profile", *names}

    @pytest.mark.parametrize(
        ("options", "word"),
        [
            (("a b", "--region", "r"), "letters, digits"),
            (("default_profile", "--region", "r"), "letters, digits"),
            (("mine", "--region", "r", "--url", "u"), "either --region or --url"),
            (("mine",), "--stdin requires --region or --url"),
            (("mine", "--region", "No"), "'No' is not a name of lower-case letters"),
            (("mine", "--url", f"https://u:{SECRET}@host"), "has a user name or a password"),
            (("mine", "--url", "http://example.com"), "plain http"),
        ],
    )
    def test_wrong_arguments(self, program, options, word):
        """Nothing is stored, and nothing secret shown."""
        done = program("profile", "create", *options, "--stdin", given=GIVEN, code=2)
        assert word in done.stderr
        assert SECRET not in done.stderr
        assert not program.profiles.exists()

    def test_more_than_two_lines(self, program):
        """No secret has a line break."""
        done = program(
            *("profile", "create", "mine", "--region", "r", "--stdin"),
            given=f"{GIVEN.rstrip()}\nmore\n",
            code=2,
        )
        assert "two lines" in done.stderr
        assert not program.profiles.exists()

    @pytest.mark.parametrize("given", ["", "key-1\n", "key:1\nsecret\n"])
    def test_wrong_credentials(self, program, given):
        """A line is missing, or a key is none."""
        done = program(
            *("profile", "create", "mine", "--region", "r", "--stdin"), given=given, code=2
        )
        assert "api_key" in done.stderr
        assert not program.profiles.exists()

    def test_without_a_terminal(self, program):
        """Secrets come from standard input then; on a terminal they would be shown."""
        done = program("profile", "create", "mine", "--region", "r", code=2)
        assert "--stdin is required" in done.stderr
        create = ["profile", "create", "mine", "--region", "r", "--stdin"]
        with program.terminal(*create, columns=200) as terminal:
            assert terminal.end() == 2
            assert "--stdin is for a file or a pipe" in terminal.shown

    def test_an_existing_name_is_refused(self, program, create):
        """Its credentials may be the only copy."""
        create("mine")
        before = program.profiles.read_text()
        assert "async-vmapi profile delete mine" in create("mine", code=1).stderr
        assert program.profiles.read_text() == before

    def test_a_file_that_others_can_read(self, program, create):
        """It is not added to; nor is one that is not TOML."""
        program.write_profile(mode=0o644)
        assert "chmod 600" in create("mine", code=2).stderr
        program.profiles.write_text(f'[default]\napi_secret = "{SECRET}')
        program.profiles.chmod(0o600)
        assert "not valid TOML" in create("mine", code=2).stderr


@pytest.mark.programs
class TestListUseAndDelete:
    def test_list(self, program, create):
        """Names, endpoints and the default; no credentials."""
        assert program.json("profile", "list") == []
        create("one", "--region", "eu-poland-1warszawa")
        create("two")
        first, second = program.json("profile", "list")
        region = "eu-poland-1warszawa"
        assert first == {"name": "one", "region": region, "url": None, "default": True}
        assert (second["url"], second["default"]) == (program.cloud.url, False)
        shown = program("profile", "list")
        assert "eu-poland-1warszawa     yes" in shown.stdout
        assert "key-1" not in shown.stdout
        assert shown.stderr == ""

    def test_a_url_with_a_password_is_not_shown(self, program):
        """Somebody wrote it into the file."""
        program.write_profile(url=f"https://u:{SECRET}@host")
        assert SECRET not in program("profile", "list").stdout

    def test_the_environment_comes_first(self, program, create):
        """The command that lists or chooses the default says so."""
        create("one")
        note = "the environment precedes the default profile: VMAPI_REGION"
        assert note in program("profile", "list", VMAPI_REGION="r").stderr
        assert note in program("profile", "use", "one", VMAPI_REGION="r").stderr

    def test_use(self, program, create, cloud):
        """Then commands connect there."""
        create("other", "--url", "http://127.0.0.1:1")
        done = program(
            *("profile", "create", "mine", "--url", cloud.url, "--stdin"),
            given=f"{cloud.api_key}\n{cloud.api_secret}\n",
        )
        program("profile", "use", "mine")
        assert "DC1/PUBLIC-1" in program("region", "list").stdout
        done = program("profile", "use", "none", code=2)
        assert "no such profile; there are: mine, other" in done.stderr

    def test_delete(self, program, create):
        """With its secret; the others stay, and a default that is gone is reported."""
        create("one")
        create("two", "--region", "r")
        done = program("profile", "delete", "one", "--yes")
        assert "choose one with: async-vmapi profile use NAME" in done.stderr
        assert content(program) == {
            "two": {"region": "r", "api_key": "key-1", "api_secret": SECRET}
        }
        assert "no such profile; there are: two" in program("region", "list", code=2).stderr
        assert "no such profile" in program("profile", "delete", "one", "--yes", code=2).stderr

    def test_delete_asks(self, program, create):
        """And needs a terminal for that."""
        create("one", "--region", "eu-poland-1poznan")
        assert "--yes is required" in program("profile", "delete", "one", code=2).stderr
        for typed, code in (("n\n", 1), ("y\n", 0)):
            with program.terminal("profile", "delete", "one", columns=200) as terminal:
                terminal.until("Delete profile 'one' of eu-poland-1poznan? [y/N]")
                terminal.type(typed)
                assert terminal.end() == code
            assert ("one" in content(program)) == (code == 1)


class TestFile:
    @pytest.fixture(autouse=True)
    def home(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        return tmp_path / "async-vmapi"

    def test_a_failed_write_leaves_the_old_file(self, home, monkeypatch):
        """And no copy with secrets, which is for its owner only while it is there."""
        with editing() as (_, content):
            content["one"] = {"api_secret": SECRET}
        path = home / "profiles.toml"
        before, modes = path.read_text(), []

        def replace(source, target):
            modes.append((source.stat().st_mode & 0o777, SECRET in source.read_text()))
            raise OSError("no")

        monkeypatch.setattr(Path, "replace", replace)
        with pytest.raises(OSError, match="no"), editing() as (_, content):
            content["two"] = {}
        assert modes == [(0o600, True)]
        assert path.read_text() == before
        assert list(home.iterdir()) == [path]

    def test_a_change_waits_for_another_one(self, home):
        """It starts from what that one wrote."""
        second = threading.Thread(target=self.add, args=["two"])
        with editing() as (_, content):
            second.start()
            content["one"] = {}
        second.join(LONG)
        assert set(tomllib.loads((home / "profiles.toml").read_text())) == {"one", "two"}

    @staticmethod
    def add(name):
        with editing() as (_, content):
            content[name] = {}


class TestPrompts:
    def test_a_terminal_that_shows_everything(self, monkeypatch, capsys):
        """The secret is not asked for there."""

        def shown(_):
            warnings.warn("it will be shown", getpass.GetPassWarning, stacklevel=1)
            raise AssertionError

        monkeypatch.setattr(getpass, "getpass", shown)
        with pytest.raises(typer.Exit) as caught:
            prompts.ask_hidden("Secret")
        assert caught.value.exit_code == 2
        assert "use --stdin" in capsys.readouterr().err

    def test_a_secret_that_is_not_text(self, monkeypatch, capsys):
        """It is in no error, nor in what caused it."""

        def undecodable(_):
            return b"planted\xff".decode()

        monkeypatch.setattr(getpass, "getpass", undecodable)
        with pytest.raises(typer.Exit) as caught:
            prompts.ask_hidden("Secret")
        assert caught.value.exit_code == 2
        assert "not text in the terminal's encoding" in capsys.readouterr().err
        assert caught.value.__context__ is None

    @pytest.mark.parametrize("ask", [prompts.ask_hidden, prompts.ask_visible])
    def test_nothing_entered(self, ask, monkeypatch, capsys):
        """An empty answer is none."""
        monkeypatch.setattr(getpass, "getpass", lambda _: " ")
        monkeypatch.setattr(typer, "prompt", lambda *_, **__: " ")
        with pytest.raises(typer.Exit) as caught:
            ask("Which")
        assert caught.value.exit_code == 2
        assert "nothing was entered" in capsys.readouterr().err

    @pytest.mark.parametrize("ask", [prompts.agree, prompts.ask_visible])
    def test_an_interruption(self, ask, monkeypatch):
        """The command ends like one that a signal ends."""

        def interrupted(*_, **__):
            raise typer.Abort

        monkeypatch.setattr(typer, "prompt", interrupted)
        monkeypatch.setattr(typer, "confirm", interrupted)
        with pytest.raises(typer.Exit) as caught:
            ask("Which")
        assert caught.value.exit_code == 130
