"""A whole run: from a RunConfig to a finished run directory, or on from its checkpoint."""

from __future__ import annotations

import platform
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np

from polmd.config import Dynamics, Minimize, Nvt, RunConfig
from polmd.dynamics.integrators import Integrator, Langevin, VelocityVerlet
from polmd.dynamics.minimize import Fire
from polmd.dynamics.simulation import BlowUpError, Limits, Simulation
from polmd.dynamics.velocities import Momentum, remove_momentum
from polmd.errors import OutputError, PolmdError, SimulationError
from polmd.model.file import Model, load_model
from polmd.output import (
    LogReporter,
    ProgressReporter,
    Reporter,
    RunDirectory,
    RunLog,
    ThermoReporter,
    TrajectoryReporter,
    check_compatible,
    read_checkpoint,
    write_checkpoint,
)
from polmd.potential import MultipolePotential
from polmd.structures import build_water, check_system, read_structure
from polmd.system import System
from polmd.units import DENSITY

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

#: Exit code of a run that was stopped by a signal and can be resumed (EX_TEMPFAIL of sysexits.h).
RESUMABLE = 75

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass
class Prepared:
    """Everything a run needs before its first step.

    Attributes
    ----------
    config, model, potential, system : as read and built
    notes : what the log should say about the input
    warnings : what is legal but probably a mistake
    """

    config: RunConfig
    model: Model
    potential: MultipolePotential
    system: System
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


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
    return Prepared(config, model, potential, system, notes, warnings)


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
    ]
    return lines + prepared.notes


def _integrator(stage: Minimize | Dynamics, momentum: Momentum) -> Integrator:
    if isinstance(stage, Minimize):
        return Fire(stage.max_force_eV_A, largest_step_A=stage.max_step_A)
    if isinstance(stage, Nvt):
        return Langevin(stage.timestep_fs, stage.temperature_K, stage.friction_per_ps)
    return VelocityVerlet(stage.timestep_fs, momentum=momentum)


def _momentum(system: System) -> Momentum:
    """What a run from these velocities conserves at zero: "linear" unless they carry a total momentum."""
    momenta = system.masses[:, None] * system.velocities
    return "linear" if np.abs(momenta.sum(axis=0)).max() <= 1e-9 * max(np.abs(momenta).sum(), 1e-300) else "none"


class Runner:
    """Runs the stages of an input in its run directory.

    Parameters
    ----------
    config : the input
    console : where log lines are shown besides the file, or None

    Use :meth:`start` for a new run, :meth:`resume` to go on from its checkpoint. Both return the exit code: 0 when the
    run is finished, :data:`RESUMABLE` when a signal stopped it.
    """

    def __init__(self, config: RunConfig, console: Console | None = None) -> None:
        self.config = config
        self.console = console
        self._names = config.stage_names
        self._first_signal: int | None = None

    def start(self, *, overwrite: bool = False) -> int:
        """A new run. Raises InputError before anything is written, OutputError when the directory is not free."""
        from polmd.output.directory import check_target

        path = self.config.output_directory
        check_target(path, overwrite=overwrite)
        prepared = prepare(self.config)
        with RunDirectory.create(path, overwrite=overwrite, details={"polmd": version("polmd")}) as directory:
            if self.config.source is not None:
                directory.input.write_bytes(self.config.source.read_bytes())
            return self._run(directory, prepared, None)

    def resume(self) -> int:
        """Go on from the checkpoint of the run directory; bit for bit what an uninterrupted run gives."""
        prepared = prepare(self.config)
        with RunDirectory.resume(self.config.output_directory) as directory:
            checkpoint = read_checkpoint(directory.checkpoint)
            self._check_identity(checkpoint.content, prepared)
            if checkpoint.message:
                prepared.warnings.append(checkpoint.message)
            return self._run(directory, prepared, checkpoint.content["simulation"])

    # ------------------------------------------------------------------------------------------------------- inside

    def _identity(self, prepared: Prepared) -> dict[str, str]:
        return {
            "input": self.config.canonical_json(),
            "model": f"{prepared.model.name} {prepared.model.fingerprint()[:16]}",
            "atoms": str(len(prepared.system)),
            "polmd": version("polmd"),
        }

    def _check_identity(self, content: dict[str, Any], prepared: Prepared) -> None:
        stored, current = dict(content["identity"]), self._identity(prepared)
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

    def _reporters(self, directory: RunDirectory, system: System, log: RunLog, total: int) -> list[Reporter]:
        output = self.config.output
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
        limits = Limits(config.limits.max_force_eV_A, config.limits.max_displacement_A)
        index = int(content["stage"]["index"]) if content is not None else 0
        stages = config.stage
        reporters = self._reporters(directory, system, log, total)
        momentum = _momentum(system)
        simulation = Simulation(
            system,
            prepared.potential,
            _integrator(stages[index], momentum),
            rng=config.seed,
            reporters=reporters,
            limits=limits,
            pressure=bool(system.pbc.all()),
            stage=self._names[index],
            stage_index=index,
        )
        started = time.monotonic()
        with simulation, self._signals(simulation, log):
            if content is not None:
                simulation.restore(content)
                log.info(f"resumed at step {simulation.state.step} of {total}, stage {self._names[index]}")
            while index < len(stages):
                stage = stages[index]
                fresh = content is None
                content = None
                if fresh:
                    self._begin(simulation, stage, index, log)
                self._advance(simulation, stage, directory, prepared, log)
                self._save(simulation, directory, prepared)
                if self._first_signal is not None:
                    name = signal.Signals(self._first_signal).name
                    log.info(f"stopped by {name} after step {simulation.state.step}; continue with --resume")
                    return RESUMABLE
                log.info(f"stage {self._names[index]} done at step {simulation.state.step}")
                index += 1
            self._write_final(simulation, directory)
        log.info(f"finished: {simulation.state.step} steps in {time.monotonic() - started:.1f} s")
        return 0

    def _begin(self, simulation: Simulation, stage: Minimize | Dynamics, index: int, log: RunLog) -> None:
        """Velocities and integrator of a stage that starts now."""
        state = simulation.state
        if isinstance(stage, Dynamics):
            temperature: float | None = getattr(stage, "temperature_K", None)
            at_rest = not state.system.velocities.any()
            wanted = stage.velocities == "maxwell" or (stage.velocities == "auto" and at_rest)
            if wanted and temperature is not None:
                simulation.draw_velocities(temperature)
                log.info(f"velocities drawn from the Maxwell–Boltzmann distribution at {temperature:g} K")
            elif isinstance(stage, Nvt):
                remove_momentum(state.system)
        simulation.set_stage(_integrator(stage, _momentum(state.system)), self._names[index], index)
        log.info(f"stage {self._names[index]}: {_describe_stage(stage)}")

    def _advance(
        self,
        simulation: Simulation,
        stage: Minimize | Dynamics,
        directory: RunDirectory,
        prepared: Prepared,
        log: RunLog,
    ) -> None:
        every = self.config.output.checkpoint_every
        hottest = self.config.limits.max_temperature_K

        def after_step(current: Simulation) -> None:
            if isinstance(stage, Dynamics) and not current.temperature <= hottest:
                raise SimulationError(
                    f"step {current.state.step}: the temperature is {current.temperature:.4g} K, beyond "
                    f"limits.max_temperature_K = {hottest:g}"
                )
            if every and current.state.step % every == 0:
                self._save(current, directory, prepared)

        try:
            simulation.run(stage.length - simulation.stage_step, on_step=after_step)
        except BlowUpError as error:
            self._write_frame(error.system, directory.failed)
            self._save(simulation, directory, prepared)
            log.error(
                f"the atoms after the failed step are in failed.extxyz, the checkpoint is at step {simulation.state.step}"
            )
            raise
        if isinstance(stage, Minimize) and self._first_signal is None:
            longest = float(np.linalg.norm(simulation.state.result.forces, axis=1).max())
            message = f"minimised to {simulation.state.result.energy:.6f} eV, longest force {longest:.4f} eV/Å"
            if longest <= stage.max_force_eV_A:
                log.info(message)
            else:
                log.warning(f"{message}: not converged after {simulation.stage_step} steps, going on")

    def _save(self, simulation: Simulation, directory: RunDirectory, prepared: Prepared) -> None:
        write_checkpoint(
            directory.checkpoint,
            {"identity": self._identity(prepared), "simulation": simulation.checkpoint_content()},
        )

    def _write_final(self, simulation: Simulation, directory: RunDirectory) -> None:
        self._write_frame(simulation.state.system, directory.final)

    @staticmethod
    def _write_frame(system: System, path: Path) -> None:
        from ase.io import write

        write(path, system.to_ase(), format="extxyz")

    @contextmanager
    def _signals(self, simulation: Simulation, log: RunLog) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGUSR1 end the run after the step under way, with a checkpoint."""

        def stop(number: int, _: FrameType | None) -> None:
            self._first_signal = self._first_signal or number
            simulation.request_stop()

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
    if isinstance(stage, Nvt):
        return f"Langevin (BAOAB) at {stage.temperature_K:g} K, friction {stage.friction_per_ps:g}/ps, {length}"
    return f"velocity Verlet, {length}"


def announce_compilation(log: RunLog) -> None:
    """Say that kernels will be compiled when the cache does not have them yet."""
    from polmd.kernels.compile import cache_directory

    directory = cache_directory()
    if directory is None or not any(directory.rglob("*.nbi")):
        log.info("compiling kernels for this machine, one to two minutes, once; later runs start in seconds")
