"""Programs that are forked from a process that has already imported what they need.

Imports take most of the time of a short command: a second where durable jobs are used.
"""

import asyncio.events
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from multiprocessing.reduction import DupFd

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.preloaded"])
# A variable in a program's environment: its clock runs 20 times faster.
FAST_CLOCK = "TESTS_FAST_CLOCK"
_STREAMS = ("stdin", "stdout", "stderr")


def unmeasured(environ):
    """Return an environment for programs whose coverage faster tests measure, too."""
    return {n: v for n, v in environ.items() if not n.startswith(("COVERAGE_", "COV_"))}


class ForkedProgram:
    """Like `subprocess.Popen`, for ``python -m``.

    Args:
        module: What to run.
        arguments: Its arguments.
        env: Its whole environment.
        cwd: Where it runs; here if left out.
        streams: ``stdin``, ``stdout`` and ``stderr``, as `subprocess.Popen` takes them.
    """

    def __init__(self, module, arguments, *, env, cwd=None, **streams):
        self.args = [module, *arguments]
        self.stdin = self.stdout = self.stderr = None
        ends = [self._end(name, streams.get(name)) for name in _STREAMS]
        self._process = _context.Process(
            target=_run,
            args=(module, arguments, dict(env), cwd or os.getcwd(), list(map(_Passed, ends))),
            daemon=True,  # ends with the tests
        )
        try:
            self._process.start()
        finally:
            for end in ends:
                os.close(end)

    def _end(self, name, given):
        """Return the program's end of a stream."""
        if given is None:
            return os.dup(_STREAMS.index(name))
        if given == subprocess.DEVNULL:
            return os.open(os.devnull, os.O_RDWR)
        if given != subprocess.PIPE:
            return os.dup(given if isinstance(given, int) else given.fileno())
        reading, writing = os.pipe()
        if name == "stdin":
            self.stdin = open(writing, "w", encoding="utf-8")  # noqa: SIM115
            return reading
        setattr(self, name, open(reading, encoding="utf-8"))  # noqa: SIM115
        return writing

    @property
    def returncode(self):
        return self._process.exitcode

    def wait(self, timeout=None):
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, given=None, timeout=None):
        """Return what it wrote to its pipes until its end."""
        written = {}

        def read(name):
            with streams[name] as stream:
                written[name] = stream.read()

        streams = {"stdout": self.stdout, "stderr": self.stderr}
        piped = [name for name, stream in streams.items() if stream and not stream.closed]
        threads = [threading.Thread(target=read, args=(name,), daemon=True) for name in piped]
        for thread in threads:
            thread.start()
        if self.stdin is not None:
            with self.stdin:
                self.stdin.write(given or "")
        self.wait(timeout)
        for thread in threads:
            thread.join(timeout)
        return written.get("stdout"), written.get("stderr")

    def send_signal(self, number):
        if self.returncode is None:
            os.kill(self._process.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


class _Passed:
    """A descriptor that a process gets with its arguments."""

    def __init__(self, fd):
        self._fd = fd

    def __reduce__(self):
        return _received, (DupFd(self._fd),)


def _received(duplicate):
    return duplicate.detach()


def _run(module, arguments, env, cwd, ends):
    for number, end in enumerate(ends):
        os.dup2(end, number)
        os.close(end)
    sys.stdin = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # noqa: SIM115
    for name, errors in (("stdout", "surrogateescape"), ("stderr", "backslashreplace")):
        number = _STREAMS.index(name)
        stream = open(number, "w", encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        stream.reconfigure(line_buffering=name == "stderr" or stream.isatty())
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    if env.pop(FAST_CLOCK, None):
        from async_vmapi.cli.demo import FastLoop

        asyncio.events.new_event_loop = FastLoop
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    # Whatever the tests themselves were started by ignores.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)
