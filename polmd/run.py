"""A whole run: from a RunConfig to a finished run directory, or on from its checkpoint."""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from polmd import device
from polmd.born import Conventions, screening_scale, susceptibility
from polmd.config import Dynamics, Minimize, Npt, RunConfig, Thermostatted
from polmd.dynamics import integrators
from polmd.dynamics.barostats import StochasticCellRescaling, check_cell_moves
from polmd.dynamics.integrators import Integrator, VelocityVerlet
from polmd.dynamics.minimize import Fire
from polmd.dynamics.ramp import Ramp
from polmd.dynamics.simulation import BlowUpError, Limits, Simulation
from polmd.dynamics.velocities import Momentum, remove_momentum
from polmd.errors import InputError, OutputError, PolmdError, SimulationError
from polmd.field import FieldPotential
from polmd.model.file import Model, load_model
from polmd.output import (
    LogReporter,
    ProgressReporter,
    Reporter,
    ResponseReporter,
    RunDirectory,
    RunLog,
    ThermoReporter,
    TrajectoryReporter,
    check_compatible,
    read_checkpoint,
    write_checkpoint,
)
from polmd.output.checkpoint import previous
from polmd.output.directory import check_target, is_run_directory
from polmd.output.files import writing
from polmd.potential import MultipolePotential
from polmd.selection import select
from polmd.structures import build_water, check_system, read_structure
from polmd.system import System
from polmd.units import DENSITY

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

#: Exit code of a run that a signal or the wall-clock limit stopped and that can be resumed (EX_TEMPFAIL of sysexits.h).
RESUMABLE = 75

#: Part of limits.max_hours after which a run stops, so that the last checkpoint is written within them.
_PART_OF_MAX_HOURS = 0.99

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass
class Prepared:
    """Everything a run needs before its first step.

    Attributes
    ----------
    config, model, potential, system : as read and built
    conventions : of Born charges
    notes : what the log should say about the input
    warnings : what is legal but probably a mistake
    """

    config: RunConfig
    model: Model
    potential: MultipolePotential | FieldPotential
    system: System
    conventions: Conventions
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def device(self) -> str:
        """The device that computes."""
        inner = self.potential.potential if isinstance(self.potential, FieldPotential) else self.potential
        return inner.device


def prepare(config: RunConfig) -> Prepared:
    """Read the model and the structure and check that they fit; raises InputError."""
    model = load_model(config.model_source)
    notes: list[str] = []
    water, path = config.structure.water, config.structure_path
    if water is not None:
        system = build_water(
            water.molecules, density_g_cm3=water.density_g_cm3, seed=water.seed, periodic=water.periodic
        )
        notes.append(f"built {water.molecules} water molecules at {water.density_g_cm3:g} g/cm³, seed {water.seed}")
    else:
        assert path is not None
        system, taken = read_structure(path, config.structure.index, config.structure.format)
        notes += taken
    if config.structure.repeat != (1, 1, 1):
        system = System.from_ase(system.to_ase().repeat(config.structure.repeat))
        notes.append(f"repeated {config.structure.repeat} times")
    notes += _override(config, system)
    warnings = check_system(system, elements=model.elements, min_distance_A=config.structure.min_distance_A)
    if system.periodic and not system.pbc.all():
        axes = "".join(axis for axis, on in zip("abc", system.pbc, strict=True) if on)
        notes.append(
            f"periodic along {axes} only: the neighbour list honours that, the electrostatics is periodic in three "
            "dimensions over the given cell, as the model was trained"
        )
    potential = MultipolePotential(
        model,
        config.model.device,
        config.model.precision,
        skin=config.neighbors.skin_A,
        method=config.electrostatics.method,
        tolerance=config.electrostatics.tolerance,
    )
    conventions = _conventions(config, potential, system)
    if config.response is not None or config.field is not None:
        if not model.header.predicts or model.header.architecture.message_passing:
            reason = "has message passing" if model.header.predicts else "predicts energies only"
            raise InputError(f"model '{model.name}' {reason}: [response] and [field] are not available with it")
        notes.append(f"Born charges: {conventions}")
    if config.response is not None:
        for stage in config.response.stages or ():
            if stage not in config.stage_names:
                raise InputError(
                    f"response.stages: there is no stage '{stage}'; stages: {', '.join(config.stage_names)}"
                )
    if config.field is None:
        return Prepared(config, model, potential, system, conventions, notes, warnings)
    notes.append(
        f"uniform field {' '.join(f'{x:g}' for x in config.field.vector_V_A)} V/Å: forces Z*ᵀE are added, terms of order "
        "E² are omitted; the potential energy reported and conserved is "
        + ("E less the work of the field since the start" if system.periodic else "E − E·P")
    )
    in_field = FieldPotential(potential, np.array(config.field.vector_V_A), conventions)
    return Prepared(config, model, in_field, system, conventions, notes, warnings)


def _conventions(config: RunConfig, potential: MultipolePotential, system: System) -> Conventions:
    """Conventions of Born charges; with epsilon_infinity the scale is that of the start structure."""
    asked = config.born_charges
    scale = asked.scale
    if asked.epsilon_infinity is not None:
        chi = 0.0
        if "polarizabilities" in potential.model.header.predicts and system.periodic:
            alpha = potential.compute(system).polarizabilities
            assert alpha is not None
            chi = susceptibility(alpha, system.volume, potential.model.header.electrostatics.norm_factor)
        scale = screening_scale(asked.epsilon_infinity, chi)
    return Conventions(asked.displacement, asked.acoustic_sum_rule, scale)


def describe(prepared: Prepared) -> list[str]:
    """Lines about the system and the model for the log and ``polmd check``."""
    from ase.formula import Formula

    system, model = prepared.system, prepared.model
    counts: dict[str, int] = {}
    for symbol in system.to_ase().get_chemical_symbols():
        counts[symbol] = counts.get(symbol, 0) + 1
    lines = [f"atoms: {len(system)}, {Formula.from_dict(counts):hill}"]
    if system.periodic and system.volume > 0:
        density = system.masses.sum() / system.volume * DENSITY
        rows = "; ".join(" ".join(f"{x:.5f}" for x in row) for row in system.cell)
        lines.append(f"cell: {rows} Å, {system.volume:.3f} Å³, {density:.4f} g/cm³")
    else:
        lines.append("cell: none, open boundaries")
    electrostatics = model.header.electrostatics
    lines += [
        f"model: {model.name} ({model.n_weights} weights), predicts {', '.join(model.header.predicts) or 'energies only'}",
        f"electrostatics: sigma {electrostatics.sigma_A:g} Å, dl {electrostatics.dl_A:g} Å, norm_factor "
        f"{electrostatics.norm_factor:g} eV Å/e², {prepared.potential.electrostatics_solver(system)}",
        f"device: {prepared.device}, {device.describe(prepared.device)}; precision {prepared.config.model.precision}",
    ]
    return lines + prepared.notes


def _override(config: RunConfig, system: System) -> list[str]:
    """Set the masses and fix the atoms that the input asks for; returns what the log should say."""
    notes = []
    for selection, mass in config.structure.masses_amu.items():
        chosen = select(selection, system.numbers, "structure.masses_amu")
        system.masses[chosen] = mass
        notes.append(f"mass of {np.count_nonzero(chosen)} atoms ({selection}) set to {mass:g} amu")
    if config.structure.fixed_atoms is not None:
        chosen = select(config.structure.fixed_atoms, system.numbers, "structure.fixed_atoms")
        system.fixed |= chosen
        notes.append(f"{np.count_nonzero(chosen)} atoms fixed ({config.structure.fixed_atoms})")
    if system.fixed.all() and len(system):
        raise InputError("all atoms are fixed: nothing can move; change structure.fixed_atoms or the structure file")
    for name, stage in zip(config.stage_names, config.stage, strict=True):
        if isinstance(stage, Npt):
            try:
                check_cell_moves(system)
            except InputError as error:
                raise InputError(f"stage {name}: {error}") from None
    return notes


#: Thermostats of the input: how each is made from a stage, the target temperature and what is conserved.
_THERMOSTATS: dict[str, Callable[[Thermostatted, Ramp, Momentum], integrators.Thermostatted]] = {
    "langevin": lambda s, target, momentum: integrators.Langevin(
        s.timestep_fs, target, s.friction_per_ps, momentum=momentum
    ),
    "bussi": lambda s, target, momentum: integrators.Bussi(
        s.timestep_fs, target, s.thermostat_time_ps, momentum=momentum
    ),
    "nose-hoover": lambda s, target, momentum: integrators.NoseHoover(
        s.timestep_fs, target, s.thermostat_time_ps, chain_length=s.chain_length, momentum=momentum
    ),
}


def _integrator(stage: Minimize | Dynamics, momentum: Momentum) -> Integrator:
    if isinstance(stage, Minimize):
        return Fire(stage.max_force_eV_A, largest_step_A=stage.max_step_A)
    if not isinstance(stage, Thermostatted):
        return VelocityVerlet(stage.timestep_fs, momentum=momentum)
    target = _ramp(stage.temperature_K, stage.final_temperature_K, stage.length)
    thermostatted = _THERMOSTATS[stage.thermostat](stage, target, momentum)
    if not isinstance(stage, Npt):
        return thermostatted
    barostat = StochasticCellRescaling(
        stage.pressure_bar,
        coupling=stage.coupling,
        time_ps=stage.barostat_time_ps,
        compressibility_per_bar=stage.compressibility_per_bar,
    )
    pressure = _ramp(stage.pressure_bar, stage.final_pressure_bar, stage.length)
    return integrators.Barostatted(thermostatted, barostat, every=stage.barostat_every, pressure=pressure)


def _ramp(start: float, end: float | None, steps: int) -> Ramp:
    return Ramp(start, start if end is None else end, steps)


def _momentum(system: System) -> Momentum:
    """What a run from these velocities conserves at zero: "linear" unless atoms are fixed or carry a total momentum."""
    if system.fixed.any():
        return "none"
    momenta = system.masses[:, None] * system.velocities
    return "linear" if np.abs(momenta.sum(axis=0)).max() <= 1e-9 * max(np.abs(momenta).sum(), 1e-300) else "none"


class _Interrupted(BaseException):
    """Raised by a second signal inside a step, which it undoes."""


class _CannotRewindError(OutputError):
    """The output holds less than the checkpoint counts on."""


def run(
    config: RunConfig,
    console: Console | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    replica: int | None = None,
) -> int:
    """Run an input, all its replicas one after another, or one of them; returns the exit code.

    Parameters
    ----------
    config : the input
    console : where log lines are shown besides the files, or None
    resume : go on from checkpoints; replicas that have none yet are started
    overwrite : replace earlier runs
    replica : number of the only replica to run, from 0; None for all

    Exit code 0: finished; :data:`RESUMABLE`: stopped by a signal or the wall-clock limit.
    """
    if resume and overwrite:
        raise OutputError("a run is either resumed or overwritten, not both")
    if config.replicas == 1:
        if replica not in (None, 0):
            raise InputError(f"there is no replica {replica}: the input has replicas = 1")
        runner = Runner(config, console)
        return runner.resume() if resume else runner.start(overwrite=overwrite)
    if replica is not None and not 0 <= replica < config.replicas:
        raise InputError(f"there is no replica {replica}: the input has replicas 0 to {config.replicas - 1}")
    parent = config.output_directory
    if not parent.exists():
        check_target(parent)
        with writing(parent):
            parent.mkdir(exist_ok=True)
    elif is_run_directory(parent):
        raise OutputError(f"{parent} holds a run without replicas: name another directory")
    chosen = range(config.replicas) if replica is None else [replica]
    paths = {k: parent / f"replica.{k:04d}" for k in chosen}
    goes_on = {k: resume and is_run_directory(path) for k, path in paths.items()}
    for k, path in paths.items():
        check_target(path, resume=goes_on[k], overwrite=overwrite)
    started = time.monotonic()
    for k, path in paths.items():
        runner = Runner(config.with_output(path), console, replica=k, started=started)
        code = runner.resume() if goes_on[k] else runner.start(overwrite=overwrite)
        if code != 0:
            return code
    return 0


class Runner:
    """Runs the stages of an input in its run directory.

    Parameters
    ----------
    config : the input
    console : where log lines are shown besides the file, or None
    replica : its number when the input has several: each has random numbers of its own
    started : reading of ``time.monotonic`` from which limits.max_hours counts; None: now

    Use :meth:`start` for a new run, :meth:`resume` to go on from its checkpoint. Both return the exit code: 0 when the
    run is finished, :data:`RESUMABLE` when a signal or the wall-clock limit stopped it.
    """

    def __init__(
        self,
        config: RunConfig,
        console: Console | None = None,
        *,
        replica: int | None = None,
        started: float | None = None,
    ) -> None:
        self.config = config
        self.console = console
        self.replica = replica
        self._names = config.stage_names
        self._momentum: Momentum = "linear"  # what the current stage conserves at zero
        self._signals_seen: list[int] = []
        self._out_of_time = False
        hours = config.limits.max_hours
        begin = time.monotonic() if started is None else started
        self._deadline = float("inf") if hours is None else begin + _PART_OF_MAX_HOURS * 3600.0 * hours

    def start(self, *, overwrite: bool = False) -> int:
        """A new run. Raises InputError before anything is written, OutputError when the directory is not free."""
        path = self.config.output_directory
        check_target(path, overwrite=overwrite)
        prepared = prepare(self.config)
        with RunDirectory.create(path, overwrite=overwrite, details={"polmd": version("polmd")}) as directory:
            if self.config.source is not None:
                with writing(directory.input):
                    directory.input.write_bytes(self.config.source.read_bytes())
            return self._run(directory, prepared, None)

    def resume(self) -> int:
        """Go on from the checkpoint of the run directory; bit for bit what an uninterrupted run gives.

        When the outputs hold less than the checkpoint counts on (a damaged or lost file), from the one before it.
        """
        prepared = prepare(self.config)
        with RunDirectory.resume(self.config.output_directory) as directory:
            checkpoint = read_checkpoint(directory.checkpoint)
            self._check_identity(checkpoint.content, prepared)
            if checkpoint.message:
                prepared.warnings.append(checkpoint.message)
            try:
                return self._run(directory, prepared, checkpoint.content)
            except _CannotRewindError as error:
                before = previous(directory.checkpoint)
                if checkpoint.path == before or not before.exists():
                    raise
                earlier = read_checkpoint(before)
                self._check_identity(earlier.content, prepared)
                prepared.warnings.append(f"{error}; using the checkpoint before it, {before.name}")
                return self._run(directory, prepared, earlier.content)

    @property
    def rng(self) -> np.random.Generator:
        """The generator that a new run starts with."""
        key = () if self.replica is None else (self.replica,)
        return np.random.default_rng(np.random.SeedSequence(self.config.seed, spawn_key=key))

    # ------------------------------------------------------------------------------------------------------- inside

    def _identity(self, prepared: Prepared) -> dict[str, str]:
        return {
            "input": self.config.canonical_json(),
            "model": f"{prepared.model.name} {prepared.model.fingerprint()[:16]}",
            "atoms": str(len(prepared.system)),
            "device": prepared.device,
            "polmd": version("polmd"),
            "replica": "none" if self.replica is None else str(self.replica),
        }

    def _check_identity(self, content: dict[str, Any], prepared: Prepared) -> None:
        stored, current = {"device": "cpu"} | content["identity"], self._identity(prepared)  # older ones do not say
        changes = self.config.differences(stored.pop("input"))
        current.pop("input")
        if changes:
            raise OutputError(
                "the input has changed since the checkpoint was written:\n  "
                + "\n  ".join(changes)
                + "\nrestore it (--steps included), or start over in another directory"
            )
        check_compatible(stored, current)

    def _run(self, directory: RunDirectory, prepared: Prepared, content: dict[str, Any] | None) -> int:
        log = RunLog(directory.log, self.console)
        try:
            return self._stages(directory, prepared, content, log)
        except PolmdError as error:
            log.error(str(error))
            raise
        finally:
            log.close()

    def _reporters(self, directory: RunDirectory, prepared: Prepared, log: RunLog, total: int) -> list[Reporter]:
        output, system = self.config.output, prepared.system
        reporters: list[Reporter] = []
        if output.trajectory_every:
            reporters.append(
                TrajectoryReporter(
                    directory.path,
                    system,
                    every=output.trajectory_every,
                    forces=output.store_forces,
                    precision=output.trajectory_precision,
                    segment_frames=output.segment_frames,
                )
            )
        if output.thermo_every:
            reporters.append(ThermoReporter(directory.thermo, every=output.thermo_every))
        response = self.config.response
        if response is not None:
            moving = [n for n, s in zip(self._names, self.config.stage, strict=True) if isinstance(s, Dynamics)]
            settings = prepared.model.header.electrostatics
            reporters.append(
                ResponseReporter(
                    directory.response,
                    prepared.potential,
                    system,
                    every=response.every,
                    conventions=prepared.conventions,
                    capacity=total // response.every + 2,
                    stages=response.stages or moving,
                    by_species=response.by_species,
                    header={
                        "model": f"{prepared.model.name} {prepared.model.fingerprint()[:16]}",
                        "norm_factor": settings.norm_factor,
                        "has_polarizabilities": "polarizabilities" in prepared.model.header.predicts,
                        "stage_names": self._names,
                        "stage_kinds": [s.kind for s in self.config.stage],
                        "stage_timesteps_fs": [getattr(s, "timestep_fs", 0.0) for s in self.config.stage],
                        "stage_frictions_per_ps": [getattr(s, "friction_per_ps", 0.0) for s in self.config.stage],
                    },
                )
            )
        if output.log_every:
            reporters.append(LogReporter(log, every=output.log_every, total_steps=total))
        if self.console is not None and self.console.is_terminal:
            reporters.append(ProgressReporter(self.console, total_steps=total))
        return reporters

    def _stages(self, directory: RunDirectory, prepared: Prepared, content: dict[str, Any] | None, log: RunLog) -> int:
        config, system = self.config, prepared.system
        total = sum(stage.length for stage in config.stage)
        log.info(f"polmd {version('polmd')} on {platform.node() or 'this machine'}: {directory.path}")
        for line in describe(prepared):
            log.info(line)
        for warning in prepared.warnings:
            log.warning(warning)
        announce_compilation(log)
        limits = Limits(
            config.limits.max_force_eV_A,
            config.limits.max_displacement_A,
            config.limits.max_volume_ratio,
            config.limits.max_temperature_K,
        )
        saved = content["simulation"] if content is not None else None
        index = int(saved["stage"]["index"]) if saved is not None else 0
        stages = config.stage
        reporters = self._reporters(directory, prepared, log, total)
        self._momentum = content["momentum"] if content is not None else _momentum(system)
        simulation = Simulation(
            system,
            prepared.potential,
            device.resident(prepared.device, _integrator(stages[index], self._momentum), prepared.potential)[0],
            rng=self.rng,
            reporters=reporters,
            limits=limits,
            pressure=bool(system.pbc.all()),
            stage=self._names[index],
            stage_index=index,
            pause_every=config.output.checkpoint_every,
        )
        started = time.monotonic()
        with simulation, self._signals(simulation, log):
            if saved is not None:
                try:
                    simulation.restore(saved)
                except OutputError as error:
                    raise _CannotRewindError(str(error)) from error
                log.info(f"resumed at step {simulation.state.step} of {total}, stage {self._names[index]}")
            while index < len(stages):
                stage = stages[index]
                fresh, saved = saved is None, None
                if fresh:
                    self._begin(simulation, prepared, stage, index, log)
                    if index == 0:
                        self._save(simulation, directory, prepared)  # from the first frame on, a run can be resumed
                self._advance(simulation, stage, directory, prepared, log)
                self._save(simulation, directory, prepared)
                if self._stopped:
                    reason = f"limits.max_hours = {config.limits.max_hours:g}" if self._out_of_time else ""
                    if self._signals_seen:
                        reason = signal.Signals(self._signals_seen[0]).name
                    log.info(f"stopped by {reason} after step {simulation.state.step}; continue with --resume")
                    return RESUMABLE
                log.info(f"stage {self._names[index]} done at step {simulation.state.step}")
                index += 1
            self._write_final(simulation, directory)
        log.info(f"finished: {simulation.state.step} steps in {time.monotonic() - started:.1f} s")
        return 0

    def _begin(
        self, simulation: Simulation, prepared: Prepared, stage: Minimize | Dynamics, index: int, log: RunLog
    ) -> None:
        """Velocities and integrator of a stage that starts now."""
        state = simulation.state
        if isinstance(stage, Dynamics):
            temperature: float | None = getattr(stage, "temperature_K", None)
            at_rest = not state.system.velocities.any()
            wanted = stage.velocities == "maxwell" or (stage.velocities == "auto" and at_rest)
            if wanted and temperature is not None:
                simulation.draw_velocities(temperature)
                log.info(f"velocities drawn from the Maxwell–Boltzmann distribution at {temperature:g} K")
            elif isinstance(stage, Thermostatted):
                remove_momentum(state.system)
        self._momentum = _momentum(state.system)
        integrator, where = device.resident(prepared.device, _integrator(stage, self._momentum), prepared.potential)
        simulation.set_stage(integrator, self._names[index], index)
        log.info(f"stage {self._names[index]}: {_describe_stage(stage)}{'; ' if where else ''}{where}")
        if isinstance(stage, Npt):
            potential = simulation.potential
            waves = potential.fixed_wave_numbers if isinstance(potential, MultipolePotential | FieldPotential) else None
            if waves is not None:
                log.info(
                    f"reciprocal sum: the {len(waves.n)} wave numbers (half sphere) of the cell at the start of the stage, "
                    f"at most {', '.join(map(str, waves.limits))} along its axes, are kept while the cell changes"
                )

    def _advance(
        self,
        simulation: Simulation,
        stage: Minimize | Dynamics,
        directory: RunDirectory,
        prepared: Prepared,
        log: RunLog,
    ) -> None:
        every = self.config.output.checkpoint_every

        def after_step(current: Simulation) -> None:
            if every and current.state.step % every == 0:
                self._save(current, directory, prepared)
            if time.monotonic() >= self._deadline and not self._out_of_time:
                self._out_of_time = True
                current.request_stop()

        try:
            simulation.run(stage.length - simulation.stage_step, on_step=after_step)
        except _Interrupted:
            pass
        except OutputError:  # what was written before the last checkpoint is whole, and fits it
            raise
        except Exception as error:
            if isinstance(error, BlowUpError):
                self._write_failure(simulation.state.system, error, directory.failed)
                log.error("the atoms of the last good and of the failed step are in failed.extxyz")
            self._save(simulation, directory, prepared)
            log.error(f"the checkpoint is at the last good step, {simulation.state.step}")
            if isinstance(error, PolmdError):
                raise
            raise SimulationError(
                f"after step {simulation.state.step}: {type(error).__name__}: {error or 'no message'}; continue with --resume"
            ) from error
        if isinstance(stage, Minimize) and not self._stopped:
            forces = np.linalg.norm(simulation.state.result.forces, axis=1)
            longest = float(forces[~simulation.state.system.fixed].max())
            message = f"minimised to {simulation.state.result.energy:.6f} eV, longest force {longest:.4f} eV/Å"
            if longest <= stage.max_force_eV_A:
                log.info(message)
            else:
                log.warning(f"{message}: not converged after {simulation.stage_step} steps, going on")

    def _save(self, simulation: Simulation, directory: RunDirectory, prepared: Prepared) -> None:
        write_checkpoint(
            directory.checkpoint,
            {
                "identity": self._identity(prepared),
                "momentum": self._momentum,
                "simulation": simulation.checkpoint_content(),
            },
        )

    def _write_final(self, simulation: Simulation, directory: RunDirectory) -> None:
        self._write_frame(simulation.state.system, directory.final)

    @staticmethod
    def _write_frame(system: System, path: Path) -> None:
        from ase.io import write

        with writing(path):
            write(path, system.to_ase(), format="extxyz")

    @staticmethod
    def _write_failure(good: System, error: BlowUpError, path: Path) -> None:
        """Two frames: the last good step, and the failed one; the column guilty counts the worst atom as 1."""
        from ase.io import write

        rank = np.zeros(len(good), dtype=np.int64)
        rank[error.atoms] = np.arange(1, len(error.atoms) + 1)
        frames = [good.to_ase(), error.system.to_ase()]
        for atoms, step in zip(frames, (error.step - 1, error.step), strict=True):
            atoms.new_array("guilty", rank)
            atoms.info |= {"step": step, "reason": str(error)}
        with writing(path):
            write(path, frames, format="extxyz")

    @property
    def _stopped(self) -> bool:
        return bool(self._signals_seen) or self._out_of_time

    @contextmanager
    def _signals(self, simulation: Simulation, log: RunLog) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGUSR1 end the run after the step (or the steps at a time) under way, with a checkpoint; a
        second one without it; a third one at once, as SIGKILL would."""

        def stop(number: int, _: FrameType | None) -> None:
            self._signals_seen.append(number)
            simulation.request_stop()
            if len(self._signals_seen) > 2:
                os._exit(RESUMABLE)
            if len(self._signals_seen) == 2 and simulation.stepping:
                raise _Interrupted

        try:
            before = {number: signal.signal(number, stop) for number in _SIGNALS}
        except ValueError:  # not in the main thread: signals are somebody else's
            yield
            return
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _describe_stage(stage: Minimize | Dynamics) -> str:
    if isinstance(stage, Minimize):
        return f"FIRE until every force is below {stage.max_force_eV_A:g} eV/Å, at most {stage.max_steps} steps"
    length = f"{stage.length} steps of {stage.timestep_fs:g} fs ({stage.length * stage.timestep_fs / 1000:g} ps)"
    if not isinstance(stage, Thermostatted):
        return f"velocity Verlet, {length}"
    thermostat = {
        "langevin": f"Langevin (BAOAB), friction {stage.friction_per_ps:g}/ps",
        "bussi": f"stochastic velocity rescaling (Bussi), {stage.thermostat_time_ps:g} ps",
        "nose-hoover": f"Nosé–Hoover chain of {stage.chain_length}, {stage.thermostat_time_ps:g} ps",
    }[stage.thermostat]
    parts = [f"{_target(stage.temperature_K, stage.final_temperature_K)} K", thermostat]
    if isinstance(stage, Npt):
        parts += [
            f"{_target(stage.pressure_bar, stage.final_pressure_bar)} bar",
            f"stochastic cell rescaling ({stage.coupling}), {stage.barostat_time_ps:g} ps, every {stage.barostat_every} steps",
        ]
    return ", ".join([*parts, length])


def _target(start: float, end: float | None) -> str:
    return f"{start:g}" if end is None or end == start else f"{start:g} to {end:g}"


def announce_compilation(log: RunLog) -> None:
    """Say that kernels will be compiled when the cache does not have them yet."""
    from polmd.kernels.compile import cache_directory

    directory = cache_directory()
    if directory is None or not any(directory.rglob("*.nbi")):
        log.info("compiling kernels for this machine, one to two minutes, once; later runs start in seconds")
