"""Structural relaxation, as an integrator whose steps take no time."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from polmd.dynamics.state import Potential, State
from polmd.errors import InputError
from polmd.kernels.cpu.integrate import fire_step, largest_norm, power
from polmd.system import System
from polmd.units import ACCELERATION


class Fire:
    """The fast inertial relaxation engine: downhill dynamics, restarted whenever it goes uphill.

    Before each step, with P = F · v: if P > 0 and has been for more than 5 steps, Δt ← min(1.1 Δt, Δt_max) and
    α ← 0.99 α; if P ≤ 0, v ← 0, Δt ← ½ Δt, α ← 0.1. Then v ← v + Δt F/m, v ← (1 − α) v + α |v| F/|F|, x ← x + Δt v,
    with the whole step scaled down if an atom would move further than ``largest_step_A``.

    ===========  ==================================================================
    F, v         forces on, and FIRE's own velocities of, all atoms as one vector
    m            1 amu for every atom
    α            how far velocities are turned towards the forces
    Δt, Δt_max   ``first_timestep_fs`` at the start, at most ``largest_timestep_fs``
    ===========  ==================================================================

    Bitzek, Koskinen, Gähler, Moseler, Gumbsch, Phys. Rev. Lett. 97, 170201 (2006), doi:10.1103/PhysRevLett.97.170201,
    in the semi-implicit Euler order of Guénolé et al., Comput. Mater. Sci. 175, 109584 (2020),
    doi:10.1016/j.commatsci.2020.109584.

    The velocities of the system are set to zero: a minimised structure is at rest. Converged when no force on an atom
    is longer than ``force_tolerance_eV_per_A``. Deterministic.
    """

    timestep_fs = 0.0
    changes_cell, stochastic = False, False

    def __init__(
        self,
        force_tolerance_eV_per_A: float = 0.05,
        *,
        largest_step_A: float = 0.2,
        first_timestep_fs: float = 1.0,
        largest_timestep_fs: float = 10.0,
    ) -> None:
        for name, value in (
            ("force_tolerance_eV_per_A", force_tolerance_eV_per_A),
            ("largest_step_A", largest_step_A),
            ("first_timestep_fs", first_timestep_fs),
            ("largest_timestep_fs", largest_timestep_fs),
        ):
            if not (math.isfinite(value) and value > 0.0):
                raise InputError(f"{name} is {value}: it must be a finite number larger than zero")
        self.force_tolerance_eV_per_A = force_tolerance_eV_per_A
        self.largest_step_A = largest_step_A
        self.largest_timestep_fs = largest_timestep_fs
        self._timestep_fs = first_timestep_fs
        self._mixing = 0.1
        self._downhill = 0
        self._velocities = np.zeros((0, 3))

    def step(self, state: State, potential: Potential, *, stress: bool = False) -> None:
        """Move the atoms once and compute the forces there."""
        system = state.system
        forces = _mobile_forces(state)
        if self._velocities.shape != forces.shape:
            self._velocities = np.zeros(forces.shape)
            system.velocities[:] = 0.0
        elif power(self._velocities, forces) > 0.0:
            self._downhill += 1
            if self._downhill > 5:
                self._timestep_fs = min(1.1 * self._timestep_fs, self.largest_timestep_fs)
                self._mixing *= 0.99
        else:
            self._velocities[:] = 0.0
            self._downhill = 0
            self._timestep_fs *= 0.5
            self._mixing = 0.1
        fire_step(
            system.positions,
            self._velocities,
            forces,
            self._timestep_fs * ACCELERATION,
            self._mixing,
            self._timestep_fs,
            self.largest_step_A,
        )
        state.result = potential.compute(system, stress=stress)

    def conserved(self, state: State) -> float:
        """The potential energy, eV: what the minimisation lowers."""
        return state.result.energy

    def degrees_of_freedom(self, system: System) -> int:
        """3n; the temperature of a minimisation is zero."""
        return 3 * len(system)

    def finished(self, state: State) -> bool:
        """True when the longest force on an atom that may move is at most the tolerance."""
        return bool(largest_norm(_mobile_forces(state)) <= self.force_tolerance_eV_per_A)

    def state_arrays(self) -> dict[str, np.ndarray]:
        """FIRE's velocities, timestep, mixing and number of steps downhill."""
        return {
            "velocities": self._velocities.copy(),
            "timestep_fs": np.array(self._timestep_fs),
            "mixing": np.array(self._mixing),
            "downhill": np.array(self._downhill),
        }

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take back what ``state_arrays`` gave."""
        self._velocities = np.array(arrays["velocities"], dtype=np.float64, order="C")
        self._timestep_fs = float(arrays["timestep_fs"])
        self._mixing = float(arrays["mixing"])
        self._downhill = int(arrays["downhill"])


def _mobile_forces(state: State) -> np.ndarray:
    """Forces, zero on fixed atoms."""
    fixed = state.system.fixed
    return np.where(fixed[:, None], 0.0, state.result.forces) if fixed.any() else state.result.forces
