"""The reporter of ``response.h5``: the electrical response at every n-th step, computed while the run goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from polmd.born import Conventions, Response
from polmd.dynamics.state import State
from polmd.errors import OutputError
from polmd.molecules import molecular_dipole, molecules
from polmd.output.reporter import StepInfo
from polmd.output.response_file import ResponseWriter
from polmd.system import System


class RespondingPotential(Protocol):
    """A potential with an electrical response."""

    def response(
        self,
        system: System,
        conventions: Conventions,
        *,
        born_charges: bool = False,
        velocities: np.ndarray | None = None,
        groups: np.ndarray | None = None,
    ) -> Response: ...


class ResponseReporter:
    """Writes P, J and Σα of every ``every``-th step to ``path``.

    Parameters
    ----------
    path : file to write
    potential : computes the response
    system : the start: atomic numbers, and which atoms form molecules
    every : steps between frames
    conventions : of Born charges
    capacity : frames that the run can have at most
    stages : names of the stages that are written
    by_species : split the current by the element of the moving atoms
    header : more attributes for the file
    """

    def __init__(
        self,
        path: str | Path,
        potential: RespondingPotential,
        system: System,
        *,
        every: int,
        conventions: Conventions,
        capacity: int,
        stages: Sequence[str],
        by_species: bool = True,
        header: Mapping[str, Any] | None = None,
    ) -> None:
        from ase.data import chemical_symbols

        if every < 1:
            raise OutputError("every of a response file is at least 1")
        self.every = every
        self.path = Path(path)
        self._potential, self._conventions, self._stages = potential, conventions, tuple(stages)
        self._molecule, self._shifts = molecules(system)
        self._periodic = system.periodic
        self._names, self._groups = ["all"], np.zeros(len(system), dtype=np.int64)
        if by_species:
            elements, self._groups = np.unique(system.numbers, return_inverse=True)
            self._names = [chemical_symbols[z] for z in elements]
        self._capacity = capacity
        self._header = {
            "groups": self._names,
            "periodic": system.periodic,
            "atoms": len(system),
            "molecules": int(self._molecule.max(initial=-1)) + 1,
            "every": every,
            "displacement": conventions.displacement,
            "acoustic_sum_rule": conventions.acoustic_sum_rule,
            "born_charge_scale": conventions.scale,
            **(header or {}),
        }
        self._writer: ResponseWriter | None = None

    def report(self, state: State, info: StepInfo) -> None:
        if info.stage not in self._stages:
            return
        system = state.system
        r = self._potential.response(system, self._conventions, velocities=system.velocities, groups=self._groups)
        assert r.current is not None
        charge = r.polarization.charge
        whole = system.positions + self._shifts @ system.cell
        self._open().append(
            {
                "step": state.step,
                "time": state.time_fs,
                "stage": info.stage_index,
                "temperature": info.temperature,
                "cell": system.cell,
                "polarization_charge": np.stack([charge.real, charge.imag], axis=1) if self._periodic else charge,
                "polarization_permanent": r.polarization.permanent,
                "polarization_induced": r.polarization.induced,
                "molecular_dipoles": molecular_dipole(r.charges, whole, system.masses, self._molecule),
                "current": r.current.parts,
                "current_other": r.current.other_charge,
                "polarizability": r.polarizability,
            }
        )

    def position(self) -> dict[str, Any]:
        """Frames written (durable)."""
        writer = self._open()
        writer.sync()
        return {"frames": writer.frames}

    def rewind(self, position: Mapping[str, Any]) -> None:
        """Erase what was written after ``position`` and go on from there."""
        if self._writer is not None:
            self._writer.close()
        self._writer = ResponseWriter(
            self.path, groups=len(self._names), periodic=self._periodic, frames=int(position["frames"])
        )

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _open(self) -> ResponseWriter:
        if self._writer is None:
            self._writer = ResponseWriter(
                self.path,
                groups=len(self._names),
                periodic=self._periodic,
                header=self._header,
                capacity=self._capacity,
            )
        return self._writer
