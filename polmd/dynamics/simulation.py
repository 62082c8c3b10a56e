"""The loop: a potential, an integrator and reporters around one ``State``."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from ase.data import chemical_symbols

from polmd.dynamics.integrators import Integrator
from polmd.dynamics.minimize import Fire
from polmd.dynamics.state import Bounds, CellAware, EnergyForces, Potential, State
from polmd.dynamics.velocities import Momentum, maxwell_boltzmann
from polmd.errors import InputError, SimulationError
from polmd.kernels.cpu.integrate import kinetic_energy, largest_norm
from polmd.output.reporter import Reporter, StepInfo
from polmd.system import System
from polmd.units import ACCELERATION, BOLTZMANN

#: Most steps that a resident integrator does before signals and clocks are looked at.
_MOST_STEPS = 100
#: Generators whose state can be written to and read from a checkpoint.
_GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


@dataclass(frozen=True)
class Limits:
    """What a step of dynamics may not exceed: beyond it the run is stopped as exploded. Minimisers have none of these.
    Forces on fixed atoms are not looked at.

    Attributes
    ----------
    max_force_eV_per_A : longest force on an atom
    max_displacement_A : speed of an atom times the timestep
    max_volume_ratio : volume over that at the start of the stage, or the inverse
    max_temperature_K : instantaneous temperature, with the integrator's degrees of freedom
    """

    max_force_eV_per_A: float = 1000.0
    max_displacement_A: float = 1.0
    max_volume_ratio: float = 2.0
    max_temperature_K: float = math.inf


class BlowUpError(SimulationError):
    """A step gave energies, forces or velocities that are not finite or exceed the ``Limits``.

    Attributes
    ----------
    step : number of the step
    atoms : indices of the guilty atoms, worst first; empty when only the energy is at fault
    system : the atoms as the step left them (``simulation.state`` is back at the last good step)
    """

    def __init__(self, message: str, step: int, atoms: list[int], system: System) -> None:
        super().__init__(message)
        self.step = step
        self.atoms = atoms
        self.system = system


class Simulation:
    """Moves a system in time and reports on it.

    >>> simulation = Simulation(system, potential, Langevin(0.5, temperature_K=300, friction_per_ps=1), rng=1)
    >>> simulation.minimize()
    >>> simulation.draw_velocities(300)
    >>> simulation.run(1000)
    >>> simulation.temperature

    The system is copied; ``simulation.state.system`` is the moving one. Its positions, velocities and cell may be
    changed between calls of ``run``: forces follow. Times are counted as start of the stage + steps × timestep, never
    summed up, so a run in pieces has the times of a run in one.

    A step that fails (not finite, beyond the limits, an exception in the potential, Ctrl-C) is undone: ``state``,
    generator, integrator and potential are those of the last good step, ready for ``checkpoint_content`` or another try.
    Where many steps are done at a time (``run``), Ctrl-C and foreign exceptions undo all of these.
    With an integrator that changes the cell, the potential's wave numbers are those of the cell at the start of the stage.
    Reporters are closed by ``close`` or by leaving a ``with`` block, also after an error.

    Parameters
    ----------
    system : the start
    potential : see ``state.Potential``
    integrator : see ``integrators.Integrator``; ``set_stage`` changes it
    rng : seed or ``numpy.random.Generator``, the only source of randomness; None takes a new seed from the system
    reporters : called at steps divisible by their ``every``, the first step included
    limits : see ``Limits``
    pressure : compute the stress at steps that are reported, so that reporters get the pressure
    stage, stage_index : name and place of the current stage, for reporters
    pause_every : ``on_step`` of ``run`` is called at least at steps divisible by this, and at those that are reported; 0: only
        at the latter
    """

    def __init__(
        self,
        system: System,
        potential: Potential,
        integrator: Integrator,
        *,
        rng: int | np.random.Generator | None = None,
        reporters: Iterable[Reporter] = (),
        limits: Limits | None = None,
        pressure: bool = False,
        stage: str = "",
        stage_index: int = 0,
        pause_every: int = 1,
    ) -> None:
        _check_system(system)
        system = system.copy()
        system.velocities[system.fixed] = 0.0
        self.potential = potential
        self.integrator = integrator
        self.reporters = list(reporters)
        self.limits = Limits() if limits is None else limits
        self.pressure = pressure
        self.stage = stage
        self.stage_index = stage_index
        self.pause_every = pause_every
        self._system = system
        self._rng = np.random.default_rng(rng)
        self._state: State | None = None
        self._origin = (0, 0.0)  # step and time at which the current stage started
        self._reported = -1  # the last step that reporters saw
        self._end = 0  # the step up to which run goes
        self._pause = 0  # pause_every, where there is somebody to call
        self._stop = False
        self._stepping = False
        self._volume = 0.0  # at the start of the current stage
        self._good: _Snapshot

    # ---- state ------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The current point of the trajectory; the first use computes its forces."""
        if self._state is None:
            self._fix_wave_numbers(self._system)
            result = self.potential.compute(self._system, stress=self._wants_stress(0))
            self._state = State(self._system, result, self._rng)
            self._check(self._state, _NO_LIMITS)
            self._good = _Snapshot(self._state, self.integrator, self.potential)
        return self._state

    @property
    def stage_step(self) -> int:
        """Steps done in the current stage."""
        return self.state.step - self._origin[0]

    @property
    def degrees_of_freedom(self) -> int:
        """Those of the integrator."""
        return self.integrator.degrees_of_freedom(self.state.system)

    @property
    def temperature(self) -> float:
        """Instantaneous temperature, K."""
        return self.state.temperature(self.degrees_of_freedom)

    @property
    def conserved(self) -> float:
        """The integrator's conserved quantity, eV."""
        return self.integrator.conserved(self.state)

    def info(self) -> StepInfo:
        """What reporters are told beyond the state. The pressure, ⅔ E_kin/V − ⅓ tr σ with σ = (1/V) ∂E/∂ε, needs three
        periodic axes and a result with stress."""
        state = self.state
        pressure = None
        if state.result.stress is not None and state.system.pbc.all():
            kinetic = 2.0 * state.kinetic_energy / (3.0 * state.system.volume)
            pressure = kinetic - sum(state.result.stress.diagonal().tolist()) / 3.0
        degrees_of_freedom = self.degrees_of_freedom
        return StepInfo(
            conserved=self.conserved,
            temperature=state.temperature(degrees_of_freedom),
            degrees_of_freedom=degrees_of_freedom,
            pressure=pressure,
            stage=self.stage,
            stage_index=self.stage_index,
        )

    # ---- actions ----------------------------------------------------------------------------------------------------

    def set_stage(self, integrator: Integrator, stage: str = "", stage_index: int = 0) -> None:
        """Go on from here with another integrator."""
        state = self.state
        cell_moves = self.integrator.changes_cell or integrator.changes_cell
        self.integrator, self.stage, self.stage_index = integrator, stage, stage_index
        self._origin = (state.step, state.time_fs)
        self._fix_wave_numbers(state.system)
        if cell_moves:  # the wave numbers may be others now
            state.result = self.potential.compute(state.system, stress=self._wants_stress(state.step))
        self._good.take(state, integrator, self.potential)

    def draw_velocities(self, temperature_K: float, *, momentum: Momentum = "linear", exact: bool = False) -> None:
        """Start with Maxwell–Boltzmann velocities; see ``velocities.maxwell_boltzmann``."""
        state = self.state
        maxwell_boltzmann(state.system, temperature_K, state.rng, momentum=momentum, exact=exact)

    def minimize(self, force_tolerance_eV_per_A: float = 0.05, max_steps: int = 1000, **options: float) -> bool:
        """Relax by ``minimize.Fire`` with these ``options``, then come back to the integrator; True when converged.

        Steps are counted and reported (as stage ``minimise``) but take no time.
        """
        before = (self.integrator, self.stage, self.stage_index)
        fire = Fire(force_tolerance_eV_per_A, **options)
        self.set_stage(fire, "minimise", self.stage_index)
        try:
            self.run(max_steps)
            return fire.finished(self.state)
        finally:
            self.set_stage(*before)

    def run(self, n_steps: int, on_step: Callable[[Simulation], None] | None = None) -> int:
        """Do ``n_steps`` steps, fewer when the integrator has finished or a stop is requested; returns how many.

        ``on_step`` is called after each step and its reports: the place for checkpoints and clocks. Integrators that can
        (``integrators.Resident``) do many steps at a time, up to the next step that is reported or, with an ``on_step``,
        divisible by ``pause_every``; limits are then looked at in every step, and a failure is undone to the step before it.
        """
        state = self.state
        self._refresh(state)
        if self._reported != state.step:
            self._report(state)
        first, self._end = state.step, state.step + n_steps
        self._pause = self.pause_every if on_step is not None else 0
        while state.step < self._end and not self._stop and not self.integrator.finished(state):
            self._step(state)
            self._report(state)
            if on_step is not None:
                on_step(self)
        if state.step < self._end and not self.integrator.finished(state):
            self._stop = False
        return state.step - first

    def request_stop(self) -> None:
        """End the current run after the step (or the steps at a time) under way, or the next run before its first; safe in
        signal handlers."""
        self._stop = True

    @property
    def stepping(self) -> bool:
        """True while a step is under way, when an exception raised by a signal handler undoes it and nothing else."""
        return self._stepping

    @property
    def stop_requested(self) -> bool:
        """True from ``request_stop`` until a run has ended because of it."""
        return self._stop

    def close(self) -> None:
        """Close all reporters, each even if another fails; the first failure is raised."""
        failures = []
        for reporter in self.reporters:
            try:
                reporter.close()
            except Exception as failure:
                failures.append(failure)
        if failures:
            raise failures[0]

    def __enter__(self) -> Simulation:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            self.close()
        except Exception as failure:
            if error is None:
                raise
            error.add_note(f"closing the output failed too: {failure}")

    # ---- continuation -----------------------------------------------------------------------------------------------

    def checkpoint_content(self) -> dict[str, Any]:
        """Everything that ``restore`` needs to go on bit for bit: nested dict of arrays, int, float, bool and str."""
        state = self.state
        system = state.system
        return {
            "step": state.step,
            "time_fs": state.time_fs,
            "stage": {
                "name": self.stage,
                "index": self.stage_index,
                "first_step": self._origin[0],
                "first_time_fs": self._origin[1],
                "first_volume_A3": self._volume,
                "timestep_fs": self.integrator.timestep_fs,
            },
            "system": {
                "numbers": system.numbers.copy(),
                "masses": system.masses.copy(),
                "pbc": system.pbc.copy(),
                "cell": system.cell.copy(),
                "positions": system.positions.copy(),
                "velocities": system.velocities.copy(),
                "fixed": system.fixed.copy(),
            },
            "result": {
                "energy": float(state.result.energy),
                "forces": np.array(state.result.forces),
                "stress": state.result.stress is not None,
            },
            "rng": json.dumps(state.rng.bit_generator.state, default=np.ndarray.tolist),
            "integrator": {"name": type(self.integrator).__name__, **self.integrator.state_arrays()},
            "potential": {name: np.array(array) for name, array in self._good.potential.items()},
            "reported_step": self._reported,
            "reporters": {name: reporter.position() for name, reporter in self._named_reporters()},
        }

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take back ``checkpoint_content`` of a simulation made with the same arguments, stage and integrator.

        The forces are computed again and compared with the stored ones: equal bits promise equal continuation, equal
        to rounding (another machine, thread count or library) is warned of, more is refused as another potential.
        """
        saved = content["system"]
        for name in ("numbers", "masses", "pbc", "fixed"):
            if not np.array_equal(saved[name], getattr(self._system, name)):
                raise InputError(f"the checkpoint has other {name} than this system: it belongs to another run")
        stage, integrator = content["stage"], dict(content["integrator"])
        name = integrator.pop("name")
        if name != type(self.integrator).__name__:
            raise InputError(
                f"the checkpoint was written in stage {stage['index']} ({stage['name'] or 'unnamed'}) by integrator "
                f"{name}, this simulation has {type(self.integrator).__name__}: set the stage before restoring"
            )
        positions = content["reporters"]
        for name, _ in self._named_reporters():
            if name not in positions:
                raise InputError(f"the checkpoint knows no output {name}: it holds {', '.join(positions) or 'none'}")

        system = System(**{name: np.array(array) for name, array in saved.items()})
        self.potential.restore(content.get("potential", {}))
        result = self.potential.compute(system, stress=bool(content["result"]["stress"]))
        _compare(result, content["result"])
        self.integrator.restore(integrator)
        _restore_generator(self._rng, content["rng"])

        self._system = system
        step, time = int(content["step"]), float(content["time_fs"])
        self._state = State(system, result, self._rng, step, time)
        self.stage, self.stage_index = str(stage["name"]), int(stage["index"])
        same = float(stage["timestep_fs"]) == self.integrator.timestep_fs
        self._origin = (int(stage["first_step"]), float(stage["first_time_fs"])) if same else (step, time)
        self._volume = float(stage["first_volume_A3"])
        self._reported = int(content["reported_step"])
        self._good = _Snapshot(self._state, self.integrator, self.potential)
        for name, reporter in self._named_reporters():
            reporter.rewind(positions[name])

    # ---- inside -----------------------------------------------------------------------------------------------------

    def _named_reporters(self) -> list[tuple[str, Reporter]]:
        return [(f"{i}-{type(reporter).__name__}", reporter) for i, reporter in enumerate(self.reporters)]

    def _wants_stress(self, step: int) -> bool:
        if self.pressure:
            for reporter in self.reporters:
                if step % reporter.every == 0:
                    return True
        return False

    def _report(self, state: State) -> None:
        info = None
        for reporter in self.reporters:
            if state.step % reporter.every == 0:
                info = info or self.info()
                reporter.report(state, info)
        self._reported = state.step

    def _refresh(self, state: State) -> None:
        """Before a run: forces of positions that the user changed, and the limits at its start."""
        good = self._good
        if not (
            np.array_equal(state.system.positions, good.positions) and np.array_equal(state.system.cell, good.cell)
        ):
            _check_system(state.system)
            state.result = self.potential.compute(state.system, stress=self._wants_stress(state.step))
        self._check(state, self._limits())
        good.take(state, self.integrator, self.potential)

    def _fix_wave_numbers(self, system: System) -> None:
        """At the start of a stage: the potential's wave numbers, and the volume that changes are measured from."""
        self._volume = system.volume
        if isinstance(self.potential, CellAware):
            self.potential.fix_wave_numbers(system.cell.copy() if self.integrator.changes_cell else None)

    def _volume_ratio(self, system: System) -> float:
        return system.volume / self._volume if self.integrator.changes_cell else 1.0

    def _limits(self) -> Limits:
        return self.limits if self.integrator.timestep_fs > 0.0 else _NO_LIMITS

    def _bounds(self, system: System, limits: Limits) -> Bounds:
        """What the limits mean for a step; "finite" where a limit is infinite."""
        count, kinetic = self.integrator.degrees_of_freedom(system), math.inf
        if count > 0:
            kinetic = 0.5 * count * BOLTZMANN * limits.max_temperature_K * ACCELERATION
        found = limits.max_force_eV_per_A, limits.max_displacement_A, kinetic
        return Bounds(*(min(bound, _LARGEST) for bound in found))

    def _stride(self, state: State) -> int:
        """Steps until somebody wants to see the state."""
        intervals = [reporter.every for reporter in self.reporters] + ([self._pause] if self._pause else [])
        return min([self._end - state.step, _MOST_STEPS, *(every - state.step % every for every in intervals)])

    def _step(self, state: State) -> None:
        try:
            self._stepping = True
            advance = getattr(self.integrator, "advance", None)  # of an integrators.Resident
            count = 1 if advance is None else self._stride(state)
            stress = self._wants_stress(state.step + count)
            if advance is not None:
                bounds = self._bounds(state.system, self._limits())
                count = advance(state, self.potential, count, stress=stress, bounds=bounds)
            else:
                self.integrator.step(state, self.potential, stress=stress)
            state.step += count
            first_step, first_time = self._origin
            state.time_fs = first_time + (state.step - first_step) * self.integrator.timestep_fs
            self._check(state, self._limits())
            self._stepping = False
        except BaseException as error:
            self._stepping = False
            self._good.give_back(state, self.integrator)
            try:
                self.potential.restore(self._good.potential)
            except Exception as failure:  # a device that is gone, say: what the checkpoint needs is in the snapshot
                error.add_note(f"the potential could not be taken back to the last good step: {failure}")
            raise
        self._good.take(state, self.integrator, self.potential)

    def _check(self, state: State, limits: Limits) -> None:
        """Raise ``BlowUpError`` unless everything is finite and within the limits (written so that NaN fails)."""
        system, result = state.system, state.result
        timestep, bounds = self.integrator.timestep_fs, self._bounds(system, limits)
        if (
            math.isfinite(result.energy)
            and largest_norm(result.forces) <= bounds.force
            and timestep * largest_norm(system.velocities) <= bounds.displacement
            and kinetic_energy(system.velocities, system.masses) <= bounds.kinetic
            and 1.0 / limits.max_volume_ratio <= self._volume_ratio(system) <= limits.max_volume_ratio
        ):
            return
        forces = np.linalg.norm(result.forces, axis=1)
        forces[system.fixed & np.isfinite(forces)] = 0.0
        moves = timestep * np.linalg.norm(system.velocities, axis=1)
        reasons, atoms = [], []
        for what, sizes, unit, limit in (
            ("force", forces, "eV/Å", bounds.force),
            ("move per step", moves, "Å", bounds.displacement),
        ):
            sizes = np.where(np.isfinite(sizes), sizes, np.inf)
            guilty = np.flatnonzero(sizes > limit)
            guilty = guilty[np.argsort(-sizes[guilty], kind="stable")]
            if len(guilty):
                named = ", ".join(f"{i} ({chemical_symbols[system.numbers[i]]}: {sizes[i]:.3g})" for i in guilty[:5])
                more = f" and {len(guilty) - 5} more" if len(guilty) > 5 else ""
                reasons.append(f"{what} in {unit} beyond {limit:.3g} on atoms {named}{more}")
                atoms += [int(i) for i in guilty if i not in atoms]
        if not math.isfinite(result.energy):
            reasons.insert(0, f"the energy is {result.energy}")
        ratio, widest = self._volume_ratio(system), limits.max_volume_ratio
        if not 1.0 / widest <= ratio <= widest:
            reasons.insert(0, f"the volume is {system.volume:.6g} Å³, {ratio:.3g} times that at the start of the stage")
        temperature = state.temperature(self.integrator.degrees_of_freedom(system))
        if temperature > limits.max_temperature_K:
            reasons.insert(
                0, f"the temperature is {temperature:.4g} K, beyond {limits.max_temperature_K:g} K (max_temperature_K)"
            )
        if not reasons:
            return
        advice = "shorten the timestep or minimise first" if timestep > 0.0 else "look at these atoms in the structure"
        raise BlowUpError(f"step {state.step}: {'; '.join(reasons)}; {advice}", state.step, atoms, system.copy())


#: Stands for "finite" where a limit is infinite.
_LARGEST = float(np.finfo(np.float64).max)
_NO_LIMITS = Limits(math.inf, math.inf, math.inf)


class _Snapshot:
    """The last good state: what has to be copied because the next step changes it in place."""

    def __init__(self, state: State, integrator: Integrator, potential: Potential) -> None:
        self.positions = np.empty_like(state.system.positions)
        self.velocities = np.empty_like(state.system.velocities)
        self.cell = np.empty_like(state.system.cell)
        self.take(state, integrator, potential)

    def take(self, state: State, integrator: Integrator, potential: Potential) -> None:
        self.positions[:] = state.system.positions
        self.velocities[:] = state.system.velocities
        self.cell[:] = state.system.cell
        self.result = state.result
        self.step, self.time_fs = state.step, state.time_fs
        self.rng = state.rng.bit_generator.state if integrator.stochastic else None
        self.integrator = integrator.state_arrays()
        self.potential = potential.state()

    def give_back(self, state: State, integrator: Integrator) -> None:
        state.system.positions[:] = self.positions
        state.system.velocities[:] = self.velocities
        state.system.cell[:] = self.cell
        state.result = self.result
        state.step, state.time_fs = self.step, self.time_fs
        if self.rng is not None:
            state.rng.bit_generator.state = self.rng
        integrator.restore(self.integrator)


def _check_system(system: System) -> None:
    """Refuse what no dynamics can start from."""
    if len(system) == 0:
        raise InputError("the system has no atoms")
    for name in ("positions", "velocities", "cell", "masses"):
        array = getattr(system, name)
        bad = np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))
        if len(bad):
            of = "lattice vectors" if name == "cell" else "atoms"
            raise InputError(f"{name} of {of} {', '.join(map(str, bad[:5]))} are not finite")
    bad = np.flatnonzero(system.masses <= 0.0)
    if len(bad):
        raise InputError(f"masses of atoms {', '.join(map(str, bad[:5]))} are not larger than zero")


def _compare(result: EnergyForces, saved: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another potential, warn when the bits differ."""
    energy, forces = float(saved["energy"]), np.asarray(saved["forces"])
    if result.energy == energy and np.array_equal(result.forces, forces):
        return
    wide = max(1.0, float(np.abs(forces).max(initial=0.0)))
    off_energy = abs(result.energy - energy)
    off_force = (
        float(np.abs(result.forces - forces).max(initial=0.0)) if result.forces.shape == forces.shape else math.inf
    )
    if not (off_energy <= 1e-4 * max(1.0, abs(energy)) and off_force <= 1e-3 * wide):
        raise InputError(
            f"this potential gives {result.energy:.8g} eV at the checkpoint, which stores {energy:.8g} eV (forces "
            f"differ by up to {off_force:.2g} eV/Å): it was written with another potential"
        )
    warnings.warn(
        f"energy and forces at the checkpoint differ in rounding ({off_energy:.1e} eV, {off_force:.1e} eV/Å): the run "
        "goes on correctly, but not bit for bit as on the machine that wrote it",
        stacklevel=3,
    )


def _restore_generator(rng: np.random.Generator, text: str) -> None:
    """Set the generator's state from the text of a checkpoint."""
    state = json.loads(text)
    name = state.get("bit_generator")
    if name not in _GENERATORS or name != type(rng.bit_generator).__name__:
        raise InputError(f"the checkpoint holds a generator {name}, this simulation {type(rng.bit_generator).__name__}")
    rng.bit_generator.state = _arrays(state)


def _arrays(value: Any) -> Any:
    """Lists, which JSON made of arrays, back to arrays of unsigned integers."""
    if isinstance(value, dict):
        return {name: _arrays(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return np.array(value, dtype=np.uint64)
    return value
