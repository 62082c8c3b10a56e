"""Langevin dynamics against exact distributions. Error bars are of the mean over independent blocks."""

import numpy as np
import pytest
from analytic_potentials import ARGON, LennardJones, Springs, Wells, argon_cluster, atoms
from scipy import stats

from polmd.dynamics.integrators import Langevin
from polmd.dynamics.simulation import Limits, Simulation
from polmd.dynamics.state import State
from polmd.dynamics.thermostats import OrnsteinUhlenbeck
from polmd.units import ACCELERATION, BOLTZMANN

T = 300.0
KT = BOLTZMANN * T
NO_LIMITS = Limits(np.inf, np.inf)


def _mean(samples):
    """Mean over rows (steps) and columns (independent oscillators), and its standard error from the columns."""
    per_column = np.asarray(samples).mean(axis=0)
    return per_column.mean(), per_column.std(ddof=1) / np.sqrt(per_column.size)


@pytest.mark.parametrize("step_in_periods", [0.02, 0.2])
def test_harmonic_wells(step_in_periods):
    """⟨x²⟩ = k_B T/k at every timestep, ⟨v²⟩ = (1 − ω²Δt²/4) k_B T/m; at ω Δt = 1.26 the latter is off by 40 %."""
    k, mass, n = 1.5, 12.011, 1000
    omega = np.sqrt(k * ACCELERATION / mass)
    dt = step_in_periods * 2.0 * np.pi / omega
    friction = 1e3 * omega  # per ps: γ = ω, critical enough to forget quickly
    rng = np.random.default_rng(7)
    system = atoms(rng.normal(size=(n, 3)) * np.sqrt(KT / k), masses=mass)
    simulation = Simulation(system, Wells(k), Langevin(dt, T, friction, momentum="none"), rng=rng, limits=NO_LIMITS)
    simulation.draw_velocities(T, momentum="none")
    simulation.run(50)
    squares_x, squares_v = [], []

    def sample(current):
        squares_x.append(current.state.system.positions.ravel() ** 2)
        squares_v.append(current.state.system.velocities.ravel() ** 2)

    simulation.run(1200, on_step=sample)
    variance, error = _mean(squares_x)
    assert error < 0.006 * KT / k
    assert abs(variance - KT / k) < 4.0 * error
    variance, error = _mean(squares_v)
    expected = (1.0 - 0.25 * (omega * dt) ** 2) * KT * ACCELERATION / mass
    assert error < 0.006 * expected
    assert abs(variance - expected) < 4.0 * error


@pytest.mark.parametrize(("momentum", "dof"), [("linear", 9), ("none", 12)])
def test_four_bound_atoms(momentum, dof):
    """Masses from hydrogen to argon: 2⟨E_kin⟩ = dof k_B T, equipartition, and the potential energy of 9 modes.

    With "linear" atom i has 3 (1 − m_i/M) k_B T, which tells 3n − 3 from 3n (a third less), and the total momentum
    stays zero; the configurations are the same with both.
    """
    masses = np.array([1.008, 4.0026, 15.999, 39.948])
    clusters = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        system = atoms(0.05 * rng.normal(size=(4, 3)), masses=masses)
        simulation = Simulation(system, Springs(0.5), Langevin(1.0, T, 40.0, momentum=momentum), rng=rng)
        simulation.draw_velocities(T, momentum=momentum)
        assert simulation.degrees_of_freedom == dof
        simulation.run(200)
        kinetic, potential, largest = [], [], 0.0

        def sample(current, kinetic=kinetic, potential=potential):
            nonlocal largest
            v = current.state.system.velocities
            kinetic.append(masses * (v * v).sum(axis=1) / (ACCELERATION * KT))
            potential.append(2.0 * current.state.result.energy / KT)
            p = masses[:, None] * v
            largest = max(largest, np.abs(p.sum(axis=0)).max() / np.abs(p).sum())

        simulation.run(10_000, on_step=sample)
        clusters.append(
            (np.array(kinetic).reshape(25, -1, 4).mean(axis=1), np.reshape(potential, (25, -1)).mean(axis=1))
        )
        assert (largest < 1e-12) == (momentum == "linear")
    kinetic, potential = (np.concatenate(parts) for parts in zip(*clusters, strict=True))
    share = 3.0 * (1.0 - masses / masses.sum()) if momentum == "linear" else np.full(4, 3.0)
    assert share.sum() == pytest.approx(dof)
    for values, expected in [
        (kinetic.sum(axis=1), dof),
        (potential, 9.0),
        *((kinetic[:, i], share[i]) for i in range(4)),
    ]:
        mean, error = values.mean(), values.std(ddof=1) / np.sqrt(len(values))
        # the timestep's own error, ω²Δt²/4, is 2e-3 for the fastest mode (hydrogen)
        assert abs(mean - expected) < 4.0 * error + 3e-3 * expected
        assert error < 0.02 * expected + 0.01


def test_temperature_of_reports_follows_chi_squared():
    """Instantaneous temperature of a small free system: χ² with 3n − 3 degrees of freedom about T."""
    system = atoms(np.zeros((3, 3)), masses=np.array([1.008, 15.999, 1.008]))
    simulation = Simulation(system, Wells(0.0), Langevin(10.0, T, 100.0), rng=11, limits=NO_LIMITS)
    simulation.draw_velocities(T)
    values = []
    simulation.run(20_000, on_step=lambda s: values.append(s.temperature) if s.state.step % 10 == 0 else None)
    assert stats.kstest(6.0 * np.array(values) / T, stats.chi2(6).cdf).pvalue > 1e-3


def test_ornstein_uhlenbeck_step_is_exact():
    """From one velocity: mean c v, variance (1 − c²) k_B T/m, normal; the same after one step or two half steps."""
    mass, n, v0, friction, dt = 15.999, 30_000, 0.02, 300.0, 2.0
    c = np.exp(-0.6)
    width = np.sqrt((1.0 - c * c) * KT * ACCELERATION / mass)
    for steps in (1, 2):
        system = atoms(np.zeros((n, 3)), masses=mass)
        system.velocities[:] = v0
        state = State(system, None, np.random.default_rng(steps))
        thermostat = OrnsteinUhlenbeck(T, friction, momentum="none")
        before = state.kinetic_energy
        heat = sum(thermostat.apply(state, dt / steps) for _ in range(steps))
        assert heat == pytest.approx(state.kinetic_energy - before, rel=1e-10)
        normal = (system.velocities.ravel() - c * v0) / width
        assert stats.kstest(normal, "norm").pvalue > 1e-3
        assert abs(normal.mean()) < 4.0 / np.sqrt(3 * n)
        assert normal.var() == pytest.approx(1.0, abs=4.0 * np.sqrt(2.0 / (3 * n)))


def test_energy_balance():
    """Energy less heat is conserved: its deviation falls with Δt² and is far below what flows in and out."""
    deviations = []
    for dt in (5.0, 10.0, 20.0):
        simulation = Simulation(argon_cluster(60.0), LennardJones(*ARGON), Langevin(dt, 30.0, 1.0), rng=1)
        conserved, energy = [simulation.conserved], [simulation.conserved]

        def sample(current, conserved=conserved, energy=energy):
            conserved.append(current.conserved)
            energy.append(current.state.result.energy + current.state.kinetic_energy)

        simulation.run(round(10_000 / dt), on_step=sample)
        deviations.append(np.std(conserved))
        if dt == 5.0:
            assert np.ptp(energy) > 100.0 * np.ptp(conserved)
            assert simulation.integrator.heat_eV == pytest.approx(energy[-1] - conserved[-1], abs=1e-12)
    slope = np.polyfit(np.log((5.0, 10.0, 20.0)), np.log(deviations), 1)[0]
    assert slope == pytest.approx(2.0, abs=0.4)


def test_without_noise_momentum_a_pushed_system_slows_down():
    """A total momentum at the start decays with the friction and nothing brings it back."""
    system = argon_cluster(30.0)
    system.velocities += (0.001, 0.0, 0.0)
    simulation = Simulation(system, LennardJones(*ARGON), Langevin(5.0, 30.0, 2.0), rng=2)
    simulation.run(100)
    v = simulation.state.system.velocities.mean(axis=0)
    np.testing.assert_allclose(v, (0.001 * np.exp(-1.0), 0.0, 0.0), atol=1e-15)
