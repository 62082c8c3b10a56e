"""The local network: weights of a model packed for the kernels, and the two passes over them."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from polmd.kernels import layout
from polmd.kernels.cpu import network as kernels
from polmd.kernels.layout import LANES, Multipoles, NetworkWeights
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


@dataclass
class Forward:
    """Predictions, and what the reverse pass needs of the forward pass."""

    predictions: Multipoles
    moments: np.ndarray
    first: np.ndarray
    hidden: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    types: np.ndarray
    pairs: PairList


class LocalNetwork:
    """The local network of a model, ready to run.

    Parameters
    ----------
    model : the trained model
    """

    def __init__(self, model: Model) -> None:
        architecture = model.header.architecture
        self.weights = pack(model)
        self._ranks = (0,) * architecture.max_l
        self._orders = (0,) * architecture.max_nu

    def forward(self, positions: np.ndarray, cell: np.ndarray, types: np.ndarray, pairs: PairList) -> Forward:
        """Energies and multipoles of every atom.

        positions (n, 3) Å, cell (3, 3) Å, types (n,) index of the element in the model, pairs at least to the cutoff.
        """
        w, n = self.weights, len(types)
        zn, n_l = w.mixing.shape[2], (10, 20)[len(self._ranks) - 2]
        state = Forward(
            predictions=empty_multipoles(n),
            moments=np.empty((n, zn, n_l)),
            first=np.empty((n, len(w.first_bias))),
            hidden=np.empty((n, w.gate_bias.shape[1], 12)),
            positions=positions,
            cell=cell,
            types=types,
            pairs=pairs,
        )
        kernels.forward(
            positions, cell, types, pairs.first, pairs.neighbors, pairs.shifts, w, self._ranks, self._orders,
            state.moments, state.first, state.hidden, state.predictions,
        )  # fmt: skip
        return state

    def reverse(self, state: Forward, seeds: Multipoles) -> tuple[np.ndarray, np.ndarray]:
        """Forces (n, 3) and strain gradient (3, 3) of Σ seeds · predictions.

        The strain gradient is Σ_edges v ⊗ ∂/∂v, that is r → r(1 + ε), cell → cell(1 + ε), not symmetrised.
        """
        w = self.weights
        n, zn, n_l = state.moments.shape
        gradient = np.empty((n, 2, zn, n_l))
        kernels.reverse(
            state.types, w, self._ranks, self._orders, state.moments, state.first, state.hidden, seeds, gradient
        )
        forces, virial = np.empty((len(state.types), 3)), np.empty((len(state.types), 3, 3))
        pairs = state.pairs
        kernels.edge_forces(
            state.positions, state.cell, state.types, pairs.first, pairs.neighbors, pairs.shifts, w, gradient,
            forces, virial,
        )  # fmt: skip
        return forces, virial.sum(axis=0)


def empty_multipoles(n: int) -> Multipoles:
    """Zeros for n atoms."""
    return Multipoles(np.zeros(n), np.zeros(n), np.zeros((n, 3)), np.zeros((n, 3, 3)), np.zeros(n), np.zeros((n, 3, 3)))


def _round_up(n: int, multiple: int) -> int:
    return ceil(n / multiple) * multiple


def pack(model: Model) -> NetworkWeights:
    """Lay out the weights of a model for the kernels (shapes: :class:`polmd.kernels.layout.NetworkWeights`)."""
    header = model.header
    a, predicts = header.architecture, header.predicts
    arrays = {k: np.asarray(v, dtype=np.float64) for k, v in model.arrays.items()}
    nz, nr, n_channels = len(a.elements), a.n_rbf, a.n_channels
    channels = a.n_radial * n_channels
    nc, zn = _round_up(channels, LANES), _round_up(nz * nr, 4)
    blocks, nb = nc // LANES, a.n_invariants

    mixing = np.zeros((nz, a.max_l + 1, zn, nc))
    for level in range(a.max_l + 1):
        radial = arrays[f"radial/mixing_{level}"].reshape(nr, a.n_radial, a.n_embedding_neighbor, a.n_embedding_center)
        full = np.einsum("nmab,za,ib->iznmab", radial, arrays["embedding/neighbor"], arrays["embedding/center"])
        mixing[:, level, : nz * nr, :channels] = full.reshape(nz, nz * nr, channels)

    # feature (m, b, c) of the file → (block, b, lane) of the kernels
    m, b, c = np.meshgrid(np.arange(a.n_radial), np.arange(nb), np.arange(n_channels), indexing="ij")
    channel = m * n_channels + c
    where = ((channel // LANES * nb + b) * LANES + channel % LANES).ravel()

    def on_features(weight: np.ndarray) -> np.ndarray:
        out = np.zeros((len(weight), nb * nc))
        out[:, where] = weight
        return out

    readouts = [n for n in ("energy", "charge", "scalar_polarizability") if getattr(a, n) is not None]
    h0 = max(getattr(a, n).hidden[0] for n in readouts)
    h1 = max(getattr(a, n).hidden[1] for n in readouts)
    count = len(readouts)
    nh, no = (a.tensor.hidden, a.tensor.outputs) if a.tensor is not None else (0, 0)
    n_first = _round_up(count * h0 + count + nh, 4)
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

    terms = layout.N_VECTOR + layout.N_SYMMETRIC + layout.N_AXIAL
    tensor_weight = np.zeros((nh, terms, nc))
    gate_weight, gate_bias, out_weight = np.zeros((3, nh, 3 * nh)), np.zeros((3, nh)), np.zeros((3, no, nh))
    if a.tensor is not None:
        first_weight[count * h0 + count : count * h0 + count + nh] = on_features(arrays["tensor/mix_in_0"])
        for rank in range(3):
            gate_weight[rank] = arrays[f"tensor/gate_weight_{rank}"]
            gate_bias[rank] = arrays[f"tensor/gate_bias_{rank}"]
            out_weight[rank] = arrays[f"tensor/mix_out_{rank}"]
        _merge_terms(tensor_weight[:, :, :channels], arrays, a.max_l, a.max_nu)

    def output(name: str, index: int) -> int:
        return index if name in predicts else -1

    return NetworkWeights(
        cutoff=a.cutoff_A,
        exponent=a.cutoff_exponent,
        frequencies=arrays["radial/frequencies"],
        mixing=mixing,
        first_weight=first_weight,
        first_bias=first_bias,
        second_weight=second_weight,
        second_bias=second_bias,
        last_weight=last_weight,
        last_bias=last_bias,
        tensor_weight=np.ascontiguousarray(
            tensor_weight.reshape(nh, terms, blocks, LANES).transpose(2, 0, 1, 3)
        ).reshape(blocks, nh, terms * LANES),
        gate_weight=gate_weight,
        gate_bias=gate_bias,
        out_weight=out_weight,
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
