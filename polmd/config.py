"""input.toml: its schema, its reader, and messages that name the line, the key and the way out.

The schema below is the documentation: :func:`schema_markdown` renders it. A key is added by adding a field with a
description; a stage kind by adding a class to :data:`Stage`.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import json
import os
import re
import tomllib
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    Strict,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from polmd.errors import InputError
from polmd.toml_lines import KeyPath, key_lines

# --------------------------------------------------------------------------------------------------------- the schema

#: Longest run, in steps, that the 64-bit counters of a run are meant for.
MAX_STEPS = 10**12

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Count = Annotated[int, Field(ge=1, le=MAX_STEPS)]
CountOrNever = Annotated[int, Field(ge=0, le=MAX_STEPS)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1, pattern=r"^[^\x00-\x1f]*$")]
Repeat = Annotated[int, Field(ge=1, le=1000)]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


#: Which atoms: ranges of indices from 0, and symbols of elements (polmd.selection).
Selection = Annotated[str, Field(min_length=1, pattern=r"^[\w ,-]+$")]


class Section(BaseModel):
    """A table of input.toml. Unknown keys are errors, nothing is coerced, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @classmethod
    def contradictions(cls, data: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Errors that involve more than one key, as (key, message), from data whose types are not checked yet."""
        yield from ()

    def advice(self) -> Iterator[tuple[str, str]]:
        """Warnings as (key, message): legal values that are probably a mistake."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _all_errors_at_once(cls, data: Any, handler: Callable[[Any], Self]) -> Self:
        """Report contradictions between keys together with the errors of single keys, not one round later."""
        details: list[InitErrorDetails] = []
        section: Self | None = None
        try:
            section = handler(data)
        except ValidationError as error:
            for e in error.errors(include_url=False):
                detail = InitErrorDetails(type=e["type"], loc=e["loc"], input=e["input"])
                if "ctx" in e:
                    detail["ctx"] = e["ctx"]
                if e["type"] == "contradiction":
                    detail["type"] = _contradiction(e["msg"])
                details.append(detail)
        if isinstance(data, dict):
            details += [
                InitErrorDetails(type=_contradiction(message), loc=(key,), input=data.get(key))
                for key, message in cls.contradictions(data)
            ]
        if details or section is None:
            raise ValidationError.from_exception_data(cls.__name__, details)
        return section


def _contradiction(message: str) -> PydanticCustomError:
    return PydanticCustomError("contradiction", "{message}", {"message": message})


class WaterStart(Section):
    """Liquid water, or a droplet, built and relaxed by polmd; the same seed gives the same atoms."""

    molecules: Annotated[int, Field(ge=1, le=1_000_000)] = Field(description="number of H2O molecules")
    density_g_cm3: Annotated[float, Field(ge=0.05, le=1.5, allow_inf_nan=False)] = Field(
        default=0.997, description="density; fixes the edge of the cubic cell (the radius of a droplet)"
    )
    seed: Seed = Field(default=0, description="seed of positions and orientations")
    periodic: bool = Field(default=True, description="true: cubic periodic cell; false: droplet with open boundaries")


class Structure(Section):
    """The start structure: exactly one of `file` and `[structure.water]`."""

    file: Text | None = Field(
        default=None, description="structure file, any format ASE reads; relative to the folder of the input"
    )
    index: int = Field(default=-1, description="frame of the file; negative counts from the end")
    format: Text | None = Field(default=None, description="format name as ASE has it, when the file name does not tell")
    water: WaterStart | None = Field(default=None, description="build water instead of reading a file")
    repeat: Annotated[tuple[Repeat, Repeat, Repeat], Strict(False)] = Field(
        default=(1, 1, 1), description="copies of the cell along its three vectors"
    )
    min_distance_A: NotNegative = Field(default=0.5, description="refuse structures with two atoms closer than this")
    fixed_atoms: Selection | None = Field(
        default=None,
        description='atoms that never move, such as "0-23, 30" (counted from 0) or "Mg, O"; added to those that the file fixes',
    )
    masses_amu: dict[Selection, Positive] = Field(
        default={},
        description='masses in place of the elements\' own, by element or by atoms: { H = 2.014 } or { "0-2" = 18.0 }; '
        "later entries win",
    )

    @classmethod
    def contradictions(cls, data: dict[str, Any]) -> Iterator[tuple[str, str]]:
        if "file" in data and "water" in data:
            yield "water", "both file and [structure.water] are given; remove one of them"
        if "file" not in data and "water" not in data:
            yield "file", 'no atoms: give file = "atoms.xyz", or a table [structure.water] with molecules = 64'
        if "file" not in data:
            for key in ("index", "format"):
                if key in data:
                    yield key, "has a meaning only together with file; remove it"


class Model(Section):
    """The machine-learned model."""

    file: Text = Field(
        default="water",
        description="a bundled model (`polmd models` lists them), or the path of a model file (with `/` or `.h5`), "
        "relative to the folder of the input",
    )
    device: Literal["cpu", "cuda", "auto"] = Field(
        default="cpu",
        description="where to compute: cpu, cuda (an NVIDIA GPU), or auto: a GPU where one can be used for this input, else "
        "the CPU; the log says which (`polmd info` lists what there is)",
    )
    precision: Literal["double", "mixed"] = Field(
        default="double",
        description="arithmetic: double, or mixed, with the local network in float32 and everything else in float64 "
        "(forces agree to 2e-5 of the largest, the network takes half the time); on a GPU mixed has the electrostatics in "
        "float32 too, its sums in float64",
    )


class Electrostatics(Section):
    """How the long-range energy is summed; what is summed (sigma, dl) is part of the model."""

    method: Literal["auto", "direct", "mesh"] = Field(
        default="auto",
        description="direct: explicit sum over the wave vectors, exact; mesh: the same sum with a particle mesh; auto: the "
        "faster of the two. Open boundaries always sum all pairs",
    )
    tolerance: Annotated[float, Field(ge=1e-10, le=1e-2, allow_inf_nan=False)] = Field(
        default=1e-5, description="force error of the mesh, root mean square, relative to the direct sum"
    )


class Neighbors(Section):
    """The neighbour list. It is exact for any skin; the skin only trades rebuilds against pairs."""

    skin_A: NotNegative = Field(default=1.0, description="margin beyond the model's cutoff")


class Output(Section):
    """What a run writes, into one directory. Intervals count steps; 0 means never."""

    directory: Text | None = Field(
        default=None,
        description="run directory, relative to the folder of the input; default: the name of the input without "
        "`.toml`, with `-run` appended",
    )
    trajectory_every: CountOrNever = Field(default=20, description="steps between frames of the trajectory")
    thermo_every: CountOrNever = Field(default=20, description="steps between rows of thermo.csv")
    checkpoint_every: CountOrNever = Field(
        default=1000, description="steps between checkpoints; one is written at the end of every stage in any case"
    )
    log_every: CountOrNever = Field(default=1000, description="steps between progress lines of the log")
    segment_frames: Count = Field(default=500, description="frames per sealed trajectory file")
    store_forces: bool = Field(default=False, description="write forces into the trajectory")
    trajectory_precision: Literal["single", "double"] = Field(
        default="double", description="floating-point size in the trajectory; checkpoints are always double"
    )


class Limits(Section):
    """When a run is stopped because it has gone wrong; the last good frame is kept."""

    max_force_eV_A: Positive = Field(default=200.0, description="stop when the force on an atom is larger")
    max_displacement_A: Positive = Field(default=1.0, description="stop when an atom moves further in one step")
    max_temperature_K: Positive = Field(default=20_000.0, description="stop when the temperature is higher")
    max_volume_ratio: Annotated[float, Field(gt=1, allow_inf_nan=False)] = Field(
        default=2.0, description="npt: stop when the volume has grown or shrunk by this factor within a stage"
    )
    max_hours: Positive | None = Field(
        default=None,
        description="wall-clock time after which the run stops with a checkpoint and exit code 75, to be resumed; may differ "
        "from one resume to the next",
    )


class BornCharges(Section):
    """Conventions of Born charges, used by `[response]` and `[field]` and printed with every result."""

    displacement: Literal["edge", "phase"] = Field(
        default="edge",
        description="edge: local charge is displaced by true vectors; phase: the published definition, whose values depend "
        "on the size of the box",
    )
    acoustic_sum_rule: bool = Field(default=True, description="subtract the mean of Z* over the atoms")
    scale: Positive = Field(default=1.0, description="factor of Z*")
    epsilon_infinity: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = Field(
        default=None,
        description="electronic dielectric constant: scale = √ε∞, or √(ε∞/(1 + χ)) for a model with polarisabilities, χ of "
        "the start structure (what the authors of the method do; 1.78 for water)",
    )

    @classmethod
    def contradictions(cls, data: dict[str, Any]) -> Iterator[tuple[str, str]]:
        if "scale" in data and "epsilon_infinity" in data:
            yield "epsilon_infinity", "both scale and epsilon_infinity are given; remove one of them"


class Response(Section):
    """Polarisation, current J = Σ Z*·v and polarisability Σα along the run, written to `response.h5` for `polmd ir` and
    `polmd raman`. Without this table nothing of it is computed."""

    every: Count = Field(
        default=4,
        description="steps between frames; the default, 2 fs at the default time step, is the longest interval that keeps "
        "O-H stretching (up to 3700 1/cm) below half the Nyquist wavenumber",
    )
    stages: Annotated[list[Text], Field(min_length=1)] | None = Field(
        default=None, description="names of the stages that are written; default: all that move in time"
    )
    by_species: bool = Field(default=True, description="split the current by the element of the moving atoms")


class UniformField(Section):
    """A uniform, constant electric field: F_i += Z*_iᵀ E, to first order in E."""

    vector_V_A: Annotated[
        tuple[
            Annotated[float, Field(allow_inf_nan=False)],
            Annotated[float, Field(allow_inf_nan=False)],
            Annotated[float, Field(allow_inf_nan=False)],
        ],
        Strict(False),
    ] = Field(description="E along x, y and z")

    def advice(self) -> Iterator[tuple[str, str]]:
        if max(abs(x) for x in self.vector_V_A) > 1.0:
            yield "vector_V_A", "a field beyond 1 V/Å tears molecules apart (is it meant in another unit?)"


class StageBase(Section):
    """What all stages have in common."""

    name: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[\w .+-]+$")] | None = Field(
        default=None, description="name in logs and files; default: the kind"
    )

    @property
    def length(self) -> int:
        """Steps of the stage (the most it may take, for a minimisation)."""
        raise NotImplementedError

    def shortened(self, steps: int) -> Self:
        """The same stage with at most ``steps`` steps."""
        raise NotImplementedError


class Minimize(StageBase):
    """Move the atoms downhill (FIRE) until every force is below `max_force_eV_A`."""

    kind: Literal["minimize", "minimise"] = Field(description='"minimize" (or "minimise")')
    max_force_eV_A: Positive = Field(default=0.1, description="converged when the force on every atom is smaller")
    max_steps: Count = Field(default=500, description="go on to the next stage after so many steps, converged or not")
    max_step_A: Positive = Field(default=0.1, description="longest move of an atom in one step")

    @field_validator("kind", mode="after")
    @classmethod
    def _one_spelling(cls, value: str) -> str:
        return "minimize"

    @property
    def length(self) -> int:
        return self.max_steps

    def shortened(self, steps: int) -> Self:
        return self.model_copy(update={"max_steps": min(self.max_steps, steps)})


class Dynamics(StageBase):
    """What all stages that move in time have in common."""

    steps: Count | None = Field(default=None, description="length in steps; exactly one of steps and time_ps")
    time_ps: Positive | None = Field(default=None, description="length in time, rounded to whole steps")
    timestep_fs: Positive = Field(default=0.5, description="time step; above 10 fs only with force_timestep")
    force_timestep: bool = Field(default=False, description="accept a time step above 10 fs")
    velocities: Literal["auto", "keep", "maxwell"] = Field(
        default="auto",
        description="at the start of the stage: maxwell draws them at temperature_K, keep takes them as they are, "
        "auto draws them if temperature_K is given and no atom moves",
    )

    #: Time steps above this need force_timestep; below the other one they earn a warning (fs).
    LONGEST_TIMESTEP: ClassVar[float] = 10.0
    SHORTEST_TIMESTEP: ClassVar[float] = 0.01

    @classmethod
    def contradictions(cls, data: dict[str, Any]) -> Iterator[tuple[str, str]]:
        if "steps" in data and "time_ps" in data:
            yield "time_ps", "both steps and time_ps are given; remove one of them"
        if "steps" not in data and "time_ps" not in data:
            yield "steps", "the stage has no length: give steps = 10000 or time_ps = 5.0"
        timestep = data.get("timestep_fs", cls.model_fields["timestep_fs"].default)
        if not _is_number(timestep) or not 0 < timestep < float("inf"):
            return
        if timestep > cls.LONGEST_TIMESTEP and data.get("force_timestep") is not True:
            yield (
                "timestep_fs",
                f"{timestep:g} fs is far too long for moving atoms (is it meant in another unit?); use 0.25 to 1 fs "
                "with hydrogen, or set force_timestep = true",
            )
        time = data.get("time_ps")
        if _is_number(time) and 0 < time < float("inf"):  # type: ignore[operator]
            steps = 1000.0 * time / timestep  # type: ignore[operator]
            if steps < 0.5:
                yield "time_ps", f"{time:g} ps is shorter than one time step of {timestep:g} fs; make it longer"
            if steps > MAX_STEPS:
                yield "time_ps", f"{time:g} ps is more than {MAX_STEPS:.0e} steps of {timestep:g} fs; make it shorter"

    def advice(self) -> Iterator[tuple[str, str]]:
        if self.timestep_fs < self.SHORTEST_TIMESTEP:
            yield (
                "timestep_fs",
                f"{self.timestep_fs:g} fs is very short (was {self.timestep_fs:g} ps meant? that is "
                f"{1000 * self.timestep_fs:g} fs); 0.25 to 1 fs is usual",
            )
        elif self.timestep_fs > 2.0:
            yield "timestep_fs", f"{self.timestep_fs:g} fs is long: with hydrogen, energy drifts above about 1 fs"

    @property
    def length(self) -> int:
        if self.steps is not None:
            return self.steps
        assert self.time_ps is not None
        return max(1, round(1000.0 * self.time_ps / self.timestep_fs))

    def shortened(self, steps: int) -> Self:
        return self.model_copy(update={"steps": min(self.length, steps), "time_ps": None})


class Thermostatted(Dynamics):
    """What stages with a thermostat have in common."""

    temperature_K: NotNegative = Field(description="temperature of the thermostat, and of new velocities")
    final_temperature_K: NotNegative | None = Field(
        default=None, description="ramp: the temperature goes in equal parts from temperature_K to this, step by step"
    )
    thermostat: Literal["langevin", "bussi", "nose-hoover"] = Field(
        default="langevin",
        description="langevin: friction and noise (BAOAB); bussi: stochastic velocity rescaling; nose-hoover: a "
        "deterministic chain",
    )
    friction_per_ps: Positive = Field(default=1.0, description="langevin: friction")
    thermostat_time_ps: Positive = Field(default=0.1, description="bussi, nose-hoover: relaxation time")
    chain_length: Annotated[int, Field(ge=1, le=100)] = Field(default=3, description="nose-hoover: length of the chain")

    #: Keys that only some thermostats have.
    ONLY_WITH: ClassVar[dict[str, tuple[str, ...]]] = {
        "friction_per_ps": ("langevin",),
        "thermostat_time_ps": ("bussi", "nose-hoover"),
        "chain_length": ("nose-hoover",),
    }

    @classmethod
    def contradictions(cls, data: dict[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().contradictions(data)
        thermostat = data.get("thermostat", cls.model_fields["thermostat"].default)
        for key, known in cls.ONLY_WITH.items():
            if key in data and thermostat not in known:
                others = [k for k, v in cls.ONLY_WITH.items() if thermostat in v]
                instead = f" or use {' and '.join(others)}" if others else ""
                yield key, f'has no effect with thermostat = "{thermostat}"; remove it{instead}'
        if thermostat == "nose-hoover" and data.get("temperature_K") == 0:
            yield "temperature_K", 'must be larger than zero with thermostat = "nose-hoover"'

    def advice(self) -> Iterator[tuple[str, str]]:
        yield from super().advice()
        if self.thermostat != "langevin" and 1000 * self.thermostat_time_ps < 20 * self.timestep_fs:
            yield (
                "thermostat_time_ps",
                f"{self.thermostat_time_ps:g} ps is short: a thermostat much faster than 20 time steps disturbs the dynamics",
            )


class Nvt(Thermostatted):
    """Constant temperature."""

    kind: Literal["nvt"] = Field(description='"nvt"')


class Npt(Thermostatted):
    """Constant temperature and pressure: a thermostat, and a cell whose angles stay (stochastic cell rescaling)."""

    kind: Literal["npt"] = Field(description='"npt"')
    pressure_bar: float = Field(default=1.0, allow_inf_nan=False, description="pressure of the barostat")
    final_pressure_bar: float | None = Field(
        default=None,
        allow_inf_nan=False,
        description="ramp: the pressure goes in equal parts from pressure_bar to this",
    )
    coupling: Literal["isotropic", "semi-isotropic", "anisotropic"] = Field(
        default="isotropic",
        description="which lattice vectors change their length together: all; a and b together, c alone; each alone",
    )
    barostat_time_ps: Positive = Field(default=1.0, description="relaxation time of the volume")
    compressibility_per_bar: Positive = Field(
        default=4.5e-5, description="expected isothermal compressibility (water's by default); sets only the rate"
    )
    barostat_every: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=10, description="steps from one move of the cell to the next; each costs one more evaluation of forces"
    )

    @classmethod
    def contradictions(cls, data: dict[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().contradictions(data)
        for key in ("temperature_K", "final_temperature_K"):
            if data.get(key) == 0:
                yield key, "must be larger than zero in an npt stage"


class Nve(Dynamics):
    """Constant energy: velocity Verlet."""

    kind: Literal["nve"] = Field(description='"nve"')
    temperature_K: NotNegative | None = Field(
        default=None, description="temperature of new velocities; not kept by anything afterwards"
    )

    @classmethod
    def contradictions(cls, data: dict[str, Any]) -> Iterator[tuple[str, str]]:
        yield from super().contradictions(data)
        if data.get("velocities") == "maxwell" and "temperature_K" not in data:
            yield "temperature_K", 'velocities = "maxwell" needs temperature_K'
        if data.get("velocities") == "keep" and "temperature_K" in data:
            yield "temperature_K", 'has no effect in an nve stage with velocities = "keep"; remove one of the two'


Stage = Annotated[Minimize | Nvt | Npt | Nve, Field(discriminator="kind")]


class RunConfig(Section):
    """A whole input.toml."""

    seed: Seed = Field(default=0, description="seed of velocities and thermostats; runs repeat bit for bit")
    replicas: Annotated[int, Field(ge=1, le=9999)] = Field(
        default=1,
        description="so many runs with independent random numbers, in folders replica.0000, … of the run directory",
    )
    structure: Structure = Field(description="the start structure")
    model: Model = Field(default_factory=Model, description="the model")
    electrostatics: Electrostatics = Field(default_factory=Electrostatics, description="long-range energy")
    neighbors: Neighbors = Field(default_factory=Neighbors, description="neighbour list")
    output: Output = Field(default_factory=Output, description="files of the run")
    limits: Limits = Field(default_factory=Limits, description="when to stop a run that has gone wrong")
    born_charges: BornCharges = Field(default_factory=BornCharges, description="conventions of Born charges")
    response: Response | None = Field(default=None, description="polarisation, current, polarisability of the run")
    field: UniformField | None = Field(default=None, description="a uniform electric field")
    stage: Annotated[list[Stage], Field(min_length=1)] = Field(description="what is done, in this order")

    _source: Path | None = PrivateAttr(default=None)
    _output_directory: Path | None = PrivateAttr(default=None)

    # ------------------------------------------------------------------------------------------------------- paths

    @property
    def source(self) -> Path | None:
        """The input file this came from."""
        return self._source

    @property
    def folder(self) -> Path:
        """Where relative paths start: the folder of the input file, or the working directory without one."""
        return Path.cwd() if self._source is None else self._source.absolute().parent

    @property
    def structure_path(self) -> Path | None:
        """Path of the structure file; None when the structure is built."""
        return None if self.structure.file is None else self.folder / Path(self.structure.file).expanduser()

    @property
    def model_source(self) -> str:
        """What ``polmd.load_model`` takes: a bundled name as it stands, or an absolute path."""
        name = self.model.file
        if os.sep in name or "/" in name or name.endswith(".h5"):
            return str(self.folder / Path(name).expanduser())
        return name

    @property
    def output_directory(self) -> Path:
        """The run directory."""
        if self._output_directory is not None:
            return self._output_directory
        if self.output.directory is not None:
            return self.folder / Path(self.output.directory).expanduser()
        return self.folder / ("run" if self._source is None else f"{self._source.stem}-run")

    # -------------------------------------------------------------------------------------------------- derived runs

    @property
    def stage_names(self) -> list[str]:
        """A name for every stage: its own, or its kind; numbered from the second use on."""
        names: list[str] = []
        for stage in self.stage:
            base = name = stage.name or stage.kind
            count = 1
            while name in names:
                count += 1
                name = f"{base}-{count}"
            names.append(name)
        return names

    def shortened(self, steps: int) -> RunConfig:
        """The same run with at most ``steps`` steps in every stage, for a trial."""
        if steps < 1:
            raise InputError(f"a run cannot be shortened to {steps} steps; give at least 1")
        return self.model_copy(update={"stage": [stage.shortened(steps) for stage in self.stage]})

    def with_output(self, directory: str | Path) -> RunConfig:
        """The same run with another run directory (relative to the working directory)."""
        config = copy.copy(self)
        config._output_directory = Path(directory).expanduser().absolute()
        return config

    def with_max_hours(self, hours: float) -> RunConfig:
        """The same run with another wall-clock limit."""
        if not hours > 0:
            raise InputError(f"max_hours is {hours}: it must be larger than zero")
        config = self.model_copy(update={"limits": self.limits.model_copy(update={"max_hours": hours})})
        return config

    def with_device(self, device: str) -> RunConfig:
        """The same run on another device."""
        return self.model_copy(update={"model": self.model.model_copy(update={"device": device})})

    # ------------------------------------------------------------------------------------------------------ identity

    def canonical_json(self) -> str:
        """Every key with its value, defaults included, sorted, in one line: the same text for the same run."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of what defines the trajectory and its files: everything but the run directory and max_hours."""
        return hashlib.sha256(json.dumps(_without_place(self), sort_keys=True).encode()).hexdigest()

    def differences(self, earlier: str) -> list[str]:
        """What changed since the run whose ``canonical_json`` is given, one `key: before → now` each.

        Empty exactly when the fingerprints agree.
        """
        before = _trajectory_keys(json.loads(earlier))
        return list(_changes(before, _without_place(self), ""))


def _without_place(config: RunConfig) -> dict[str, Any]:
    return _trajectory_keys(config.model_dump(mode="json"))


def _trajectory_keys(content: dict[str, Any]) -> dict[str, Any]:
    """Without what may change from one resume to the next."""
    content.get("output", {}).pop("directory", None)
    content.get("limits", {}).pop("max_hours", None)
    return content


def _changes(before: Any, now: Any, key: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted(before.keys() | now.keys()):
            yield from _changes(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (a, b) in enumerate(zip(before, now, strict=True)):
            yield from _changes(a, b, f"{key}[{i}]")
    elif before != now:
        yield f"{key}: {json.dumps(before)} → {json.dumps(now)}"


# --------------------------------------------------------------------------------------------------------- the reader


def load_config(path: str | Path, output_directory: str | Path | None = None) -> tuple[RunConfig, list[str]]:
    """Read and check an input file; (config, warnings).

    ``output_directory`` takes the place of the one in the input (relative to the working directory). Raises InputError
    with one line ``file:line: key: what is wrong, what to do`` per error, all of them at once.
    """
    path = Path(path)
    text = _read_text(path)
    data = _parse(path, text)
    lines = key_lines(text)

    def located(keys: KeyPath, message: str) -> tuple[int, str]:
        line = next((lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in lines), 1)
        name = _key_name(keys)
        return line, f"{path}:{line}: {name}: {message}" if name else f"{path}:{line}: {message}"

    errors: list[tuple[int, str]] = []
    config: RunConfig | None = None
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            keys = _toml_path(detail["loc"], data)
            errors.append(located(*_explain(detail, keys, data)))
    if config is not None:
        config._source = path
        if output_directory is not None:
            config = config.with_output(output_directory)
        errors += [located(keys, message) for keys, message in _bad_paths(config)]
    if errors or config is None:
        raise InputError("\n".join(dict.fromkeys(text for _, text in sorted(errors))))

    warnings = [located(keys, message) for keys, message in _all_advice(config)]
    return config, [text for _, text in sorted(warnings)]


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the path of an input.toml") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; give the path of an input.toml in it") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{path}:1: the file is UTF-16, not UTF-8; save it as UTF-8")
    if raw[:3] == b"\xef\xbb\xbf":
        raise InputError(f"{path}:1: the file starts with a byte-order mark (BOM); save it as UTF-8 without BOM")
    try:
        return raw.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InputError(
            f"{path}:{line}: byte 0x{raw[error.start]:02x} is not valid UTF-8; save the file as UTF-8"
        ) from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    if not text.strip():
        raise InputError(f"{path}:1: the file is empty; `inputs/water.toml` of polmd is an example to start from")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
        place = re.search(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$", message)
        line = text.rstrip("\n").count("\n") + 1
        if place is not None:
            message = message[: place.start()]
            if place.group(1):
                line = int(place.group(1))
                message += f", column {place.group(2)}"
        if "overwrite" in message or "twice" in message:
            message += " (the key or table is given twice: remove one)"
        raise InputError(f"{path}:{line}: not valid TOML: {message}") from None
    except RecursionError:
        raise InputError(f"{path}:1: not valid TOML: nested too deeply") from None
    if not data:
        raise InputError(
            f"{path}:1: the file has no keys, only comments; `inputs/water.toml` of polmd is an example to start from"
        )
    return data


def _toml_path(loc: tuple[int | str, ...], data: dict[str, Any]) -> KeyPath:
    """A pydantic location without the tags of discriminated unions, which are no keys of the file."""
    keys: list[int | str] = []
    skip = False
    for part in loc:
        if skip:
            skip = False  # the tag after stage[i]
        else:
            keys.append(part)
            skip = len(keys) == 2 and keys[0] == "stage" and isinstance(part, int)
    return tuple(keys)


def _key_name(keys: KeyPath) -> str:
    name = ""
    for key in keys:
        name += f"[{key}]" if isinstance(key, int) else f".{key}" if name else key
    return name


def _value_at(data: Any, keys: KeyPath) -> Any:
    for key in keys:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _bad_paths(config: RunConfig) -> Iterator[tuple[KeyPath, str]]:
    """Paths that cannot work, known before anything is computed."""
    structure = config.structure_path
    if structure is not None:
        if not structure.exists():
            yield ("structure", "file"), f"{structure} does not exist; paths are relative to the folder of the input"
        elif structure.is_dir():
            yield ("structure", "file"), f"{structure} is a folder; name a structure file in it"
    directory, keys = config.output_directory, ("output", "directory")
    for part in (directory, *directory.parents):
        if (part.exists() or part.is_symlink()) and not part.is_dir():
            yield keys, f"{part} exists and is not a folder; polmd overwrites no foreign files, name another directory"
            return
    source = config.source
    if source is not None and source.resolve().is_relative_to(directory.resolve()):
        yield (
            keys,
            f"{directory} holds the input file itself; name a folder of its own for the run, "
            f'for instance directory = "{source.stem}-run"',
        )


def _all_advice(config: RunConfig) -> Iterator[tuple[KeyPath, str]]:
    for name in RunConfig.model_fields:
        value = getattr(config, name)
        if isinstance(value, Section):
            yield from (((name, key), message) for key, message in value.advice())
    for i, stage in enumerate(config.stage):
        yield from ((("stage", i, key), message) for key, message in stage.advice())


# ---------------------------------------------------------------------------------------------------- error messages

#: What other programs call things.
SYNONYMS = {
    "dt": "timestep_fs",
    "time_step": "timestep_fs",
    "temp": "temperature_K",
    "t": "temperature_K",
    "nsteps": "steps",
    "n_steps": "steps",
    "nstep": "steps",
    "time": "time_ps",
    "gamma": "friction_per_ps",
    "friction_coefficient": "friction_per_ps",
    "tau": "thermostat_time_ps",
    "tau_t": "thermostat_time_ps",
    "tdamp": "thermostat_time_ps",
    "tau_p": "barostat_time_ps",
    "pdamp": "barostat_time_ps",
    "pressure": "pressure_bar",
    "compressibility": "compressibility_per_bar",
    "pcoupltype": "coupling",
    "barostat": "coupling",
    "masses": "masses_amu",
    "constraints": "fixed_atoms",
    "freeze": "fixed_atoms",
    "fixed": "fixed_atoms",
    "walltime": "max_hours",
    "maxh": "max_hours",
    "fmax": "max_force_eV_A",
    "tolerance": "max_force_eV_A",
    "ensemble": "kind",
    "type": "kind",
    "path": "file",
    "filename": "file",
    "weights": "file",
    "model": "file",
    "n_molecules": "molecules",
    "nmol": "molecules",
    "stages": "stage",
    "frame": "index",
    "replicate": "repeat",
    "supercell": "repeat",
    "outdir": "directory",
    "out": "directory",
    "dtype": "precision",
}

UNITS = {
    "fs": "fs",
    "ps": "ps",
    "K": "K",
    "A": "Å",
    "per_ps": "1/ps",
    "eV_A": "eV/Å",
    "g_cm3": "g/cm³",
    "amu": "amu",
    "bar": "bar",
    "per_bar": "1/bar",
    "V_A": "V/Å",
}


def _split_unit(key: str) -> tuple[str, str]:
    """("timestep", "fs") of timestep_fs; ("steps", "") of steps."""
    for suffix in sorted(UNITS, key=len, reverse=True):
        if key.endswith("_" + suffix):
            return key[: -len(suffix) - 1], suffix
    return key, ""


def _sections_in(annotation: Any) -> list[type[Section]]:
    """The table classes inside an annotation such as ``list[Annotated[A | B, ...]]``."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for part in typing.get_args(annotation) for section in _sections_in(part)]


def _stage_kinds(stage: type[Section]) -> tuple[str, ...]:
    return typing.get_args(stage.model_fields["kind"].annotation)


def _section_at(keys: KeyPath, data: dict[str, Any]) -> type[Section] | None:
    """The class of the table that holds the last of ``keys``."""
    section: type[Section] = RunConfig
    for n, key in enumerate(keys[:-1]):
        if isinstance(key, int):
            continue
        field = section.model_fields.get(key)
        found = _sections_in(field.annotation) if field is not None else []
        if len(found) > 1:
            kind = _value_at(data, (*keys[: n + 2], "kind"))
            found = [s for s in found if kind in _stage_kinds(s)]
        if not found:
            return None
        section = found[0]
    return section


def _all_keys() -> Iterator[tuple[str, str]]:
    """(table heading, key) of the whole schema."""
    for heading, section in schema_sections():
        yield from ((heading, key) for key in section.model_fields)


def _nearest(key: str, section: type[Section]) -> str:
    """What to do about an unknown key: the nearest valid one of its table, of another table, or all valid ones."""
    valid = list(section.model_fields)
    stem = _split_unit(key)[0].lower()
    synonym = SYNONYMS.get(key.lower(), SYNONYMS.get(stem))
    if synonym in valid:
        return f"did you mean {synonym}?"
    for candidate in valid:
        wanted, unit = _split_unit(candidate)
        if unit and stem == wanted.lower() and key.lower() != candidate.lower():
            return f"did you mean {candidate}? (the unit, {UNITS[unit]}, is part of the key)"
    folded = {candidate.lower(): candidate for candidate in valid}
    folded |= {_split_unit(candidate)[0].lower(): candidate for candidate in valid}
    close = difflib.get_close_matches(key.lower(), folded, n=1, cutoff=0.7)
    close = close or difflib.get_close_matches(stem, folded, n=1, cutoff=0.7)
    if close:
        return f"did you mean {folded[close[0]]}?"
    elsewhere: dict[str, tuple[str, str]] = {}
    for heading, other in _all_keys():
        elsewhere.setdefault(other.lower(), (heading, other))
        elsewhere.setdefault(_split_unit(other)[0].lower(), (heading, other))
    if synonym is not None:
        close = [synonym.lower()]
    else:
        close = difflib.get_close_matches(key.lower(), elsewhere, n=1, cutoff=0.8)
    if close and close[0] in elsewhere:
        heading, other = elsewhere[close[0]]
        return f"did you mean {other} of {heading}?"
    return f"remove it; valid here: {', '.join(valid)}"


def _explain(detail: Any, keys: KeyPath, data: dict[str, Any]) -> tuple[KeyPath, str]:
    """(where, message) of one pydantic error in the words of a TOML file."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    got = f"got {_toml_value(value)}"
    match kind:
        case "extra_forbidden":
            section = _section_at(keys, data)
            hint = "remove it" if section is None else _nearest(str(keys[-1]), section)
            return keys, f"unknown {'table' if isinstance(value, dict) else 'key'}; {hint}"
        case "missing" if keys and isinstance(keys[-1], int):
            return keys[:-1], "must have 3 entries such as [1, 1, 1]"
        case "missing":
            section = _section_at(keys, data)
            field = section.model_fields.get(str(keys[-1])) if section is not None else None
            meaning = f" ({field.description})" if field is not None else ""
            what = "table" if field is not None and _sections_in(field.annotation) else "key"
            return keys, f"required {what} is missing{meaning}; add it"
        case "union_tag_not_found":
            return (*keys, "kind"), f"required key is missing; one of {_kinds()}"
        case "union_tag_invalid":
            given = str(context.get("tag", ""))
            close = difflib.get_close_matches(given.lower(), [k for s in STAGES for k in _stage_kinds(s)], n=1)
            hint = f'; did you mean "{close[0]}"?' if close else ""
            return (*keys, "kind"), f"no stage kind {_toml_value(given)}; one of {_kinds()}{hint}"
        case "literal_error":
            expected = context.get("expected", "").replace("'", '"')
            return keys, f"must be {expected}, {got}"
        case "int_type" | "int_from_float" | "int_parsing" | "int_parsing_size":
            if isinstance(value, float) and value.is_integer():
                return keys, f"must be a whole number, got {value!r}; write {int(value)}"
            return keys, f"must be a whole number, {got}{_unquote(value)}"
        case "float_type" | "float_parsing":
            return keys, f"must be a number, {got}{_unquote(value)}"
        case "string_type":
            return keys, f"must be text in quotes, {got}"
        case "bool_type" | "bool_parsing":
            return keys, f"must be true or false without quotes, {got}"
        case "finite_number":
            return keys, f"must be a finite number, {got}"
        case "greater_than":
            return keys, f"must be greater than {context['gt']:g}, {got}"
        case "greater_than_equal":
            return keys, f"must be at least {context['ge']:g}, {got}"
        case "less_than":
            return keys, f"must be less than {context['lt']:g}, {got}"
        case "less_than_equal":
            return keys, f"must be at most {context['le']:g}, {got}"
        case "model_type" | "model_attributes_type" | "dict_type":
            heading = f"[[{keys[0]}]]" if keys[0] == "stage" else f"[{_key_name(keys)}]"
            return keys, f"must be a table, {got}; write {heading} and its keys below"
        case "list_type" if keys == ("stage",):
            return keys, "must be a list of tables; write [[stage]], with two brackets, above every stage"
        case "too_short" if keys == ("stage",):
            return keys, "a run needs at least one stage; add a table [[stage]]"
        case "tuple_type" | "list_type":
            return keys, f"must be a list such as [1, 1, 1], {got}"
        case "too_short" | "too_long":
            return keys, f"must have 3 entries such as [1, 1, 1], {got}"
        case "string_too_short":
            return keys, "must not be empty"
        case "string_pattern_mismatch" if keys[-1] != "name":
            return keys, f"must be text without control characters, {got}"
        case "string_pattern_mismatch" | "string_too_long":
            return keys, f"at most 64 letters, digits, spaces and . + - _ are allowed, {got}"
        case "contradiction":
            return keys, context["message"]
        case _:
            return keys, f"{detail['msg']}, {got}"


def _kinds() -> str:
    return ", ".join(f'"{_stage_kinds(stage)[0]}"' for stage in STAGES)


def _toml_value(value: Any) -> str:
    """A value as it looks in TOML, not longer than a line."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, dict):
        text = "a table"
    elif isinstance(value, list | tuple):
        text = f"[{', '.join(_toml_value(v) for v in value)}]"
    else:
        text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _unquote(value: Any) -> str:
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return ""
        return "; remove the quotes"
    return ""


# ------------------------------------------------------------------------------------------------------ the reference

#: The stage classes, in the order of the documentation.
STAGES: tuple[type[Section], ...] = tuple(_sections_in(Stage))


def schema_sections() -> Iterator[tuple[str, type[Section]]]:
    """(heading as in the file, class) of every table of the schema."""
    yield "the top level", RunConfig
    for name, field in RunConfig.model_fields.items():
        for section in _sections_in(field.annotation):
            if section in STAGES:
                yield f'[[stage]] kind = "{_stage_kinds(section)[0]}"', section
                continue
            yield f"[{name}]", section
            for key, inner in section.model_fields.items():
                yield from ((f"[{name}.{key}]", s) for s in _sections_in(inner.annotation))


def schema_markdown() -> str:
    """The schema as Markdown: one table (key, type, default, unit, meaning) per TOML table, from the descriptions."""
    out = [
        "# input.toml",
        "",
        "Paths are relative to the folder of the input. Keys without a default are required.",
        "",
    ]
    for heading, section in schema_sections():
        title = heading.capitalize() if heading.startswith("the") else f"`{heading}`"
        out += [f"## {title}", "", " ".join((section.__doc__ or "").split()), ""]
        out += ["| key | type | default | unit | meaning |", "|---|---|---|---|---|"]
        for key, field in section.model_fields.items():
            if section is RunConfig and _sections_in(field.annotation):
                continue
            if field.is_required():
                default = "required"
            elif field.default is None:
                default = ""
            else:
                default = f"`{_toml_value(field.default)}`"
            unit = UNITS.get(_split_unit(key)[1], "")
            cells = (f"`{key}`", _type_name(field.annotation), default, unit, field.description or "")
            out.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        out.append("")
    return "\n".join(out)


def _type_name(annotation: Any) -> str:
    if _sections_in(annotation):
        return "table"
    if typing.get_origin(annotation) is Literal:
        return ", ".join(f"`{_toml_value(v)}`" for v in typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        whole = _type_name(typing.get_args(annotation)[0]) == "whole number"
        return "three whole numbers" if whole else "three numbers"
    if typing.get_origin(annotation) is dict:
        return "table of numbers"
    if typing.get_origin(annotation) is list:
        return f"list of {_type_name(typing.get_args(annotation)[0])}s"
    parts = [a for a in typing.get_args(annotation) if a is not type(None)]
    if parts:
        return _type_name(parts[0])
    return {int: "whole number", float: "number", str: "text", bool: "true, false"}.get(annotation, str(annotation))
