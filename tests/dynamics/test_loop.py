"""Velocity Verlet in the compiled loop against the same steps done one by one: every bit, also where a step fails."""

import numpy as np
import pytest
from polmd.kernels.calls import NOTHING, NUMBER, address
from polmd.kernels.cpu.integrate import kinetic_energy
from random_models import random_model

import polmd
from polmd.born import Conventions
from polmd.dynamics.integrators import VelocityVerlet
from polmd.dynamics.simulation import BlowUpError, Limits, Simulation
from polmd.dynamics.velocities import maxwell_boltzmann
from polmd.errors import SimulationError
from polmd.neighbors import FARTHEST
from polmd.structures import build_water


@pytest.fixture(scope="module")
def hot() -> polmd.System:
    """27 molecules at a temperature that makes new lists necessary."""
    system = build_water(27, seed=3)
    maxwell_boltzmann(system, 800.0, np.random.default_rng(4))
    return system


class Counting(polmd.MultipolePotential):
    """Counts the evaluations that Python asks for."""

    calls = 0

    def compute(self, system, **options):
        self.calls += 1
        return super().compute(system, **options)


class Recorder:
    every = 20

    def __init__(self):
        self.seen = []

    def report(self, state, info):
        self.seen.append((state.step, info.conserved, info.pressure, state.result.stress.tobytes()))

    def position(self):
        return {}

    def close(self):
        """Nothing to close."""


def _simulation(system, model="water", precision="double", **options):
    recorder = Recorder()
    potential = Counting(model, precision=precision)
    simulation = Simulation(
        system, potential, VelocityVerlet(0.5), rng=1, reporters=[recorder], pressure=True, **options
    )
    return simulation, potential, recorder


def _bits(content):
    """A nested dict with bytes in place of arrays."""
    if isinstance(content, dict):
        return {name: _bits(value) for name, value in content.items()}
    return content.tobytes() if isinstance(content, np.ndarray) else content


def _one_by_one(simulation):
    """An ``on_step`` that wants to see every step."""


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        ("water", "double"),
        ("water", "mixed"),
        (random_model(predicts=("charges",)), "double"),
        (random_model(predicts=("charges", "polarizabilities")), "double"),
    ],
    ids=["water", "water, mixed", "charges", "charges and polarisabilities"],
)
def test_the_loop_gives_the_bits_of_single_steps(hot, model, precision):
    found = []
    for on_step in (_one_by_one, None):
        simulation, potential, recorder = _simulation(hot, model, precision)
        assert simulation.run(50, on_step=on_step) == 50
        evaluations, builds = potential.calls, potential.neighbors.builds
        state = simulation.state
        current = potential.response(state.system, Conventions(), velocities=state.system.velocities).current
        assert potential.calls == evaluations  # the response goes on from what the loop has left
        quantities = {
            name: getattr(state.result, name) for name in ("potentials", "fields", *potential.model.header.predicts)
        }
        found.append(
            (_bits(simulation.checkpoint_content()), _bits(quantities), current.total.tobytes(), recorder.seen)
        )
        assert builds > 2
        assert evaluations == (51 if on_step else 1)
    assert found[0] == found[1]


def test_a_failed_step_is_undone_to_the_one_before(hot):
    forces = []
    simulation, _, _ = _simulation(hot)
    simulation.run(20, on_step=lambda s: forces.append(np.linalg.norm(s.state.result.forces, axis=1).max()))
    failing = int(np.argmax(forces))
    assert 2 < failing < 19
    limit = 0.5 * (forces[failing] + max(forces[:failing]))
    found = []
    for on_step in (_one_by_one, None):
        simulation, _, _ = _simulation(hot, limits=Limits(max_force_eV_per_A=limit))
        with pytest.raises(BlowUpError, match=f"step {failing + 1}: force") as caught:
            simulation.run(40, on_step=on_step)
        assert simulation.state.step == failing
        found.append(
            (_bits(simulation.checkpoint_content()), str(caught.value), caught.value.system.positions.tobytes())
        )
        assert simulation.run(0) == 0
    assert found[0] == found[1]


def test_atoms_that_go_too_far_are_named(hot):
    """Where a new list is refused in the middle of many steps."""
    system = hot.copy()
    system.positions[:, 0] += FARTHEST - 0.7 - system.positions[:, 0].max()
    system.velocities[:, 0] += 0.1
    found = []
    for on_step in (_one_by_one, None):
        simulation, _, _ = _simulation(system)
        with pytest.raises(SimulationError, match="lies beyond 1e\\+08 Å") as caught:
            simulation.run(60, on_step=on_step)
        found.append((_bits(simulation.checkpoint_content()), str(caught.value)))
        assert simulation.state.step > 10
    assert found[0] == found[1]


def test_an_address_belongs_to_a_return_type():
    velocities, masses = np.ones((4, 3)), np.full(4, 2.0)
    assert address(kinetic_energy, (velocities, masses), NUMBER) > 0
    with pytest.raises(TypeError, match="kinetic_energy returns float64, not none"):
        address(kinetic_energy, (velocities, masses), NOTHING)
