"""How atoms and weights of a local network lie in memory for the kernels, and the constants both sides agree on.

Atoms of one element are worked on together, as many as a vector has lanes (8 in float64, 16 in float32): every number of
an atom becomes a vector of a block of atoms, every weight multiplies such a vector, and no sum runs across lanes.
"""

from typing import NamedTuple

import numpy as np

#: Weights are padded with zeros to multiples of this: so many sums are kept in registers at a time.
TILE = 8
#: Distinct terms of the tensor readout: vectors, symmetric matrices, axial vectors (antisymmetric matrices).
N_VECTOR, N_SYMMETRIC, N_AXIAL = 11, 12, 4
N_TERMS = N_VECTOR + N_SYMMETRIC + N_AXIAL
#: Rows of the table of their components: component by component, terms within it.
N_COMPONENTS = 3 * N_VECTOR + 6 * N_SYMMETRIC + 3 * N_AXIAL

# Order of the vectors; a = T1, S = T2, T = T3, r = a·a, t = S:S, V1 = S a, V2 = T:S, M13 = T a, M22 = S², M33 = T:T.
A, V1, V2, S_V1, S_V2, A_R, A_T, M13_A, T_M13, T_M22, T_M33 = range(N_VECTOR)
# Order of the symmetric matrices; {X} = X + Xᵀ.
S, AA, M13, M22, M33, V1_A, V2_A, T_V1, T_V2, S_M13, S_M33, S_M22 = range(N_SYMMETRIC)
# Order of the axial vectors: V1 × a, V2 × a, and twice c(S M13), twice c(S M33), c_k(X) = Σ_ij ε_kij X_ij.
V1_X_A, V2_X_A, C_S_M13, C_S_M33 = range(N_AXIAL)


class NetworkWeights(NamedTuple):
    """Weights of a local network in kernel layout, in the precision of the network.

    nz elements, nr radial basis functions (made even), zn = nz·nr, nl monomials, nc = channels C rounded up to TILE, nb
    invariants per channel, nf = nc·nb features in the order (C, b), R readouts (energy, charge, scalar polarisability
    as far as present), h0, h1 their widest hidden layers, nh hidden (made even) and no output tensors; absent parts
    have length 0, absent indices are −1.
    """

    cutoff: float  # Å
    exponent: int  # p of the cutoff function
    frequencies: np.ndarray  # (nr,) 1/Å
    mixing: np.ndarray  # (nz, (max_l+1)·nc/TILE·zn·TILE): center type; level, tile of channels, (neighbor type, n), C
    first_weight: np.ndarray  # (n_first/TILE, nf·TILE): rows R·h0 hidden, R linear, nh mix_in_0; tile of rows, f, row
    first_transpose: np.ndarray  # (nf/TILE, n_first·TILE): the same weights; tile of features, row, f
    first_bias: np.ndarray  # (n_first,), n_first rounded up to TILE
    second_weight: np.ndarray  # (R, h1·h0)
    second_bias: np.ndarray  # (R, h1)
    last_weight: np.ndarray  # (R, h1)
    last_bias: np.ndarray  # (R,) biases of the last and of the linear layer
    tensor_weight: np.ndarray  # (nc, nh·N_TERMS): vector, symmetric and axial terms in the order above
    gate_weight: np.ndarray  # (3, nh·3·nh)
    gate_bias: np.ndarray  # (3, nh)
    out_weight: np.ndarray  # (3, no, nh)
    charge_readout: int
    scalar_readout: int
    charge_response_output: int
    dipole_output: int
    polarizability_output: int
    quadrupole_output: int
    charge_scale: float
    charge_response_scale: float
    scalar_polarizability_scale: float
    make_alpha_positive: bool
    make_kappa_positive: bool
    make_quad_traceless: bool


class Multipoles(NamedTuple):
    """Predictions for n atoms, or a scalar's gradient with respect to them. Absent quantities stay zero."""

    energies: np.ndarray  # (n,) eV
    charges: np.ndarray  # (n,) e
    dipoles: np.ndarray  # (n, 3) e Å
    quadrupoles: np.ndarray  # (n, 3, 3) e Å²
    charge_responses: np.ndarray  # (n,) e/V
    polarizabilities: np.ndarray  # (n, 3, 3) e Å²/V
