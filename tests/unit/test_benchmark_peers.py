"""What the comparison with peers counts, and that each peer runs in its own process."""

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def peers(monkeypatch):
    """The benchmark, as a module."""
    # Spawned processes import it from the same path.
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("peers")


def run(lags, calls=(), **changes):
    """Return what a contender and the emulator report of VMs that complete after 10, 11 ... s."""
    ends = {f"vm-{number}": 10.0 + number for number in range(len(lags))}
    seen = {vm_id: ends[vm_id] + lag for vm_id, lag in zip(ends, lags, strict=True)}
    cost = {"began": 5.0, "cpu_seconds": 0.5, "memory_bytes": 3 * 2**20, "seen": seen}
    truth = {"ends": ends, "came": list(calls), "cpu": 1.0}
    return cost | changes, truth


class TestFigures:
    def test_figures_of_one_run(self, peers):
        """Times are in seconds of the cloud's clock, CPU time in ours."""
        calls = [(5.0, "create"), (5.05, "create"), (9.0, "list"), (9.1, "get"), (9.19, "get")]
        cost, truth = run([0.5, 0.25], calls)
        got = peers.figures(cost, truth, count=2, speed=4.0)
        assert got["wall_seconds"] == pytest.approx(4 * 6.25)
        assert got["cpu_seconds"] == 0.5
        assert got["memory_megabytes"] == 3
        assert (got["requests"], got["looks"]) == (5, 3)
        assert (got["peak_requests"], got["peak_looks"]) == (2, 2)
        assert got["lag_p50_seconds"] == pytest.approx(1.0)
        assert got["lag_p95_seconds"] == pytest.approx(2.0)

    def test_a_contender_that_misses_vms_is_not_measured(self, peers):
        """Its figures would be too good."""
        cost, truth = run([0.5, 0.5])
        del cost["seen"]["vm-1"]
        with pytest.raises(RuntimeError, match="2 of 2 VMs were created, 1 of them observed"):
            peers.figures(cost, truth, count=2, speed=1.0)

    def test_a_contender_that_reports_online_too_early_is_not_measured(self, peers):
        """Its figures would be too good."""
        cost, truth = run([0.5, -0.01])
        with pytest.raises(RuntimeError, match="1 VMs were reported online before they were"):
            peers.figures(cost, truth, count=2, speed=1.0)

    @pytest.mark.parametrize(
        ("moments", "most"),
        [([], 0), ([3.0], 1), ([1.0, 2.0, 2.05, 2.09, 2.11], 3), ([2.0, 2.2, 2.4], 1)],
    )
    def test_peaks(self, peers, moments, most):
        """The most within any tenth of a second."""
        assert peers.peak(moments) == most

    @pytest.mark.parametrize(("share", "value"), [(0.5, 10), (0.95, 19), (1.0, 20), (0.0, 1)])
    def test_percentiles(self, peers, share, value):
        """The smallest value that so many do not exceed."""
        assert peers.percentile(range(1, 21), share) == value

    def test_medians(self, peers):
        """Of each figure separately, with the spread of the runs."""
        runs = []
        for lag in (0.1, 0.3, 0.2):
            cost, truth = run([lag])
            runs.append(peers.figures(cost, truth, count=1, speed=1.0))
        got = peers.medians(runs)
        assert got["lag_p50_seconds"] == 0.2
        assert got["lag_p50_seconds_range"] == [0.1, 0.3]


@pytest.mark.programs
class TestProcesses:
    def test_a_small_run_of_ours(self, peers):
        """Ours sees a few VMs to completion, and the emulator counts its requests."""
        got = peers.measure("ours", count=5, speed=300.0, interval=None, seed=1)
        assert got["calls"]["create"] == 5
        assert got["requests"] == 5 + got["looks"]
        assert got["cpu_seconds"] > 0
        assert 0 <= got["lag_p50_seconds"] <= got["lag_p95_seconds"]
