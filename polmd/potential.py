"""The polarizable-multipole potential: the one place that joins the local network and the electrostatics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np

from polmd import born
from polmd.born import BornCharges, Conventions, Current, Displacement, Polarization, Response
from polmd.device import choose, potential_class
from polmd.electrostatics.compute import self_terms
from polmd.electrostatics.ewald import DirectSum, WaveNumbers, wave_numbers
from polmd.electrostatics.fields import FieldSolver
from polmd.electrostatics.mesh import MeshSum
from polmd.electrostatics.open import OpenPairs
from polmd.electrostatics.response import NO_MATRICES, NO_NUMBERS, Polarizable, Polarized, polarize, unfilled
from polmd.electrostatics.solvers import METHODS, periodic_solver
from polmd.errors import InputError, SimulationError
from polmd.kernels.layout import Multipoles
from polmd.memory import keep_freed_memory
from polmd.model.file import Model, load_model
from polmd.neighbors import VerletList, closest_pair
from polmd.system import System

if TYPE_CHECKING:
    from polmd.compiled import CompiledEvaluation
    from polmd.model.network import Forward, LocalNetwork

PRECISIONS = ("double", "mixed")

_WAVES = "wave_numbers."
_NO_FIELD = np.zeros(3)


@dataclass(slots=True)
class Result:
    """Energy, its derivatives and the multipoles of one configuration. Quantities that the model does not predict, or
    that were not asked for, are None.

    Attributes
    ----------
    energy : eV, constant atomic energies included
    forces : (n, 3) eV/Å
    stress : (3, 3) eV/Å³, dE/dstrain over the volume, symmetrised (ASE's sign: positive under tension)
    atomic_energies : (n,) eV, the network's local energies, without constant atomic energies and long-range energy
    long_range_energy : eV
    charges, dipoles, quadrupoles : permanent latent moments, (n,) e, (n, 3) e Å, (n, 3, 3) e Å² (primitive)
    charge_responses, polarizabilities : κ (n,) e/V, α (n, 3, 3) e Å²/V
    potentials, fields : (n,) V and (n, 3) V/Å of the permanent moments, where the model has charges
    induced_charges, induced_dipoles : (n,) e, (n, 3) e Å
    polarization : dipole moment of the cell, see :class:`polmd.born.Polarization`, with born_charges or velocities
    born_charges, born_charge_part, born_dipole_part : Z* (n, 3, 3) e and its two parts, with born_charges
    current : J (3,) e Å/fs, with velocities
    field_energy : eV, part of the energy that a uniform field adds, see :class:`polmd.field.FieldPotential`
    born, currents : the same with their conventions, parts and sum, :class:`polmd.born.BornCharges` and
        :class:`polmd.born.Current`
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None
    atomic_energies: np.ndarray
    long_range_energy: float
    charges: np.ndarray | None = None
    dipoles: np.ndarray | None = None
    quadrupoles: np.ndarray | None = None
    charge_responses: np.ndarray | None = None
    polarizabilities: np.ndarray | None = None
    potentials: np.ndarray | None = None
    fields: np.ndarray | None = None
    induced_charges: np.ndarray | None = None
    induced_dipoles: np.ndarray | None = None
    polarization: Polarization | None = None
    born_charges: np.ndarray | None = None
    born_charge_part: np.ndarray | None = None
    born_dipole_part: np.ndarray | None = None
    current: np.ndarray | None = None
    born: BornCharges | None = None
    currents: Current | None = None
    field_energy: float = 0.0


def response_fields(found: Response) -> dict[str, Any]:
    """What an electrical response adds to a result."""
    response: dict[str, Any] = {"polarization": found.polarization}
    if found.born is not None:
        response |= {"born": found.born, "born_charges": found.born.total}
        response |= {"born_charge_part": found.born.charge_part, "born_dipole_part": found.born.dipole_part}
    if found.current is not None:
        response |= {"currents": found.current, "current": found.current.total}
    return response


def _network(model: Model, precision: str) -> LocalNetwork:
    """The compiled network, or the one for models with message passing, which has the same interface."""
    if model.header.architecture.message_passing:
        from polmd.model.message_passing import MessagePassingNetwork

        if precision != "double":
            raise InputError(
                f"model '{model.name}' has message passing: it is evaluated with precision = 'double' only"
            )
        return cast("LocalNetwork", MessagePassingNetwork(model))
    from polmd.model.network import LocalNetwork

    return LocalNetwork(model, precision)


class MultipolePotential:
    """A trained model as a potential: local network, Gaussian multipoles, one linear-response step.

    Parameters
    ----------
    model : a :class:`polmd.model.file.Model`, or what :func:`polmd.load_model` takes
    device : "cpu", "cuda" (an NVIDIA GPU: the object is a :class:`polmd.cuda.potential.CudaPotential`), or "auto": a GPU where
        one can be used for this model and these options, else the CPU; the attribute ``device`` says which
    precision : "double", or "mixed": the local network in float32, everything else in float64 (on a GPU electrostatics in
        float32 too, its sums in float64); forces agree with double to 2e-5 of the largest
    skin : Å, the neighbour list holds pairs up to cutoff + skin and is rebuilt when atoms have moved by half of it
    method, tolerance : of the electrostatics in periodic boundaries, see :func:`polmd.electrostatics.compute`

    Raises
    ------
    InputError
        for a model that cannot be read, an option that polmd does not have, a device that is not there
    """

    def __new__(cls, model: Model | str, device: str = "cpu", precision: str = "double", **options: Any) -> Self:
        """An object of the class that computes on the device."""
        if cls is MultipolePotential and device != "cpu":
            method = options.get("method", "direct")
            loaded = model if isinstance(model, Model) else load_model(model)
            name = choose(device, lambda potential: potential.refuses(loaded, precision, method))
            cls = cast("type[Self]", potential_class(name))
        return super().__new__(cls)

    @classmethod
    def refuses(cls, model: Model, precision: str, method: str) -> str | None:
        """Why this class cannot compute a model with these options, or None."""
        return None

    def __init__(
        self,
        model: Model | str,
        device: str = "cpu",
        precision: str = "double",
        *,
        skin: float = 1.0,
        method: str = "direct",
        tolerance: float = 1e-5,
    ) -> None:
        keep_freed_memory()
        self._prepare(model, "cpu", precision, method, tolerance)
        self.neighbors = VerletList(self.model.cutoff, skin)
        self._network = _network(self.model, precision)
        self._seeds: Multipoles | None = None
        self._last: _Evaluated | None = None
        self._addresses: np.ndarray | None = None

    def _prepare(self, model: Model | str, device: str, precision: str, method: str, tolerance: float) -> None:
        """What the potential has on every device."""
        for name, value, known in (("precision", precision, PRECISIONS), ("method", method, METHODS)):
            if value not in known:
                raise InputError(f"{name} = {value!r} is not available; choose from {', '.join(map(repr, known))}")
        self.model = model if isinstance(model, Model) else load_model(model)
        self.device, self.precision, self.method, self.tolerance = device, precision, method, tolerance
        self._index = {z: k for k, z in enumerate(self.model.elements)}
        self._constants = {int(z): e for z, e in self.model.header.atomic_energies_eV.items()}
        self._types: tuple[bytes, np.ndarray, float] | None = None
        self._solver: tuple[bytes, int, FieldSolver] | None = None
        predicts = self.model.header.predicts
        self._responds = "charge_responses" in predicts, "polarizabilities" in predicts
        terms = self.model.header.electrostatics
        self._self_terms = {
            periodic: self_terms(terms.sigma_A, terms.norm_factor, periodic, terms.remove_self_interaction)
            for periodic in (True, False)
        }
        self._fixed_cell: np.ndarray | None = None
        self._fixed_waves: WaveNumbers | None = None

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
        """Energy, forces and multipoles; on request the stress (periodic systems), Born charges, the current.

        ``velocities`` (n, 3) Å/fs ask for the current J = Σ Z*·v, split by ``groups`` (n,) of atoms if given. The last
        three arguments are those of :class:`polmd.born.Conventions`.

        Raises
        ------
        InputError
            for elements the model does not know, a singular cell, a periodic axis without lattice vector, an electrical
            response of a model without charges and dipoles
        SimulationError
            when the energy is not finite (coincident atoms, an unbounded response)
        """
        self._last = None
        types, constant = self._atom_types(system)
        # copies, for the network and the solver too: dynamics moves the atoms in place
        positions, cell = system.positions.copy(), system.cell.copy()
        pairs = self.neighbors.update(positions, cell, system.pbc)
        state = self._network.forward(positions, cell, types, pairs)
        predictions, predicts = state.predictions, self.model.header.predicts

        if not math.isfinite(state.energy):
            self._explain(system)
        seeds = self._energy_seeds(len(system))
        long_range = solver = None
        long_range_energy = 0.0
        if predicts:
            solver = self.electrostatics_solver(system)
            solver.set_atoms(positions, cell if system.periodic else None)
            moments = self._polarizable(predictions, system.periodic)
            long_range_energy, strain, long_range = polarize(solver, moments)
            seeds = self._with_gradients(seeds, long_range)
            forces, strain = self._network.reverse(state, seeds, long_range.forces, strain)
        else:
            forces, strain = self._network.reverse(state, seeds)
        energy = state.energy + constant + long_range_energy
        if not math.isfinite(energy):
            self._explain(system)
        self._last = _Evaluated(positions, cell, system.pbc.copy(), state, long_range, solver)
        result = self._result(system, energy, forces, strain if stress else None, long_range_energy)
        if born_charges or velocities is not None:
            conventions = Conventions(displacement, acoustic_sum_rule, born_charge_scale)
            found = self.response(system, conventions, born_charges=born_charges, velocities=velocities, groups=groups)
            for quantity, value in response_fields(found).items():
                setattr(result, quantity, value)
        return result

    def _result(
        self, system: System, energy: float, forces: np.ndarray, strain: np.ndarray | None, long_range_energy: float
    ) -> Result:
        """The result of what ``_last`` holds."""
        last = self._last
        assert last is not None
        predictions, long_range = last.state.predictions, last.long_range
        stress = None
        if strain is not None and system.periodic:
            stress = 0.5 * (strain + strain.T) / system.volume
        result = Result(energy, forces, stress, predictions.energies, long_range_energy)
        for name in self.model.header.predicts:
            setattr(result, name, getattr(predictions, name))
        if long_range is not None:
            kappa, alpha = self._responds
            result.potentials, result.fields = long_range.potentials, long_range.fields
            result.induced_charges = long_range.induced_charges if kappa else None
            result.induced_dipoles = long_range.induced_dipoles if alpha else None
        return result

    def compiled(self, system: System) -> CompiledEvaluation | None:
        """The evaluation for a compiled loop that moves the atoms, from the list there is; None where there is no list of these
        atoms, and for what only :meth:`compute` can do: open boundaries, the mesh, models without multipoles or with message
        passing, subclasses with a ``compute`` of their own. What it finds, :meth:`result_of`, is bit for bit what
        :meth:`compute` finds."""
        if type(self).compute is not MultipolePotential.compute:
            return None
        types, constant = self._atom_types(system)
        if not system.periodic or not self.model.header.predicts or self.model.header.architecture.message_passing:
            return None
        solver = self.electrostatics_solver(system)
        if not isinstance(solver, DirectSum) or not self.neighbors.belongs_to(len(system), system.pbc):
            return None
        from polmd.compiled import CompiledEvaluation

        self._last = None
        positions, cell = system.positions.copy(), system.cell.copy()
        local = self._network.prepare(positions, cell, types, self.neighbors.pairs)
        solver.set_atoms(positions, cell)
        moments = self._polarizable(local.predictions, periodic=True)
        long_range = unfilled(moments)
        seeds = self._with_gradients(self._energy_seeds(len(system)), long_range)
        found = CompiledEvaluation(
            self._network, local, solver, moments, long_range, seeds, constant, self.neighbors, system.pbc.copy(),
            self._addresses,
        )  # fmt: skip
        self._addresses = found.drivers.addresses
        return found

    def result_of(self, system: System, found: CompiledEvaluation, *, stress: bool = False) -> Result:
        """The result of the last evaluation of :meth:`compiled`, whose positions are now those of the system."""
        local = found.local
        local.energy = float(found.energies[1])
        self._last = _Evaluated(local.positions, local.cell, system.pbc.copy(), local, found.long_range, found.solver)
        strain = found.strain if stress else None
        return self._result(system, float(found.energies[0]), found.forces, strain, float(found.energies[2]))

    def state(self) -> dict[str, np.ndarray]:
        """Arrays that fix the next results bit for bit: where the neighbour list was built, and fixed wave numbers."""
        return self.neighbors.state() | self._fixed_state()

    def _fixed_state(self) -> dict[str, np.ndarray]:
        if self._fixed_cell is None or self._fixed_waves is None:
            return {}
        return {_WAVES + "cell": self._fixed_cell, _WAVES + "n": self._fixed_waves.n}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue from :meth:`state`."""
        self.neighbors.restore({name: array for name, array in state.items() if not name.startswith(_WAVES)})
        self._restore_waves(state)

    def _restore_waves(self, state: Mapping[str, np.ndarray]) -> None:
        self.fix_wave_numbers(state.get(_WAVES + "cell"))
        waves = self.fixed_wave_numbers
        if waves is not None and not np.array_equal(waves.n, state[_WAVES + "n"]):
            raise InputError(
                "the wave numbers of this model are not those that were fixed: another dl, or another polmd"
            )

    def fix_wave_numbers(self, cell: np.ndarray | None) -> None:
        """Use the wave numbers (and mesh) of ``cell`` (3, 3) Å from now on, whatever cell the atoms are in: what a run with a
        moving cell needs, for its energy to be continuous and its stress the derivative. None: those of each cell, again."""
        self._fixed_cell, self._fixed_waves = None, None
        if cell is not None:
            self._fixed_cell = np.array(cell, dtype=np.float64)
            self._fixed_waves = wave_numbers(self._fixed_cell, self.model.header.electrostatics.dl_A)

    @property
    def fixed_wave_numbers(self) -> WaveNumbers | None:
        """What :meth:`fix_wave_numbers` has fixed."""
        return self._fixed_waves

    def response(
        self,
        system: System,
        conventions: Conventions,
        *,
        born_charges: bool = False,
        velocities: np.ndarray | None = None,
        groups: np.ndarray | None = None,
    ) -> Response:
        """Electrical response, see :func:`polmd.born.respond`; costs no second evaluation where :meth:`compute` was just
        called for the same atoms."""
        electrostatics, local = self._electrical(system)
        return born.respond(
            electrostatics, local, conventions, charges=born_charges, velocities=velocities, groups=groups
        )

    def field_forces(
        self, system: System, field: np.ndarray, conventions: Conventions
    ) -> tuple[np.ndarray, Polarization]:
        """Z*ᵀ E of a uniform field E (3,) V/Å, (n, 3) eV/Å, and the polarisation; see :func:`polmd.born.field_forces`."""
        electrostatics, local = self._electrical(system)
        return born.field_forces(electrostatics, local, field, conventions), electrostatics.polarization

    def _electrical(self, system: System) -> tuple[born.Electrostatics, born.LocalDerivatives]:
        """What :mod:`polmd.born` works on."""
        last = self._last
        if last is None or not (
            last.positions.tobytes() == system.positions.tobytes()
            and last.cell.tobytes() == system.cell.tobytes()
            and last.pbc.tobytes() == system.pbc.tobytes()
        ):
            self.compute(system)
            last = self._last
            assert last is not None
        self.require_response()
        state, long_range, solver = last.state, last.long_range, last.solver
        assert long_range is not None and solver is not None
        predictions, predicts = state.predictions, self.model.header.predicts
        cell = last.cell if system.periodic else None
        self_charge, self_dipole, _ = self._self_terms[system.periodic]
        electrostatics = born.Electrostatics(
            positions=last.positions,
            cell=cell,
            solver=solver,
            self_charge=self_charge,
            self_dipole=self_dipole,
            moments=predictions,
            dipoles="dipoles" in predicts,
            kappa="charge_responses" in predicts,
            alpha="polarizabilities" in predicts,
            potentials=long_range.potentials,
            fields=long_range.fields,
        )
        return electrostatics, _NetworkDerivatives(self._network, state)

    def require_response(self) -> None:
        """Raise InputError where the model has no electrical response."""
        if not self.model.header.predicts:
            raise InputError(
                f"model '{self.model.name}' predicts energies only: it has no electrical response (no Born charges, no "
                "current, no force in a field)"
            )
        if self.model.header.architecture.message_passing:
            raise InputError(
                f"model '{self.model.name}' has message passing: its electrical response (Born charges, current, force in a "
                "field) is not available"
            )

    def electrostatics_solver(self, system: System) -> FieldSolver:
        """The solver that :meth:`compute` uses for a system; its ``str`` says what it does."""
        settings = self.model.header.electrostatics
        if not system.periodic:
            return OpenPairs(settings.sigma_A, settings.norm_factor)
        cell = system.cell if self._fixed_cell is None else self._fixed_cell
        if self._solver is None or self._solver[1] != len(system) or self._solver[0] != cell.tobytes():
            missing = [axis for axis, vector in zip("abc", system.cell, strict=True) if not vector.any()]
            if missing:
                raise InputError(
                    f"lattice vector {', '.join(missing)} is zero: with any periodic axis the electrostatics is periodic in "
                    "three dimensions and needs a full cell (a slab needs one with vacuum)"
                )
            self._solver = cell.tobytes(), len(system), self._make_solver(cell, len(system), self.method)
        return self._solver[2]

    def mesh_error(self, system: System) -> float:
        """Root mean square difference of the long-range forces (at constant moments) from those of the direct sum, over
        the root mean square of the latter; zero where the direct sum is what is used."""
        solver = self.electrostatics_solver(system)
        if not isinstance(solver, MeshSum):
            return 0.0
        self._last = None  # the solver gets other moments
        types, _ = self._atom_types(system)
        pairs = self.neighbors.update(system.positions, system.cell, system.pbc)
        predictions = self._network.forward(system.positions, system.cell, types, pairs).predictions
        solver_cell = system.cell if self._fixed_cell is None else self._fixed_cell
        moments = self._polarizable(predictions, periodic=True)
        direct_sum = self._make_solver(solver_cell, len(system), "direct")
        for each in (solver, direct_sum):
            each.set_atoms(system.positions, system.cell)
        mesh, direct = (polarize(each, moments)[2].forces for each in (solver, direct_sum))
        return float(np.sqrt(np.sum((mesh - direct) ** 2) / np.sum(direct**2)))

    def _make_solver(self, cell: np.ndarray, n_atoms: int, method: str) -> FieldSolver:
        settings, predicts = self.model.header.electrostatics, self.model.header.predicts
        rank = 2 if "quadrupoles" in predicts else 1 if {"dipoles", "polarizabilities"} & set(predicts) else 0
        return periodic_solver(
            cell, n_atoms, sigma=settings.sigma_A, dl=settings.dl_A, norm_factor=settings.norm_factor,
            method=method, tolerance=self.tolerance, rank=rank,
        )  # fmt: skip

    def _polarizable(self, predictions: Multipoles, periodic: bool) -> Polarizable:
        """Predicted moments and responses, for the electrostatics."""
        kappa, alpha = self._responds
        return Polarizable(
            predictions.charges,
            predictions.dipoles,
            predictions.quadrupoles,
            predictions.charge_responses if kappa else NO_NUMBERS,
            predictions.polarizabilities if alpha else NO_MATRICES,
            _NO_FIELD,
            self._self_terms[periodic],
        )

    def _with_gradients(self, seeds: Multipoles, long_range: Polarized) -> Multipoles:
        """Seeds of the local energies, and the gradients of the long-range energy where the network predicts."""
        kappa, alpha = self._responds
        return Multipoles(
            seeds.energies,
            long_range.charge_gradient,
            long_range.dipole_gradient,
            long_range.quadrupole_gradient,
            long_range.kappa_gradient if kappa else seeds.charge_responses,
            long_range.alpha_gradient if alpha else seeds.polarizabilities,
        )

    def _energy_seeds(self, n: int) -> Multipoles:
        """Seeds of the sum of local energies."""
        if self._seeds is None or len(self._seeds.energies) != n:
            from polmd.model.network import empty_multipoles

            self._seeds = empty_multipoles(n)._replace(energies=np.ones(n))
        return self._seeds

    def _atom_types(self, system: System) -> tuple[np.ndarray, float]:
        numbers = system.numbers.tobytes()
        if self._types is None or self._types[0] != numbers:
            unknown = [k for k, z in enumerate(system.numbers) if int(z) not in self._index]
            if unknown:
                from ase.data import chemical_symbols

                symbol = chemical_symbols[system.numbers[unknown[0]]]
                known = ", ".join(chemical_symbols[z] for z in self._index)
                raise InputError(
                    f"element {symbol} (atom {unknown[0]}) is not in model '{self.model.name}', which knows {known}"
                )
            types = np.array([self._index[int(z)] for z in system.numbers], dtype=np.int64)
            constant = float(sum(self._constants.get(int(z), 0.0) for z in system.numbers))
            self._types = numbers, types, constant
        return self._types[1], self._types[2]

    def _explain(self, system: System) -> None:
        pair = closest_pair(system.positions, system.cell, system.pbc, 0.5)
        if pair is not None:
            raise SimulationError(
                f"the energy is not finite: atoms {pair[0]} and {pair[1]} are {pair[2]:.3g} Å apart (counted from 0)"
            )
        raise SimulationError("the energy is not finite: the response of the model is unbounded for these positions")


@dataclass
class _Evaluated:
    """The last evaluation: what the electrical response of the same atoms goes on from. The solver holds them and their
    permanent moments."""

    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    state: Forward
    long_range: Polarized | None
    solver: FieldSolver | None


class _NetworkDerivatives:
    """The network at one configuration, as :mod:`polmd.born` wants it."""

    def __init__(self, network: LocalNetwork, state: Forward) -> None:
        self._network, self._state = network, state

    def gradients(self, seeds: Multipoles, angles: np.ndarray | None = None) -> np.ndarray:
        return self._network.gradients(self._state, seeds, angles)

    def rates(self, velocities: np.ndarray) -> Multipoles:
        return self._network.rates(self._state, velocities)
