"""Frames of any trajectory: run directories of polmd, extended XYZ (whatever ASE reads), H5MD of other programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polmd.errors import InputError
from polmd.system import System

#: Å and fs of the length and time units that H5MD files name.
_LENGTHS = {"Angstrom": 1.0, "angstrom": 1.0, "A": 1.0, "nm": 10.0, "pm": 0.01}
_TIMES = {"fs": 1.0, "ps": 1000.0, "ns": 1e6}


@dataclass(frozen=True)
class Frames:
    """A trajectory.

    Attributes
    ----------
    path : of the file or the run directory
    times : (frames,) fs
    stages : (frames,) a number that changes where the dynamics was interrupted, or None
    systems : the frames, in order; positions of periodic systems are unwrapped: an atom moves by less than half the cell
        from frame to frame
    """

    path: Path
    times: np.ndarray
    stages: np.ndarray | None
    systems: list[System]

    def __len__(self) -> int:
        return len(self.systems)


def read_frames(path: str | Path, *, interval_fs: float | None = None, every: int = 1) -> Frames:
    """Read a trajectory.

    Parameters
    ----------
    path : a run directory or trajectory of polmd, an H5MD file, or a file that ASE reads (extended XYZ)
    interval_fs : time between the frames of the file, where it does not tell or is wrong
    every : take every n-th frame

    Raises
    ------
    InputError
        for a file that cannot be read, frames with other atoms than the first, or unknown times
    """
    from polmd.output.trajectory import MASTER, Trajectory

    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    stages: np.ndarray | None = None
    found: list[tuple[float | None, System]]
    if path.is_dir() or path.name == MASTER:
        with Trajectory(path) as trajectory:
            found = [
                (
                    frame.time_fs,
                    System(
                        trajectory.numbers,
                        frame.positions,
                        frame.cell,
                        trajectory.pbc,
                        trajectory.masses,
                        frame.velocities,
                    ),
                )
                for frame in trajectory[::every]
            ]
    elif path.suffix.lower() in (".h5", ".h5md", ".hdf5"):
        found = list(_h5md(path))[::every]
    else:
        found = list(_ase(path))[::every]
    if not found:
        raise InputError(f"{path} holds no frame")
    systems = [system for _, system in found]
    for index, system in enumerate(systems):
        if not np.array_equal(system.numbers, systems[0].numbers):
            raise InputError(f"{path}: frame {index * every} has other atoms than the first")
    if interval_fs is not None:
        times = np.arange(len(found)) * interval_fs * every
    else:
        known = [time for time, _ in found if time is not None]
        if len(known) < len(found):
            raise InputError(f"{path} does not tell the times of its frames (key time_fs): give --interval-fs")
        times = np.array(known, dtype=float)
    _unwrap(systems)
    return Frames(path, times, stages, systems)


def _ase(path: Path) -> Iterator[tuple[float | None, System]]:
    from ase.io import iread

    try:
        for atoms in iread(path, ":"):
            time = atoms.info.get("time_fs")
            yield (None if time is None else float(time)), System.from_ase(atoms)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: ASE cannot read it as a trajectory ({type(error).__name__}: {error})") from error


def _h5md(path: Path) -> Iterator[tuple[float | None, System]]:
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            yield from _h5md_frames(path, file)
    except (OSError, KeyError) as error:
        raise InputError(f"{path} is no H5MD file with particles, position and species: {error}") from error


def _h5md_frames(path: Path, file: Any) -> Iterator[tuple[float | None, System]]:
    from ase.data import atomic_masses

    group = next(iter(file["particles"].values()))
    positions, length = group["position/value"], _unit(path, group["position/value"], _LENGTHS)
    numbers = np.asarray(group["species"][()], dtype=np.int64)
    masses = np.asarray(group["mass"][()], dtype=float) if "mass" in group else atomic_masses[numbers]
    boundary = [b.decode() if isinstance(b, bytes) else b for b in group["box"].attrs.get("boundary", ["none"] * 3)]
    pbc = [b == "periodic" for b in boundary]
    speed = 1.0
    velocities = group["velocity/value"] if "velocity" in group else None
    if velocities is not None and "unit" in velocities.attrs:
        words = str(velocities.attrs["unit"]).replace("/", " ").split()
        speed = _LENGTHS.get(words[0], 1.0) / _TIMES.get(words[-1].removesuffix("-1"), 1.0)
    times = group["position/time"][()] if "time" in group["position"] else None
    clock = _unit(path, group["position/time"], _TIMES) if times is not None else 1.0
    if times is not None and np.ndim(times) == 0:
        times = float(times) * np.arange(len(positions))
    for k in range(len(positions)):
        cell = np.zeros((3, 3))
        if "edges" in group["box"]:
            edges = group["box/edges"]
            cell = np.asarray(edges["value"][k] if "value" in edges else edges[()], dtype=float)
            cell = length * (np.diag(cell) if cell.ndim == 1 else cell)
        v = np.zeros_like(positions[k]) if velocities is None else speed * velocities[k]
        time = None if times is None else clock * float(times[k])
        yield time, System(numbers, length * positions[k], cell, np.array(pbc), masses, v)


def _unit(path: Path, dataset: Any, known: dict[str, float]) -> float:
    name = dataset.attrs.get("unit")
    name = name.decode() if isinstance(name, bytes) else name
    if name is None:
        return 1.0
    if name not in known:
        raise InputError(f"{path}: unit {name!r} of {dataset.name} is not known; known are {', '.join(known)}")
    return known[name]


def _unwrap(systems: list[System]) -> None:
    before: System | None = None
    for system in systems:
        if before is not None and system.pbc.any():
            axes = np.flatnonzero(system.pbc)
            cell = system.cell[axes]
            jumps = (system.positions - before.positions) @ np.linalg.pinv(cell)
            system.positions -= np.round(jumps) @ cell
        before = system
