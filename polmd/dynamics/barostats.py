"""Barostats: moves of the cell that leave the isothermal–isobaric distribution unchanged.

To add one, write a class with the members of ``Barostat``; ``integrators.Barostatted`` does the rest.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol, get_args

import numpy as np

from polmd.dynamics.state import Potential, State
from polmd.errors import InputError, SimulationError
from polmd.system import System
from polmd.units import ACCELERATION, BAR, BOLTZMANN

#: Which lattice vectors change their length together. Angles between lattice vectors never change.
Coupling = Literal["isotropic", "semi-isotropic", "anisotropic"]

_GROUPS: dict[str, tuple[tuple[int, ...], ...]] = {
    "isotropic": ((0, 1, 2),),
    "semi-isotropic": ((0, 1), (2,)),
    "anisotropic": ((0,), (1,), (2,)),
}

#: Largest relative change of √(product of a group's lengths) at once: beyond it the pressure is nowhere near its target.
LARGEST_CHANGE = 0.2


class Barostat(Protocol):
    """Changes cell, positions and velocities over a duration and returns its work on the atoms, eV.

    ``state.result`` holds the stress of the positions at the call, and must hold the result of those it leaves.
    ``pressure_bar`` may be set at any time between steps. It keeps nothing from step to step beyond ``State``.
    """

    pressure_bar: float

    def apply(
        self, state: State, potential: Potential, temperature_K: float, degrees_of_freedom: int, duration_fs: float
    ) -> float: ...


class StochasticCellRescaling:
    """First-order stochastic relaxation of the lengths of the cell, with the exact isothermal–isobaric distribution.

    Lattice vectors that change together form a group g of l_g vectors (isotropic: one group of three). Each action picks
    a group, each as likely as any other, and moves λ, the square root of the product of its lengths (√V when isotropic),
    in which the noise does not depend on the cell:

    dλ = (D/k_B T) f dt + √(2 D) dW
    f = (2/λ) [V (P_g − P₀) + (c/3 + ½) k_B T],   D = λ² (l_g/3) k_B T β/(4 V τ), constant

    h ← diag(s) h,   r ← r M,   v ← v M⁻ᵀ,   M = h⁻¹ diag(s) h,   s = (λ'/λ)^(2/l_g) for the group's vectors, else 1

    ======  ==========================================================================================================
    h, V    cell (rows are lattice vectors), its volume
    P₀, T   target pressure, temperature of the thermostat
    P_g     the mean over the group of (h P h⁻¹)_ii, with the pressure tensor P = Σ m v vᵀ/V − stress
    β, τ    ``compressibility_per_bar`` and ``time_ps``: only the rate depends on them, as β/τ
    c       momenta that are zero for good (3 with the centre of mass at rest): their missing kinetic pressure
    ======  ==========================================================================================================

    With one group this is the equation of Bernetti, Bussi, J. Chem. Phys. 153, 114107 (2020), doi:10.1063/5.0020514; with
    two or three that of Del Tatto, Raiteri, Bernetti, Bussi, Appl. Sci. 12, 1139 (2022), doi:10.3390/app12031139, for a
    cell that keeps its angles. The distribution is exp(−(E + K + P₀ V)/k_B T) dV d(logarithms of ratios of lengths);
    ⟨V⟩ of n free atoms is (n + 1) k_B T/P₀.

    A step is Euler's, with new forces afterwards. Its work is what the exact process would have done, from the
    probabilities p of the move and of its reverse,

    work = −P₀ ΔV + (c/3 + ½) k_B T Δ ln V − k_B T ln [p(λ → λ')/p(λ' → λ)]

    so that E + K − work drifts exactly as far as the step violates detailed balance (the effective energy of Bussi,
    Parrinello, Phys. Rev. E 75, 056707 (2007), doi:10.1103/PhysRevE.75.056707).

    Parameters
    ----------
    pressure_bar : P₀
    coupling : ``isotropic``; ``semi-isotropic``: the first two lattice vectors together, the third alone;
        ``anisotropic``: each of the three alone
    time_ps : τ
    compressibility_per_bar : β; water's by default
    """

    def __init__(
        self,
        pressure_bar: float,
        *,
        coupling: Coupling = "isotropic",
        time_ps: float = 1.0,
        compressibility_per_bar: float = 4.5e-5,
    ) -> None:
        if not math.isfinite(pressure_bar):
            raise InputError(f"pressure_bar is {pressure_bar}: it must be a finite number")
        if coupling not in get_args(Coupling):
            raise InputError(f"coupling={coupling!r}: choose one of {', '.join(get_args(Coupling))}")
        for name, value in (("time_ps", time_ps), ("compressibility_per_bar", compressibility_per_bar)):
            if not (math.isfinite(value) and value > 0.0):
                raise InputError(f"{name} is {value}: it must be a finite number larger than zero")
        self.pressure_bar = pressure_bar
        self.coupling: Coupling = coupling
        self.time_ps = time_ps
        self.compressibility_per_bar = compressibility_per_bar

    def apply(
        self, state: State, potential: Potential, temperature_K: float, degrees_of_freedom: int, duration_fs: float
    ) -> float:
        """Do the step above; returns its work, eV.

        Raises InputError for a system without three periodic axes, with fixed atoms, or a target temperature of zero;
        SimulationError when the cell would change by more than ``LARGEST_CHANGE`` at once.
        """
        system = state.system
        check_cell_moves(system)
        if not temperature_K > 0.0:
            raise InputError("a barostat needs a temperature larger than zero")
        groups = _GROUPS[self.coupling]
        group = list(groups[0] if len(groups) == 1 else groups[int(state.rng.integers(len(groups)))])
        duration = duration_fs * len(groups)
        thermal = BOLTZMANN * temperature_K
        pressure = self.pressure_bar * BAR
        entropy = (3 * len(system) - degrees_of_freedom) / 3.0 + 0.5
        volume = system.volume

        def force(stretched: float) -> float:
            """f, eV, of the present state, in the unit λ = 1 at the start; ``stretched`` is λ now."""
            excess = float(_pressures_along_axes(state)[group].mean()) - pressure
            return 2.0 / stretched * (system.volume * excess + entropy * thermal)

        mobility = len(group) / 12.0 * self.compressibility_per_bar / (BAR * volume * 1e3 * self.time_ps)
        push = mobility * duration * force(1.0)
        spread = 2.0 * mobility * thermal * duration
        change = push + math.sqrt(spread) * float(state.rng.standard_normal())
        if not abs(change) <= LARGEST_CHANGE:
            raise SimulationError(
                f"step {state.step + 1}: the cell would stretch by {200.0 * change / len(group):.3g} % at once, the "
                f"pressures along its axes are {_pressures_along_axes(state) / BAR} bar: equilibrate at constant volume "
                "first, or take a longer barostat_time_ps"
            )
        scale = np.ones(3)
        scale[group] = (1.0 + change) ** (2.0 / len(group))
        _rescale(system, scale)
        state.result = potential.compute(system, stress=True)
        push_back = mobility * duration * force(1.0 + change)
        log_ratio = ((change + push_back) ** 2 - (change - push) ** 2) / (2.0 * spread)
        return -pressure * (system.volume - volume) + 2.0 * entropy * thermal * math.log1p(change) - thermal * log_ratio


def check_cell_moves(system: System) -> None:
    """Raise ``InputError`` for a system whose cell cannot be rescaled: open or partly open boundaries, fixed atoms."""
    if not system.pbc.all():
        raise InputError("a barostat needs three periodic axes: this system has open boundaries; take nvt or nve")
    if system.fixed.any():
        raise InputError("a barostat moves all atoms with the cell: it cannot be combined with fixed atoms")


def _pressures_along_axes(state: State) -> np.ndarray:
    """(3,) eV/Å³: (h P h⁻¹)_ii, minus the derivative of energy by the logarithm of the length of axis i, over V."""
    system = state.system
    stress = state.result.stress
    if stress is None:
        raise InputError("this potential gives no stress: a barostat cannot be used with it")
    v = system.velocities
    kinetic = np.einsum("n,na,nb->ab", system.masses, v, v) / (ACCELERATION * system.volume)
    return np.einsum("ia,ab,bi->i", system.cell, kinetic - stress, np.linalg.inv(system.cell))


def _rescale(system: System, scale: np.ndarray) -> None:
    """Multiply the length of each lattice vector; atoms keep their fractional coordinates, momenta their dual ones."""
    cell = system.cell.copy()
    if scale[0] == scale[1] == scale[2]:
        system.positions *= scale[0]
        system.velocities /= scale[0]
    else:
        inverse = np.linalg.inv(cell)
        map_ = np.einsum("ai,i,ib->ab", inverse, scale, cell)
        dual = np.einsum("ai,i,ib->ab", inverse, 1.0 / scale, cell)
        system.positions[:] = np.einsum("na,ab->nb", system.positions, map_)
        system.velocities[:] = np.einsum("na,ba->nb", system.velocities, dual)
    system.cell[:] = scale[:, None] * cell
