"""Shell completion: what may follow, in time or not at all, and never as code."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_vmapi.cli.completion import tree, values
from async_vmapi.cli.completion.answer import answer
from async_vmapi.cli.completion.shells import Candidate, Line, for_bash, split

from .programs import LONG, NEW, TEMPLATE, ZONE, clean_environment


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Empty folders for profiles and the cache, no credentials, and as much time as it takes."""
    for name in list(os.environ):
        if name.startswith("VMAPI_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(values, "LIMIT", LONG)
    return tmp_path


@pytest.fixture
def connected(cloud, monkeypatch):
    """A cloud, and the environment to reach it."""
    monkeypatch.setenv("VMAPI_URL", cloud.url)
    monkeypatch.setenv("VMAPI_API_KEY", cloud.api_key)
    monkeypatch.setenv("VMAPI_API_SECRET", cloud.api_secret)
    return cloud


@pytest.fixture
def vms(monkeypatch):
    """Let the API list VMs with these ids and labels."""

    def listed(*pairs):
        response = [{"id": vm_id, "label": label, "state": "online"} for vm_id, label in pairs]
        monkeypatch.setattr(values, "fetch", lambda *_: {"virtual_machines": response})

    return listed


def offered(*words):
    """Return the words that are offered for the last word, which is incomplete."""
    return [line.partition("\t")[0] for line in answer("zsh", ["async-vmapi", *words])]


class TestCommandsAndOptions:
    def test_commands(self):
        """Those that begin like the word, with help where a shell shows it; aliases are known."""
        assert offered("vm", "sh") == ["show", "shutdown"]
        assert "show\tShow a VM." in answer("fish", ["async-vmapi vm "])
        assert {"vm", "fleet", "profile", "completion"} <= set(offered(""))
        assert offered("vms", "rm", "--mi") == ["--missing-ok"]
        assert offered("nothing", "") == []

    def test_options(self):
        """Those of the command; after -- there are none."""
        assert offered("--pro") == ["--profile"]
        assert offered("vm", "list", "--zo") == ["--zone"]
        assert offered("--debug", "vm", "list", "--help") == ["--help"]
        assert offered("vm", "list", "--", "--zo") == []
        assert offered("vm", "list", "--debug-file", "") == [":files"]

    def test_choices_and_files(self):
        """The shell completes names of files itself."""
        assert offered("completion", "") == ["bash", "zsh", "fish"]
        assert offered("--debug-file", "") == [":files"]
        assert offered("fleet", "resume", "") == [":files"]
        assert offered("vm", "list", "--id-file=x") == [":files"]

    def test_text_that_nobody_knows(self):
        """A number, a token, an argument too many, the value of a flag."""
        assert offered("vm", "create", "--cpus", "") == []
        assert offered("wait", "") == []
        assert offered("completion", "zsh", "") == []
        assert offered("vm", "list", "--json=") == []
        assert offered("vm", "list", "--none=") == []

    def test_every_parameter_for_a_vm_or_a_file(self):
        """By their types and metavars, so that a new one is not forgotten."""
        seen = set()

        def check(node, path):
            for argument in node["arguments"]:
                seen.add(argument["value"] if isinstance(argument["value"], str) else "choice")
            for name, option in node["options"].items():
                if name.endswith(("-file", "--report", "--resume", "--user-data", "--faults")):
                    assert option["value"] == tree.FILE, (path, name)
                if name in ("--zone", "--template", "--key", "--profile"):
                    assert option["value"] == name.removeprefix("--"), (path, name)
            for name, child in node["commands"].items():
                check(child, f"{path} {name}")

        check(tree.build(), "")
        assert {"vm", "profile", "job", "choice", tree.FILE} <= seen


class TestValues:
    def test_names_of_the_api(self, connected, cloud):
        """As the options take them, also after an equals sign."""
        assert ZONE in offered("vm", "create", "--zone", "")
        assert f"--template={TEMPLATE}" in offered("vm", "create", "--template=Deb")
        assert "deploy" in offered("vm", "create", "--key", "d")
        assert cloud.api.requests["regions"] >= 1

    def test_vms_groups_and_states(self, program, connected, cloud):
        """Of the VMs that there are."""
        ids = program.fleet(2, "web-{:02}")
        assert offered("vm", "show", "") == ["web-01", "web-02"]
        assert f"web-01\tonline, {ids['web-01']}" in answer("fish", ["async-vmapi vm show "])
        assert offered("vm", "show", ids["web-01"][:8]) == [ids["web-01"]]
        assert offered("vm", "reboot", "web-01", "") == ["web-02"]
        assert offered("vm", "show", "web-01", "") == []
        assert offered("fleet", "reboot", "--state", "") == ["online"]
        assert offered("fleet", "reboot", "--label", "web-0") == ["web-01", "web-02"]
        assert offered("fleet", "reboot", "--group", "") == []

    def test_a_vm_without_a_usable_name_is_offered_by_id(self, vms):
        """Its name is ambiguous, missing, an option, or contains what moves the cursor."""
        vms(("1", "twin"), ("2", "twin"), ("3", None), ("4", "-x"), ("5", "a\nb"), ("6", "\x1b[2J"))
        assert offered("vm", "show", "") == ["1", "2", "3", "4", "5", "6"]
        assert all("\x1b" not in line for line in answer("zsh", ["", "vm", "show", ""]))

    def test_ids_are_offered_where_no_name_begins_so(self, vms):
        """Otherwise half of them would begin like a name."""
        vms(("a1", "alpha"), ("a2", "beta"), ("b1", "gamma"))
        assert offered("vm", "show", "a") == ["alpha"]
        assert offered("vm", "show", "a2") == ["a2"]
        assert offered("vm", "show", "") == ["alpha", "beta", "gamma"]

    def test_groups_of_vms(self, monkeypatch):
        """Each once."""
        groups = [{"groups": [{"id": "1", "name": "web"}]}, {"groups": None}, {}]
        groups.append(groups[0])
        monkeypatch.setattr(values, "fetch", lambda *_: {"virtual_machines": groups})
        assert offered("fleet", "reboot", "--group", "") == ["web"]

    def test_profiles(self, program, home, monkeypatch):
        """From the file, if no other user can read it; and the one named is used."""
        monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
        assert offered("--profile", "") == ["default"]
        assert offered("profile", "use", "d") == ["default"]
        assert ZONE in offered("vm", "create", "--zone", "")
        assert ZONE in offered("--profile", "default", "vm", "create", "--zone", "")
        assert offered("--profile=none", "vm", "create", "--zone", "") == []
        assert offered("vm", "create", "--profile", "none", "--zone", "") == []
        program.profiles.chmod(0o644)
        assert offered("--profile", "") == []
        assert offered("vm", "create", "--zone", "") == []


class TestSilence:
    @pytest.mark.parametrize(
        "url", ["http://127.0.0.1:1", "https://127.0.0.1:1", "http://example.com", "x", None]
    )
    def test_an_api_that_is_away(self, url, monkeypatch, capfd):
        """Or an endpoint that is none, or no credentials: nothing is offered, nothing is said."""
        if url is not None:
            monkeypatch.setenv("VMAPI_URL", url)
            monkeypatch.setenv("VMAPI_API_KEY", "key")
            monkeypatch.setenv("VMAPI_API_SECRET", "secret")
        for words in (["vm", "show", ""], ["vm", "create", "--key", ""]):
            assert offered(*words) == []
        assert capfd.readouterr() == ("", "")

    def test_a_region(self, monkeypatch):
        """Its name leads to its endpoint."""
        for name, value in {"REGION": "nowhere", "API_KEY": "k", "API_SECRET": "s"}.items():
            monkeypatch.setenv(f"VMAPI_{name}", value)
        connected = []

        def refuse(address, *_):
            connected.append(address)
            raise OSError

        monkeypatch.setattr(socket, "create_connection", refuse)
        assert offered("vm", "show", "") == []
        assert connected == [("nowhere.api.e24cloud.com", 443)]

    def test_an_api_that_does_not_respond(self, monkeypatch):
        """The answer comes without it."""
        monkeypatch.setattr(values, "LIMIT", 0.1)
        with socket.create_server(("127.0.0.1", 0)) as server:
            monkeypatch.setenv("VMAPI_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
            monkeypatch.setenv("VMAPI_API_KEY", "key")
            monkeypatch.setenv("VMAPI_API_SECRET", "secret")
            assert offered("vm", "show", "") == []

    @pytest.mark.parametrize("database", ["sqlite:///{}/none", "postgresql://x@127.0.0.1:1/y", ""])
    def test_no_jobs(self, database, home, monkeypatch):
        """Their database is unavailable; no file is created."""
        monkeypatch.setenv("VMAPI_DATABASE", database.format(home))
        assert offered("job", "show", "") == []
        assert not (home / "none").exists()

    @pytest.mark.programs
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "none"])
    def test_the_program_says_nothing_of_errors(self, shell, home):
        """Whatever a shell passes."""
        result = subprocess.run(
            [sys.executable, "-m", "async_vmapi"],
            env=clean_environment(_ASYNC_VMAPI_COMPLETE=shell, XDG_CACHE_HOME=str(home)),
            capture_output=True,
            timeout=LONG,
            check=True,
        )
        assert (result.stdout, result.stderr) == (b"", b"")


class TestCache:
    @pytest.fixture
    def builds(self, monkeypatch):
        """Count how often the tree is built."""
        counted, build = [], tree.build

        def counting():
            counted.append(1)
            return build()

        monkeypatch.setattr(tree, "build", counting)
        return counted

    def test_the_tree_is_built_once(self, builds, home):
        """In a file for its owner."""
        assert offered("vm", "sh") == offered("vm", "sh") == ["show", "shutdown"]
        assert len(builds) == 1
        (file,) = (home / "cache").rglob("*.json")
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700

    @pytest.mark.parametrize("content", ["", "[]", '{"key": 1, "tree": {}}', "null"])
    def test_a_file_that_is_not_its_own(self, builds, home, content):
        """Of another version, or broken: it is replaced."""
        offered("")
        (file,) = (home / "cache").rglob("*.json")
        file.write_text(content)
        assert offered("vm", "sh") == ["show", "shutdown"]
        assert len(builds) == 2
        assert json.loads(file.read_text())["tree"]["commands"]

    def test_without_a_folder_for_it(self, builds, home, monkeypatch):
        """It is slower."""
        (home / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
        assert offered("vm", "sh") == offered("vm", "sh") == ["show", "shutdown"]
        assert len(builds) == 2


TEXT = st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), min_size=1)


def quoted(text):
    """Quote a word by backslashes."""
    return "".join(f"\\{c}" for c in text)


class TestLines:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("a b c", Line(["a", "b"], "c", "c")),
            ("a  'b c' ", Line(["a", "b c"], "")),
            ('a "b c', Line(["a"], "b c", '"b c', '"')),
            ("a 'b\\", Line(["a"], "b\\", "'b\\", "'")),
            ('a "b\\"\\c$', Line(["a"], 'b"\\c$', '"b\\"\\c$', '"')),
            ("a b\\ c", Line(["a"], "b c", "b\\ c")),
            ("a ''", Line(["a"], "", "''")),
            ("", Line([], "")),
        ],
    )
    def test_words(self, text, expected):
        """As bash splits them."""
        assert split(text) == expected

    @given(st.lists(TEXT), TEXT, st.sampled_from(["", "'", '"']), st.data())
    def test_bash_reads_back_what_it_is_given(self, words, value, quote, data):
        """However much is typed, in whatever quotes: a value is one word, and never code."""
        typed = value[: data.draw(st.integers(0, len(value)))]
        if quote and set(value) & set("'\"\\$`!"):
            quote = ""
        start = " ".join(map(quoted, [*words, ""]))
        current = typed if quote else quoted(typed)
        line = split(f"{start}{quote}{current}")
        assert line[:2] == (words, typed)
        for text in for_bash(line, current, [Candidate(value)]):
            assert split(f"{start}{quote}{text}").current == value

    @pytest.mark.parametrize(
        ("typed", "current", "value", "text"),
        [
            ("x --zone=D", "D", "--zone=DC 1", "DC\\ 1"),
            ("x colon:", "", "colon:a", "a"),
            ("x 'a", "a", "a$(x)", "a$(x)"),
            ('x "a', "a", "a$(x)", "a\\$(x)"),
            ("x a", "a", "a$(x);`y`&~", "a\\$\\(x\\)\\;\\`y\\`\\&\\~"),
        ],
    )
    def test_only_what_bash_replaces_is_given(self, typed, current, value, text):
        """For bash, a word begins after a quote, an equals sign or a colon."""
        assert for_bash(split(typed), current, [Candidate(value)]) == [text]

    def test_what_no_quote_can_hold_is_left_out(self):
        """A quote within quotes; and an exclamation mark, which bash expands in double ones."""
        assert for_bash(split("x 'i"), "i", [Candidate("it's")]) == []
        assert for_bash(split('x "i'), "i", [Candidate("it!")]) == []


NAMES = ("web-01", "my db", "colon:x", "a$(touch x)")
# What is typed, what the shell shows then, and what the command gets.
CASES = [
    ("vm sho", "vm show", ["vm", "show"]),
    ("vm show web", "vm show web-01", ["vm", "show", "web-01"]),
    ("vm show my", "vm show my\\ db", ["vm", "show", "my db"]),
    ('vm show "my', 'vm show "my db"', ["vm", "show", "my db"]),
    ("vm show 'my", "vm show 'my db'", ["vm", "show", "my db"]),
    ("vm show colon:", "vm show colon:x", ["vm", "show", "colon:x"]),
    ("vm show a", "vm show a\\$\\(touch\\ x\\)", ["vm", "show", "a$(touch x)"]),
    ("zone list --js", "zone list --json", ["zone", "list", "--json"]),
    (
        "vm create --template=Deb",
        "vm create --template=Debian\\ 12",
        ["vm", "create", "--template=Debian 12"],
    ),
    (
        "vm create --template Deb",
        "vm create --template Debian\\ 12",
        ["vm", "create", "--template", "Debian 12"],
    ),
    (
        "vm list --id-file bin/as",
        "vm list --id-file bin/async-vmapi",
        ["vm", "list", "--id-file", "bin/async-vmapi"],
    ),
]
# A shell takes its terminal for its own only in a session of its own.
IN_SESSION = [
    *(sys.executable, "-c"),
    """import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execvp(sys.argv[1], sys.argv[1:])""",
]
START = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(async-vmapi completion bash)"),
    "zsh": (
        ["zsh", "-f", "-i"],
        "autoload -Uz compinit; compinit -u; source <(async-vmapi completion zsh)",
    ),
    "fish": (["fish", "--no-config", "-i"], "async-vmapi completion fish | source"),
}


@pytest.mark.programs
class TestShells:
    # bash is everywhere; CI has the others, too.
    @pytest.mark.parametrize("name", [name for name in START if shutil.which(name)])
    def test_words_are_completed(self, program, home, name):
        """They reach the command as they are, and nothing of a VM's name is run."""
        for label in NAMES:
            program("vm", "create", "--name", label, *NEW)
        (home / "bin").mkdir()
        installed = home / "bin" / "async-vmapi"
        installed.write_text(f'#!/bin/sh\nexec {sys.executable} -m async_vmapi "$@"\n')
        installed.chmod(0o755)
        command, setup = START[name]
        variables = {
            "PATH": f"{installed.parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.getcwd(),
            "XDG_CACHE_HOME": str(home / "cache"),
            "HOME": str(home),
            "INPUTRC": "/dev/null",
        }
        options = {"command": [*IN_SESSION, *command], "cwd": home}
        with program.terminal(columns=160, lines=60, options=options, **variables) as shell:
            shell.type(f"{setup}; printf '<%s>' set up; echo\r")
            shell.until("<set><up>")
            for typed, shown, words in CASES:
                shell.type(f"async-vmapi {typed}")
                # The program gives up in time, so a busy host may need a second try.
                while f"async-vmapi {shown}" not in shell.shown:
                    shell.type("\t")
                    within(3, lambda shown=shown: f"async-vmapi {shown}" in shell.shown)
                shell.type("\x01printf '<%s>' \x05; echo\r")
                shell.until("".join(f"<{word}>" for word in ["async-vmapi", *words]))
        assert not (home / "x").exists()


def within(seconds, condition):
    """Wait for a condition, but not longer."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
