"""Velocity Verlet against exact results."""

import numpy as np
import pytest
from analytic_potentials import ARGON, LennardJones, Wells, argon_cluster, atoms

from polmd.dynamics.integrators import VelocityVerlet
from polmd.dynamics.simulation import Simulation
from polmd.units import ACCELERATION


def test_harmonic_trajectory_has_the_shadow_frequency():
    """From rest, x_n = x₀ cos(n Ω Δt) and v_n = −x₀ ω √(1 − ω²Δt²/4) sin(n Ω Δt), with cos(Ω Δt) = 1 − ω²Δt²/2."""
    k, masses, dt = 2.0, np.array([1.008, 15.999, 4.0]), 1.5
    start = np.array([[0.02, -0.01, 0.03], [0.1, 0.2, -0.3], [0.0, 0.05, 0.1]])
    simulation = Simulation(atoms(start, masses=masses), Wells(k), VelocityVerlet(dt, momentum="none"))
    omega = np.sqrt(k * ACCELERATION / masses)
    shadow = np.arccos(1.0 - 0.5 * (omega * dt) ** 2) / dt
    amplitude = omega * np.sqrt(1.0 - 0.25 * (omega * dt) ** 2)
    assert np.abs(shadow / omega - 1.0).max() > 1e-3
    for n in (1, 10, 1000):
        simulation.run(n - simulation.state.step)
        phase = (n * dt * shadow)[:, None]
        np.testing.assert_allclose(simulation.state.system.positions, start * np.cos(phase), atol=1e-13 * n)
        np.testing.assert_allclose(
            simulation.state.system.velocities, -start * amplitude[:, None] * np.sin(phase), atol=1e-13 * n
        )


def test_period_of_an_oscillator_in_femtoseconds():
    """HCl, k = 516 N/m and reduced mass 0.97959 amu: 2π √(m/k) in SI units is 11.156 fs (tests our units)."""
    k = 516.0 / 16.02176634
    system = atoms([[0.01, 0.0, 0.0]], masses=0.97959)
    simulation = Simulation(system, Wells(k), VelocityVerlet(0.01))
    crossings = []
    last = 0.01

    def watch(current):
        nonlocal last
        x = current.state.system.positions[0, 0]
        if last < 0.0 <= x:
            crossings.append(current.state.time_fs - 0.01 * x / (x - last))
        last = x

    simulation.run(6000, on_step=watch)
    assert np.mean(np.diff(crossings)) == pytest.approx(
        1e15 * 2.0 * np.pi * np.sqrt(0.97959 * 1.66053906660e-27 / 516.0), abs=3e-5
    )


@pytest.fixture(scope="module")
def equilibrated():
    """13 argon atoms with 35 K of motion, past the start."""
    simulation = Simulation(argon_cluster(70.0), LennardJones(*ARGON), VelocityVerlet(4.0))
    simulation.run(250)
    return simulation.state.system.copy()


def test_energy_fluctuation_falls_as_timestep_squared(equilibrated):
    timesteps = np.array([2.5, 5.0, 10.0, 20.0])
    fluctuations = []
    for dt in timesteps:
        energies = []
        simulation = Simulation(equilibrated, LennardJones(*ARGON), VelocityVerlet(dt))
        every = round(20.0 / dt)
        simulation.run(
            round(4000.0 / dt),
            on_step=lambda s, e=energies, n=every: e.append(s.conserved) if s.state.step % n == 0 else None,
        )
        fluctuations.append(np.std(energies))
    slope = np.polyfit(np.log(timesteps), np.log(fluctuations), 1)[0]
    assert slope == pytest.approx(2.0, abs=0.05)


def test_reversible(equilibrated):
    simulation = Simulation(equilibrated, LennardJones(*ARGON), VelocityVerlet(5.0))
    start = equilibrated.positions
    simulation.run(200)
    moved = np.abs(simulation.state.system.positions - start).max()
    simulation.state.system.velocities *= -1.0
    simulation.run(200)
    assert moved > 0.5
    assert np.abs(simulation.state.system.positions - start).max() < 1e-9
    assert np.abs(simulation.state.system.velocities + equilibrated.velocities).max() < 1e-11


def test_momenta_are_conserved(equilibrated):
    simulation = Simulation(equilibrated, LennardJones(*ARGON), VelocityVerlet(5.0))

    def momenta():
        s = simulation.state.system
        p = s.masses[:, None] * s.velocities
        return p.sum(axis=0), np.cross(s.positions, p).sum(axis=0), np.abs(p).sum()

    linear, angular, scale = momenta()
    simulation.run(1000)
    linear_after, angular_after, _ = momenta()
    assert np.abs(linear_after - linear).max() < 1e-12 * scale
    assert np.abs(angular_after - angular).max() < 1e-11 * scale * 4.0
