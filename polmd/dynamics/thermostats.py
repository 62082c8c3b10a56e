"""Thermostats: maps of the velocities that leave the canonical distribution unchanged.

To add one, write a class with the members of ``Thermostat``; ``integrators.Thermostatted`` does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from polmd.dynamics.state import State
from polmd.dynamics.velocities import Momentum, check_momentum, degrees_of_freedom
from polmd.errors import InputError
from polmd.kernels.cpu.integrate import ornstein_uhlenbeck
from polmd.units import ACCELERATION, BOLTZMANN


class Thermostat(Protocol):
    """Changes the velocities of ``state`` over a duration and says how much energy its reservoir gave to the atoms, eV.

    Where the reservoir is not followed in time (friction and noise) that is the kinetic energy that was added.

    ``temperature_K`` may be set at any time between steps. ``momentum`` is what the thermostat conserves (see
    ``velocities.Momentum``). ``state_arrays`` holds all that it remembers from step to step, ``restore`` takes it back.
    """

    temperature_K: float
    momentum: Momentum

    def apply(self, state: State, duration_fs: float) -> float: ...

    def state_arrays(self) -> dict[str, np.ndarray]: ...

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None: ...


class OrnsteinUhlenbeck:
    """Friction and noise, solved exactly over a duration Δt.

    dv = −γ v dt + √(2 γ k_B T / m) dW   gives   v ← c v + √((1 − c²) k_B T / m) ξ,   c = exp(−γ Δt)

    ======  ====================================================
    γ       friction, ``friction_per_ps``
    T       target temperature, ``temperature_K``
    ξ       3n independent standard normal numbers, one set a call
    ======  ====================================================

    With ``momentum="linear"`` the centre-of-mass velocity of the noise is taken out: a projection in the metric of the
    masses, so the velocities relax to the exact Maxwell–Boltzmann distribution on the 3n − 3 directions of zero total
    momentum. Right where the potential does not depend on the position of the whole (no walls, wells or fixed atoms);
    there the centre of mass is independent of everything else and configurations are sampled as without it. With
    ``momentum="none"`` every direction gets noise: 3n degrees of freedom and a diffusing centre of mass.
    """

    def __init__(self, temperature_K: float, friction_per_ps: float, *, momentum: Momentum = "linear") -> None:
        check_momentum(momentum)
        if momentum == "linear+angular":
            raise InputError(
                'momentum="linear+angular" does not sample the canonical ensemble with friction and noise: '
                'choose "linear" or "none"'
            )
        _check_temperature(temperature_K)
        _check_positive("friction_per_ps", friction_per_ps)
        self.temperature_K = temperature_K
        self.friction_per_ps = friction_per_ps
        self.momentum: Momentum = momentum

    def apply(self, state: State, duration_fs: float) -> float:
        """Do the step above; returns the heat given to the atoms, eV."""
        system = state.system
        decay = math.exp(-1e-3 * self.friction_per_ps * duration_fs)
        thermal = (
            -math.expm1(-2e-3 * self.friction_per_ps * duration_fs) * BOLTZMANN * self.temperature_K * ACCELERATION
        )
        gained = ornstein_uhlenbeck(
            system.velocities,
            state.rng.standard_normal(system.velocities.shape),
            system.masses,
            system.inverse_masses,
            decay,
            thermal,
            self.momentum == "linear" and len(system) > 1 and not system.fixed.any(),
        )
        return float(gained) / ACCELERATION

    def state_arrays(self) -> dict[str, np.ndarray]:
        """Nothing: the memory of the noise is the generator of ``State``."""
        return {}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Nothing to take back."""


class StochasticVelocityRescaling:
    """The thermostat of Bussi, Donadio and Parrinello: all velocities are scaled by one random factor.

    dK = (K̄ − K) dt/τ + 2 √(K K̄/N) dW/√τ   is solved exactly over a duration Δt:

    v ← α v,   α² = c + (1 − c) (R² + S) K̄/(N K) + 2 R √(c (1 − c) K̄/(N K)),   c = exp(−Δt/τ)

    ======  ==========================================================================================
    K, K̄    kinetic energy; its average at the target temperature, ½ N k_B T
    N       degrees of freedom
    τ       relaxation time, ``time_ps``
    R       a standard normal number
    S       the sum of N − 1 squares of such, drawn as twice a gamma variate of shape ½ (N − 1)
    ======  ==========================================================================================

    α has the sign of R + √(c N K/((1 − c) K̄)). K has the canonical distribution whatever τ is; the dynamics is disturbed
    little, since directions and relative speeds stay. Total momentum, and in open boundaries angular momentum, stay zero
    when they are. Bussi, Donadio, Parrinello, J. Chem. Phys. 126, 014101 (2007), doi:10.1063/1.2408420; the sign: Bussi,
    Parrinello, Comput. Phys. Commun. 179, 26 (2008), doi:10.1016/j.cpc.2008.01.006.
    """

    def __init__(self, temperature_K: float, time_ps: float, *, momentum: Momentum = "linear") -> None:
        check_momentum(momentum)
        _check_temperature(temperature_K)
        _check_positive("time_ps", time_ps)
        self.temperature_K = temperature_K
        self.time_ps = time_ps
        self.momentum: Momentum = momentum

    def apply(self, state: State, duration_fs: float) -> float:
        """Scale the velocities; returns the kinetic energy that this added, eV. Atoms at rest stay at rest."""
        n = degrees_of_freedom(state.system, self.momentum)
        kinetic = state.kinetic_energy
        normal = float(state.rng.standard_normal())
        others = 2.0 * float(state.rng.standard_gamma(0.5 * (n - 1))) if n > 1 else 0.0
        if kinetic == 0.0:
            return 0.0
        decay = math.exp(-1e-3 * duration_fs / self.time_ps)
        share = (1.0 - decay) * 0.5 * BOLTZMANN * self.temperature_K / kinetic
        square = decay + share * (normal * normal + others) + 2.0 * normal * math.sqrt(decay * share)
        scale = math.copysign(math.sqrt(max(square, 0.0)), normal * math.sqrt(share) + math.sqrt(decay))
        state.system.velocities *= scale
        return (square - 1.0) * kinetic

    def state_arrays(self) -> dict[str, np.ndarray]:
        """Nothing: the generator is that of ``State``."""
        return {}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Nothing to take back."""


class NoseHooverChain:
    """A chain of thermostat variables that follow equations of motion of their own; deterministic and reversible.

    dv/dt = F/m − ξ₁ v
    Q₁ dξ₁/dt = 2K − N k_B T − Q₁ ξ₁ ξ₂,   Q_k dξ_k/dt = Q_{k−1} ξ²_{k−1} − k_B T − Q_k ξ_k ξ_{k+1},   dη_k/dt = ξ_k

    ======  =======================================================================
    K, N    kinetic energy, degrees of freedom
    ξ_k     friction of the k-th thermostat, 1/fs; the last one has no successor
    Q_k     N k_B T τ² for the first, k_B T τ² for the others
    τ       ``time_ps``: about the period of the temperature's oscillation over 2π
    ======  =======================================================================

    E + K + Σ ½ Q_k ξ_k² + N k_B T η₁ + k_B T Σ_{k>1} η_k is conserved: what the last three terms lose is returned as the
    heat given to the atoms. In a ramp the masses keep the first temperature, and ∫ k_B T dη takes the place of
    k_B T η. A step of the chain is the symmetric splitting of Martyna, Tuckerman, Tobias, Klein, Mol. Phys. 87, 1117
    (1996), doi:10.1080/00268979600100761, composed of three by Suzuki and Yoshida (fourth order). A small or harmonic
    system need not be ergodic: there take Langevin.

    Parameters
    ----------
    temperature_K : T, larger than zero
    time_ps : τ
    chain_length : number of thermostats, 3 by default
    momentum : see ``velocities.Momentum``
    """

    _W = 1.0 / (2.0 - 2.0 ** (1.0 / 3.0))
    _WEIGHTS = (_W, 1.0 - 2.0 * _W, _W)

    def __init__(
        self, temperature_K: float, time_ps: float, *, chain_length: int = 3, momentum: Momentum = "linear"
    ) -> None:
        check_momentum(momentum)
        _check_positive("temperature_K", temperature_K)
        _check_positive("time_ps", time_ps)
        if chain_length < 1:
            raise InputError(f"chain_length is {chain_length}: a chain has at least one thermostat")
        self.temperature_K = temperature_K
        self.time_ps = time_ps
        self.momentum: Momentum = momentum
        self._mass = BOLTZMANN * temperature_K * (1e3 * time_ps) ** 2
        self.frictions = np.zeros(chain_length)

    def apply(self, state: State, duration_fs: float) -> float:
        """Advance the chain and scale the velocities; returns the energy that the chain lost, eV."""
        n = degrees_of_freedom(state.system, self.momentum)
        thermal = BOLTZMANN * self.temperature_K
        xi = [float(x) for x in self.frictions]
        last = len(xi) - 1
        masses = [n * self._mass] + [self._mass] * last
        wanted = [n * thermal] + [thermal] * last
        twice_kinetic = 2.0 * state.kinetic_energy
        energy_before = 0.5 * sum(q * x * x for q, x in zip(masses, xi, strict=True))
        scale, absorbed = 1.0, 0.0

        def kick(k: int, duration: float) -> None:
            """Half a step of ξ_k, with the drag of its successor."""
            drag = math.exp(-0.25 * duration * xi[k + 1]) if k < last else 1.0
            driving = twice_kinetic if k == 0 else masses[k - 1] * xi[k - 1] ** 2
            xi[k] = (xi[k] * drag + 0.5 * duration * (driving - wanted[k]) / masses[k]) * drag

        for weight in self._WEIGHTS:
            duration = weight * duration_fs
            for k in range(last, -1, -1):
                kick(k, duration)
            factor = math.exp(-duration * xi[0])
            scale *= factor
            twice_kinetic *= factor * factor
            absorbed += duration * sum(w * x for w, x in zip(wanted, xi, strict=True))
            for k in range(last + 1):
                kick(k, duration)
        state.system.velocities *= scale
        self.frictions[:] = xi
        return energy_before - 0.5 * sum(q * x * x for q, x in zip(masses, xi, strict=True)) - absorbed

    def state_arrays(self) -> dict[str, np.ndarray]:
        """ξ of the chain."""
        return {"frictions": self.frictions.copy()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take back what ``state_arrays`` gave."""
        self.frictions = np.array(arrays["frictions"], dtype=np.float64)


def _check_temperature(temperature_K: float) -> None:
    if not (math.isfinite(temperature_K) and temperature_K >= 0.0):
        raise InputError(f"temperature_K is {temperature_K}: it must be a finite number, zero or larger")


def _check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0.0):
        raise InputError(f"{name} is {value}: it must be a finite number larger than zero")
