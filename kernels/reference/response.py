"""Born charges and currents, slow and obvious: from whole Jacobian matrices, NumPy."""

from __future__ import annotations

import numpy as np


def born_charges(positions, cell, charges, charge_jacobian, dipole_jacobian):
    """Z*_i,ab in the published definition: (charge part, dipole part), (n, 3, 3) each.

    positions (n, 3); cell (3, 3), or None in open boundaries; charges (n,), the total ones q + q^ind; charge_jacobian
    (n, n, 3), ∂q_j/∂r_ib as [j, i, b]; dipole_jacobian (3, n, 3), ∂(Σ_j (u_j + u_j^ind)_a)/∂r_ib as [a, i, b]
    """
    q = charges - charges.mean()
    jacobian = charge_jacobian - charge_jacobian.mean(axis=0)
    displaced = displacements(positions, cell)
    part = q[:, None, None] * np.eye(3) + np.einsum("jia,jib->iab", displaced, jacobian)
    return part, dipole_jacobian.transpose(1, 0, 2)


def displacements(positions, cell):
    """D_ij as [j, i, a]: r_j − r_i in open boundaries, Σ_k cell_k sin(2π(s_jk − s_ik))/2π in periodic ones."""
    if cell is None:
        return positions[:, None] - positions[None, :]
    s = positions @ np.linalg.inv(cell)
    return np.sin(2 * np.pi * (s[:, None] - s[None, :])) / (2 * np.pi) @ cell


def edge_charges(n, neighbors, vectors, edge_gradient, cell):
    """Σ over edges whose neighbor is i of d ⊗ (−∂L/∂v), (n, 3, 3), with d the edge vector v and with its D.

    neighbors (edges,); vectors (edges, 3) r_center − r_neighbor; edge_gradient (edges, 3) ∂L/∂v
    """
    sines = vectors if cell is None else np.sin(2 * np.pi * vectors @ np.linalg.inv(cell)) / (2 * np.pi) @ cell
    edge, phase = np.zeros((n, 3, 3)), np.zeros((n, 3, 3))
    for i, v, d, g in zip(neighbors, vectors, sines, edge_gradient, strict=True):
        edge[i] -= np.outer(v, g)
        phase[i] -= np.outer(d, g)
    return edge, phase
