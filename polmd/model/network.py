"""The local network: weights of a model packed for the kernels, and the two passes over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np

from polmd.kernels import layout
from polmd.kernels.cpu import network as kernels
from polmd.kernels.layout import TILE, Multipoles, NetworkWeights
from polmd.model.architecture import tensor_terms
from polmd.model.file import Model
from polmd.neighbors import PairList

# Where each term of the trained tensor readout goes among the distinct products of kernels/layout.py, with the factors
# of its symmetric and axial parts (a, S, T = T1, T2, T3; {X} = X + Xᵀ; the products on paper: docstring of readout.py).
# A term is (), (l1, l2) or ((l1, l2, rank), l3) as tensor_terms lists them. Rank 1: term → vector; contractions that
# give the same vector share it.
_VECTORS: dict[tuple, int] = {
    (): layout.A,
    (1, 2): layout.V1,
    (2, 3): layout.V2,
    ((1, 2, 1), 2): layout.S_V1,
    ((2, 3, 1), 2): layout.S_V2,
    ((1, 1, 2), 1): layout.A_R,
    ((1, 3, 2), 1): layout.M13_A,
    ((2, 2, 2), 1): layout.S_V1,
    ((3, 3, 2), 1): layout.T_M13,
    ((1, 1, 2), 3): layout.M13_A,
    ((1, 3, 2), 3): layout.T_M13,
    ((2, 2, 2), 3): layout.T_M22,
    ((3, 3, 2), 3): layout.T_M33,
    ((1, 2, 3), 2): layout.A_T,
    ((2, 3, 3), 2): layout.S_V2,
}
# Rank 2: term → (matrix, factor, axial vector, factor).
_MATRICES: dict[tuple, tuple[int, float, int, float]] = {
    (): (layout.S, 1.0, -1, 0.0),
    (1, 1): (layout.AA, 1.0, -1, 0.0),
    (1, 3): (layout.M13, 1.0, -1, 0.0),
    (2, 2): (layout.M22, 1.0, -1, 0.0),
    (3, 3): (layout.M33, 1.0, -1, 0.0),
    ((1, 2, 1), 1): (layout.V1_A, 0.5, layout.V1_X_A, 1.0),
    ((2, 3, 1), 1): (layout.V2_A, 0.5, layout.V2_X_A, 1.0),
    ((1, 2, 1), 3): (layout.T_V1, 1.0, -1, 0.0),
    ((2, 3, 1), 3): (layout.T_V2, 1.0, -1, 0.0),
    ((1, 1, 2), 2): (layout.V1_A, 0.5, layout.V1_X_A, -1.0),
    ((1, 3, 2), 2): (layout.S_M13, 0.5, layout.C_S_M13, -0.5),
    ((2, 2, 2), 2): (layout.S_M22, 0.5, -1, 0.0),
    ((3, 3, 2), 2): (layout.S_M33, 0.5, layout.C_S_M33, -0.5),
    ((1, 2, 3), 1): (layout.V1_A, 0.5, layout.V1_X_A, -1.0),
    ((2, 3, 3), 1): (layout.S_M13, 0.5, layout.C_S_M13, 0.5),
    ((1, 2, 3), 3): (layout.V2_A, 0.5, layout.V2_X_A, -1.0),
    ((2, 3, 3), 3): (layout.S_M33, 0.5, layout.C_S_M33, 0.5),
}


_NO_FORCES, _NO_STRAIN, _NO_ANGLES = np.empty((0, 3)), np.zeros((3, 3)), np.empty((0, 6))


@dataclass
class Forward:
    """Predictions, the sum of their energies (eV), and what the reverse pass needs of the forward pass."""

    predictions: Multipoles
    energy: float
    blocks: tuple[np.ndarray, np.ndarray]
    workspace: tuple[np.ndarray, ...]
    positions: np.ndarray
    cell: np.ndarray
    types: np.ndarray
    pairs: PairList
    give_back: Callable[[tuple[np.ndarray, ...]], None]

    def __del__(self) -> None:
        self.give_back(self.workspace)


class LocalNetwork:
    """The local network of a model, ready to run.

    Parameters
    ----------
    model : the trained model
    precision : "double", or "mixed": descriptor and network in float32, all that is handed in and out in float64
    """

    def __init__(self, model: Model, precision: str = "double") -> None:
        architecture = model.header.architecture
        self._dtype = np.dtype(np.float32 if precision == "mixed" else np.float64)
        self.weights = pack(model, self._dtype)
        self._ranks = (0,) * architecture.max_l
        self._orders = (0,) * architecture.max_nu
        self._blocks: tuple[np.ndarray, tuple[np.ndarray, np.ndarray]] | None = None
        self._free: list[tuple[np.ndarray, ...]] = []

    def forward(self, positions: np.ndarray, cell: np.ndarray, types: np.ndarray, pairs: PairList) -> Forward:
        """Energies and multipoles of every atom.

        positions (n, 3) Å, cell (3, 3) Å, types (n,) index of the element in the model, pairs at least to the cutoff.
        """
        state = self.prepare(positions, cell, types, pairs)
        state.energy = kernels.forward(*self.forward_arguments(state))
        return state

    def prepare(self, positions: np.ndarray, cell: np.ndarray, types: np.ndarray, pairs: PairList) -> Forward:
        """Memory for :meth:`forward`, not filled."""
        blocks = self._blocks_of(types)
        # memory of a large system is costly to get: it is used again as soon as this state is gone
        workspace = self._workspace(len(blocks[0]), len(types))
        n = len(types)
        out = Multipoles(
            np.empty(n), np.empty(n), np.empty((n, 3)), np.empty((n, 3, 3)), np.empty(n), np.empty((n, 3, 3))
        )  # the kernel fills it, with zeros where the model has no such prediction
        return Forward(out, np.nan, blocks, workspace, positions, cell, types, pairs, self._free.append)

    def forward_arguments(self, state: Forward) -> tuple:
        """What the driver of :meth:`forward` takes."""
        return *self._inputs(state), *state.workspace[:3], state.predictions

    def reverse(
        self, state: Forward, seeds: Multipoles, forces: np.ndarray = _NO_FORCES, strain: np.ndarray = _NO_STRAIN
    ) -> tuple[np.ndarray, np.ndarray]:
        """Forces (n, 3) and strain gradient (3, 3) of Σ seeds · predictions, with those given added.

        The strain gradient is Σ_edges v ⊗ ∂/∂v, that is r → r(1 + ε), cell → cell(1 + ε), not symmetrised.
        """
        total, full = np.empty((len(state.types), 3)), strain.copy()
        kernels.reverse(*self.reverse_arguments(state, seeds, forces, total, full))
        return total, full

    def reverse_arguments(
        self, state: Forward, seeds: Multipoles, added: np.ndarray, forces: np.ndarray, strain: np.ndarray
    ) -> tuple:
        """What the driver of :meth:`reverse` takes: it writes ``forces`` and adds to ``strain``."""
        *stages, copies = state.workspace
        virial = np.empty((len(state.blocks[0]), 9))
        return *self._inputs(state), *stages, seeds, added, copies, virial, forces, strain

    def _inputs(self, state: Forward) -> tuple:
        """The arguments that all drivers begin with."""
        pairs = state.pairs
        return (
            *state.blocks, state.positions, state.cell, state.types, pairs.first, pairs.neighbors, pairs.shifts,
            self.weights, self._ranks, self._orders,
        )  # fmt: skip

    def gradients(self, state: Forward, seeds: Multipoles, angles: np.ndarray | None = None) -> np.ndarray:
        """∂L/∂r of several L = Σ seeds · predictions but energies, in one pass, and with ``angles`` what moves along the
        edges of the first: see :class:`polmd.born.LocalDerivatives`."""
        from polmd.kernels.cpu import adjoints

        count = len(seeds.charges)
        out = np.empty((count if angles is None else count + 6, len(state.types), 3))
        copies = np.empty((min(adjoints.COPIES, len(state.blocks[0])), *out.shape))
        angles = _NO_ANGLES if angles is None else angles
        adjoints.gradients(*self._inputs(state), *state.workspace[:3], seeds, angles, copies, out)
        return out

    def rates(self, state: Forward, velocities: np.ndarray) -> Multipoles:
        """d(predictions)/dt, but for energies, of atoms that move with each of the ``velocities`` (g, n, 3): (g, n), …"""
        from polmd.kernels.cpu import response

        pairs, out = state.pairs, empty_multipoles(*velocities.shape[:2])
        response.rates(
            *state.blocks, state.positions, np.ascontiguousarray(velocities), state.cell, state.types, pairs.first,
            pairs.neighbors, pairs.shifts, self.weights, self._ranks, self._orders, *state.workspace[:3], out,
        )  # fmt: skip
        return out

    def _blocks_of(self, types: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._blocks is None or (self._blocks[0] is not types and not np.array_equal(self._blocks[0], types)):
            self._blocks = types, make_blocks(types, 64 // self._dtype.itemsize)
        return self._blocks[1]

    def _workspace(self, n_blocks: int, n: int) -> tuple[np.ndarray, ...]:
        """Moments, first layer, hidden tensors and copies of the forces, for the kernels."""
        copies = (min(kernels.COPIES, n_blocks), n, 3)
        while self._free:
            found = self._free.pop()
            if found[3].shape == copies:
                return found
        w, lanes = self.weights, 64 // self._dtype.itemsize
        rows = len(w.mixing) * len(w.frequencies) * (10, 20)[len(self._ranks) - 2]
        shapes = [(n_blocks, k * lanes) for k in (rows, len(w.first_bias), w.gate_bias.shape[1] * 12)]
        return *(np.empty(shape, self._dtype) for shape in shapes), np.empty(copies)


def make_blocks(types: np.ndarray, lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """Atoms of one type by ``lanes``, in their order: (nb, lanes) int32, filled up with −1, and (nb,) int64 types."""
    blocks, kinds = [], []
    for kind in np.unique(types):
        atoms = np.flatnonzero(types == kind)
        count = ceil(len(atoms) / lanes)
        block = np.full(count * lanes, -1, np.int32)
        block[: len(atoms)] = atoms
        blocks.append(block.reshape(count, lanes))
        kinds.append(np.full(count, kind, np.int64))
    if not blocks:
        return np.empty((0, lanes), np.int32), np.empty(0, np.int64)
    return np.concatenate(blocks), np.concatenate(kinds)


def empty_multipoles(*n: int) -> Multipoles:
    """Zeros for n atoms; for (m, n), m times."""
    scalar, vector, matrix = n, (*n, 3), (*n, 3, 3)
    return Multipoles(
        np.zeros(scalar), np.zeros(scalar), np.zeros(vector), np.zeros(matrix), np.zeros(scalar), np.zeros(matrix)
    )


def _round_up(n: int, multiple: int) -> int:
    return ceil(n / multiple) * multiple


def pack(model: Model, dtype: np.dtype) -> NetworkWeights:
    """Lay out the weights of a model for the kernels (shapes: :class:`polmd.kernels.layout.NetworkWeights`)."""
    header = model.header
    a, predicts = header.architecture, header.predicts
    arrays = {k: np.asarray(v, dtype=np.float64) for k, v in model.arrays.items()}
    nz, n_rbf, n_channels = len(a.elements), a.n_rbf, a.n_channels
    nr, channels = _round_up(n_rbf, 2), a.n_radial * n_channels
    nc, nb = _round_up(channels, TILE), a.n_invariants

    frequencies = np.zeros(nr)
    frequencies[:n_rbf] = arrays["radial/frequencies"]
    mixing = np.zeros((nz, a.max_l + 1, nz, nr, nc))
    for level in range(a.max_l + 1):
        radial = arrays[f"radial/mixing_{level}"].reshape(
            n_rbf, a.n_radial, a.n_embedding_neighbor, a.n_embedding_center
        )
        full = np.einsum("nmab,za,ib->iznmab", radial, arrays["embedding/neighbor"], arrays["embedding/center"])
        mixing[:, level, :, :n_rbf, :channels] = full.reshape(nz, nz, n_rbf, channels)
    mixing = mixing.reshape(nz, a.max_l + 1, nz * nr, nc // TILE, TILE).transpose(0, 1, 3, 2, 4)

    # feature (m, b, c) of the file → (C, b) of the kernels, C = m·n_channels + c
    m, b, c = np.meshgrid(np.arange(a.n_radial), np.arange(nb), np.arange(n_channels), indexing="ij")
    where = ((m * n_channels + c) * nb + b).ravel()

    def on_features(weight: np.ndarray) -> np.ndarray:
        out = np.zeros((len(weight), nb * nc))
        out[:, where] = weight
        return out

    readouts = [n for n in ("energy", "charge", "scalar_polarizability") if getattr(a, n) is not None]
    h0 = max(getattr(a, n).hidden[0] for n in readouts)
    h1 = max(getattr(a, n).hidden[1] for n in readouts)
    count = len(readouts)
    n_hidden, no = (a.tensor.hidden, a.tensor.outputs) if a.tensor is not None else (0, 0)
    nh = _round_up(n_hidden, 2)
    n_first = _round_up(count * h0 + count + nh, TILE)
    first_weight, first_bias = np.zeros((n_first, nb * nc)), np.zeros(n_first)
    second_weight, second_bias = np.zeros((count, h1, h0)), np.zeros((count, h1))
    last_weight, last_bias = np.zeros((count, h1)), np.zeros(count)
    for k, name in enumerate(readouts):
        n0, n1 = getattr(a, name).hidden
        zero = np.zeros(max(n0, n1))
        first_weight[k * h0 : k * h0 + n0] = on_features(arrays[f"{name}/weight_0"])
        first_bias[k * h0 : k * h0 + n0] = arrays.get(f"{name}/bias_0", zero[:n0])
        second_weight[k, :n1, :n0] = arrays[f"{name}/weight_1"]
        second_bias[k, :n1] = arrays.get(f"{name}/bias_1", zero[:n1])
        last_weight[k, :n1] = arrays[f"{name}/weight_2"][0]
        last_bias[k] = arrays.get(f"{name}/bias_2", zero)[0] + arrays.get(f"{name}/linear_bias", zero)[0]
        if f"{name}/linear_weight" in arrays:
            first_weight[count * h0 + k] = on_features(arrays[f"{name}/linear_weight"])[0]

    tensor_weight = np.zeros((nh, layout.N_TERMS, nc))
    gate_weight, gate_bias, out_weight = np.zeros((3, nh, 3, nh)), np.zeros((3, nh)), np.zeros((3, no, nh))
    if a.tensor is not None:
        first_weight[count * h0 + count : count * h0 + count + n_hidden] = on_features(arrays["tensor/mix_in_0"])
        for rank in range(3):
            gate = arrays[f"tensor/gate_weight_{rank}"].reshape(n_hidden, 3, n_hidden)
            gate_weight[rank, :n_hidden, :, :n_hidden] = gate
            gate_bias[rank, :n_hidden] = arrays[f"tensor/gate_bias_{rank}"]
            out_weight[rank, :, :n_hidden] = arrays[f"tensor/mix_out_{rank}"]
        _merge_terms(tensor_weight[:n_hidden, :, :channels], arrays, a.max_l, a.max_nu)

    def own(array: np.ndarray, *shape: int) -> np.ndarray:
        return np.ascontiguousarray(array, dtype=dtype).reshape(shape)

    tiled_rows = first_weight.reshape(n_first // TILE, TILE, nb * nc).transpose(0, 2, 1)
    tiled_features = first_weight.reshape(n_first, nb * nc // TILE, TILE).transpose(1, 0, 2)

    def output(name: str, index: int) -> int:
        return index if name in predicts else -1

    return NetworkWeights(
        cutoff=a.cutoff_A,
        exponent=a.cutoff_exponent,
        frequencies=own(frequencies, nr),
        mixing=own(mixing, nz, -1),
        first_weight=own(tiled_rows, n_first // TILE, -1),
        first_transpose=own(tiled_features, nb * nc // TILE, -1),
        first_bias=own(first_bias, n_first),
        second_weight=own(second_weight, count, h1 * h0),
        second_bias=own(second_bias, count, h1),
        last_weight=own(last_weight, count, h1),
        last_bias=own(last_bias, count),
        tensor_weight=own(tensor_weight.transpose(2, 0, 1), nc, nh * layout.N_TERMS),
        gate_weight=own(gate_weight, 3, nh * 3 * nh),
        gate_bias=own(gate_bias, 3, nh),
        out_weight=own(out_weight, 3, no, nh),
        charge_readout=readouts.index("charge") if "charge" in readouts else -1,
        scalar_readout=readouts.index("scalar_polarizability") if "scalar_polarizability" in readouts else -1,
        charge_response_output=output("charge_responses", 0),
        dipole_output=output("dipoles", 0),
        polarizability_output=output("polarizabilities", 0),
        quadrupole_output=output("quadrupoles", 1 if "polarizabilities" in predicts else 0),
        charge_scale=header.scales.charge,
        charge_response_scale=header.scales.charge_response,
        scalar_polarizability_scale=header.scales.scalar_polarizability,
        make_alpha_positive=header.flags.make_alpha_positive,
        make_kappa_positive=header.flags.make_kappa_positive,
        make_quad_traceless=header.flags.make_quad_traceless,
    )


def _merge_terms(out: np.ndarray, arrays: dict[str, np.ndarray], max_l: int, max_nu: int) -> None:
    """Add the weights of every term of the file to its distinct product: ``out`` (nh, 27, channels)."""
    channels = out.shape[2]
    for rank in (1, 2):
        mix = arrays[f"tensor/mix_in_{rank}"]
        for k, term in enumerate(tensor_terms(max_l, max_nu, rank)):
            weight = mix[:, k * channels : (k + 1) * channels]
            if rank == 1:
                out[:, _VECTORS[term]] += weight
                continue
            matrix, factor, axial, axial_factor = _MATRICES[term]
            out[:, layout.N_VECTOR + matrix] += factor * weight
            if axial >= 0:
                out[:, layout.N_VECTOR + layout.N_SYMMETRIC + axial] += axial_factor * weight
