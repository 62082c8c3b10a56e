"""Velocity Verlet in the compiled loop against the same steps done one by one: every bit, also where a step fails."""

import numpy as np
import pytest
from polmd.kernels.calls import NOTHING, NUMBER, address
from polmd.kernels.cpu.integrate import kinetic_energy
from polmd.kernels.cpu.verlet import verlet
from random_models import random_model

import polmd
from polmd import potential as potentials
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


@pytest.fixture
def evaluations(monkeypatch) -> list:
    """Grows by one with every evaluation that Python asks for."""
    found = []
    polarize = potentials.polarize

    def counted(*given):
        found.append(1)
        return polarize(*given)

    monkeypatch.setattr(potentials, "polarize", counted)
    return found


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
    potential = polmd.MultipolePotential(model, precision=precision)
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
def test_the_loop_gives_the_bits_of_single_steps(hot, evaluations, model, precision):
    found = []
    for on_step in (_one_by_one, None):
        simulation, potential, recorder = _simulation(hot, model, precision)
        evaluations.clear()
        assert simulation.run(50, on_step=on_step) == 50
        state = simulation.state
        current = potential.response(state.system, Conventions(), velocities=state.system.velocities).current
        assert len(evaluations) == (
            51 if on_step else 1
        )  # none by the response, which goes on from what the loop has left
        assert potential.neighbors.builds > 2
        quantities = {name: getattr(state.result, name) for name in ("potentials", *potential.model.header.predicts)}
        bits = _bits(simulation.checkpoint_content()), _bits(quantities), current.total.tobytes(), recorder.seen
        found.append(bits)
    assert found[0] == found[1]


def test_earlier_results_stay_as_they_were(hot):
    simulation, _, _ = _simulation(hot)
    simulation.run(10)
    result = simulation.state.result
    before = _bits({name: getattr(result, name) for name in ("forces", "charges", "potentials", "induced_dipoles")})
    simulation.run(30)
    assert before == _bits(
        {name: getattr(result, name) for name in ("forces", "charges", "potentials", "induced_dipoles")}
    )


def test_a_force_on_a_fixed_atom_is_not_looked_at(hot, evaluations):
    system = hot.copy()
    system.fixed[:3] = True  # a molecule, pressed
    system.positions[0] -= 0.35 * (system.positions[0] - system.positions[1])
    moving = []
    simulation, _, _ = _simulation(system)
    simulation.run(18, on_step=lambda s: moving.append(np.linalg.norm(s.state.result.forces[3:], axis=1).max()))
    fixed = np.linalg.norm(simulation.state.result.forces[:3], axis=1).max()
    assert fixed > 1.5 * max(moving)
    found = []
    for on_step in (_one_by_one, None):
        simulation, _, _ = _simulation(system, limits=Limits(max_force_eV_per_A=1.2 * max(moving)))
        evaluations.clear()
        simulation.run(18, on_step=on_step)
        found.append(_bits(simulation.checkpoint_content()))
        assert len(evaluations) == (19 if on_step else 1)
    assert found[0] == found[1]


def test_the_temperature_is_looked_at_in_every_step(hot):
    temperatures = []
    simulation, _, _ = _simulation(hot)
    simulation.run(19, on_step=lambda s: temperatures.append(s.temperature))
    first = next(k for k in range(19) if temperatures[k] > 0.5 * (temperatures[0] + max(temperatures)))
    assert 1 < first < 18
    found = []
    for on_step in (_one_by_one, None):
        limits = Limits(max_temperature_K=0.5 * (max(temperatures[:first]) + temperatures[first]))
        simulation, _, _ = _simulation(hot, limits=limits)
        with pytest.raises(
            BlowUpError, match=f"step {first + 1}: the temperature is .* K, beyond {limits.max_temperature_K:g} K"
        ):
            simulation.run(40, on_step=on_step)
        found.append(_bits(simulation.checkpoint_content()))
    assert found[0] == found[1]


def test_methods_of_subclasses_are_called(hot):
    """What somebody has changed is not passed over by the loop."""

    class Pulled(polmd.MultipolePotential):
        def compute(self, system, **options):
            result = super().compute(system, **options)
            result.forces[:, 0] += 1.0
            return result

    class Damped(VelocityVerlet):
        def step(self, state, potential, *, stress=False):
            super().step(state, potential, stress=stress)
            state.system.velocities *= 0.99

    for potential, integrator in (
        (Pulled("water"), VelocityVerlet(0.5)),
        (polmd.MultipolePotential("water"), Damped(0.5)),
    ):
        found = []
        for on_step in (_one_by_one, None):
            simulation = Simulation(hot, potential, integrator, rng=1)
            simulation.run(12, on_step=on_step)
            found.append(simulation.state.system.velocities.copy())
        plain, _, _ = _simulation(hot)
        plain.run(12)
        assert np.array_equal(found[0], found[1])
        assert not np.allclose(found[0], plain.state.system.velocities)


def test_numbers_of_other_types_do_not_compile_the_loop_again(hot):
    simulation, _, _ = _simulation(hot)
    simulation.run(2)
    before = len(verlet.nopython_signatures)
    potential = polmd.MultipolePotential("water")
    Simulation(hot, potential, VelocityVerlet(1), limits=Limits(500, 1, 2, 5000)).run(3)
    assert len(verlet.nopython_signatures) == before


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
