"""A process that one contender has to itself; it takes a job as JSON and returns what it cost.

All that the contender imports is there before the measuring begins.
"""

import importlib
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:1] = [str(HERE.parent), str(HERE.parents[1])]


class Job:
    """What is to be done, and what was seen of it.

    Attributes:
        url: Where the API is.
        key: The API key.
        secret: Its secret.
        names: The machines to create.
        interval: Seconds of the cloud's clock between two looks; None to do as documented.
        rate: How many requests there may be in a second of ours; None for no limit.
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
        """Return how long so many seconds of the cloud's clock are."""
        return seconds / self._speed

    def saw(self, vm_id):
        """Note that who awaits this machine goes on now."""
        self.seen[vm_id] = time.monotonic()


def memory():
    """Return this process's memory now and at its peak since `forget_peak`, in bytes.

    Not `resource`'s, whose peak is also that of the process that this one was forked off.
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
