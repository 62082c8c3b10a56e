"""Dynamics that stays on the device: equal to the CPU's, recorded once, undone and resumed bit for bit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from comparing import TOLERANCE, make_system
from polmd.kernels.scalar.philox import normal_pair, philox
from random_models import random_model

from polmd import MultipolePotential
from polmd.cuda.dynamics import ResidentLangevin, ResidentVerlet, resident
from polmd.cuda.potential import CudaPotential
from polmd.dynamics.barostats import StochasticCellRescaling
from polmd.dynamics.integrators import Barostatted, Bussi, Integrator, Langevin, VelocityVerlet
from polmd.dynamics.simulation import BlowUpError, Limits, Simulation
from polmd.model.file import Model
from polmd.system import System

SMALL = {"predicts": ("charges", "dipoles", "polarizabilities"), "max_l": 2, "max_nu": 2, "n_radial": 1, "n_rbf": 2}


def _model() -> Model:
    return random_model(**SMALL)


def _start(model: Model, n: int = 4) -> System:
    """Relaxed far enough that a few steps are harmless."""
    system = make_system(n)
    simulation = Simulation(system, MultipolePotential(model), VelocityVerlet(0.5), rng=1)
    simulation.minimize(0.5, 200)
    relaxed = simulation.state.system.copy()
    relaxed.velocities[:] = system.velocities
    return relaxed


class _Noise:
    """The device's random numbers, for the CPU's thermostat."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.key = rng.integers(0, 1 << 32, size=2, dtype=np.int64).tolist()
        self._rng, self.bit_generator, self._step = rng, rng.bit_generator, 0

    def integers(self, high: int) -> int:
        return int(self._rng.integers(high))

    def standard_normal(self, shape: tuple[int, int] | None = None) -> np.ndarray | float:
        if shape is None:  # the barostat's numbers are the host's on both
            return float(self._rng.standard_normal())
        out = np.zeros(shape)
        for i in range(shape[0]):
            a, b, c, d = philox(i, self._step, 0, 0, *self.key)
            out[i, :2], out[i, 2] = normal_pair(a, b), normal_pair(c, d)[0]
        self._step += 1
        return out


@pytest.mark.parametrize("precision", ["double", "mixed"])
@pytest.mark.parametrize("kind", ["nve", "nvt", "nvt, fixed atom"])
def test_five_steps(kind: str, precision: str) -> None:
    model = _model()
    start = _start(model)
    start.fixed[2] = kind == "nvt, fixed atom"
    start.velocities[2] *= kind != "nvt, fixed atom"

    def integrator() -> Integrator:
        if kind == "nve":
            return VelocityVerlet(0.5)
        return Langevin(0.5, 300.0, 5.0, momentum="none" if "fixed" in kind else "linear")

    cpu = Simulation(start, MultipolePotential(model, skin=0.05), integrator(), rng=1)
    cpu.state.rng = _Noise(1)  # type: ignore[assignment]
    cpu.run(5)
    potential = MultipolePotential(model, device="cuda", precision=precision, skin=0.05)
    device = Simulation(start, potential, resident(integrator()), rng=1)
    assert device.state.step == 0
    before = potential.engine.queue.launches
    device.run(5)
    mover = device.integrator
    assert isinstance(mover, ResidentVerlet | ResidentLangevin)
    assert mover.launches_per_step == (19 if kind == "nve" else 20)  # benchmarks/README.md
    assert potential.engine.queue.launches - before <= 5 * mover.launches_per_step + 2
    a, b = device.state.system, cpu.state.system
    moved = np.abs(b.positions - start.positions).max()
    assert moved > 0.005 and device.state.step == 5
    tolerance = TOLERANCE[precision]
    assert np.abs(a.positions - b.positions).max() < tolerance * moved
    assert np.abs(a.velocities - b.velocities).max() < tolerance * np.abs(b.velocities).max()
    assert abs(device.conserved - cpu.conserved) < tolerance * abs(cpu.conserved)
    if "fixed" in kind:
        assert np.array_equal(a.positions[2], start.positions[2])


def test_a_stride_equals_single_steps_and_rebuilds_decided_on_the_device() -> None:
    model = _model()
    start = _start(model)
    start.velocities *= 3.0
    ends = []
    for pieces in ([6], [1, 2, 1, 2], [3, 3]):
        potential = MultipolePotential(model, device="cuda", skin=0.06)
        simulation = Simulation(start, potential, resident(Langevin(0.5, 300.0, 5.0)), rng=3)
        for piece in pieces:
            simulation.run(piece)
        ends.append((simulation.state.system.positions, simulation.conserved, int(potential.state()["builds"])))
    for positions, conserved, builds in ends[1:]:
        assert np.array_equal(positions, ends[0][0])
        assert builds == ends[0][2] > 1
        assert abs(conserved - ends[0][1]) < 1e-11  # the heat is added up in other pieces


def test_too_little_room_is_found_and_the_steps_are_done_again() -> None:
    model = _model()
    start = _start(model)
    start.velocities *= 3.0
    ends = []
    for cramped in (False, True):
        potential = MultipolePotential(model, device="cuda", skin=0.06)
        simulation = Simulation(start, potential, resident(VelocityVerlet(0.5)), rng=3)
        assert simulation.state.step == 0
        if cramped:
            potential.engine._room = 1
            potential.engine._make_cell_room()
            potential.engine.epoch += 1
        simulation.run(5)
        ends.append(simulation.state.system.positions)
    assert np.array_equal(*ends)


def test_a_failing_step_is_undone_and_the_ones_before_it_are_kept() -> None:
    model = _model()
    start = _start(model)
    start.positions += np.random.default_rng(4).uniform(-0.1, 0.1, start.positions.shape)
    start.velocities[:] = 0.0
    reference = Simulation(start, MultipolePotential(model), VelocityVerlet(0.5), rng=1)
    speeds = []
    for _ in range(5):
        reference.run(1)
        speeds.append(float(np.linalg.norm(reference.state.system.velocities, axis=1).max()))
    assert max(speeds[:3]) < speeds[3]
    fails = 3  # counted from 0
    limits = Limits(max_displacement_A=0.5 * 0.5 * (max(speeds[:3]) + speeds[3]))
    simulation = Simulation(
        start, MultipolePotential(model, device="cuda"), resident(VelocityVerlet(0.5)), rng=1, limits=limits
    )
    with pytest.raises(BlowUpError, match="move per step") as caught:
        simulation.run(5)
    assert caught.value.step == fails + 1 and simulation.state.step == fails


def test_resumed_bit_for_bit() -> None:
    model = _model()
    start = _start(model)
    start.velocities *= 3.0

    def simulation() -> Simulation:
        potential = MultipolePotential(model, device="cuda", precision="mixed", skin=0.06)
        return Simulation(start, potential, resident(Langevin(0.5, 300.0, 5.0)), rng=5)

    whole = simulation()
    whole.run(3)
    content = whole.checkpoint_content()
    whole.run(3)
    again = simulation()
    again.restore(content)
    again.run(3)
    assert np.array_equal(again.state.system.positions, whole.state.system.positions)
    assert np.array_equal(again.state.system.velocities, whole.state.system.velocities)
    assert again.state.result.energy == whole.state.result.energy and again.conserved == whole.conserved


def test_barostat_between_steps_on_the_device() -> None:
    """Steps and barostat equal to the CPU's with the same noise; resumed bit for bit."""
    model = _model()
    start = _start(model)

    def simulation(**options: str) -> Simulation:
        barostat = StochasticCellRescaling(1.0, time_ps=1e4, coupling="anisotropic")
        integrator = Barostatted(Langevin(0.5, 300.0, 5.0), barostat, every=2)
        potential = MultipolePotential(model, skin=0.05, **options)
        device = resident(integrator) if options else integrator
        return Simulation(start, potential, device, rng=1, limits=Limits(math.inf, math.inf, 2.0))

    cpu, whole = simulation(), simulation(device="cuda")
    cpu.state.rng = _Noise(1)  # type: ignore[assignment]
    assert whole.state.step == 0
    cpu.run(3)
    whole.run(3)
    content = whole.checkpoint_content()
    cpu.run(2)
    whole.run(2)
    a, b = whole.state.system, cpu.state.system
    assert np.abs(b.cell - start.cell).max() > 1e-4
    assert np.abs(a.cell - b.cell).max() < 1e-9 * np.abs(b.cell - start.cell).max()
    assert np.abs(a.positions - b.positions).max() < 1e-9 * np.abs(b.positions - start.positions).max()
    assert abs(whole.conserved - cpu.conserved) < 1e-9 * abs(cpu.conserved)
    again = simulation(device="cuda")
    again.restore(content)
    again.run(2)
    assert np.array_equal(again.state.system.positions, a.positions)
    assert np.array_equal(again.state.system.cell, a.cell) and again.conserved == whole.conserved


def test_mesh_of_fixed_wave_numbers_stays_when_the_cell_changes() -> None:
    """A run that is resumed with another cell than that at the start of the stage has the same mesh."""
    model, system = _model(), make_system()
    system.cell *= 3.0
    shapes = []
    for stretch in (1.0, 1.5):
        potential = MultipolePotential(model, device="cuda", method="mesh", tolerance=1e-3)
        assert isinstance(potential, CudaPotential)
        potential.fix_wave_numbers(system.cell)
        other = system.copy()
        other.cell *= stretch
        potential.engine.load(other)
        assert potential.engine._mesh is not None
        shapes.append(potential.engine._mesh.shape)
    potential.fix_wave_numbers(None)
    assert shapes[0] == shapes[1] != potential.engine.mesh_shape(other.cell)


def test_other_integrators_move_atoms_on_the_host() -> None:
    model = _model()
    start = _start(model)
    bussi = Bussi(0.5, 300.0, 0.1)
    assert resident(bussi) is bussi
    ends = []
    for options in ({}, {"device": "cuda"}):
        simulation = Simulation(start, MultipolePotential(model, **options), Bussi(0.5, 300.0, 0.1), rng=2)
        simulation.run(2)
        ends.append(simulation.state.system.positions)
    np.testing.assert_allclose(ends[0], ends[1], rtol=0, atol=1e-11)
