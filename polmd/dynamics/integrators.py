"""Integrators: one time step of a ``State``, in place.

In all of them B is a kick, v += τ F/m (with τ the duration of the substep), A a drift, x += τ v, and T a thermostat.
Forces are computed once a step, after the last drift, so that ``state.result`` always belongs to the positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from polmd.dynamics.state import Potential, State
from polmd.dynamics.thermostats import OrnsteinUhlenbeck, Thermostat
from polmd.dynamics.velocities import Momentum, check_momentum, degrees_of_freedom
from polmd.errors import InputError
from polmd.kernels.cpu.integrate import drift, kick
from polmd.system import System
from polmd.units import ACCELERATION


class Integrator(Protocol):
    """Takes a state one step further.

    ``timestep_fs`` is the time that a step simulates (zero for a minimiser: its steps are counted but take no time);
    ``needs_stress`` asks for the stress with every force (a barostat does). ``state_arrays`` is all that is remembered
    from step to step: given to ``restore`` of an integrator made with the same arguments, the trajectory goes on bit
    for bit. ``state.step`` and ``state.time_fs`` are the loop's.
    """

    timestep_fs: float
    needs_stress: bool

    def step(self, state: State, potential: Potential, *, stress: bool = False) -> None: ...

    def conserved(self, state: State) -> float:
        """The energy that exact integration would keep constant, eV."""
        ...

    def degrees_of_freedom(self, system: System) -> int:
        """How many independent velocities the temperature is shared by."""
        ...

    def finished(self, state: State) -> bool:
        """True when no further step is wanted: a minimiser that has converged."""
        ...

    def state_arrays(self) -> dict[str, np.ndarray]: ...

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None: ...


class VelocityVerlet:
    """Constant energy (NVE): velocity Verlet, the symmetric splitting B A B.

    v ← v + ½Δt F/m;   x ← x + Δt v;   F ← F(x);   v ← v + ½Δt F/m

    Time-reversible and symplectic; the energy fluctuates by O(Δt²) about a constant. Swope, Andersen, Berens, Wilson,
    J. Chem. Phys. 76, 637 (1982), doi:10.1063/1.442716.

    Parameters
    ----------
    timestep_fs : Δt
    momentum : what the potential conserves and the start has set to zero, which fixes the degrees of freedom that the
        temperature is reported with: ``"linear"`` (3n − 3), ``"linear+angular"`` (3n − 6, open boundaries) or
        ``"none"`` (3n). The trajectory does not depend on it.
    """

    needs_stress = False

    def __init__(self, timestep_fs: float, *, momentum: Momentum = "linear") -> None:
        check_momentum(momentum)
        self.timestep_fs = _checked_timestep(timestep_fs)
        self.momentum: Momentum = momentum

    def step(self, state: State, potential: Potential, *, stress: bool = False) -> None:
        """Advance positions and velocities by Δt."""
        system = state.system
        inverse_masses = 1.0 / system.masses
        half_kick = 0.5 * self.timestep_fs * ACCELERATION
        kick(system.velocities, state.result.forces, inverse_masses, half_kick)
        drift(system.positions, system.velocities, self.timestep_fs)
        state.result = potential.compute(system, stress=stress)
        kick(system.velocities, state.result.forces, inverse_masses, half_kick)

    def conserved(self, state: State) -> float:
        """Potential plus kinetic energy, eV."""
        return state.result.energy + state.kinetic_energy

    def degrees_of_freedom(self, system: System) -> int:
        """See ``velocities.degrees_of_freedom``."""
        return degrees_of_freedom(system, self.momentum)

    def finished(self, state: State) -> bool:
        """Never."""
        return False

    def state_arrays(self) -> dict[str, np.ndarray]:
        """Nothing is remembered."""
        return {}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Nothing to take back."""


class Thermostatted:
    """Constant temperature (NVT): velocity Verlet with a thermostat in the middle of the drift, B A T A B.

    v ← v + ½Δt F/m;   x ← x + ½Δt v;   v ← T_Δt(v);   x ← x + ½Δt v;   F ← F(x);   v ← v + ½Δt F/m

    The thermostat reports the kinetic energy it adds; the sum since the start of the stage is ``heat_eV``, and
    potential + kinetic − heat is conserved as well as the energy is by velocity Verlet. In the middle the thermostat
    costs no accuracy of configurations: Zhang, Liu, Yan, Tuckerman, Liu, J. Phys. Chem. A 123, 6056 (2019),
    doi:10.1021/acs.jpca.9b02771.
    """

    needs_stress = False

    def __init__(self, timestep_fs: float, thermostat: Thermostat) -> None:
        self.timestep_fs = _checked_timestep(timestep_fs)
        self.thermostat = thermostat
        self.heat_eV = 0.0

    def step(self, state: State, potential: Potential, *, stress: bool = False) -> None:
        """Advance positions and velocities by Δt and ``heat_eV`` by what the thermostat added."""
        system = state.system
        inverse_masses = 1.0 / system.masses
        half_kick = 0.5 * self.timestep_fs * ACCELERATION
        half_drift = 0.5 * self.timestep_fs
        kick(system.velocities, state.result.forces, inverse_masses, half_kick)
        drift(system.positions, system.velocities, half_drift)
        self.heat_eV += self.thermostat.apply(state, self.timestep_fs)
        drift(system.positions, system.velocities, half_drift)
        state.result = potential.compute(system, stress=stress)
        kick(system.velocities, state.result.forces, inverse_masses, half_kick)

    def conserved(self, state: State) -> float:
        """Potential plus kinetic energy, less the heat from the thermostat, eV."""
        return state.result.energy + state.kinetic_energy - self.heat_eV

    def degrees_of_freedom(self, system: System) -> int:
        """See ``velocities.degrees_of_freedom``."""
        return degrees_of_freedom(system, self.thermostat.momentum)

    def finished(self, state: State) -> bool:
        """Never."""
        return False

    def state_arrays(self) -> dict[str, np.ndarray]:
        """``heat_eV`` and what the thermostat remembers."""
        inner = {f"thermostat.{name}": array for name, array in self.thermostat.state_arrays().items()}
        return {"heat_eV": np.array(self.heat_eV), **inner}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take back what ``state_arrays`` gave."""
        self.heat_eV = float(arrays["heat_eV"])
        prefix = "thermostat."
        self.thermostat.restore({k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)})


class Langevin(Thermostatted):
    """Langevin dynamics (NVT) by BAOAB: ``Thermostatted`` with the exact Ornstein–Uhlenbeck step O in the middle.

    m dv = F dt − γ m v dt + √(2 γ m k_B T) dW,   dx = v dt

    For a harmonic potential the configurations have the exact canonical distribution at every stable Δt, the velocities
    a variance of (1 − ω²Δt²/4) k_B T/m at the end of a step. Leimkuhler, Matthews, Appl. Math. Res. Express 2013, 34,
    doi:10.1093/amrx/abs010; J. Chem. Phys. 138, 174102 (2013), doi:10.1063/1.4802990.

    Parameters
    ----------
    timestep_fs : Δt
    temperature_K : T
    friction_per_ps : γ
    momentum : ``"linear"`` (default): noise without total momentum, 3n − 3 degrees of freedom, a start at rest as a
        whole stays so. ``"none"``: noise in all 3n; needed when walls, wells or fixed atoms hold the system.
        See ``thermostats.OrnsteinUhlenbeck``. A single atom always has all three.
    """

    def __init__(
        self, timestep_fs: float, temperature_K: float, friction_per_ps: float, *, momentum: Momentum = "linear"
    ) -> None:
        super().__init__(timestep_fs, OrnsteinUhlenbeck(temperature_K, friction_per_ps, momentum=momentum))


def _checked_timestep(timestep_fs: float) -> float:
    if not (math.isfinite(timestep_fs) and timestep_fs > 0.0):
        raise InputError(f"timestep_fs is {timestep_fs}: it must be a finite number larger than zero")
    return float(timestep_fs)
