"""Drift of the conserved quantity of every integrator on liquid water over 100 ps, and equipartition between O and H.

    pytest -m slow -s tests/physics/test_water_drift.py -k nose-hoover

8 molecules (69 degrees of freedom). What an exchange of heat leaves behind grows with Δt² and with the square root of its
rate, so that thermostats need short steps and gentle coupling for an error of 1e-3 kT/ns/dof. Slow exchange between modes
makes residuals of one run correlated over tens of ps: where nothing else makes them independent, the error bar is that of
the mean over runs.
"""

import os

import numpy as np
import pytest
from drift import Drift, measure_drift, second_order_energy

import polmd
from polmd.dynamics.barostats import StochasticCellRescaling
from polmd.dynamics.integrators import Barostatted, Bussi, Integrator, Langevin, NoseHoover, VelocityVerlet
from polmd.dynamics.simulation import Simulation
from polmd.structures import build_water
from polmd.units import ACCELERATION, BOLTZMANN

pytestmark = pytest.mark.slow

T = 300.0
#: Simulated time; another one for a trial.
PICOSECONDS = float(os.environ.get("POLMD_DRIFT_PS", "100"))

THERMOSTATTED = {
    "nose-hoover": lambda: NoseHoover(0.1, T, 1.0),
    "langevin": lambda: Langevin(0.125, T, 0.02),
    "bussi": lambda: Bussi(0.15, T, 20.0),
    "npt": lambda: Barostatted(Bussi(0.1, T, 20.0), StochasticCellRescaling(1.0, time_ps=100.0), every=48),
}
STRONG = {
    "nose-hoover": lambda: NoseHoover(0.5, T, 0.1),
    "langevin": lambda: Langevin(0.5, T, 5.0),
    "bussi": lambda: Bussi(0.5, T, 0.1),
}
#: Independent runs of 12.5 ps: one chain for all atoms leaves the mixing of modes to the liquid, and 8 molecules mix slowly.
RUNS = {"nose-hoover": 32, "langevin": 8, "bussi": 8}


def _equilibrated(seed: int) -> Simulation:
    simulation = Simulation(
        build_water(8, seed=seed), polmd.MultipolePotential("water"), Langevin(0.5, T, 20.0), rng=seed
    )
    simulation.minimize(0.5, 200)
    simulation.draw_velocities(T)
    simulation.run(6000)
    return simulation


def _drift(simulation: Simulation, name: str, integrator: Integrator, every_fs: float) -> Drift:
    """Drift over ``PICOSECONDS``, sampled about every ``every_fs``."""
    simulation.set_stage(integrator, name)
    every = round(every_fs / integrator.timestep_fs)
    times, conserved, bounded = [], [], []
    samples = round(1000.0 * PICOSECONDS / (every * integrator.timestep_fs))
    for k in range(samples):
        simulation.run(every)
        times.append(simulation.state.time_fs)
        conserved.append(simulation.conserved)
        bounded.append(integrator.timestep_fs**2 * second_order_energy(simulation))
        if (k + 1) % (samples // 5) == 0:
            drift = measure_drift(times, conserved, T, 69, random_walk=name != "verlet", bounded=bounded)
            print(f"{name}: {times[-1] / 1000:.1f} ps, {drift}", flush=True)
    return drift


def test_no_drift_at_constant_energy() -> None:
    """Eight independent runs of velocity Verlet."""
    slopes = np.array([_drift(_equilibrated(seed), "verlet", VelocityVerlet(0.5), 24.0).slope for seed in range(8)])
    error = slopes.std(ddof=1) / np.sqrt(len(slopes))
    print(f"verlet: drift {slopes.mean():+.2e} ± {error:.2e} kT/ns/dof from {len(slopes)} runs")
    assert abs(slopes.mean()) < 2 * error
    assert error < 1e-3 * (100.0 / PICOSECONDS) ** 1.5


@pytest.mark.parametrize("name", THERMOSTATTED)
def test_no_drift_with_thermostat(name: str) -> None:
    drift = _drift(_equilibrated(5), name, THERMOSTATTED[name](), 4.8)
    assert abs(drift.slope) < 2 * drift.error
    assert drift.error < 1e-3 * np.sqrt(100.0 / PICOSECONDS)


@pytest.mark.parametrize("name", STRONG)
def test_oxygen_and_hydrogen_are_equally_warm(name: str) -> None:
    """Independent runs of 12.5 ps; with the total momentum at rest, atom i has 3 (1 − m_i/M) degrees of freedom."""
    temperatures = []
    for seed in range(RUNS[name]):
        simulation = _equilibrated(seed)
        simulation.set_stage(STRONG[name](), name)
        system = simulation.state.system
        oxygen = system.numbers == 8
        share = 3.0 * (1.0 - system.masses / system.masses.sum())
        sums, samples = np.zeros(2), 2500
        for _ in range(samples):
            simulation.run(10)
            twice = (system.masses[:, None] * system.velocities**2).sum(axis=1) / (ACCELERATION * BOLTZMANN)
            sums += twice[oxygen].sum() / share[oxygen].sum(), twice[~oxygen].sum() / share[~oxygen].sum()
        temperatures.append(sums / samples)
    difference = np.subtract(*np.transpose(temperatures))
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    oxygens, hydrogens = np.mean(temperatures, axis=0)
    print(f"{name}: O {oxygens:.1f} K, H {hydrogens:.1f} K, difference {difference.mean():.1f} ± {error:.1f} K")
    # at the end of a step a mode of frequency ω is colder by ω²Δt²/4: below 2 % of H's temperature at 0.5 fs
    assert abs(difference.mean()) < 3 * error + 0.02 * T
    assert error < 10.0
