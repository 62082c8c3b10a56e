"""The schema of a file of benchmark cases, and the atoms that it describes."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from polmd.errors import InputError
from polmd.system import System

Measure = Literal["neighbors", "local", "electrostatics", "energy_forces", "nve", "start", "memory"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Structure(_Strict):
    """Where atoms come from: a file or another structure, repeated, then moved at 300 K for some steps."""

    file: str | None = Field(default=None, description="structure file, relative to the file of cases")
    of: str | None = Field(default=None, description="name of another structure")
    repeat: Annotated[int, Field(ge=1)] = 1
    steps: Annotated[int, Field(ge=0)] = Field(default=0, description="Langevin steps at 300 K with the bundled model")

    @model_validator(mode="after")
    def _one_source(self) -> Structure:
        if (self.file is None) == (self.of is None):
            raise ValueError("give either file or of")
        return self


class Case(_Strict):
    """One comparison: polmd, with each precision and number of threads, and its peers on the same atoms."""

    name: str
    measure: Measure
    structure: str
    model: str = Field(
        default="water", description="bundled model or path; variables such as $POLMD_SHARED are filled in"
    )
    cutoff_A: float | None = Field(default=None, description="of neighbour lists; default: that of the model")
    precision: list[Literal["double", "mixed"]] = ["double"]
    threads: list[Annotated[int, Field(ge=1)]] = [1, 2]
    method: Literal["direct", "mesh", "auto", "none"] = "direct"
    tolerance: Annotated[float, Field(gt=0, lt=1)] = Field(default=1e-5, description="force error of the mesh")
    peers: list[str] = []
    seconds: Annotated[float, Field(gt=0)] = Field(default=1.0, description="how long to repeat a measurement")


class Cases(_Strict):
    """A file of cases."""

    structure: dict[str, Structure]
    case: Annotated[list[Case], Field(min_length=1)]

    @model_validator(mode="after")
    def _names(self) -> Cases:
        for case in self.case:
            if case.structure not in self.structure:
                raise ValueError(f"case '{case.name}': no structure '{case.structure}'")
        for name, structure in self.structure.items():
            seen = {name}
            while structure.of is not None:
                if structure.of not in self.structure or structure.of in seen:
                    raise ValueError(f"structure '{name}': no structure '{structure.of}' to make it of")
                seen.add(structure.of)
                structure = self.structure[structure.of]
        return self


def load_cases(path: Path) -> Cases:
    """Read a file of cases; raises InputError with every mistake in it."""
    try:
        data = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: {error}") from None
    try:
        return Cases.model_validate(data)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors()]
        raise InputError(f"{path}: " + "; ".join(lines)) from None


def model_path(name: str) -> str | None:
    """A model of a case with its variables filled in, or None when one of them is not set."""
    filled = os.path.expandvars(name)
    return None if "$" in filled else filled


class Structures:
    """Makes the structures of a file of cases, each once."""

    def __init__(self, cases: Cases, folder: Path) -> None:
        self._cases, self._folder = cases, folder
        self._made: dict[str, System] = {}

    def __getitem__(self, name: str) -> System:
        if name not in self._made:
            self._made[name] = self._make(self._cases.structure[name])
        return self._made[name]

    def _make(self, structure: Structure) -> System:
        from polmd.structures import read_structure

        if structure.of is not None:
            system = self[structure.of]
        else:
            assert structure.file is not None
            system, _ = read_structure(self._folder / structure.file, 0, None)
        if structure.repeat > 1:
            velocities = np.tile(system.velocities, (structure.repeat**3, 1))
            system = System.from_ase(system.to_ase().repeat(structure.repeat))
            system.velocities[:] = velocities
        if structure.steps:
            from polmd.dynamics.integrators import Langevin
            from polmd.dynamics.simulation import Simulation
            from polmd.potential import MultipolePotential

            simulation = Simulation(system, MultipolePotential("water"), Langevin(0.5, 300, 20), rng=1)
            simulation.draw_velocities(300)
            simulation.run(structure.steps)
            system = simulation.state.system
        return system
