"""The polarizable-multipole potential on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from polmd.born import Conventions, Displacement, Polarization, Response
from polmd.cuda import fft
from polmd.cuda.engine import Engine, refuses
from polmd.cuda.response import DeviceResponse
from polmd.electrostatics.fields import FieldSolver
from polmd.errors import InputError
from polmd.kernels.cuda import moments, network
from polmd.kernels.cuda.descriptor import BUILDS
from polmd.model.file import Model
from polmd.potential import MultipolePotential, Result, response_fields
from polmd.system import System


class CudaPotential(MultipolePotential):
    """:class:`polmd.potential.MultipolePotential` with everything computed on a GPU.

    Precision "mixed" is float32 for network and electrostatics, with sums, positions and forces in float64. Models with
    message passing are refused, and models that need more shared memory than every GPU has.
    """

    def __init__(
        self,
        model: Model | str,
        device: str = "cuda",
        precision: str = "double",
        *,
        skin: float = 1.0,
        method: str = "direct",
        tolerance: float = 1e-5,
    ) -> None:
        self._prepare(model, "cuda", precision, method, tolerance)
        reason = self.refuses(self.model, precision, method)
        if reason is not None:
            raise InputError(f'device = "cuda": {reason}')
        self.engine = Engine(self.model, precision, skin, method, tolerance)
        self._updates = 0

    @classmethod
    def refuses(cls, model: Model, precision: str, method: str) -> str | None:
        """Why a GPU cannot compute a model with these options, or None."""
        if method == "mesh" and fft.unavailable() is not None:
            return fft.unavailable()
        return refuses(model, precision)

    def compute(
        self,
        system: System,
        *,
        stress: bool = False,
        born_charges: bool = False,
        velocities: np.ndarray | None = None,
        groups: np.ndarray | None = None,
        displacement: Displacement = "edge",
        acoustic_sum_rule: bool = True,
        born_charge_scale: float = 1.0,
    ) -> Result:
        """See :meth:`polmd.potential.MultipolePotential.compute`."""
        self._atom_types(system)
        self.engine.evaluate(system)
        result = self.collect(system, stress=stress)
        if not (born_charges or velocities is not None):
            return result
        conventions = Conventions(displacement, acoustic_sum_rule, born_charge_scale)
        found = self.response(system, conventions, born_charges=born_charges, velocities=velocities, groups=groups)
        return replace(result, **response_fields(found))

    def response(
        self,
        system: System,
        conventions: Conventions,
        *,
        born_charges: bool = False,
        velocities: np.ndarray | None = None,
        groups: np.ndarray | None = None,
    ) -> Response:
        """See :meth:`polmd.potential.MultipolePotential.response`."""
        return self._respond(system).respond(conventions, charges=born_charges, velocities=velocities, groups=groups)

    def field_forces(
        self, system: System, field: np.ndarray, conventions: Conventions
    ) -> tuple[np.ndarray, Polarization]:
        """See :meth:`polmd.potential.MultipolePotential.field_forces`."""
        found = self._respond(system)
        return found.field_forces(field, conventions), found.polarization()

    def _respond(self, system: System) -> DeviceResponse:
        self.require_response()
        self._atom_types(system)
        self.engine.evaluate(system)
        return DeviceResponse(self.engine, system)

    def collect(self, system: System, *, stress: bool = False) -> Result:
        """The result of the last evaluation, which was that of ``system``."""
        _, constant = self._atom_types(system)
        engine = self.engine
        self._updates += 1
        found = engine.fetch_all([engine.forces, engine.predictions, engine.energies, engine.results])
        forces, predictions, energies, results = found
        local, predicts = predictions[:, network.ENERGY], self.model.header.predicts
        energy = float(local.sum()) + float(energies.sum()) + constant
        if not np.isfinite(energy):
            self._explain(system)
        full_stress = None
        if stress and system.periodic:
            strain = engine.strain_gradient()
            full_stress = 0.5 * (strain + strain.T) / system.volume
        n = len(system)
        options: dict[str, Any] = {}
        for name, start, shape in _COLUMNS:
            if name in predicts:
                columns = predictions[:, start : start + int(np.prod(shape, dtype=int))]
                options[name] = np.ascontiguousarray(columns).reshape(n, *shape)
        if predicts:
            options["potentials"] = results[:, moments.PHI].copy()
            options["fields"] = results[:, moments.FIELD : moments.FIELD + 3].copy()
        if "charge_responses" in predicts:
            options["induced_charges"] = results[:, moments.INDUCED_CHARGE].copy()
        if "polarizabilities" in predicts:
            options["induced_dipoles"] = results[:, moments.INDUCED_DIPOLE : moments.INDUCED_DIPOLE + 3].copy()
        return Result(
            energy=energy,
            forces=np.array(forces),
            stress=full_stress,
            atomic_energies=local.copy(),
            long_range_energy=float(energies.sum()),
            **options,
        )

    def state(self) -> dict[str, np.ndarray]:
        """What fixes the next results bit for bit: where the neighbour list was built, and fixed wave numbers."""
        engine = self.engine
        state = {"builds": np.array(0), "updates": np.array(self._updates)}
        if engine.n:
            flags, reference = engine.fetch_all([engine.flags, engine.reference])
            state["builds"] = np.array(int(flags[BUILDS]))
            state |= {"positions": np.array(reference), "cell": engine._cell.copy(), "pbc": engine._pbc.copy()}
            state["numbers"] = engine._numbers.copy()
        return state | self._fixed_state()

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from :meth:`state`."""
        self._restore_waves(state)
        self._updates = int(state["updates"])
        if "positions" in state:
            n = len(state["positions"])
            zero, one = np.zeros((n, 3)), np.ones(n)
            system = System(
                np.array(state["numbers"]), np.array(state["positions"]), np.array(state["cell"]), np.array(state["pbc"]),
                one, zero,
            )  # fmt: skip
            self.engine.restore_list(system, system.positions, int(state["builds"]))

    def fix_wave_numbers(self, cell: np.ndarray | None) -> None:
        """See :meth:`polmd.potential.MultipolePotential.fix_wave_numbers`."""
        super().fix_wave_numbers(cell)
        self.engine.fix_wave_numbers(self._fixed_cell, self._fixed_waves)

    def electrostatics_solver(self, system: System) -> FieldSolver:
        """The CPU's solver of the same sum, whose ``str`` says what the device does."""
        self.method = "direct"
        if system.periodic and system.cell.any(axis=1).all():
            cell = system.cell if self._fixed_cell is None else self._fixed_cell
            self.method = "direct" if self.engine.mesh_shape(cell) is None else "mesh"
        return super().electrostatics_solver(system)

    def mesh_error(self, system: System) -> float:
        """Root mean square difference of the forces from those with the direct sum, over the root mean square of the latter."""
        self.electrostatics_solver(system)
        if self.method == "direct":
            return 0.0
        direct = CudaPotential(self.model, precision=self.precision, method="direct").compute(system).forces
        return float(np.sqrt(np.sum((self.compute(system).forces - direct) ** 2) / np.sum(direct**2)))


#: Quantities of the model: first column of the predictions, shape.
_COLUMNS: tuple[tuple[str, int, tuple[int, ...]], ...] = (
    ("charges", network.CHARGE, ()),
    ("dipoles", network.DIPOLE, (3,)),
    ("quadrupoles", network.QUADRUPOLE, (3, 3)),
    ("charge_responses", network.KAPPA, ()),
    ("polarizabilities", network.ALPHA, (3, 3)),
)
