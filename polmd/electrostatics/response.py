"""The linear-response step: induced moments from the potentials and fields of the permanent ones, once.

With M = (q, u, Q), φ and F their potentials and fields (self terms included):
q^ind = −κ φ, u^ind_d = Σ_c (F + E_ext)_c α_cd, E_ind = ½ Σ φ q^ind − ½ Σ F·u^ind.
Gradients follow from the field of M + M̃ with M̃ = (q^ind, ũ, 0), ũ = ½ (u^ind + α·F): no iteration, no autograd.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polmd.electrostatics.fields import FieldSolver, Sources
from polmd.kernels.cpu.moments import linear_response, moment_energy

#: κ and α of what does not respond.
NO_NUMBERS, NO_MATRICES = np.empty(0), np.empty((0, 3, 3))


class Polarizable(NamedTuple):
    """Permanent moments and responses: q (n,) e, u (n, 3) e Å, Q (n, 3, 3) e Å², κ (n,) e/V and α (n, 3, 3) e Å²/V or of
    length 0 where there is no such response, external field (3,) V/Å, and the factors (3,) of the self terms
    E = s_q q² + s_u u² + s_Q Q:Q."""

    charges: np.ndarray
    dipoles: np.ndarray
    quadrupoles: np.ndarray
    kappa: np.ndarray
    alpha: np.ndarray
    external: np.ndarray
    scales: np.ndarray


class Polarized(NamedTuple):
    """What follows, arrays that kernels fill: φ (n,) V and F (n, 3) V/Å of M, self terms included; q^ind (n,) e, u^ind and ũ
    (n, 3) e Å, zero without response; dE/dκ (n,) V², dE/dα (n, 3, 3) V²/Å², as long as κ and α, dE/dE_ext (3,) e Å; dE/dq (n,)
    V, dE/du (n, 3) V/Å, dE/dQ (n, 3, 3) V/Å²; forces (n, 3) eV/Å at constant moments."""

    potentials: np.ndarray
    fields: np.ndarray
    induced_charges: np.ndarray
    induced_dipoles: np.ndarray
    source_dipoles: np.ndarray
    kappa_gradient: np.ndarray
    alpha_gradient: np.ndarray
    field_gradient: np.ndarray
    charge_gradient: np.ndarray
    dipole_gradient: np.ndarray
    quadrupole_gradient: np.ndarray
    forces: np.ndarray


def unfilled(given: Polarizable) -> Polarized:
    """Memory for what follows from ``given``."""
    n, vectors = len(given.charges), (len(given.charges), 3)
    return Polarized(
        np.empty(n), np.empty(vectors), np.empty(n), np.empty(vectors), np.empty(vectors), np.empty(len(given.kappa)),
        np.empty((len(given.alpha), 3, 3)), np.empty(3), np.empty(n), np.empty(vectors), np.empty((n, 3, 3)),
        np.empty(vectors),
    )  # fmt: skip


def polarize(solver: FieldSolver, given: Polarizable) -> tuple[float, np.ndarray, Polarized]:
    """Energy (eV), strain gradient (3, 3) eV at constant moments, and what else follows, by two passes over fields (one without
    response); the solver has its atoms. A compiled loop has the same order: kernels/cpu/verlet.py."""
    q, u, m, kappa, alpha, external, scales = given
    found = unfilled(given)
    solver.set_moments(q, u, m)
    responds = len(kappa) > 0 or len(alpha) > 0
    if responds:
        low = solver.derivatives()
    else:
        low, strain = solver.interactions(None)
    energy, cross = linear_response(low, q, u, kappa, alpha, external, scales, *found[:8])
    out = low
    if responds:
        out, strain = solver.interactions(Sources(found.induced_charges, found.source_dipoles))
    both, own = moment_energy(q, u, m, out, found.induced_charges, found.source_dipoles, scales, *found[8:])
    return 0.5 * (both - cross) + energy + own, strain, found
