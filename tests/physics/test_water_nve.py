"""Constant energy of liquid water with the bundled model: order of the integrator, momentum (drift: test_water_drift)."""

import numpy as np
import pytest

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
