"""Integrators on a GPU: many steps without the host.

A step is recorded once and replayed (a CUDA graph on a device); positions, velocities and forces cross to the host when
somebody wants to see them. A step that was computed with too short a list, or that failed, is found when the flags are
read at the end: the steps are then done again from their start, which is still on the host.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import cuda

from polmd.cuda.engine import Engine
from polmd.cuda.potential import CudaPotential
from polmd.dynamics.integrators import Barostatted, Integrator, Langevin, VelocityVerlet
from polmd.dynamics.state import NO_BOUNDS, Bounds, Potential, State
from polmd.kernels.cuda import integrate
from polmd.kernels.cuda.compile import SIMULATED, Recording
from polmd.kernels.cuda.descriptor import BAD, BUILDS
from polmd.system import System
from polmd.units import ACCELERATION, BOLTZMANN

#: Room for the thermostat's targets, steps.
_MOST_STEPS = 1024


def resident(integrator: Integrator) -> Integrator:
    """The integrator that does the same on the device; the same one where there is none: it then moves the atoms on the
    host, with forces from the device."""
    if type(integrator) is VelocityVerlet:
        return ResidentVerlet(integrator)
    if type(integrator) is Langevin:
        return ResidentLangevin(integrator)
    if type(integrator) is Barostatted and type(integrator.inner) is Langevin:
        return ResidentBarostatted(integrator)
    return integrator


class _Mover:
    """Arrays of the atoms that move on an engine, and the recorded step."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.epoch = engine, engine.epoch
        n = engine.n
        self.masses, self.inverse_masses = cuda.to_device(np.zeros(n)), cuda.to_device(np.zeros(n))
        self.constants = cuda.to_device(np.zeros(integrate.N_CONSTANTS))
        self.counter, self.key = cuda.to_device(np.zeros(2, np.int64)), cuda.to_device(np.zeros(2, np.int64))
        self.thermal, self.remove = cuda.to_device(np.zeros(_MOST_STEPS)), cuda.to_device(np.zeros(1))
        self.noise, self.gained = cuda.to_device(np.zeros((n, 3))), cuda.to_device(np.zeros((n, 1)))
        most = 2 if SIMULATED else integrate.BLOCKS
        self.blocks = max(1, min(most, -(-n // engine.block(128))))
        self.partial = cuda.to_device(np.zeros((self.blocks, 4)))
        self.recording: Recording | None = None
        self._known: dict[str, np.ndarray] = {}
        self._reference, self._builds = cuda.to_device(np.zeros((n, 3))), 0

    def fits(self, engine: Engine) -> bool:
        """Whether all this belongs to the engine and its atoms."""
        return self.engine is engine and len(self.noise) == engine.n

    def know(self, name: str, host: np.ndarray) -> None:
        """Remember what an array on the device holds."""
        self._known[name] = np.array(host)

    def upload(self, name: str, device: Any, host: np.ndarray) -> None:
        """Write an array of the host to the device, unless that is what it holds."""
        known = self._known.get(name)
        if known is not None and np.array_equal(known, host):
            return
        self.know(name, host)
        device.copy_to_device(np.ascontiguousarray(self._known[name]), stream=self.engine.queue.stream)

    def moved(self) -> None:
        """The device has gone on: positions, velocities, forces and counters are no longer those of the host."""
        self.engine.take_positions(np.full((self.engine.n, 3), np.nan))
        for name in ("velocities", "forces", "counter", "gained"):
            self._known.pop(name, None)

    def remember_list(self) -> None:
        """Keep where the list was built, on the device."""
        self._reference.copy_to_device(self.engine.reference, stream=self.engine.queue.stream)
        self._builds = int(self.engine.fetch(self.engine.flags)[BUILDS])

    def restore_list(self, system: System) -> None:
        """The list as it was then."""
        self.engine.restore_list(system, self.engine.fetch(self._reference), self._builds)

    def launch_verlet(self) -> None:
        """A step of velocity Verlet."""
        e = self.engine
        kernel = integrate.kick_drift(e.block(128))
        e._flat(kernel, e.n, e.positions, e.velocities, e.forces, self.inverse_masses, self.constants)
        e.launch_forces()
        self._launch_kick()

    def launch_langevin(self) -> None:
        """A step of BAOAB."""
        e = self.engine
        e.queue.launch(
            integrate.kick_drift_noise(e.block(128)), self.blocks, e.positions, e.velocities, e.forces, self.masses,
            self.inverse_masses, self.constants, self.thermal, self.key, self.counter, self.noise, self.partial,
        )  # fmt: skip
        e._flat(
            integrate.ornstein_uhlenbeck(e.block(128)), e.n, e.positions, e.velocities, self.noise, self.partial,
            self.masses, self.inverse_masses, self.constants, self.remove, self.gained,
        )  # fmt: skip
        e.launch_forces()
        self._launch_kick()

    def _launch_kick(self) -> None:
        e = self.engine
        kernel = integrate.kick(e.block(128))
        e._flat(kernel, e.n, e.velocities, e.forces, self.inverse_masses, self.constants, self.counter, e.flags)


class _Resident:
    """What both integrators share; ``_set`` writes the constants of ``count`` steps, ``_launch`` is one step."""

    timestep_fs: float
    _drift = 1.0

    def __init__(self) -> None:
        self._mover: _Mover | None = None

    @property
    def launches_per_step(self) -> int:
        """Kernels of a step; zero before the first."""
        return len(self._mover.recording) if self._mover is not None and self._mover.recording is not None else 0

    def step(self, state: State, potential: Potential, *, stress: bool = False) -> None:
        """One step."""
        self.advance(state, potential, 1, stress=stress)

    def advance(
        self,
        state: State,
        potential: Potential,
        count: int,
        *,
        stress: bool = False,
        bounds: Bounds = NO_BOUNDS,
    ) -> int:
        """See :class:`polmd.dynamics.integrators.Resident`."""
        assert isinstance(potential, CudaPotential)
        engine = potential.engine
        engine.load(state.system)
        if self._mover is None or not self._mover.fits(engine):
            self._mover = _Mover(engine)
        mover = self._mover
        mover.remember_list()
        constants = np.zeros(integrate.N_CONSTANTS)
        constants[integrate.HALF_KICK] = 0.5 * self.timestep_fs * ACCELERATION
        constants[integrate.DRIFT] = self._drift * self.timestep_fs
        constants[integrate.DECAY] = 1.0
        constants[integrate.MAX_FORCE] = min(bounds.force, 1e150) ** 2
        constants[integrate.MAX_SPEED] = min(bounds.displacement / self.timestep_fs, 1e150) ** 2
        done = count
        if not self._replay(state, mover, constants, count) and count > 1:
            done = 0  # a step failed: which?
            while done < count - 1 and self._again(state, mover, constants, done + 1):
                done += 1
            done = max(done, 1)
            self._again(state, mover, constants, done)
        positions, velocities = engine.fetch_all([engine.positions, engine.velocities])
        state.system.positions[:], state.system.velocities[:] = positions, velocities
        engine.take_positions(state.system.positions)
        self._finish(state, mover, done)
        state.result = potential.collect(state.system, stress=stress)
        mover.know("velocities", state.system.velocities)
        mover.know("forces", state.result.forces)
        return done

    def _again(self, state: State, mover: _Mover, constants: np.ndarray, count: int) -> bool:
        """:meth:`_replay` after a replay that went wrong: with the list of the start."""
        mover.restore_list(state.system)
        return self._replay(state, mover, constants, count)

    def _replay(self, state: State, mover: _Mover, constants: np.ndarray, count: int) -> bool:
        """Do ``count`` steps on the device from the state on the host; False when one failed."""
        engine, system = mover.engine, state.system
        engine.load(system)
        mover.upload("velocities", engine.velocities, system.velocities)
        mover.upload("forces", engine.forces, state.result.forces)
        mover.upload("masses", mover.masses, system.masses)
        mover.upload("inverse_masses", mover.inverse_masses, system.inverse_masses)
        self._set(state, mover, constants, count)
        mover.upload("constants", mover.constants, constants)
        if mover.recording is None or mover.epoch != engine.epoch:
            mover.recording, mover.epoch = engine.queue.record(lambda: self._launch(mover)), engine.epoch
        for _ in range(count):
            mover.recording.replay()
        mover.moved()
        if not engine.make_room():
            return self._again(state, mover, constants, count)
        flags = engine.fetch(engine.flags)
        if not flags[BAD]:
            return True
        flags[BAD] = 0
        engine.set_flags(flags)
        return False

    def _launch(self, mover: _Mover) -> None:
        raise NotImplementedError

    def _set(self, state: State, mover: _Mover, constants: np.ndarray, count: int) -> None:
        """Nothing beyond the constants."""

    def _finish(self, state: State, mover: _Mover, count: int) -> None:
        """Nothing to remember."""


class ResidentVerlet(_Resident, VelocityVerlet):
    """:class:`polmd.dynamics.integrators.VelocityVerlet` on the device."""

    def __init__(self, integrator: VelocityVerlet) -> None:
        VelocityVerlet.__init__(self, integrator.timestep_fs, momentum=integrator.momentum)
        _Resident.__init__(self)

    def _launch(self, mover: _Mover) -> None:
        mover.launch_verlet()


class ResidentLangevin(_Resident, Langevin):
    """:class:`polmd.dynamics.integrators.Langevin` on the device, with noise from a counter.

    The noise of atom i in step t of the stage is Philox of (i, t) under a key that is drawn from the run's generator
    in the first step (kernels/scalar/philox.py): the same distribution as on the CPU, other numbers.
    """

    _drift = 0.5

    def __init__(self, integrator: Langevin) -> None:
        self.__dict__.update(integrator.__dict__)
        _Resident.__init__(self)
        self.key = np.full(2, -1, np.int64)

    def _launch(self, mover: _Mover) -> None:
        mover.launch_langevin()

    def _set(self, state: State, mover: _Mover, constants: np.ndarray, count: int) -> None:
        thermostat, system = self.thermostat, state.system
        if self.key[0] < 0:
            self.key = state.rng.integers(0, 1 << 32, size=2, dtype=np.int64)
        friction = thermostat.friction_per_ps * self.timestep_fs * 1e-3  # type: ignore[attr-defined]
        constants[integrate.DECAY] = math.exp(-friction)
        targets = np.zeros(_MOST_STEPS)
        for k in range(count):
            target = thermostat.temperature_K if self.temperature is None else self.temperature.at(self.steps + k + 0.5)
            targets[k] = -math.expm1(-2.0 * friction) * BOLTZMANN * target * ACCELERATION
        removes = thermostat.momentum == "linear" and len(system) > 1 and not system.fixed.any()
        mover.upload("thermal", mover.thermal, targets)
        mover.upload("key", mover.key, self.key)
        mover.upload("counter", mover.counter, np.array([self.steps, 0], np.int64))
        mover.upload("remove", mover.remove, np.array([float(removes)]))
        mover.upload("gained", mover.gained, np.zeros((len(system), 1)))

    def _finish(self, state: State, mover: _Mover, count: int) -> None:
        self.steps += count
        if self.temperature is not None:
            self.thermostat.temperature_K = self.temperature.at(self.steps - 0.5)
        self.heat_eV += float(mover.engine.total(mover.gained)[0]) / ACCELERATION

    def state_arrays(self) -> dict[str, np.ndarray]:
        """``heat_eV``, steps done, the key of the noise."""
        return {"heat_eV": np.array(self.heat_eV), "steps": np.array(self.steps), "key": self.key.copy()}

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Take back what ``state_arrays`` gave."""
        self.heat_eV, self.steps = float(arrays["heat_eV"]), int(arrays["steps"])
        self.key = np.array(arrays["key"], np.int64)


class ResidentBarostatted(Barostatted):
    """:class:`polmd.dynamics.integrators.Barostatted` with its steps between two actions of the barostat on the device.

    The barostat acts on the host: positions, velocities, forces and stress cross once in ``every`` steps, and the list and
    what depends on the cell are made again.
    """

    inner: ResidentLangevin

    def __init__(self, integrator: Barostatted) -> None:
        self.__dict__.update(integrator.__dict__)
        assert isinstance(integrator.inner, Langevin)
        self.inner = ResidentLangevin(integrator.inner)

    @property
    def launches_per_step(self) -> int:
        """Kernels of a step in which the barostat does not act; zero before the first."""
        return self.inner.launches_per_step

    def step(self, state: State, potential: Potential, *, stress: bool = False) -> None:
        """One step."""
        self.advance(state, potential, 1, stress=stress)

    def advance(
        self,
        state: State,
        potential: Potential,
        count: int,
        *,
        stress: bool = False,
        bounds: Bounds = NO_BOUNDS,
    ) -> int:
        """See :class:`polmd.dynamics.integrators.Resident`; up to the next action of the barostat."""
        left = self.every - self.inner.steps % self.every
        done = self.inner.advance(state, potential, min(count, left), stress=stress or count >= left, bounds=bounds)
        if done == left:
            self.move_cell(state, potential)
        return done
