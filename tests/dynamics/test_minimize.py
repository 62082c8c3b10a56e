"""FIRE against the published minima of Lennard-Jones clusters (Hoare & Pal 1971; Cambridge Cluster Database)."""

import numpy as np
import pytest
from analytic_potentials import ARGON, LennardJones, Wells, atoms, icosahedron

from polmd.dynamics.integrators import VelocityVerlet
from polmd.dynamics.minimize import Fire
from polmd.dynamics.simulation import Simulation
from polmd.errors import InputError

EPSILON, SIGMA = ARGON
TRIANGLE = [[0, 0, 0], [1, 0, 0], [0.5, 0.9, 0]]
TETRAHEDRON = [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]


@pytest.mark.parametrize(
    ("start", "energy"),
    [(np.array(TRIANGLE) * 1.2, -3.0), (np.array(TETRAHEDRON) * 0.45, -6.0), (icosahedron(1.15), -44.326801)],
    ids=["LJ3", "LJ4", "LJ13"],
)
def test_lennard_jones_minima(start, energy):
    start = SIGMA * (start + np.random.default_rng(0).normal(scale=0.03, size=np.shape(start)))
    simulation = Simulation(atoms(start), LennardJones(EPSILON, SIGMA), VelocityVerlet(1.0))
    assert simulation.minimize(1e-6, max_steps=3000)
    assert simulation.state.result.energy / EPSILON == pytest.approx(energy, abs=5e-7)
    assert np.linalg.norm(simulation.state.result.forces, axis=1).max() <= 1e-6
    assert simulation.state.step < 1000
    assert simulation.state.time_fs == 0.0


def test_overlapping_atoms_move_no_further_than_allowed():
    """Two atoms at 0.1 σ feel 1e12 eV/Å: each step is capped, and the dimer is found."""
    potential = LennardJones(EPSILON, SIGMA)
    simulation = Simulation(atoms([[0, 0, 0], [0.1 * SIGMA, 0, 0]]), potential, Fire(1e-5, largest_step_A=0.1))
    largest = 0.0

    def watch(current):
        nonlocal before, largest
        here = current.state.system.positions.copy()
        largest = max(largest, np.linalg.norm(here - before, axis=1).max())
        before = here

    before = simulation.state.system.positions.copy()
    assert simulation.state.result.forces.max() > 1e10
    assert simulation.run(2000, on_step=watch) < 2000
    assert 0.0999 < largest <= 0.1 * (1 + 1e-12)
    assert simulation.state.result.energy == pytest.approx(-EPSILON, rel=1e-6)


def test_stops_at_tolerance_and_at_rest():
    system = atoms([[0.3, 0.0, 0.0]])
    system.velocities[:] = 0.01
    simulation = Simulation(system, Wells(1.0), Fire(1e-3))
    steps = simulation.run(500)
    assert 0 < steps < 500
    assert not simulation.state.system.velocities.any()
    assert simulation.run(500) == 0
    assert simulation.minimize(1e-9, max_steps=1) is False


def test_refusals():
    with pytest.raises(InputError, match="force_tolerance"):
        Fire(0.0)
    with pytest.raises(InputError, match="largest_step_A"):
        Fire(largest_step_A=float("nan"))
