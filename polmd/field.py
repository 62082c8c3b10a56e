"""A uniform, constant electric field on top of a potential."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from polmd.born import Conventions, Response
from polmd.electrostatics.ewald import WaveNumbers
from polmd.electrostatics.fields import FieldSolver
from polmd.errors import InputError
from polmd.potential import MultipolePotential, Result
from polmd.system import System


class FieldPotential:
    """Energy and forces in a uniform field E, to first order: F_i += Z*_iᵀ E.

    The energy of the result is the one that dynamics conserves together with the kinetic energy: in open boundaries
    E_pot − E·P; in periodic ones, where P has no value of its own, E_pot less the work ∫ Σ_i (Z*_iᵀ E)·dr_i done since
    the first call (trapezoidal rule along the path of the atoms). ``field_energy`` of the result is that second term.
    Terms of order E² (the polarisation that the field itself induces) are left out, and so is the field's part of the
    stress. The published external field of :func:`polmd.electrostatics.compute`, half the induced part of this, is zero.

    Parameters
    ----------
    potential : the potential without field
    field : E, (3,) V/Å
    conventions : of the Born charges
    """

    def __init__(self, potential: MultipolePotential, field: np.ndarray, conventions: Conventions) -> None:
        field = np.array(field, dtype=np.float64)
        if field.shape != (3,) or not np.isfinite(field).all():
            raise InputError(f"a uniform field has three finite components in V/Å, not {field!r}")
        self.potential, self.field, self.conventions = potential, field, conventions
        self._path: tuple[np.ndarray, np.ndarray] | None = None
        self._work = 0.0

    def compute(self, system: System, *, stress: bool = False) -> Result:
        """Result of the potential with the field's forces and energy added."""
        bare = self.potential.compute(system, stress=stress)
        forces, polarization = self.potential.field_forces(system, self.field, self.conventions)
        if system.periodic:
            if self._path is not None and self._path[0].shape == forces.shape:
                positions, before = self._path
                self._work += 0.5 * float(np.sum((before + forces) * (system.positions - positions)))
            self._path = system.positions.copy(), forces
            energy = -self._work
        else:
            total = polarization.charge + polarization.permanent + polarization.induced
            energy = -self.conventions.scale * float(self.field @ total)
        return replace(bare, energy=bare.energy + energy, forces=bare.forces + forces, field_energy=energy)

    def response(self, system: System, conventions: Conventions, **options: Any) -> Response:
        """That of the potential without field."""
        return self.potential.response(system, conventions, **options)

    def electrostatics_solver(self, system: System) -> FieldSolver:
        """That of the potential without field."""
        return self.potential.electrostatics_solver(system)

    def mesh_error(self, system: System) -> float:
        """That of the potential without field."""
        return self.potential.mesh_error(system)

    def fix_wave_numbers(self, cell: np.ndarray | None) -> None:
        """See :meth:`polmd.potential.MultipolePotential.fix_wave_numbers`."""
        self.potential.fix_wave_numbers(cell)

    @property
    def fixed_wave_numbers(self) -> WaveNumbers | None:
        """What is fixed."""
        return self.potential.fixed_wave_numbers

    def state(self) -> dict[str, np.ndarray]:
        """State of the potential, and the work of the field up to the last positions."""
        content = dict(self.potential.state())
        if self._path is not None:
            content["field.positions"], content["field.forces"] = self._path
            content["field.work"] = np.array(self._work)
        return content

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from :meth:`state`."""
        self.potential.restore({k: v for k, v in state.items() if not k.startswith("field.")})
        self._path, self._work = None, 0.0
        if "field.work" in state:
            self._path = np.array(state["field.positions"]), np.array(state["field.forces"])
            self._work = float(state["field.work"])
