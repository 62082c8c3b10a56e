"""Models with message passing: derivatives, symmetries, limits. Values: test_checkpoints.py (files written by torch)."""

from pathlib import Path

import numpy as np
import pytest
from random_models import random_model
from test_checkpoints import MESSAGES

import polmd
from polmd.model.architecture import Chi, MessagePassing


def _model(messages, max_l: int = 2, max_nu: int = 3) -> polmd.Model:
    model = random_model(max_l, max_nu, predicts=("charges",), messages=messages)
    arrays = {k: abs(v) if "decay_rate" in k else v for k, v in model.arrays.items()}
    return polmd.Model(model.header, arrays)


def _system(periodic: bool, seed: int = 0) -> polmd.System:
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3), -1).reshape(-1, 3)[:7] * 1.7
    numbers = [(1, 8)[k % 2] for k in range(7)]
    cell = np.eye(3) * 4.4 + rng.uniform(-0.3, 0.3, (3, 3)) if periodic else np.zeros((3, 3))
    positions = grid + rng.uniform(-0.25, 0.25, (7, 3))
    return polmd.System(numbers, positions, cell, [periodic] * 3, np.ones(7), np.zeros((7, 3)))


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("name", MESSAGES)
def test_forces_and_stress_are_derivatives(name: str, periodic: bool) -> None:
    potential = polmd.MultipolePotential(_model(MESSAGES[name]))
    system, step = _system(periodic), 1e-5
    result = potential.compute(system, stress=True)
    rng = np.random.default_rng(1)
    for _ in range(3):
        direction = rng.normal(size=(7, 3))
        energies = []
        for sign in (1, -1):
            moved = system.copy()
            moved.positions += sign * step * direction
            energies.append(potential.compute(moved).energy)
        slope = -np.sum(result.forces * direction)
        assert (energies[0] - energies[1]) / (2 * step) == pytest.approx(slope, rel=1e-6, abs=1e-9)
    if not periodic:
        return
    for a, b in ((0, 0), (0, 1), (2, 1)):
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[a, b] += sign * step / 2
            strain[b, a] += sign * step / 2
            moved = system.copy()
            moved.positions = system.positions @ strain
            moved.cell = system.cell @ strain
            energies.append(potential.compute(moved).energy)
        assert (energies[0] - energies[1]) / (2 * step) == pytest.approx(
            result.stress[a, b] * system.volume, rel=1e-6, abs=1e-9
        )


def test_without_messages_it_is_the_compiled_network() -> None:
    """The layer A¹ = A⁰ doubles the features; readouts that ignore the second copy give the model without messages."""
    bare = random_model(3, 3, predicts=("charges",))
    layer = MessagePassing(norm=1.0, memory=True, decay=False, chi=None)
    model = random_model(3, 3, predicts=("charges",), messages=(layer,))
    arrays = {k: v for k, v in model.arrays.items() if k.startswith("message_0")}
    arrays = {k: np.full_like(v, 1.0) for k, v in arrays.items()} | bare.arrays
    for name in ("energy/weight_0", "energy/linear_weight", "charge/weight_0", "charge/linear_weight"):
        wide = np.zeros((*bare.arrays[name].shape, 2))
        wide[..., 0] = 0.25 * bare.arrays[name]
        wide[..., 1] = 0.75 * bare.arrays[name]
        arrays[name] = wide.reshape(len(wide), -1)
    for periodic in (True, False):
        system = _system(periodic)
        a = polmd.MultipolePotential(bare).compute(system, stress=True)
        b = polmd.MultipolePotential(polmd.Model(model.header, arrays)).compute(system, stress=True)
        assert b.energy == pytest.approx(a.energy, rel=1e-12)
        assert np.allclose(a.forces, b.forces, rtol=0, atol=1e-11 * np.abs(a.forces).max())
        assert not periodic or np.allclose(a.stress, b.stress, rtol=0, atol=1e-11 * np.abs(a.stress).max())


def test_symmetries() -> None:
    """Rotation, permutation, wrapping, a supercell."""
    potential = polmd.MultipolePotential(_model(MESSAGES["all"]))
    system = _system(True)
    result = potential.compute(system)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    turned = system.copy()
    turned.positions, turned.cell = system.positions @ turn, system.cell @ turn
    found = potential.compute(turned)
    assert found.energy == pytest.approx(result.energy, rel=1e-11)
    assert np.allclose(found.forces, result.forces @ turn, atol=1e-10)
    order = np.random.default_rng(3).permutation(7)
    mixed = polmd.System(
        system.numbers[order], system.positions[order] + system.cell[0] * np.arange(7)[:, None], system.cell, system.pbc,
        np.ones(7), np.zeros((7, 3)),
    )  # fmt: skip
    found = potential.compute(mixed)
    assert found.energy == pytest.approx(result.energy, rel=1e-11)
    assert np.allclose(found.forces, result.forces[order], atol=1e-10)


def test_a_run_with_messages_conserves_energy() -> None:
    from polmd.dynamics.integrators import VelocityVerlet
    from polmd.dynamics.simulation import Simulation

    model = _model(MESSAGES["all"])
    simulation = Simulation(_system(False), polmd.MultipolePotential(model), VelocityVerlet(0.05), rng=1)
    before = simulation.potential.compute(simulation.state.system).energy
    simulation.run(40)
    after = simulation.potential.compute(simulation.state.system)
    kinetic = 0.5 * np.sum(simulation.state.system.velocities**2) / polmd.units.ACCELERATION
    assert after.energy + kinetic == pytest.approx(before, abs=2e-3 * kinetic) and kinetic > 1e-5


def test_tensors_and_unknown_layers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="message passing with tensors"):
        random_model(2, 2, messages=MESSAGES["all"])
    with pytest.raises(ValueError, match="per_channel"):
        Chi(per_level=True)
