"""What a running simulation is made of: the state, and the seams that a potential, an integrator, a reporter fill."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np

from polmd.kernels.cpu.integrate import kinetic_energy
from polmd.system import System
from polmd.units import ACCELERATION, BOLTZMANN

if TYPE_CHECKING:
    from polmd.compiled import CompiledEvaluation


class EnergyForces(Protocol):
    """What dynamics needs of a potential's result: energy (eV), forces (n, 3) eV/Å, stress (3, 3) eV/Å³ or None."""

    @property
    def energy(self) -> float: ...

    @property
    def forces(self) -> np.ndarray: ...

    @property
    def stress(self) -> np.ndarray | None: ...


@runtime_checkable
class Potential(Protocol):
    """Energy and forces of a system.

    ``state`` returns arrays that, given to ``restore`` of a fresh potential, make its next results equal bit for bit
    (for instance the positions at which the neighbour list was built: they fix the order of summation). A result is
    not changed by later calls: the loop keeps the one of the last good step.
    """

    def compute(self, system: System, *, stress: bool = False) -> EnergyForces: ...

    def state(self) -> dict[str, np.ndarray]: ...

    def restore(self, state: Mapping[str, np.ndarray]) -> None: ...


@runtime_checkable
class CellAware(Protocol):
    """A potential with a discretisation that depends on the cell, such as a set of wave vectors.

    ``fix_wave_numbers`` says which one from now on: that of the given cell (3, 3), however the cell changes, so that the
    energy stays continuous and the stress its derivative; or, with None, that of each cell it is given.
    """

    def fix_wave_numbers(self, cell: np.ndarray | None) -> None: ...


class Bounds(NamedTuple):
    """A step beyond has failed: longest force on an atom, eV/Å; longest move of an atom, Å; kinetic energy, amu Å²/fs²."""

    force: float = math.inf
    displacement: float = math.inf
    kinetic: float = math.inf


NO_BOUNDS = Bounds()


class Compilable(Potential, Protocol):
    """A potential that a compiled loop can evaluate, see :class:`polmd.compiled.CompiledEvaluation`.

    ``compiled`` returns what the loop needs from a system's positions on, or None where only ``compute`` will do;
    ``result_of`` the result of its last evaluation. Bits are those of ``compute``.
    """

    def compiled(self, system: System) -> CompiledEvaluation | None: ...

    def result_of(self, system: System, found: CompiledEvaluation, *, stress: bool = False) -> EnergyForces: ...


@dataclass
class State:
    """One point of a trajectory, with its own random generator.

    Attributes
    ----------
    system : positions (Å, unwrapped), velocities (Å/fs), cell; changed in place by integrators
    result : the potential's result at these positions
    rng : the only source of randomness of a run
    step : steps done since the start of the run, over all stages
    time_fs : simulated time since the start of the run
    """

    system: System
    result: EnergyForces
    rng: np.random.Generator
    step: int = 0
    time_fs: float = 0.0

    @property
    def kinetic_energy(self) -> float:
        """½ Σ m v², eV."""
        return float(kinetic_energy(self.system.velocities, self.system.masses)) / ACCELERATION

    def temperature(self, degrees_of_freedom: int) -> float:
        """2 E_kin / (degrees_of_freedom · k_B), K; zero without degrees of freedom."""
        if degrees_of_freedom < 1:
            return 0.0
        return 2.0 * self.kinetic_energy / (degrees_of_freedom * BOLTZMANN)
