"""How fast a conserved quantity drifts, with an honest error bar."""

from dataclasses import dataclass

import numpy as np

import polmd
from polmd.dynamics.simulation import Simulation
from polmd.units import ACCELERATION, BOLTZMANN


@dataclass
class Drift:
    """Slope of a conserved quantity and its standard error, kT/ns/dof; ``fluctuation`` is its standard deviation, eV."""

    slope: float
    error: float
    fluctuation: float

    def __str__(self) -> str:
        return f"drift {self.slope:+.2e} ± {self.error:.2e} kT/ns/dof, fluctuation {self.fluctuation:.2e} eV"


def measure_drift(times_fs, conserved, temperature_K, dof, *, random_walk, bounded=None, blocks=20) -> Drift:
    """Drift of a series from the means of ``blocks`` equal blocks.

    Velocity Verlet's energy fluctuates about a line: least squares, error from the residuals. A thermostat makes it walk
    (every exchange of heat leaves a rest of order Δt² behind): the drift is the mean increment from block to block, and
    its error that of the mean of increments.

    ``bounded`` is the part of the fluctuation, eV, that comes back and cannot drift (the second-order term of the shadow
    Hamiltonian): it is added first.
    """
    t = np.asarray(times_fs) * 1e-6
    e = (np.asarray(conserved) - conserved[0]) / (BOLTZMANN * temperature_K * dof)
    if bounded is not None:
        e = e + (np.asarray(bounded) - bounded[0]) / (BOLTZMANN * temperature_K * dof)
    n = len(t) // blocks * blocks
    fluctuation = float(np.std(conserved))
    t, e = t[:n].reshape(blocks, -1).mean(axis=1), e[:n].reshape(blocks, -1).mean(axis=1)
    if random_walk:
        rates = np.diff(e) / np.diff(t)
        return Drift(float(rates.mean()), float(rates.std(ddof=1) / np.sqrt(len(rates))), fluctuation)
    t = t - t.mean()
    slope = (t @ e) / (t @ t)
    residual = e - e.mean() - slope * t
    return Drift(float(slope), float(np.sqrt(residual @ residual / (blocks - 2) / (t @ t))), fluctuation)


def second_order_energy(simulation: Simulation) -> float:
    """v·U″·v/12 − |F|²/24m, eV/fs²: Δt² times this is what velocity Verlet's invariant has beyond the energy, to second
    order (Hairer, Lubich and Wanner, Acta Numerica 12, 399 (2003))."""
    system, forces = simulation.state.system, simulation.state.result.forces
    potential = polmd.MultipolePotential(simulation.potential.model)
    changes = []
    for sign in (1.0, -1.0):
        moved = system.copy()
        moved.positions += sign * 0.05 * system.velocities
        changes.append(potential.compute(moved).forces)
    curvature = -np.sum(system.velocities * (changes[0] - changes[1])) / 0.1
    return float(curvature / 12.0 - ACCELERATION * np.sum(forces**2 / system.masses[:, None]) / 24.0)
