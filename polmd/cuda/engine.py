"""One system on a GPU: its arrays, and the launches that turn positions into forces.

All arrays stay on the device. :meth:`Engine.launch_forces` is always the same sequence of kernels with the same
arguments, list rebuild included, so that a step can be recorded once and replayed (kernels/cuda/compile.py). The host
looks at the flags when it fetches results: where a cell or a row of the list had too little room it makes room, and
:meth:`Engine.evaluate` (or whoever replayed steps) repeats.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda

from polmd.cuda import fft
from polmd.electrostatics.ewald import MEMORY_LIMIT, WaveNumbers, wave_numbers
from polmd.electrostatics.fields import six_components, symmetric_matrices
from polmd.electrostatics.mesh import ORDER, choose_shape, spline_table
from polmd.errors import InputError, SimulationError
from polmd.kernels.cuda import descriptor, integrate, kspace, mesh, moments, neighbors, network, pairs, response
from polmd.kernels.cuda.compile import SHARED_MEMORY, SIMULATED, Kernel, Queue, unavailable
from polmd.kernels.cuda.descriptor import BUILDS, CELLS, NEIGHBORS, REBUILD, TILES
from polmd.model.file import Model
from polmd.model.network import pack
from polmd.neighbors import FARTHEST, complete_basis, require_finite
from polmd.system import System

#: Threads of a block in the simulator, where every one is a Python thread.
_SIMULATED_BLOCK = 3
#: Rows of the list have room for multiples of this.
_ROOM = 32
#: Most blocks of kernels whose threads go through all atoms.
_MOST_BLOCKS = 1024
#: Wave vectors of the half sphere from which on method = "auto" takes the mesh: where the operations of both are equal
#: (polmd/bench/roofline.py); not measured.
_MESH_WAVES = 2500


def refuses(model: Model, precision: str) -> str | None:
    """Why a model cannot be computed on a GPU, or None."""
    architecture = model.header.architecture
    if architecture.message_passing:
        return f"model '{model.name}' has message passing, which is not available on a GPU: take device = \"cpu\""
    dtype = _dtype(precision)
    spec = network.spec_of(pack(model, dtype), architecture.max_l, architecture.max_nu)
    needed = max(network.shared_bytes(spec, dtype, reverse) for reverse in (False, True))
    if needed > SHARED_MEMORY:
        advice = 'precision = "mixed" or ' if dtype.itemsize == 8 else ""
        return (
            f"model '{model.name}' needs {needed >> 10} KiB of shared memory on a GPU in this precision, more than the "
            f'{SHARED_MEMORY >> 10} KiB that every GPU has: take {advice}device = "cpu"'
        )
    return None


def _dtype(precision: str) -> np.dtype:
    return np.dtype(np.float32 if precision == "mixed" else np.float64)


class Engine:
    """A model on the device, and the system that it was last given.

    Parameters
    ----------
    model : without message passing
    precision : "double", or "mixed": network and electrostatics in float32, sums, positions and forces in float64
    skin : Å
    method, tolerance : of the electrostatics in periodic boundaries, see :func:`polmd.electrostatics.compute`

    Raises InputError where the device or the model cannot be used.
    """

    def __init__(
        self, model: Model, precision: str, skin: float, method: str = "direct", tolerance: float = 1e-5
    ) -> None:
        reason = unavailable() or refuses(model, precision)
        if reason is not None:
            raise InputError(f'device = "cuda": {reason}')
        architecture = model.header.architecture
        self.model, self.cutoff, self.skin = model, model.cutoff, float(skin)
        if not 0.0 <= self.skin < math.inf:
            raise InputError(f"skin = {skin} Å: it must be a finite length, zero or more")
        self.dtype = _dtype(precision)
        weights = pack(model, self.dtype)
        self.spec = network.spec_of(weights, architecture.max_l, architecture.max_nu)
        self.method, self.tolerance = method, tolerance
        self.queue = Queue()
        self._weights = tuple(cuda.to_device(a) for a in network.lay_out(weights, self.spec))
        self._index = {z: k for k, z in enumerate(model.elements)}
        self.n = 0
        self._numbers = np.empty(0, np.int64)
        self._pbc = np.zeros(3, bool)
        self._cell = np.zeros((3, 3))
        self._electric_cell: np.ndarray | None = None
        self._fixed: tuple[np.ndarray, WaveNumbers] | None = None
        self._positions = np.empty((0, 3))
        self.epoch = 0  # counts what voids a recording: new arrays

    # ---- the system -------------------------------------------------------------------------------------------------

    @property
    def predicts(self) -> tuple[str, ...]:
        """What the model predicts beyond energies."""
        return tuple(self.model.header.predicts)

    @property
    def responds(self) -> bool:
        """Whether there are induced moments."""
        return bool({"charge_responses", "polarizabilities"} & set(self.predicts))

    @property
    def mesh(self) -> tuple[int, int, int] | None:
        """Points of the mesh in use, or None: the direct sum, or open boundaries."""
        return self._mesh.shape if self.periodic and self._mesh is not None else None

    def block(self, threads: int) -> int:
        """Threads of a block: few in the simulator."""
        return min(threads, _SIMULATED_BLOCK) if SIMULATED else threads

    def fix_wave_numbers(self, cell: np.ndarray | None, numbers: WaveNumbers | None) -> None:
        """See :meth:`polmd.potential.MultipolePotential.fix_wave_numbers`."""
        self._fixed = None if cell is None or numbers is None else (cell.copy(), numbers)
        self._electric_cell = None

    def load(self, system: System) -> None:
        """Take a system: what has changed since the last one goes to the device."""
        changed = False
        if not (np.array_equal(system.numbers, self._numbers) and np.array_equal(system.pbc, self._pbc)) or not self.n:
            require_finite(system.positions, InputError)
            self._allocate(system)
            changed = True
        if changed or not np.array_equal(system.cell, self._cell):
            self._set_cell(system)
            changed = True
        if self.predicts and system.periodic and self._electric_cell is None:
            self._set_waves(system.cell)
            changed = True
        if changed or not np.array_equal(system.positions, self._positions):
            if not np.abs(system.positions).max(initial=0.0) < FARTHEST:
                require_finite(system.positions, SimulationError)
            self._positions = system.positions.copy()
            self.positions.copy_to_device(self._positions, stream=self.queue.stream)
        self.epoch += changed

    def _allocate(self, system: System) -> None:
        """Arrays for a number of atoms."""
        n, spec, number = len(system), self.spec, self.dtype
        self.n, self._numbers, self._pbc = n, system.numbers.copy(), system.pbc.copy()
        self._cell = np.full((3, 3), np.nan)
        types = np.array([self._index[int(z)] for z in system.numbers], np.int32)
        self.types = cuda.to_device(types)

        def zeros(*shape: int, kind: Any = np.float64) -> Any:
            return cuda.to_device(np.zeros(shape, kind))

        self.positions, self.velocities, self.forces = zeros(n, 3), zeros(n, 3), zeros(n, 3)
        self.reference, self._wrapped = zeros(n, 3), zeros(n, 3)
        self._wraps, self._cells = zeros(n, 3, kind=np.int32), zeros(n, 3, kind=np.int32)
        self.flags = zeros(neighbors.FLAGS, kind=np.int32)
        self._allowed, self._square = zeros(1), zeros(1)
        self._counts = zeros(n, kind=np.int32)
        self._basis, self._grid, self._scale = zeros(2, 3, 3), zeros(9, kind=np.int32), zeros(6)
        self._starts = zeros(n, spec.nz + 1, kind=np.int32)
        self._moments, self._first = zeros(n, spec.rows * spec.nl, kind=number), zeros(n, spec.n_first, kind=number)
        self._hidden = zeros(n, max(1, 12 * spec.nh), kind=number)
        self.predictions, self.own, self.virial = zeros(n, network.N_PREDICTIONS), zeros(n, 3), zeros(n, 9)
        seeds = np.zeros((n, network.N_PREDICTIONS))
        seeds[:, network.ENERGY] = 1.0
        self.seeds = cuda.to_device(seeds)
        self.results, self.energies, self.moment_virial = zeros(n, moments.N_RESULTS), zeros(n, 1), zeros(n, 9)
        single = number.itemsize == 4
        self._fractions = zeros(n, 3, kind=np.int64 if single else np.float64)
        self._mesh: _Mesh | None = None
        self._sources, self._more = zeros(n, 10, kind=number), zeros(n, 4, kind=number)
        self.fields, self.low, self.induced = zeros(n, 13), zeros(n, 10), zeros(n, 4)
        self._lattice, self._inverse, self._constants = zeros(3, 3), zeros(3, 3), zeros(4)
        self._sigma = cuda.to_device(np.array([self.model.header.electrostatics.sigma_A], number))
        self._waves: Any = None
        self.numbers: WaveNumbers | None = None
        self.sums = zeros(64)
        self._other_seeds, self._other_forces = zeros(n, network.N_PREDICTIONS), zeros(n, 3)
        self._no_results = zeros(n, moments.N_RESULTS)
        self._room, self._capacity, self._n_cells = 8, 0, 0
        self._electric_cell = None
        self._make_list_room(_ROOM)

    def _make_list_room(self, capacity: int) -> None:
        self._capacity, n, number = -(-capacity // _ROOM) * _ROOM, self.n, self.dtype
        shape = (n, self._capacity)
        self._neighbors, self._mirrors, self.edge_of = (cuda.to_device(np.zeros(shape, np.int32)) for _ in range(3))
        self._shifts = cuda.to_device(np.zeros((*shape, 3), np.int32))
        self.vectors, self.slopes = (cuda.to_device(np.zeros((*shape, 3), number)) for _ in range(2))

    def _make_cell_room(self) -> None:
        self._members = cuda.to_device(np.zeros(self._n_cells, np.int32))
        self._atoms = cuda.to_device(np.zeros((self._n_cells, self._room), np.int32))

    def _set_cell(self, system: System) -> None:
        """Lattice, grid of cells and constants of the electrostatics; the list is out of date."""
        self._cell = system.cell.copy()
        basis = complete_basis(system.cell, system.pbc)
        longest = self.cutoff + self.skin
        grid, scale, self._n_cells = neighbors.plan_grid(system.positions, basis, system.pbc, longest)
        self._make_cell_room()
        stream = self.queue.stream
        self._basis.copy_to_device(np.stack([basis, np.linalg.inv(basis)]), stream=stream)
        self._grid.copy_to_device(grid, stream=stream)
        self._scale.copy_to_device(scale, stream=stream)
        self._allowed.copy_to_device(np.array([0.25 * self.skin**2]), stream=stream)
        self._square.copy_to_device(np.array([longest**2]), stream=stream)
        self.cell = cuda.to_device(np.ascontiguousarray(basis))
        self.rebuild_list()
        settings = self.model.header.electrostatics
        removed = -1.0 if settings.remove_self_interaction else 0.0
        sign = removed if system.periodic else 1.0 + removed
        c = sign * settings.norm_factor / (2 * np.pi) ** 1.5
        s = settings.sigma_A
        self.self_terms = c / s, c / (3 * s**3), c / (10 * s**5)
        prefactor = 1.0 if system.periodic else settings.norm_factor / (2 * np.pi)
        self._constants.copy_to_device(np.array([prefactor, *self.self_terms]), stream=stream)
        self.periodic = system.periodic
        if not system.periodic:
            self._lattice.copy_to_device(np.eye(3), stream=stream)
        elif self.predicts:
            missing = [axis for axis, vector in zip("abc", system.cell, strict=True) if not vector.any()]
            if missing:
                raise InputError(
                    f"lattice vector {', '.join(missing)} is zero: with any periodic axis the electrostatics is periodic "
                    "in three dimensions and needs a full cell (a slab needs one with vacuum)"
                )
            if self._waves is not None and self._fixed is not None:
                self._set_waves(system.cell)
            else:
                self._electric_cell = None
        self.queue.synchronize()

    def _set_waves(self, cell: np.ndarray) -> None:
        """Wave vectors and weights of a cell."""
        settings = self.model.header.electrostatics
        numbers = self._fixed[1] if self._fixed is not None else wave_numbers(cell, settings.dl_A)
        if self._waves is None or self.numbers is not numbers:
            self.numbers = numbers
            nk = len(numbers.n)
            if 8 * 8 * nk > MEMORY_LIMIT:
                raise InputError(f"the reciprocal sum over {nk} wave vectors does not fit: take a smaller cell")
            self._waves = cuda.to_device(np.ascontiguousarray(numbers.n, np.int32))
            self.structure, self.more = cuda.to_device(np.zeros((2, nk))), cuda.to_device(np.zeros((2, nk)))
            shape = self.mesh_shape(cell if self._fixed is None else self._fixed[0])
            self._mesh = _Mesh(self, shape) if shape is not None else None
        vectors = numbers.vectors(cell)
        k2 = (vectors**2).sum(0)
        weights = 4 * settings.norm_factor / abs(np.linalg.det(cell)) * np.exp(-0.5 * settings.sigma_A**2 * k2) / k2
        self._weights_of_waves = cuda.to_device(weights.astype(self.dtype))
        self._exact_weights = cuda.to_device(weights)
        scale = 2 * np.pi * np.ones(3)
        if self._mesh is not None:
            scale = np.array(self._mesh.shape, float)
            self._exact_weights = cuda.to_device(self._mesh.set_weights(weights))
        self._vectors = cuda.to_device(np.ascontiguousarray(vectors.T))
        self._exact_sigma = cuda.to_device(np.array([settings.sigma_A]))
        inverse = np.linalg.inv(cell)
        self._inverse.copy_to_device(inverse, stream=self.queue.stream)
        self._lattice.copy_to_device(inverse * scale, stream=self.queue.stream)
        self.queue.synchronize()
        self._electric_cell = cell.copy()

    def mesh_shape(self, cell: np.ndarray) -> tuple[int, int, int] | None:
        """Points of the mesh that a cell gets, or None: the direct sum."""
        settings = self.model.header.electrostatics
        numbers = self._fixed[1] if self._fixed is not None else wave_numbers(cell, settings.dl_A)
        few = len(numbers.n) < _MESH_WAVES or fft.unavailable() is not None
        if self.method == "direct" or (self.method == "auto" and few):
            return None
        rank = 2 if "quadrupoles" in self.predicts else 1 if {"dipoles", "polarizabilities"} & set(self.predicts) else 0
        return choose_shape(cell, numbers, settings.sigma_A, self.tolerance, rank)

    # ---- launches ---------------------------------------------------------------------------------------------------

    def _flat(self, kernel: Kernel, count: int, *arguments: Any) -> None:
        """A kernel with one thread for each of ``count``."""
        most = 2 if SIMULATED else _MOST_BLOCKS
        self.queue.launch(kernel, min(most, -(-count // kernel.block)), *arguments)

    def launch_list(self) -> None:
        """Bring the neighbour list up to date where it is not."""
        b, n = self.block, self.n
        self._flat(neighbors.check(b(128)), n, self.positions, self.reference, self._allowed, self._members, self.flags)
        self._flat(
            neighbors.sort_atoms(b(128)), n, self.positions, self._basis, self._grid, self._scale, self.reference,
            self._wrapped, self._wraps, self._cells, self._members, self._atoms, self.flags,
        )  # fmt: skip
        self._flat(neighbors.order_atoms(b(64)), self._n_cells, self._members, self._atoms, self.flags)
        self._flat(
            neighbors.find_pairs(b(64)), n, self._basis, self._grid, self._square, self._wrapped, self._wraps, self._cells,
            self._members, self._atoms, self._counts, self._neighbors, self._shifts, self.flags,
        )  # fmt: skip
        self._flat(
            neighbors.find_mirrors(b(128)), n * self._capacity, self._counts, self._neighbors, self._shifts, self.flags,
            self._mirrors,
        )  # fmt: skip

    def launch_network(self) -> None:
        """Edges and predictions."""
        b, spec, number = self.block, self.spec, self.dtype
        self.queue.launch(
            descriptor.find_edges(spec.nz, self.cutoff, self._capacity, number, b(32)), self.n, self.positions, self.cell,
            self.types, self._counts, self._neighbors, self._shifts, self.vectors, self._starts, self.edge_of, self.flags,
        )  # fmt: skip
        self.queue.launch(
            network.forward(spec, number, b(64)), self.n, self.types, self.vectors, self._starts, *self._weights,
            self._moments, self._first, self._hidden, self.predictions,
        )  # fmt: skip

    def launch_structure(self, sources: Any, structure: Any, rank: int) -> None:
        """Structure factors of sources in lattice coordinates, or the spectrum of their mesh."""
        if self._mesh is not None:
            self._mesh.launch_spread(sources, structure is self.more, rank)
            return
        side, parts = (2, 2) if SIMULATED else (kspace.SIDE, kspace.PARTS)
        kernel = kspace.structure_factor(rank, self.dtype, side, parts)
        assert self.numbers is not None
        grid = -(-len(self.numbers.n) // side)
        self.queue.launch(kernel, grid, self._fractions, sources, self._waves, structure)

    def launch_fields(self, columns: int, which: str) -> None:
        """Fields of the sources: "permanent", "both", or "induced", what is in the place of M̃ alone."""
        if not self.periodic:
            kernel = pairs.all_pairs(columns, which, self.dtype, self.block(64))
            self.queue.launch(kernel, self.n, self.positions, self._sources, self._more, self._sigma, self.fields)
            return
        if self._mesh is not None:
            self._mesh.launch_fields(columns, which)
            return
        side, parts = (2, 2) if SIMULATED else (kspace.SIDE, kspace.PARTS)
        kernel = kspace.fields(columns, which == "both", self.dtype, side, parts)
        first = self.more if which == "induced" else self.structure
        self.queue.launch(
            kernel, -(-self.n // side), self._fractions, self._sources, self._waves, self._weights_of_waves, first,
            self.more, self.fields,
        )  # fmt: skip

    def launch_sources(self) -> None:
        """The permanent moments as sources, and their structure factors."""
        b = self.block
        if self.periodic and self._mesh is not None:
            self._mesh.launch_locate()
        elif self.periodic:
            self._flat(
                moments.pack_fractions(self.dtype, b(128)), self.n, self.positions, self._inverse, self._fractions
            )
        self._flat(moments.pack_sources(self.dtype, b(64)), self.n, self.predictions, self._lattice, self._sources)
        if self.periodic:
            self.launch_structure(self._sources, self.structure, 2)

    def launch_electrostatics(self) -> None:
        """Long-range energies and forces, seeds of the network."""
        b, n = self.block, self.n
        self.launch_sources()
        self.launch_fields(10 if self.responds else 13, "permanent")
        self._flat(
            moments.respond(self.dtype, b(64)), n, self.predictions, self.fields, self._lattice, self._constants, self.low,
            self.results, self.induced, self._more, self.seeds, self.energies,
        )  # fmt: skip
        if self.responds:
            if self.periodic:
                self.launch_structure(self._more, self.more, 1)
            self.launch_fields(13, "both")
        self._flat(
            moments.finish(b(64)), n, self.predictions, self._lattice, self._constants, self.fields, self.low, self.induced,
            self.results, self.seeds, self.energies, self.moment_virial,
        )  # fmt: skip

    def launch_reverse(self, seeds: Any, results: Any, forces: Any) -> None:
        """Forces of Σ seeds · predictions, plus the columns of forces of ``results``."""
        b = self.block
        self.queue.launch(
            network.reverse(self.spec, self.dtype, b(64)), self.n, self.types, self.vectors, self._starts, *self._weights,
            self._moments, self._first, self._hidden, seeds, self.slopes, self.own, self.virial,
        )  # fmt: skip
        self.queue.launch(
            integrate.gather_forces(self.dtype, b(32)), self.n, self._counts, self._neighbors, self._mirrors, self.edge_of,
            self.slopes, self.own, results, forces,
        )  # fmt: skip

    # ---- pieces of the electrical response, after an evaluation -------------------------------------------------------

    def source_fields(self, charges: np.ndarray, dipoles: np.ndarray) -> np.ndarray:
        """What the permanent moments feel of other sources, charges (n,) and dipoles (n, 3): φ, F, ∇∇φ (six) and the force
        on them, (n, 13), Cartesian, without self terms."""
        lattice, prefactor = self.fetch(self._lattice), float(self.fetch(self._constants)[0])
        sources = np.column_stack([charges, dipoles @ lattice])
        self._more.copy_to_device(np.ascontiguousarray(sources, self.dtype), stream=self.queue.stream)
        self.queue.synchronize()
        if self.periodic:
            self.launch_structure(self._more, self.more, 1)
        self.launch_fields(13, "induced")
        out = self.fetch(self.fields).copy()
        hessian = lattice @ symmetric_matrices(out[:, 4:10]) @ lattice.T
        found = np.column_stack(
            [out[:, 0], out[:, 1:4] @ lattice.T, six_components(hessian), out[:, 10:13] @ lattice.T]
        )
        return prefactor * found

    def gradient(self, seeds: np.ndarray) -> np.ndarray:
        """∂/∂r (n, 3) of Σ seeds · predictions, seeds (n, 24)."""
        self._other_seeds.copy_to_device(np.ascontiguousarray(seeds), stream=self.queue.stream)
        self.queue.synchronize()
        self.launch_reverse(self._other_seeds, self._no_results, self._other_forces)
        return -self.fetch(self._other_forces)

    def edge_charges(self) -> tuple[np.ndarray, np.ndarray]:
        """Σ_j d_ij ⊗ ∂L_j/∂r_i along the edges and with their phases, (n, 3, 3) each, for the seeds of the last
        :meth:`gradient`."""
        out = cuda.to_device(np.zeros((self.n, 18)))
        cell = self._cell if self.periodic else np.zeros((3, 3))
        inverse = np.linalg.inv(cell) if self.periodic and np.linalg.det(cell) != 0.0 else np.zeros((3, 3))
        self.queue.launch(
            response.edge_charges(self.dtype, self.block(32)), self.n, self._counts, self._neighbors, self._mirrors,
            self.edge_of, self.vectors, self.slopes, cuda.to_device(cell), cuda.to_device(inverse), out,
        )  # fmt: skip
        found = self.fetch(out).reshape(self.n, 2, 3, 3)
        return found[:, 0].copy(), found[:, 1].copy()

    def launch_forces(self) -> None:
        """Everything from positions to forces."""
        self.launch_list()
        self.launch_network()
        if self.predicts:
            self.launch_electrostatics()
        self.launch_reverse(self.seeds, self.results, self.forces)

    # ---- results ----------------------------------------------------------------------------------------------------

    def evaluate(self, system: System) -> None:
        """Forces of a system, on the device."""
        self.load(system)
        while True:
            self.launch_forces()
            if self.make_room():
                return
            self.rebuild_list()

    def make_room(self) -> bool:
        """True when the list had room for all pairs; otherwise there is room now, and what was computed is void."""
        flags = self.fetch(self.flags)
        if flags[CELLS] == 0 and flags[NEIGHBORS] == 0 and flags[TILES] == 0:
            return True
        if flags[TILES] and self._mesh is not None:
            self._mesh.make_room(int(flags[TILES]) + 8)
        if flags[CELLS]:
            self._room = int(flags[CELLS]) + 4
            self._make_cell_room()
        if flags[NEIGHBORS]:
            capacity = int(1.1 * flags[NEIGHBORS]) + 1
            if self.n * capacity > 2**31 - 1:
                raise InputError(
                    f"lists of {flags[NEIGHBORS]} neighbours an atom do not fit: check the units of the cell"
                )
            self._make_list_room(capacity)
        flags[CELLS] = flags[NEIGHBORS] = flags[TILES] = 0
        self.set_flags(flags)
        self.epoch += 1
        return False

    def take_positions(self, positions: np.ndarray) -> None:
        """What the positions on the device are, when they were moved there."""
        self._positions = positions.copy()

    def rebuild_list(self) -> None:
        """Have the list built by the next evaluation."""
        flags = self.fetch(self.flags)
        flags[REBUILD] = 1
        self.set_flags(flags)

    def restore_list(self, system: System, reference: np.ndarray, builds: int) -> None:
        """The list of a system as it was built from other positions, as build number ``builds``."""
        before = system.copy()
        before.positions[:] = reference
        self.load(before)
        while True:
            self.rebuild_list()
            self.launch_list()
            if self.make_room():
                break
        flags = self.fetch(self.flags)
        flags[REBUILD], flags[BUILDS] = 0, builds
        self.set_flags(flags)

    def set_flags(self, flags: np.ndarray) -> None:
        """Write the flags."""
        self.flags.copy_to_device(np.ascontiguousarray(flags, np.int32), stream=self.queue.stream)

    def fetch(self, array: Any) -> np.ndarray:
        """A copy on the host of what an array holds when all that was launched is done."""
        return self.fetch_all([array])[0]

    def fetch_all(self, arrays: list[Any]) -> list[np.ndarray]:
        """Copies of several arrays: started together, waited for once, through memory that the device writes itself."""
        found = []
        for array in arrays:
            host = cuda.pinned_array(array.shape, array.dtype)
            array.copy_to_host(host, stream=self.queue.stream)
            found.append(host)
        self.queue.synchronize()
        return found

    def total(self, values: Any) -> np.ndarray:
        """Σ over atoms of the columns of an array (n, m)."""
        m = values.shape[1]
        self.queue.launch(moments.sum_columns(self.block(256)), m, values, self.sums)
        return self.fetch(self.sums)[:m]

    def strain_gradient(self) -> np.ndarray:
        """dE/dstrain (3, 3), eV, of the last evaluation."""
        strain = self.total(self.virial).reshape(3, 3)
        if self.predicts and self.periodic:
            if self._mesh is not None:
                self._mesh.launch_gather()
            strain = strain + self.total(self.moment_virial).reshape(3, 3)
            self.queue.launch(
                kspace.strain_sums(self.block(256)), 1, self._vectors, self._exact_sigma, self._exact_weights, self.structure,
                self.more, self.sums,
            )  # fmt: skip
            sums = self.fetch(self.sums)[:7]
            strain = strain + symmetric_matrices(sums[1:]) - sums[0] * np.eye(3)
        return strain


class _Mesh:
    """The particle mesh of an engine: arrays, and launches in the place of those of the direct sum."""

    def __init__(self, engine: Engine, shape: tuple[int, int, int]) -> None:
        self._engine, self.shape = engine, shape
        n, number = engine.n, engine.dtype
        numbers = engine.numbers
        assert numbers is not None
        self._transforms = fft.Transforms(engine.queue, shape)
        box = (shape[0], shape[1], shape[2] // 2 + 1)
        half = np.where(numbers.n[:, 2:] < 0, -numbers.n, numbers.n)  # of n and −n the one with n2 ≥ 0
        self._place = np.ravel_multi_index((half[:, 0] % shape[0], half[:, 1] % shape[1], half[:, 2]), box)
        self._flat = half[:, 2] == 0
        other = -half[self._flat]
        self._mirror = np.ravel_multi_index((other[:, 0] % shape[0], other[:, 1] % shape[1], other[:, 2]), box)
        decay = np.ones(len(half))
        for axis in range(3):
            decay *= np.sinc(half[:, axis] / shape[axis]) ** (2 * ORDER)
        self._sharpen, self._modes = math.prod(shape) / decay, math.prod(box)
        self._table = cuda.to_device(np.array(spline_table(ORDER), number))
        plan, near = mesh.plan_tiles(shape, ORDER)
        self._shape, self._near, self._tiles = cuda.to_device(plan), cuda.to_device(near), math.prod(plan[3:].tolist())
        self._fractions, self._offsets = cuda.to_device(np.zeros((n, 3))), cuda.to_device(np.zeros((n, 3)))
        self._corners = cuda.to_device(np.zeros((n, 3), np.int32))
        self._members = cuda.to_device(np.zeros(self._tiles, np.int32))
        self._density, self._potential = (cuda.to_device(np.zeros(shape, number)) for _ in range(2))
        self._spectrum, self._more, self._product = (
            cuda.to_device(np.zeros((self._modes, 2), number)) for _ in range(3)
        )
        self._gathered = cuda.to_device(self._place.astype(np.int64))
        self.make_room(16)

    def make_room(self, room: int) -> None:
        """Room for the atoms of a tile."""
        self._atoms = cuda.to_device(np.zeros((self._tiles, room), np.int32))

    def set_weights(self, weights: np.ndarray) -> np.ndarray:
        """Influence function from the weights of the direct sum; returns those of the energy of what launch_gather gives."""
        influence, sharpened = np.zeros(self._modes), 0.5 * weights * self._sharpen
        influence[self._place] = sharpened
        influence[self._mirror] = sharpened[self._flat]
        self._influence = cuda.to_device(influence.astype(self._engine.dtype))
        return 2.0 * sharpened / math.prod(self.shape)

    def launch_locate(self) -> None:
        """Where the atoms are on the mesh."""
        e = self._engine
        kernel = moments.pack_fractions(np.dtype(np.float64), e.block(128))
        e._flat(kernel, e.n, e.positions, e._inverse, self._fractions)
        e._flat(mesh.clear(e.block(128)), self._tiles, self._members)
        e._flat(
            mesh.sort_atoms(ORDER, e.block(128)), e.n, self._fractions, self._shape, self._corners, self._offsets,
            self._members, self._atoms, e.flags,
        )  # fmt: skip
        e._flat(mesh.order_atoms(e.block(64)), self._tiles, self._members, self._atoms)

    def launch_spread(self, sources: Any, induced: bool, rank: int) -> None:
        """Spectrum of sources in coordinates of the mesh."""
        e = self._engine
        e.queue.launch(
            mesh.spread(ORDER, rank, e.dtype, e.block(128)), self._tiles, self._corners, self._offsets, self._members,
            self._atoms, self._shape, self._near, self._table, sources, self._density,
        )  # fmt: skip
        self._transforms.forward(self._density, self._more if induced else self._spectrum)

    def launch_fields(self, columns: int, which: str) -> None:
        """Fields of the spectra, see Engine.launch_fields."""
        e = self._engine
        first = self._more if which == "induced" else self._spectrum
        kernel = mesh.convolve(which == "both", e.dtype, e.block(128))
        e._flat(kernel, self._modes, self._influence, first, self._more, self._product)
        self._transforms.backward(self._product, self._potential)
        e.queue.launch(
            mesh.interpolate(ORDER, columns, e.dtype, e.block(64)), e.n, self._corners, self._offsets, self._shape,
            self._table, self._potential, e._sources, e.fields,
        )  # fmt: skip

    def launch_gather(self) -> None:
        """Structure factors at the wave vectors of the sum, for the strain."""
        e = self._engine
        kernel = mesh.gather_modes(e.dtype, e.block(128))
        e._flat(kernel, len(self._place), self._spectrum, self._gathered, e.structure)
        if e.responds:
            e._flat(kernel, len(self._place), self._more, self._gathered, e.more)
