"""A process that runs one contender; it takes a job as JSON and returns the cost.

The contender is imported before the measurement starts.
"""

import importlib
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:1] = [str(HERE.parent), str(HERE.parents[1])]


class Job:
    """The input of a contender, and its observations.

    Attributes:
        url: Base URL of the API.
        key: The API key.
        secret: Its secret.
        names: Names of the VMs to create.
        interval: Polling interval in seconds of the cloud's clock; None to use the documented one.
        rate: Maximum requests per real second, of ours; None for no limit.
    """

    def __init__(self, *, url, key, secret, count, interval, speed, rate=None):
        self.url = url
        self.key = key
        self.secret = secret
        self.names = [f"peer-{number:04}" for number in range(count)]
        self.interval = interval
        self.rate = rate
        self._speed = speed
        self.seen = {}

    def real(self, seconds):
        """Convert seconds of the cloud's clock to real seconds."""
        return seconds / self._speed

    def saw(self, vm_id):
        """Record that the code that awaits this VM continues now."""
        self.seen[vm_id] = time.monotonic()


def memory():
    """Return this process's memory now and at its peak since `forget_peak`, in bytes.

    The peak in `resource` includes that of the parent process.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return tuple(1024 * int(values[name].split()[0]) for name in ("VmRSS", "VmHWM"))


def forget_peak():
    Path("/proc/self/clear_refs").write_text("5")


def main():
    asked = json.loads(sys.stdin.readline())
    contender = importlib.import_module(f"contenders.{asked.pop('contender')}")
    job = Job(**asked)
    forget_peak()
    before, _ = memory()
    began, cpu = time.monotonic(), time.process_time()
    contender.run(job)
    cost = {
        "began": began,
        "cpu_seconds": time.process_time() - cpu,
        "memory_bytes": memory()[1] - before,
        "seen": job.seen,
    }
    print(json.dumps(cost))


if __name__ == "__main__":
    main()
