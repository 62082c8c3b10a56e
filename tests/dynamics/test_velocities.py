"""Maxwell–Boltzmann starts and the momenta they take out."""

import numpy as np
import pytest
from analytic_potentials import atoms
from scipy import stats

from polmd.dynamics.velocities import degrees_of_freedom, maxwell_boltzmann, remove_rotation
from polmd.errors import InputError
from polmd.units import ACCELERATION, BOLTZMANN


def _system(n, seed=0):
    rng = np.random.default_rng(seed)
    return atoms(rng.normal(scale=3.0, size=(n, 3)), masses=rng.uniform(1.0, 40.0, n))


def _twice_kinetic(system):
    return np.sum(system.masses[:, None] * system.velocities**2) / ACCELERATION


def _momenta(system):
    p = system.masses[:, None] * system.velocities
    return p, np.cross(system.positions, p).sum(axis=0)


def test_speed_of_hydrogen_and_argon():
    """√(k_B T/m) from published constants: argon at 300 K 249.9 m/s, hydrogen atoms 1573 m/s, per component."""
    rng = np.random.default_rng(1)
    for mass, speed in ((39.948, 249.9e-5), (1.008, 1573.1e-5)):
        system = atoms(np.zeros((40_000, 3)), masses=mass)
        maxwell_boltzmann(system, 300.0, rng)
        assert system.velocities.std() == pytest.approx(speed, rel=4 / np.sqrt(2 * 120_000))


@pytest.mark.parametrize("momentum", ["none", "linear", "linear+angular"])
def test_kinetic_energy_is_chi_squared(momentum):
    """2 E_kin / k_B T of 4 atoms of different masses follows χ² with the stated degrees of freedom."""
    rng = np.random.default_rng(2)
    system = _system(4)
    dof = degrees_of_freedom(system, momentum)
    assert dof == {"none": 12, "linear": 9, "linear+angular": 6}[momentum]
    values = []
    for _ in range(2000):
        maxwell_boltzmann(system, 250.0, rng, momentum=momentum)
        values.append(_twice_kinetic(system) / (BOLTZMANN * 250.0))
    assert stats.kstest(values, stats.chi2(dof).cdf).pvalue > 1e-3
    assert stats.kstest(values, stats.chi2(dof + 1).cdf).pvalue < 1e-6


def test_momenta_are_taken_out():
    rng = np.random.default_rng(3)
    system = _system(20)
    maxwell_boltzmann(system, 300.0, rng)
    p, angular = _momenta(system)
    assert np.abs(p.sum(axis=0)).max() < 1e-14 * np.abs(p).sum()
    assert np.abs(angular).max() > 1e-3
    maxwell_boltzmann(system, 300.0, rng, momentum="linear+angular")
    p, angular = _momenta(system)
    assert np.abs(p.sum(axis=0)).max() < 1e-14 * np.abs(p).sum()
    assert np.abs(angular).max() < 1e-13 * np.abs(p).sum() * np.abs(system.positions).max()


@pytest.mark.parametrize("momentum", ["none", "linear", "linear+angular"])
def test_exact_temperature(momentum):
    system = _system(5)
    maxwell_boltzmann(system, 77.0, np.random.default_rng(4), momentum=momentum, exact=True)
    dof = degrees_of_freedom(system, momentum)
    assert _twice_kinetic(system) / (dof * BOLTZMANN) == pytest.approx(77.0, rel=1e-13)


def test_linear_molecule_keeps_what_cannot_rotate():
    system = atoms([[0, 0, -1.0], [0, 0, 0.3], [0, 0, 1.2]])
    system.velocities[:] = np.random.default_rng(5).normal(size=(3, 3))
    system.velocities -= system.velocities.mean(axis=0)
    along = system.velocities[:, 2].copy()
    remove_rotation(system)
    assert np.isfinite(system.velocities).all()
    np.testing.assert_allclose(system.velocities[:, 2], along, atol=1e-14)
    assert np.abs(_momenta(system)[1]).max() < 1e-13


def test_one_atom_keeps_its_momentum():
    system = atoms([[1.0, 2.0, 3.0]])
    maxwell_boltzmann(system, 300.0, np.random.default_rng(6))
    assert system.velocities.all()
    assert degrees_of_freedom(system, "linear") == 3


def test_refusals():
    system = _system(3)
    rng = np.random.default_rng(7)
    for temperature in (-1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="temperature_K"):
            maxwell_boltzmann(system, temperature, rng)
    with pytest.raises(InputError, match="linear\\+angular"):
        maxwell_boltzmann(system, 1.0, rng, momentum="angular")
    system.cell[:], system.pbc[:] = 10 * np.eye(3), (True, False, False)
    with pytest.raises(InputError, match="periodic"):
        maxwell_boltzmann(system, 1.0, rng, momentum="linear+angular")
