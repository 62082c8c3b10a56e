"""Integrators: one time step of a ``State``, in place.

In all of them B is a kick, v += τ F/m (with τ the duration of the substep), A a drift, x += τ v, and T a thermostat.
Forces are computed once a step, after the last drift, so that ``state.result`` always belongs to the positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol, cast

import numpy as np

from polmd.dynamics.barostats import Barostat
from polmd.dynamics.loop import verlet_steps
from polmd.dynamics.ramp import Ramp, as_ramp
from polmd.dynamics.state import NO_BOUNDS, Bounds, Compilable, Potential, State
from polmd.dynamics.thermostats import NoseHooverChain, OrnsteinUhlenbeck, StochasticVelocityRescaling, Thermostat
from polmd.dynamics.velocities import Momentum, check_momentum, degrees_of_freedom
from polmd.errors import InputError
from polmd.kernels.cpu.integrate import drift, kick
from polmd.system import System
from polmd.units import ACCELERATION

#: Atoms times steps that are done before signals and clocks are looked at: a tenth of a second, some on a busy machine.
_ATOM_STEPS = 10_000


class Integrator(Protocol):
    """Takes a state one step further.

    ``timestep_fs`` is the time that a step simulates (zero for a minimiser: its steps are counted but take no time);
    ``changes_cell`` says that the cell moves (a barostat does it), ``stochastic`` that steps may draw from ``state.rng``.
    ``state_arrays`` is all that is remembered from step to step: given to ``restore`` of an integrator made with the same
    arguments, the trajectory goes on bit for bit. ``state.step`` and ``state.time_fs`` are the loop's.
    """

    timestep_fs: float
    changes_cell: bool
    stochastic: bool

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


class Resident(Protocol):
    """An integrator that does many steps before others see the state again: in compiled code, on a GPU
    (polmd/cuda/dynamics.py) or not.

    ``advance`` does up to ``count`` steps and returns how many. When a step fails, they are those before it, and the state is
    the last good one; where the first one fails it is that of the failed step, for the loop to find out what is
    wrong with it. The stress is wanted after all ``count`` steps. On a GPU nobody looks at the kinetic
    energy between.
    """

    def advance(
        self,
        state: State,
        potential: Potential,
        count: int,
        *,
        stress: bool = False,
        bounds: Bounds = NO_BOUNDS,
    ) -> int: ...


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

    changes_cell, stochastic = False, False

    def __init__(self, timestep_fs: float, *, momentum: Momentum = "linear") -> None:
        check_momentum(momentum)
        self.timestep_fs = _checked_timestep(timestep_fs)
        self.momentum: Momentum = momentum

    def step(self, state: State, potential: Potential, *, stress: bool = False) -> None:
        """Advance positions and velocities by Δt."""
        system = state.system
        inverse_masses = system.inverse_masses
        half_kick = 0.5 * self.timestep_fs * ACCELERATION
        kick(system.velocities, state.result.forces, inverse_masses, half_kick)
        drift(system.positions, system.velocities, self.timestep_fs)
        state.result = potential.compute(system, stress=stress)
        kick(system.velocities, state.result.forces, inverse_masses, half_kick)

    def advance(
        self,
        state: State,
        potential: Potential,
        count: int,
        *,
        stress: bool = False,
        bounds: Bounds = NO_BOUNDS,
    ) -> int:
        """See :class:`Resident`: many steps in a compiled loop (polmd/dynamics/loop.py) where the potential has one and a step
        is short, else one."""
        most = min(count, _ATOM_STEPS // len(state.system))
        same = type(self).step is VelocityVerlet.step  # a subclass may do something else
        if most > 1 and same and hasattr(potential, "compiled"):  # isinstance of a protocol takes 12 µs
            loops = cast("Compilable", potential)
            done = verlet_steps(state, loops, most, self.timestep_fs, bounds, stress=stress and most == count)
            if done > 0:
                return done
        self.step(state, potential, stress=stress and count == 1)
        return 1

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

    The thermostat reports the energy it gives; the sum since the start of the stage is ``heat_eV``, and
    potential + kinetic − heat is conserved as well as the energy is by velocity Verlet. In the middle the thermostat
    costs no accuracy of configurations: Zhang, Liu, Yan, Tuckerman, Liu, J. Phys. Chem. A 123, 6056 (2019),
    doi:10.1021/acs.jpca.9b02771. Velocities have their exact distribution in the middle of the drift; at the end of a
    step, where they are reported, a mode of frequency ω is colder by ω²Δt²/4 (3 % for O–H stretches at 0.5 fs).

    ``temperature`` is a ``ramp.Ramp`` that sets the thermostat's target in the middle of each step; None leaves it to
    whoever sets ``thermostat.temperature_K``.
    """

    changes_cell, stochastic = False, True

    def __init__(self, timestep_fs: float, thermostat: Thermostat, *, temperature: Ramp | None = None) -> None:
        self.timestep_fs = _checked_timestep(timestep_fs)
        self.thermostat = thermostat
        self.temperature = temperature
        self.heat_eV = 0.0
        self.steps = 0

    def step(self, state: State, potential: Potential, *, stress: bool = False) -> None:
        """Advance positions and velocities by Δt and ``heat_eV`` by what the thermostat added."""
        if self.temperature is not None:
            self.thermostat.temperature_K = self.temperature.at(self.steps + 0.5)
        self.steps += 1
        system = state.system
        inverse_masses = system.inverse_masses
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
        """``heat_eV``, steps done and what the thermostat remembers."""
        own = {"heat_eV": np.array(self.heat_eV), "steps": np.array(self.steps)}
        return own | _prefixed("thermostat.", self.thermostat.state_arrays())

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take back what ``state_arrays`` gave."""
        self.heat_eV = float(arrays["heat_eV"])
        self.steps = int(arrays["steps"])
        self.thermostat.restore(_without_prefix("thermostat.", arrays))


class Langevin(Thermostatted):
    """Langevin dynamics (NVT) by BAOAB: ``Thermostatted`` with the exact Ornstein–Uhlenbeck step O in the middle.

    m dv = F dt − γ m v dt + √(2 γ m k_B T) dW,   dx = v dt

    For a harmonic potential the configurations have the exact canonical distribution at every stable Δt, the velocities
    a variance of (1 − ω²Δt²/4) k_B T/m at the end of a step. Leimkuhler, Matthews, Appl. Math. Res. Express 2013, 34,
    doi:10.1093/amrx/abs010; J. Chem. Phys. 138, 174102 (2013), doi:10.1063/1.4802990.

    Parameters
    ----------
    timestep_fs : Δt
    temperature_K : T, a number or a ``ramp.Ramp``
    friction_per_ps : γ
    momentum : ``"linear"`` (default): noise without total momentum, 3n − 3 degrees of freedom, a start at rest as a
        whole stays so. ``"none"``: noise in all 3n; needed when walls, wells or fixed atoms hold the system.
        See ``thermostats.OrnsteinUhlenbeck``. A single atom always has all three.
    """

    def __init__(
        self, timestep_fs: float, temperature_K: float | Ramp, friction_per_ps: float, *, momentum: Momentum = "linear"
    ) -> None:
        target = as_ramp(temperature_K)
        thermostat = OrnsteinUhlenbeck(target.start, friction_per_ps, momentum=momentum)
        super().__init__(timestep_fs, thermostat, temperature=target)


class Bussi(Thermostatted):
    """Constant temperature by stochastic velocity rescaling: ``Thermostatted`` with
    ``thermostats.StochasticVelocityRescaling``, which has the equations and their source.

    Parameters
    ----------
    timestep_fs : Δt
    temperature_K : T, a number or a ``ramp.Ramp``
    time_ps : relaxation time τ of the kinetic energy
    momentum : what the potential conserves and the start has set to zero, see ``velocities.Momentum``
    """

    def __init__(
        self, timestep_fs: float, temperature_K: float | Ramp, time_ps: float, *, momentum: Momentum = "linear"
    ) -> None:
        target = as_ramp(temperature_K)
        thermostat = StochasticVelocityRescaling(target.start, time_ps, momentum=momentum)
        super().__init__(timestep_fs, thermostat, temperature=target)


class NoseHoover(Thermostatted):
    """Constant temperature by a Nosé–Hoover chain: ``Thermostatted`` with ``thermostats.NoseHooverChain``, which has the
    equations and their source. Deterministic and time-reversible.

    Parameters
    ----------
    timestep_fs : Δt
    temperature_K : T, a number or a ``ramp.Ramp``
    time_ps : τ, which sets the masses of the chain
    chain_length : number of thermostats
    momentum : what the potential conserves and the start has set to zero, see ``velocities.Momentum``
    """

    def __init__(
        self,
        timestep_fs: float,
        temperature_K: float | Ramp,
        time_ps: float,
        *,
        chain_length: int = 3,
        momentum: Momentum = "linear",
    ) -> None:
        target = as_ramp(temperature_K)
        thermostat = NoseHooverChain(target.start, time_ps, chain_length=chain_length, momentum=momentum)
        super().__init__(timestep_fs, thermostat, temperature=target)


class Barostatted:
    """Constant temperature and pressure (NPT): a thermostatted integrator and, every ``every`` steps, a barostat.

    The barostat acts at the end of a step, over the time ``every`` Δt, with forces and stress of the positions there, and
    has them computed again for the positions it leaves: one more evaluation in ``every`` steps. Between these the
    cell rests. The work it does since the start of the stage is ``work_eV``;

    potential + kinetic − heat − work

    is conserved, to the accuracy of velocity Verlet and of the barostat's own step (``barostats`` says what work is).

    Parameters
    ----------
    inner : the integrator between, with its thermostat
    barostat : see ``barostats.Barostat``
    every : steps from one action of the barostat to the next
    pressure : target from step to step, bar: a ``ramp.Ramp``, or None to leave it to ``barostat.pressure_bar``
    """

    changes_cell, stochastic = True, True

    def __init__(
        self, inner: Thermostatted, barostat: Barostat, *, every: int = 10, pressure: Ramp | None = None
    ) -> None:
        if every < 1:
            raise InputError(f"every is {every}: a barostat acts after 1 step or more")
        self.timestep_fs = inner.timestep_fs
        self.inner = inner
        self.barostat = barostat
        self.every = every
        self.pressure = pressure
        self.work_eV = 0.0

    def step(self, state: State, potential: Potential, *, stress: bool = False) -> None:
        """Advance by Δt, then, when it is due, let the barostat act."""
        due = (self.inner.steps + 1) % self.every == 0
        self.inner.step(state, potential, stress=stress or due)
        if due:
            self.move_cell(state, potential)

    def move_cell(self, state: State, potential: Potential) -> None:
        """Let the barostat act."""
        if self.pressure is not None:
            self.barostat.pressure_bar = self.pressure.at(self.inner.steps - 0.5 * self.every)
        self.work_eV += self.barostat.apply(
            state,
            potential,
            self.inner.thermostat.temperature_K,
            self.degrees_of_freedom(state.system),
            self.every * self.timestep_fs,
        )

    def conserved(self, state: State) -> float:
        """Potential plus kinetic energy, less heat and work, eV."""
        return self.inner.conserved(state) - self.work_eV

    def degrees_of_freedom(self, system: System) -> int:
        """Those of the inner integrator."""
        return self.inner.degrees_of_freedom(system)

    def finished(self, state: State) -> bool:
        """Never."""
        return False

    def state_arrays(self) -> dict[str, np.ndarray]:
        """``work_eV`` and what the inner integrator remembers."""
        return {"work_eV": np.array(self.work_eV)} | _prefixed("inner.", self.inner.state_arrays())

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take back what ``state_arrays`` gave."""
        self.work_eV = float(arrays["work_eV"])
        self.inner.restore(_without_prefix("inner.", arrays))


def _prefixed(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {prefix + name: array for name, array in arrays.items()}


def _without_prefix(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _checked_timestep(timestep_fs: float) -> float:
    if not (math.isfinite(timestep_fs) and timestep_fs > 0.0):
        raise InputError(f"timestep_fs is {timestep_fs}: it must be a finite number larger than zero")
    return float(timestep_fs)
