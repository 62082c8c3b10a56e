"""The linear-response step: induced moments from the potentials and fields of the permanent ones, once.

With M = (q, u, Q), φ and F their potentials and fields (self terms included):
q^ind = −κ φ, u^ind_d = Σ_c (F + E_ext)_c α_cd, E_ind = ½ Σ φ q^ind − ½ Σ F·u^ind.
Gradients follow from the field of M + M̃ with M̃ = (q^ind, ũ, 0), ũ = ½ (u^ind + α·F): no iteration, no autograd.
"""

from __future__ import annotations

import numpy as np

from polmd.electrostatics.fields import FieldSolver, Sources
from polmd.kernels.cpu.moments import linear_response, moment_energy
from polmd.kernels.layout import Polarizable, Polarized


def unfilled(given: Polarizable) -> Polarized:
    """Memory for what follows from ``given``."""
    n, vectors = len(given.charges), (len(given.charges), 3)
    return Polarized(
        np.empty(n), np.empty(vectors), np.empty(n), np.empty(vectors), np.empty(vectors), np.empty(len(given.kappa)),
        np.empty((len(given.alpha), 3, 3)), np.empty(3), np.empty(n), np.empty(vectors), np.empty((n, 3, 3)),
        np.empty(vectors), np.empty((3, 3)),
    )  # fmt: skip


def polarize(solver: FieldSolver, given: Polarizable) -> tuple[float, Polarized]:
    """``FieldSolver.polarize`` from two passes over fields."""
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
    both, own = moment_energy(q, u, m, out, found.induced_charges, found.source_dipoles, scales, *found[8:12])
    found.strain[:] = strain
    return 0.5 * (both - cross) + energy + own, found
