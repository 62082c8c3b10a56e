"""How fast a run goes: simulated time per day, time left, and a progress bar on a terminal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from polmd.dynamics.state import State
from polmd.output.reporter import StepInfo

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_FS_PER_NS = 1e6
_DAY = 86400.0


class Pace:
    """Speed of a run on a monotonic clock, counted from the first ``mark`` of this process.

    The first mark is made when the first step is done, so that compilation does not count.
    """

    def __init__(self) -> None:
        self._first: tuple[float, int, float] | None = None
        self._last: tuple[float, int, float] | None = None

    def mark(self, step: int, time_fs: float) -> None:
        self._last = (time.monotonic(), step, time_fs)
        self._first = self._first or self._last

    def _passed(self) -> tuple[float, int, float]:
        """Wall seconds, steps and simulated fs between the first and the last mark."""
        if self._first is None or self._last is None:
            return 0.0, 0, 0.0
        a, b = self._first, self._last
        return b[0] - a[0], b[1] - a[1], b[2] - a[2]

    @property
    def ns_per_day(self) -> float | None:
        """Simulated ns per day, None before it can be known or when no time is simulated (minimisation)."""
        seconds, _, simulated = self._passed()
        return simulated / _FS_PER_NS * _DAY / seconds if seconds > 0.0 and simulated > 0.0 else None

    def seconds_left(self, total_steps: int) -> float | None:
        """Wall seconds to ``total_steps`` at the speed so far, or None."""
        seconds, steps, _ = self._passed()
        if steps <= 0 or self._last is None:
            return None
        return max(total_steps - self._last[1], 0) * seconds / steps


def duration(seconds: float | None) -> str:
    """``2 d 03:04:05``, ``0:12:30``, or ``-`` when unknown."""
    if seconds is None:
        return "-"
    days, rest = divmod(round(seconds), 86400)
    clock = f"{rest // 3600}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days} d {clock}" if days else clock


def speed(ns_per_day: float | None) -> str:
    """``12.3 ns/day``, or ``- ns/day`` when unknown."""
    return "- ns/day" if ns_per_day is None else f"{ns_per_day:.3g} ns/day"


class ProgressReporter:
    """A progress bar (step, total, ns/day, time left) on a terminal; does nothing elsewhere and writes no file.

    ``console`` is the one that the log writes to, so that lines appear above the bar.
    """

    def __init__(self, console: Console | None, *, total_steps: int, every: int = 10) -> None:
        self.every = every
        self._console = console if console is not None and console.is_terminal else None
        self._total = total_steps
        self._pace = Pace()
        self._bar: Progress | None = None
        self._drawn = float("-inf")

    def report(self, state: State, info: StepInfo) -> None:
        if self._console is None:
            return
        self._pace.mark(state.step, state.time_fs)
        now = time.monotonic()
        if now - self._drawn < 0.1 and state.step < self._total:
            return
        self._drawn = now
        bar = self._start()
        bar.update(
            bar.task_ids[0],
            completed=state.step,
            description=info.stage or "run",
            speed=speed(self._pace.ns_per_day),
            left=duration(self._pace.seconds_left(self._total)),
        )

    def _start(self) -> Progress:
        if self._bar is None:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"),
                TextColumn("{task.fields[left]} left"),
                console=self._console,
            )
            self._bar.add_task("run", total=self._total, speed=speed(None), left=duration(None))
            self._bar.start()
        return self._bar

    def position(self) -> dict[str, Any]:
        return {}

    def rewind(self, position: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        self._console = None
