"""How the weights of a local network lie in memory for the kernels, and the constants both sides agree on.

LANES channels are worked on together: C = m·n_channels + c (radial function m, species channel c) is padded with zero
weights to a multiple of LANES and cut into blocks. 16 is the smallest constant trip count for which LLVM still adds the
alias checks that vectorising needs.
"""

from typing import NamedTuple

import numpy as np

LANES = 16
#: Distinct terms of the tensor readout: vectors, symmetric matrices, axial vectors (antisymmetric matrices).
N_VECTOR, N_SYMMETRIC, N_AXIAL = 11, 12, 4
#: Rows of the table of their components, one row of LANES values each: component by component, terms within it.
N_COMPONENTS = 3 * N_VECTOR + 6 * N_SYMMETRIC + 3 * N_AXIAL

# Order of the vectors; a = T1, S = T2, T = T3, r = a·a, t = S:S, V1 = S a, V2 = T:S, M13 = T a, M22 = S², M33 = T:T.
A, V1, V2, S_V1, S_V2, A_R, A_T, M13_A, T_M13, T_M22, T_M33 = range(N_VECTOR)
# Order of the symmetric matrices; {X} = X + Xᵀ.
S, AA, M13, M22, M33, V1_A, V2_A, T_V1, T_V2, S_M13, S_M33, S_M22 = range(N_SYMMETRIC)
# Order of the axial vectors: V1 × a, V2 × a, and twice c(S M13), twice c(S M33), c_k(X) = Σ_ij ε_kij X_ij.
V1_X_A, V2_X_A, C_S_M13, C_S_M33 = range(N_AXIAL)


class NetworkWeights(NamedTuple):
    """Weights of a local network in kernel layout.

    nz elements, nr radial basis functions, zn = nz·nr rounded up to 4, nl monomials, nc = channels C rounded up to
    LANES, nb invariants per channel, R readouts (energy, charge, scalar polarisability as far as present), h0, h1
    their widest hidden layers, nh hidden and no output tensors; absent parts have length 0, absent indices are −1.
    """

    cutoff: float  # Å
    exponent: int  # p of the cutoff function
    frequencies: np.ndarray  # (nr,) 1/Å, float64
    mixing: np.ndarray  # (nz, max_l+1, zn, nc): center type, level, (neighbor type, n), C
    first_weight: np.ndarray  # (n_first, nb·nc): rows R·h0 hidden, R linear, nh mix_in_0, zeros up to a multiple of 4
    first_bias: np.ndarray  # (n_first,)
    second_weight: np.ndarray  # (R, h1, h0)
    second_bias: np.ndarray  # (R, h1)
    last_weight: np.ndarray  # (R, h1)
    last_bias: np.ndarray  # (R,) biases of the last and of the linear layer
    tensor_weight: np.ndarray  # (nc/LANES, nh, 27·LANES): vector, symmetric and axial terms in the order above
    gate_weight: np.ndarray  # (3, nh, 3 nh)
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
