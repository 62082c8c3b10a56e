"""Thermostats: maps of the velocities that leave the canonical distribution unchanged.

To add one, write a class with the members of ``Thermostat``; ``integrators.Thermostatted`` does the rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from polmd.dynamics.state import State
from polmd.dynamics.velocities import Momentum, check_momentum
from polmd.errors import InputError
from polmd.kernels.cpu.integrate import ornstein_uhlenbeck
from polmd.units import ACCELERATION, BOLTZMANN


class Thermostat(Protocol):
    """Changes the velocities of ``state`` over a duration and says how much kinetic energy that added.

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
        if not (math.isfinite(temperature_K) and temperature_K >= 0.0):
            raise InputError(f"temperature_K is {temperature_K}: it must be a finite number, zero or larger")
        if not (math.isfinite(friction_per_ps) and friction_per_ps > 0.0):
            raise InputError(f"friction_per_ps is {friction_per_ps}: it must be a finite number larger than zero")
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
            1.0 / system.masses,
            decay,
            thermal,
            self.momentum == "linear" and len(system) > 1,
        )
        return float(gained) / ACCELERATION

    def state_arrays(self) -> dict[str, np.ndarray]:
        """Nothing: the memory of the noise is the generator of ``State``."""
        return {}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Nothing to take back."""
