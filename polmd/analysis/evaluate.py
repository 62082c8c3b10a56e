"""The electrical response of stored frames, computed in parallel."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np

from polmd.analysis.frames import Frames
from polmd.analysis.series import Series, continuous
from polmd.born import Conventions
from polmd.errors import InputError
from polmd.model.file import Model
from polmd.molecules import molecular_dipole, molecules
from polmd.potential import MultipolePotential
from polmd.system import System
from polmd.units import ACCELERATION, BOLTZMANN

#: Frames that a worker takes at a time.
_CHUNK = 8

_worker: dict[str, Any] = {}


def evaluate(
    frames: Frames,
    model: Model,
    conventions: Conventions,
    *,
    by_species: bool = True,
    workers: int | None = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> Series:
    """P, J and Σα of every frame.

    Parameters
    ----------
    frames : with velocities
    model : the model
    conventions : of Born charges
    by_species : split the current by the element of the moving atoms
    workers : processes; None takes one per core (a script then needs ``if __name__ == "__main__"``)
    progress : told how many more frames are done

    Raises
    ------
    InputError
        for frames without velocities or elements that the model does not know
    """
    from ase.data import chemical_symbols

    first = frames.systems[0]
    if not any(s.velocities.any() for s in frames.systems):
        raise InputError(f"{frames.path} holds no velocities: a current needs them")
    interval, pieces = continuous(frames.times, frames.stages)
    names, groups = ["all"], np.zeros(len(first), dtype=np.int64)
    if by_species:
        elements, groups = np.unique(first.numbers, return_inverse=True)
        names = [chemical_symbols[z] for z in elements]
    count = min(workers or os.cpu_count() or 1, (len(frames) + _CHUNK - 1) // _CHUNK)
    chunks = [frames.systems[k : k + _CHUNK] for k in range(0, len(frames), _CHUNK)]
    molecule, shifts = molecules(first)
    setting = (model, conventions, groups, molecule, shifts)
    rows: list[dict[str, np.ndarray]] = []
    for found in _map(chunks, setting, count):
        rows += found
        progress(len(found))
    columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    periodic = first.periodic
    dipoles = columns["dipoles"]
    kinetic = [float(np.sum(s.masses[:, None] * s.velocities**2)) / ACCELERATION for s in frames.systems]
    freedoms = 3 * len(first) - (3 if len(first) > 1 else 0)
    return Series(
        name=str(frames.path),
        interval_fs=interval,
        pieces=pieces,
        groups=tuple(names),
        current=columns["current"],
        other_charge=columns["other_charge"],
        polarization=None if periodic else conventions.scale * (columns["charge"] + dipoles),
        molecular=conventions.scale * (columns["molecular"] + dipoles),
        polarizability=columns["polarizability"] if "polarizabilities" in model.header.predicts else None,
        temperature=float(np.mean(kinetic)) / (freedoms * BOLTZMANN),
        cells=np.stack([s.cell for s in frames.systems]),
        conventions=str(conventions),
        scale=conventions.scale,
        frictions_per_ps=(),
    )


def _map(chunks: list[list[System]], setting: tuple, workers: int) -> Iterator[list[dict[str, np.ndarray]]]:
    if workers <= 1:
        _start(*setting)
        yield from map(_respond, chunks)
        return
    context = multiprocessing.get_context("spawn")
    threads = os.environ.get("NUMBA_NUM_THREADS")
    os.environ["NUMBA_NUM_THREADS"] = "1"  # for the workers
    try:
        with ProcessPoolExecutor(workers, context, initializer=_start, initargs=setting) as pool:
            yield from pool.map(_respond, chunks)
    finally:
        if threads is None:
            del os.environ["NUMBA_NUM_THREADS"]
        else:
            os.environ["NUMBA_NUM_THREADS"] = threads


def _start(
    model: Model, conventions: Conventions, groups: np.ndarray, molecule: np.ndarray, shifts: np.ndarray
) -> None:
    _worker["potential"] = MultipolePotential(model)
    _worker["conventions"], _worker["groups"] = conventions, groups
    _worker["molecule"], _worker["shifts"] = molecule, shifts


def _respond(systems: list[System]) -> list[dict[str, np.ndarray]]:
    rows = []
    for system in systems:
        r = _worker["potential"].response(
            system, _worker["conventions"], velocities=system.velocities, groups=_worker["groups"]
        )
        whole = system.positions + _worker["shifts"] @ system.cell
        rows.append(
            {
                "current": r.current.parts,
                "other_charge": r.current.other_charge,
                "charge": np.real(r.polarization.charge) if not system.periodic else np.zeros(3),
                "dipoles": r.polarization.permanent + r.polarization.induced,
                "molecular": molecular_dipole(r.charges, whole, system.masses, _worker["molecule"]),
                "polarizability": r.polarizability,
            }
        )
    return rows
