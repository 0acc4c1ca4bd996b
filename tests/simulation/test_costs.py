"""That the most frequent work gets no more expensive unnoticed: `benchmarks/guard.py`.

Not a stopwatch: it counts instructions, requests and bytes, in a process that nothing else traces.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

SLOWER = """
import sys
sys.path.insert(0, {benchmarks!r})
import guard
from async_vmapi.tasks.watch import Watch

observe = Watch.observe

def slower(*arguments):
    for _ in range({rounds}):
        pass
    return observe(*arguments)

Watch.observe = slower
guard.main(["--only", "tick"])
"""


def guard(*arguments):
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("COVERAGE_") and name not in {"PYTHONASYNCIODEBUG", "PYTHONDEVMODE"}
    }
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.programs
class TestGuard:
    def test_no_cost_has_grown(self):
        """A fifth more in any figure needs a reason and a new reference figure."""
        result = guard(str(BENCHMARKS / "guard.py"))
        assert result.returncode == 0, result.stdout + result.stderr

    @pytest.mark.parametrize(("rounds", "code"), [(20, 0), (60, 1)])
    def test_a_quarter_more_is_reported_and_a_tenth_is_not(self, rounds, code):
        """A few more instructions for each watcher that a list updates."""
        result = guard("-c", SLOWER.format(benchmarks=str(BENCHMARKS), rounds=rounds))
        assert result.returncode == code, result.stdout + result.stderr
        assert ("too expensive:" in result.stderr) == (code == 1)
        if code:
            assert "everything is new" in result.stderr
            assert "nothing has changed" not in result.stderr
