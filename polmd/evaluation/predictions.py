"""Predictions of a model for frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from polmd.errors import InputError, PolmdError
from polmd.evaluation.frames import Frame
from polmd.model.file import Model

if TYPE_CHECKING:
    from polmd.potential import MultipolePotential
    from polmd.system import System

#: Predictions on request, with the unit of each.
MOMENTS = {
    "charges": "e", "dipoles": "e Å", "quadrupoles": "e Å²", "charge_responses": "e/V", "polarizabilities": "e Å²/V",
    "induced_charges": "e", "induced_dipoles": "e Å", "potentials": "V", "fields": "V/Å",
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What is predicted.

    Attributes
    ----------
    moments : the multipoles, and the dipole moment and polarisability of each frame
    born_charges : Born effective charges, with the conventions that follow
    displacement, acoustic_sum_rule, born_charge_scale : see :meth:`polmd.MultipolePotential.compute`
    """

    moments: bool = False
    born_charges: bool = False
    displacement: str = "edge"
    acoustic_sum_rule: bool = True
    born_charge_scale: float = 1.0


@dataclass
class Prediction:
    """What a model says about one frame.

    Attributes
    ----------
    energy : eV
    arrays : name → array: forces (n, 3) eV/Å; of periodic frames stress (3, 3) eV/Å³; with moments those of
        :data:`MOMENTS`, polarizability (3, 3) Å³ (the sum over atoms, unscreened) and, of open frames, dipole (3,) e Å;
        with born_charges those (n, 3, 3) e
    failure : why the frame could not be evaluated, or empty; then energy is NaN and there are no arrays
    """

    energy: float
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    failure: str = ""


def predict(
    model: Model,
    frames: Sequence[Frame],
    settings: Settings | None = None,
    *,
    jobs: int = 1,
    progress: Callable[[int], None] | None = None,
) -> list[Prediction]:
    """Evaluate frames, each with all threads, or ``jobs`` at a time in processes that share the threads.

    Parameters
    ----------
    model : the model
    frames : what to evaluate
    settings : what to predict, by default energies, forces and stress
    jobs : processes; more than one pays for many small frames, as each takes seconds to start
    progress : called with the number of frames done

    Raises
    ------
    InputError
        before anything is computed, for elements that the model does not know; a frame that fails later only says so in
        its prediction, and the others are kept
    """
    settings = settings or Settings()
    _check_elements(model, frames)
    systems = [frame.system for frame in frames]
    results: list[Prediction] = []
    found = _in_processes(model, systems, settings, jobs) if jobs > 1 else _in_turn(model, systems, settings)
    for prediction in found:
        results.append(prediction)
        if progress is not None:
            progress(len(results))
    return results


def _in_turn(model: Model, systems: Sequence[System], settings: Settings) -> Iterator[Prediction]:
    from polmd.potential import MultipolePotential

    potential = MultipolePotential(model, skin=0.0)
    for system in systems:
        yield _one(potential, system, settings)


def _in_processes(model: Model, systems: Sequence[System], settings: Settings, jobs: int) -> Iterator[Prediction]:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    import numba

    jobs = min(jobs, len(systems))
    threads = max(1, numba.get_num_threads() // jobs)
    chunk = max(1, min(64, len(systems) // (8 * jobs)))
    with ProcessPoolExecutor(jobs, get_context("spawn"), _start_worker, (model, settings, threads)) as pool:
        yield from pool.map(_work, systems, chunksize=chunk)


_worker: tuple[MultipolePotential, Settings] | None = None


def _start_worker(model: Model, settings: Settings, threads: int) -> None:
    global _worker
    import numba

    from polmd.potential import MultipolePotential

    numba.set_num_threads(threads)
    _worker = MultipolePotential(model, skin=0.0), settings


def _work(system: System) -> Prediction:
    assert _worker is not None
    return _one(_worker[0], system, _worker[1])


def _one(potential: MultipolePotential, system: System, settings: Settings) -> Prediction:
    options: dict[str, Any] = {}
    if settings.born_charges:
        options = {
            "born_charges": True,
            "displacement": settings.displacement,
            "acoustic_sum_rule": settings.acoustic_sum_rule,
            "born_charge_scale": settings.born_charge_scale,
        }
    try:
        result: Any = potential.compute(system, stress=system.periodic, **options)
    except PolmdError as error:
        return Prediction(float("nan"), failure=str(error))
    arrays = {"forces": result.forces}
    if result.stress is not None:
        arrays["stress"] = result.stress
    if settings.moments:
        arrays |= {name: getattr(result, name) for name in MOMENTS if getattr(result, name) is not None}
        norm_factor = potential.model.header.electrostatics.norm_factor
        if result.polarizabilities is not None:  # e Å²/V × 1/(4π ε0) in V Å/e
            arrays["polarizability"] = result.polarizabilities.sum(axis=0) * norm_factor / (2 * np.pi)
        if result.charges is not None and not system.periodic:
            arrays["dipole"] = _dipole(system, arrays)
    if settings.born_charges:
        arrays["born_charges"] = result.born_charges
    return Prediction(result.energy, arrays)


def _dipole(system: System, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Σ q̃ r + Σ (u + u^ind) with q̃ = q + q^ind less its mean, so that the origin does not matter."""
    charges = arrays["charges"] + arrays.get("induced_charges", 0.0)
    dipole = (charges - charges.mean()) @ system.positions
    for name in ("dipoles", "induced_dipoles"):
        if name in arrays:
            dipole = dipole + arrays[name].sum(axis=0)
    return dipole


def _check_elements(model: Model, frames: Sequence[Frame]) -> None:
    from ase.data import chemical_symbols

    known = np.array(model.elements)
    for frame in frames:
        unknown = np.flatnonzero(~np.isin(frame.system.numbers, known))
        if len(unknown):
            symbol = chemical_symbols[frame.system.numbers[unknown[0]]]
            symbols = ", ".join(chemical_symbols[z] for z in known)
            raise InputError(
                f"{frame}: element {symbol} (atom {unknown[0]}, counted from 0) is not in model '{model.name}', which "
                f"knows {symbols}"
            )
