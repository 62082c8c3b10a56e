"""A short run made up of random numbers: states, their step information, and what a stored frame must equal."""

from dataclasses import dataclass

import numpy as np
import pytest

from polmd.dynamics.state import State
from polmd.output import StepInfo
from polmd.system import System

CELL = np.array([[10.0, 0.0, 0.0], [1.5, 11.0, 0.0], [-0.5, 2.0, 12.0]])


@dataclass
class Result:
    energy: float
    forces: np.ndarray
    stress: np.ndarray | None = None


class FakeRun:
    """``state(k)`` and ``info(k)`` of the k-th report, the same numbers whenever they are asked for."""

    def __init__(self, n=6, pbc=(True, True, True), every=20):
        self.n, self.pbc, self.every = n, pbc, every
        self.system = self.state(0).system

    def state(self, k):
        rng = np.random.default_rng(k)
        n = self.n
        system = System(
            numbers=np.resize([8, 1, 1], n),
            positions=rng.normal(scale=30.0, size=(n, 3)),
            cell=CELL * (1.0 + 0.01 * k) if any(self.pbc) else np.zeros((3, 3)),
            pbc=np.array(self.pbc),
            masses=np.resize([15.999, 1.008, 2.014], n),
            velocities=rng.normal(scale=0.01, size=(n, 3)),
        )
        result = Result(float(rng.normal() * 100), rng.normal(size=(n, 3)))
        return State(system, result, rng, step=k * self.every, time_fs=k * self.every * 0.5)

    def info(self, k):
        return StepInfo(
            conserved=-1.0 / (k + 3),
            temperature=300.0 + k / 7,
            degrees_of_freedom=3 * self.n,
            stage="nvt",
            stage_index=0,
        )

    def report(self, reporter, start, stop):
        for k in range(start, stop):
            reporter.report(self.state(k), self.info(k))

    def check(self, frame, k, forces=False):
        """Bit for bit (forces pass through a unit conversion)."""
        state = self.state(k)
        assert (frame.step, frame.time_fs) == (state.step, state.time_fs)
        assert (frame.potential_energy, frame.kinetic_energy) == (state.result.energy, state.kinetic_energy)
        np.testing.assert_array_equal(frame.positions, state.system.positions)
        np.testing.assert_array_equal(frame.velocities, state.system.velocities)
        np.testing.assert_array_equal(frame.cell, state.system.cell)
        if forces:
            np.testing.assert_allclose(frame.forces, state.result.forces, rtol=4e-16)
        else:
            assert frame.forces is None


@pytest.fixture
def run():
    return FakeRun()


@pytest.fixture
def make_run():
    return FakeRun
