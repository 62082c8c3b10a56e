"""Constant energy of liquid water with the bundled model: order of the integrator, momentum, drift."""

import numpy as np
import pytest
from drift import measure_drift, second_order_energy

import polmd
from polmd.dynamics.integrators import Langevin, VelocityVerlet
from polmd.dynamics.simulation import Simulation
from polmd.structures import build_water


def _equilibrated(picoseconds: float) -> polmd.System:
    simulation = Simulation(
        build_water(64, seed=5), polmd.MultipolePotential("water"), Langevin(0.5, 300.0, 20.0), rng=5
    )
    simulation.minimize(0.5, 200)
    simulation.draw_velocities(300.0)
    simulation.run(round(2000 * picoseconds))
    return simulation.state.system


@pytest.fixture(scope="module")
def start() -> polmd.System:
    """64 molecules near 300 K."""
    return _equilibrated(0.25)


def test_energy_fluctuation_falls_as_timestep_squared(start: polmd.System) -> None:
    """The same 40 fs from the same start, energies compared at the same times."""
    timesteps = np.array([0.0625, 0.125, 0.25, 0.5])
    fluctuations = []
    for timestep in timesteps:
        simulation = Simulation(start, polmd.MultipolePotential("water"), VelocityVerlet(timestep))
        energies = [simulation.conserved]
        for _ in range(80):
            simulation.run(round(0.5 / timestep))
            energies.append(simulation.conserved)
        fluctuations.append(np.std(energies))
        v, m = simulation.state.system.velocities, simulation.state.system.masses[:, None]
        assert np.abs((m * v).sum(axis=0)).max() < 1e-12 * np.abs(m * v).sum()
    slope = np.polyfit(np.log(timesteps), np.log(fluctuations), 1)[0]
    assert slope == pytest.approx(2.0, abs=0.05)


@pytest.mark.slow
def test_no_drift_over_20_ps() -> None:
    """20 ps at 0.5 fs after 20 ps of equilibration: the slope of the total energy, its second-order fluctuation (which is
    slow where modes exchange energy slowly, and bounded) fitted along with it."""
    simulation = Simulation(_equilibrated(20.0), polmd.MultipolePotential("water"), VelocityVerlet(0.5))
    times, energies, bounded = [], [], []
    for _ in range(4000):
        simulation.run(10)
        times.append(simulation.state.time_fs)
        energies.append(simulation.conserved)
        bounded.append(0.25 * second_order_energy(simulation))
    dof = simulation.degrees_of_freedom
    drift = measure_drift(times, energies, 300.0, dof, random_walk=False, bounded=bounded)
    plain = measure_drift(times, energies, 300.0, dof, random_walk=False)
    print(f"{drift}; without the second-order term {plain}")
    assert abs(drift.slope) < 2 * drift.error
    assert drift.error < 5e-4
