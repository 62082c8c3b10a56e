"""The log, its speed figures and the progress bar."""

import io
import re

import pytest
from rich.console import Console

from polmd.errors import OutputError
from polmd.output import LogReporter, ProgressReporter, Reporter, RunLog, progress


@pytest.fixture
def clock(monkeypatch):
    """A monotonic clock that advances 0.5 s a call."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: 0.5 * next(ticks))


def test_log_appends_lines(tmp_path):
    for _ in range(2):
        log = RunLog(tmp_path / "run.log")
        log.info("first\nsecond [not markup]")
        log.warning("careful")
        log.error("stop")
        log.close()
    lines = (tmp_path / "run.log").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 8
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d  ", line) for line in lines)
    assert [line.split("  ")[1] for line in lines[:4]] == [
        "first",
        "second [not markup]",
        "warning: careful",
        "error: stop",
    ]
    with pytest.raises(OutputError, match="closed"):
        log.info("late")
    log.error("late")  # comes with an exception that says the same: never in its way
    with pytest.raises(OutputError, match=r"cannot write .*run\.log: "):
        RunLog(tmp_path / "missing" / "run.log")


def test_log_shows_lines_on_a_terminal(tmp_path):
    shown = io.StringIO()
    log = RunLog(tmp_path / "run.log", Console(file=shown, force_terminal=True, width=200))
    log.info("a [b] c")
    log.close()
    assert "a [b] c" in shown.getvalue()


def test_periodic_lines(run, tmp_path, clock):
    log = RunLog(tmp_path / "run.log")
    reporter = LogReporter(log, every=20, total_steps=100)
    assert isinstance(reporter, Reporter)
    run.report(reporter, 0, 3)
    assert reporter.position() == {}
    reporter.rewind({})
    reporter.close()
    log.close()
    first, _, third = (tmp_path / "run.log").read_text().splitlines()
    assert "nvt step 0/100 (0.0 %)" in first and "- ns/day" in first and "ETA -" in first
    assert "nvt step 40/100 (40.0 %)" in third and "time 0.0200 ps" in third
    assert "1.73 ns/day" in third  # 20 fs in 1 s
    assert "ETA 0:00:02" in third  # 60 steps at 40 steps/s


def test_durations():
    assert progress.duration(None) == "-"
    assert progress.duration(3725.4) == "1:02:05"
    assert progress.duration(2 * 86400 + 3 * 3600) == "2 d 3:00:00"


def test_minimisation_has_no_speed(clock):
    pace = progress.Pace()
    for step in range(3):
        pace.mark(step, 0.0)
    assert pace.ns_per_day is None and pace.seconds_left(10) == 4.0


def test_progress_bar(run, clock):
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100)
    bar = ProgressReporter(console, total_steps=100, every=20)
    assert isinstance(bar, Reporter)
    run.report(bar, 0, 6)
    bar.close()
    bar.close()
    assert "100/100" in shown.getvalue() and "ns/day" in shown.getvalue() and "0:00:00 left" in shown.getvalue()


@pytest.mark.parametrize("console", [None, Console(file=io.StringIO())])
def test_no_bar_without_a_terminal(run, console):
    bar = ProgressReporter(console, total_steps=100, every=20)
    run.report(bar, 0, 6)
    bar.close()
    assert console is None or console.file.getvalue() == ""
