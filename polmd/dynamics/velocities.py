"""Momenta: which of them are conserved, how many degrees of freedom that leaves, and velocities at a temperature."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np

from polmd.errors import InputError
from polmd.kernels.cpu.integrate import total_momentum
from polmd.system import System
from polmd.units import ACCELERATION, BOLTZMANN

#: What the dynamics conserves, and a start therefore sets to zero: nothing (walls, wells, fixed atoms), the total
#: momentum, or, with open boundaries, the total momentum and the angular momentum.
Momentum = Literal["none", "linear", "linear+angular"]


def check_momentum(momentum: str) -> None:
    """Raise ``InputError`` unless ``momentum`` is one of the three words of ``Momentum``."""
    if momentum not in get_args(Momentum):
        raise InputError(f"momentum={momentum!r}: choose one of {', '.join(get_args(Momentum))}")


def degrees_of_freedom(system: System, momentum: Momentum) -> int:
    """Independent velocities: 3n, less 3 for the total momentum, less 3 (2 for two atoms) for the angular momentum.

    n counts the atoms that move. A single atom keeps its momentum, and fixed atoms take up that of the others: there
    it is 3n whatever ``momentum`` says.
    """
    n = int(np.count_nonzero(~system.fixed))
    if n == 1 or n < len(system) or momentum == "none":
        return 3 * n
    if momentum == "linear":
        return 3 * n - 3
    return 1 if n == 2 else 3 * n - 6


def maxwell_boltzmann(
    system: System,
    temperature_K: float,
    rng: np.random.Generator,
    *,
    momentum: Momentum = "linear",
    exact: bool = False,
) -> None:
    """Draw the velocities of the canonical ensemble, in place; fixed atoms get none.

    Each component is normal with variance k_B T / m; the total momentum (and, with ``"linear+angular"``, the rotation
    about the centre of mass) is then taken out. That is a projection in the metric of the masses, so what remains is
    the exact Maxwell–Boltzmann distribution of the remaining degrees of freedom: its kinetic energy is
    ½ k_B T · degrees_of_freedom on average, and fluctuates as a canonical ensemble does.

    Parameters
    ----------
    temperature_K : temperature T
    rng : source of the 3n normal numbers
    momentum : what is set to zero; a single atom keeps its momentum
    exact : scale the velocities so that the kinetic energy is ½ k_B T · degrees_of_freedom exactly. Off by default:
        an ensemble of such starts is not canonical. Useful to start constant-energy runs at a chosen energy.
    """
    check_momentum(momentum)
    if not (math.isfinite(temperature_K) and temperature_K >= 0.0):
        raise InputError(f"temperature_K is {temperature_K}: it must be a finite number, zero or larger")
    normals = rng.standard_normal((len(system), 3))
    system.velocities[:] = normals * np.sqrt(BOLTZMANN * temperature_K * ACCELERATION / system.masses)[:, None]
    system.velocities[system.fixed] = 0.0
    if momentum != "none":
        remove_momentum(system)
    if momentum == "linear+angular" and not system.fixed.any():
        remove_rotation(system)
    if exact and temperature_K > 0.0:
        twice_kinetic = float(np.sum(system.masses[:, None] * system.velocities**2))
        wanted = degrees_of_freedom(system, momentum) * BOLTZMANN * temperature_K * ACCELERATION
        system.velocities *= math.sqrt(wanted / twice_kinetic)


def remove_momentum(system: System) -> None:
    """Subtract the velocity of the centre of mass, in place; a single atom, or a system with fixed ones, is left as it is."""
    if len(system) > 1 and not system.fixed.any():
        momentum = np.empty(3)
        total_momentum(system.velocities, system.masses, momentum)
        system.velocities -= momentum / system.masses.sum()


def remove_rotation(system: System) -> None:
    """Subtract the rigid rotation about the centre of mass, v_i −= ω × r_i with ω = I⁻¹ L, in place.

    With periodic axes the angular momentum is neither defined nor conserved: such a system is refused. For atoms on a
    line the rotation about the line has no inertia and is left out.
    """
    if system.periodic:
        raise InputError("rotation can be removed only with open boundaries: this system has periodic axes")
    if len(system) < 2:
        return
    r = system.positions - np.average(system.positions, axis=0, weights=system.masses)
    angular_momentum = np.sum(system.masses[:, None] * np.cross(r, system.velocities), axis=0)
    inertia = np.einsum("i,ix,iy->xy", system.masses, r, r)
    inertia = np.trace(inertia) * np.eye(3) - inertia
    omega = np.linalg.pinv(inertia, rcond=1e-10, hermitian=True) @ angular_momentum
    system.velocities -= np.cross(omega, r)
