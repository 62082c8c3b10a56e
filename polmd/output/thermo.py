"""Thermodynamic quantities of a run: a CSV file with units in its column names and exact numbers."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from polmd.dynamics.state import State
from polmd.errors import OutputError
from polmd.kernels.cpu.integrate import total_momentum
from polmd.output.files import fsync_directory, write_all, writing
from polmd.output.reporter import StepInfo
from polmd.units import GIGAPASCAL

#: Columns of the file; momentum is |Σ m v|. A pressure that was not computed is left empty.
COLUMNS = (
    "step",
    "time_fs",
    "stage",
    "potential_energy_eV",
    "kinetic_energy_eV",
    "total_energy_eV",
    "conserved_eV",
    "temperature_K",
    "pressure_GPa",
    "volume_A3",
    "momentum_amu_A_per_fs",
)


def row(state: State, info: StepInfo) -> str:
    """One line of the file: every number in the shortest form that reads back as itself."""
    potential, kinetic, system = float(state.result.energy), state.kinetic_energy, state.system
    momentum = np.empty(3)
    total_momentum(system.velocities, system.masses, momentum)
    values = (
        potential,
        kinetic,
        potential + kinetic,
        info.conserved,
        info.temperature,
        None if info.pressure is None else info.pressure * GIGAPASCAL,
        system.volume,
        math.hypot(*momentum),
    )
    numbers = ["" if value is None else repr(float(value)) for value in values]
    return ",".join([str(int(state.step)), repr(float(state.time_fs)), str(info.stage_index), *numbers]) + "\n"


class ThermoReporter:
    """Appends a row to ``path`` for every ``every``-th step; each row goes to the system in one write."""

    def __init__(self, path: str | Path, *, every: int) -> None:
        if every < 1:
            raise OutputError("every of a thermo file is at least 1")
        self.every = every
        self.path = Path(path)
        self._fd = -1
        self._closed = False
        self._rows = self._bytes = self._crc = 0

    def report(self, state: State, info: StepInfo) -> None:
        self._open()
        self._append(row(state, info))
        self._rows += 1

    def position(self) -> dict[str, Any]:
        """Rows and bytes written (durable), and the CRC-32 of those bytes."""
        self._open()
        with writing(self.path):
            os.fsync(self._fd)
        return {"rows": self._rows, "bytes": self._bytes, "crc32": self._crc}

    def rewind(self, position: Mapping[str, Any]) -> None:
        """Cut the file to a remembered position, after checking that its bytes up to there are the same."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        rows, size, crc = int(position["rows"]), int(position["bytes"]), int(position["crc32"])
        try:
            with open(self.path, "rb") as file:
                head = file.read(size)
        except OSError as error:
            raise OutputError(f"cannot continue {self.path}: {error.strerror or error}") from error
        if len(head) < size or zlib.crc32(head) != crc:
            what = f"has {len(head)} bytes of {size}" if len(head) < size else "was changed"
            raise OutputError(
                f"cannot continue {self.path}: it {what} since the checkpoint; restore it, or start over elsewhere"
            )
        with writing(self.path):
            self._fd = os.open(self.path, os.O_RDWR)
            os.ftruncate(self._fd, size)
            os.fsync(self._fd)
        self._rows, self._bytes, self._crc = rows, size, crc

    def close(self) -> None:
        self._closed = True
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with writing(self.path):
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)

    def _open(self) -> None:
        if self._closed:
            raise OutputError(f"{self.path} is closed")
        if self._fd < 0:
            with writing(self.path):
                self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
                fsync_directory(self.path.parent)
            self._append(",".join(COLUMNS) + "\n")

    def _append(self, line: str) -> None:
        data = line.encode()
        with writing(self.path):
            try:
                write_all(self._fd, data, self._bytes)
            except OSError:
                os.ftruncate(self._fd, self._bytes)  # no half row stays
                raise
        self._bytes += len(data)
        self._crc = zlib.crc32(data, self._crc)
