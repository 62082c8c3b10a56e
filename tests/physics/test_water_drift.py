"""Drift of the conserved quantity of every integrator on liquid water over 100 ps, and equipartition between O and H.

    pytest -m slow -s tests/physics/test_water_drift.py -k nose-hoover

8 molecules (69 degrees of freedom). What an exchange of heat leaves behind grows with Δt² and with the square root of its
rate, so that thermostats need short steps and gentle coupling for an error of 1e-3 kT/ns/dof.
"""

import os
import time

import numpy as np
import pytest
from drift import measure_drift, second_order_energy

import polmd
from polmd.dynamics.barostats import StochasticCellRescaling
from polmd.dynamics.integrators import Barostatted, Bussi, Langevin, NoseHoover, VelocityVerlet
from polmd.dynamics.simulation import Simulation
from polmd.structures import build_water
from polmd.units import ACCELERATION, BOLTZMANN

T = 300.0
#: Simulated time; another one for a trial.
PICOSECONDS = float(os.environ.get("POLMD_DRIFT_PS", "100"))

MAKE = {
    "verlet": lambda: VelocityVerlet(0.5),
    "nose-hoover": lambda: NoseHoover(0.1, T, 1.0),
    "langevin": lambda: Langevin(0.15, T, 0.02),
    "bussi": lambda: Bussi(0.15, T, 20.0),
    "npt": lambda: Barostatted(Bussi(0.1, T, 20.0), StochasticCellRescaling(1.0, time_ps=100.0), every=48),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKE)
def test_no_drift_on_water(name: str) -> None:
    simulation = Simulation(
        build_water(8, seed=5), polmd.MultipolePotential("water"), Langevin(0.5, T, 20.0), rng=5, stage="equilibration"
    )
    simulation.minimize(0.5, 200)
    simulation.draw_velocities(T)
    simulation.run(6000)
    integrator = MAKE[name]()
    simulation.set_stage(integrator, name)
    every = round(4.8 / integrator.timestep_fs)
    oxygen = simulation.state.system.numbers == 8
    times, conserved, shadow, kinetic = [], [], [], []
    started = time.monotonic()
    samples = round(1000.0 * PICOSECONDS / (every * integrator.timestep_fs))
    for k in range(samples):
        simulation.run(every)
        times.append(simulation.state.time_fs)
        conserved.append(simulation.conserved)
        shadow.append(integrator.timestep_fs**2 * second_order_energy(simulation))
        system = simulation.state.system
        twice = (system.masses[:, None] * system.velocities**2).sum(axis=1) / (ACCELERATION * BOLTZMANN)
        kinetic.append((twice[oxygen].sum(), twice[~oxygen].sum()))
        if (k + 1) % (samples // 20) == 0:
            drift = measure_drift(times, conserved, T, 69, random_walk=name != "verlet", bounded=shadow)
            print(f"{name}: {times[-1] / 1000:.1f} ps, {drift}, {time.monotonic() - started:.0f} s", flush=True)
    drift = measure_drift(times, conserved, T, 69, random_walk=name != "verlet", bounded=shadow)
    # With the total momentum at rest, atom i has 3 (1 − m_i/M) degrees of freedom: O and H have the same temperature.
    share = 3.0 * (1.0 - system.masses / system.masses.sum())
    degrees = np.array([share[oxygen].sum(), share[~oxygen].sum()])
    blocks = np.reshape(kinetic[: samples // 20 * 20], (20, -1, 2)).mean(axis=1) / degrees
    temperatures = blocks.mean(axis=0)
    difference = blocks[:, 0] - blocks[:, 1]
    error = difference.std(ddof=1) / np.sqrt(20)
    print(
        f"{name}: O {temperatures[0]:.1f} K, H {temperatures[1]:.1f} K, difference {difference.mean():.1f} ± {error:.1f} K"
    )
    assert abs(drift.slope) < 2 * drift.error
    assert drift.error < 1e-3 * np.sqrt(100.0 / PICOSECONDS)
    # at the end of a step a mode of frequency ω is colder by ω²Δt²/4: below 2 % of H's temperature at 0.5 fs
    assert abs(difference.mean()) < 3 * error + 0.02 * T * (integrator.timestep_fs / 0.5) ** 2
