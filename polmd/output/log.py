"""The log of a run: plain lines in ``run.log``, shown on a terminal as well. The only output that knows wall time."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polmd.dynamics.state import State
from polmd.errors import OutputError
from polmd.output.files import writing
from polmd.output.progress import Pace, duration, speed
from polmd.output.reporter import StepInfo

if TYPE_CHECKING:
    from rich.console import Console


def terminal() -> Console | None:
    """A console on standard error when that is a terminal, else None."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console

    return Console(stderr=True)


class RunLog:
    """Appends lines to a file, each with the local time, and prints them on ``console`` when there is one.

    The log keeps its whole history: a resumed run adds to it.
    """

    def __init__(self, path: str | Path, console: Console | None = None) -> None:
        self.path = Path(path)
        self.console = console
        with writing(self.path):
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def info(self, text: str) -> None:
        self._write(text, None)

    def warning(self, text: str) -> None:
        self._write(f"warning: {text}", "yellow")

    def error(self, text: str) -> None:
        """The reason why a run ends. A log that cannot be written (a full disk, say) must not hide it: no error here."""
        with suppress(OutputError):
            self._write(f"error: {text}", "red")

    def _write(self, text: str, style: str | None) -> None:
        if self.console is not None:
            self.console.print(text, style=style, markup=False, highlight=False)
        if self._fd < 0:
            raise OutputError(f"{self.path} is closed")
        stamp = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        data = "".join(f"{stamp}  {line}\n" for line in text.splitlines() or [""]).encode()
        with writing(self.path):
            while data:
                data = data[os.write(self._fd, data) :]

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class LogReporter:
    """A line for every ``every``-th step: step, time, energies, temperature, ns/day and time left.

    ``total_steps`` counts all stages. The log is not cut back on resume, so its position is empty.
    """

    def __init__(self, log: RunLog, *, every: int, total_steps: int) -> None:
        if every < 1:
            raise OutputError("every of a log is at least 1")
        self.every = every
        self.log = log
        self._total = total_steps
        self._pace = Pace()

    def report(self, state: State, info: StepInfo) -> None:
        self._pace.mark(state.step, state.time_fs)
        percent = 100.0 * state.step / self._total if self._total else 100.0
        parts = [
            f"{info.stage or 'run'} step {state.step}/{self._total} ({percent:.1f} %)",
            f"time {state.time_fs / 1000.0:.4f} ps",
            f"E {state.result.energy + state.kinetic_energy:.6f} eV",
            f"conserved {info.conserved:.6f} eV",
            f"T {info.temperature:.2f} K",
            speed(self._pace.ns_per_day),
            f"ETA {duration(self._pace.seconds_left(self._total))}",
        ]
        self.log.info("  ".join(parts))

    def position(self) -> dict[str, Any]:
        return {}

    def rewind(self, position: Mapping[str, Any]) -> None:
        """Keeps what is there; the loop says in the log where it resumed."""

    def close(self) -> None:
        """The log itself is closed by whoever opened it, after the last message."""
