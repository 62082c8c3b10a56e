"""The linear-response step: induced moments from the potentials and fields of the permanent ones, once.

With M = (q, u, Q), φ and F their potentials and fields (self terms included):
q^ind = −κ φ, u^ind_d = Σ_c (F + E_ext)_c α_cd, E_ind = ½ Σ φ q^ind − ½ Σ F·u^ind.
Gradients follow from the field of M + M̃ with M̃ = (q^ind, ũ, 0), ũ = ½ (u^ind + α·F): no iteration, no autograd.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polmd.kernels.cpu.moments import linear_response

_NO_NUMBERS = np.empty(0)
_NO_MATRICES = np.empty((0, 3, 3))


class Response(NamedTuple):
    """Induced moments and what the second field pass needs.

    Attributes
    ----------
    energy : E_ind, eV
    cross : M̃·T·M without self terms, eV
    potentials, fields : φ (n,) V, F (n, 3) V/Å, self terms included
    charges : q^ind (n,) e, or None without κ
    dipoles : u^ind (n, 3) e Å, or None without α
    source_charges, source_dipoles : M̃, (n,) and (n, 3), zeros where absent
    gradient_kappa : dE/dκ (n,), or None
    gradient_alpha : dE/dα (n, 3, 3), nine independent components, or None
    gradient_field : dE/dE_ext (3,), zero without α
    """

    energy: float
    cross: float
    potentials: np.ndarray
    fields: np.ndarray
    charges: np.ndarray | None
    dipoles: np.ndarray | None
    source_charges: np.ndarray
    source_dipoles: np.ndarray
    gradient_kappa: np.ndarray | None
    gradient_alpha: np.ndarray | None
    gradient_field: np.ndarray


def respond(
    low: np.ndarray,
    charges: np.ndarray,
    dipoles: np.ndarray,
    charge_responses: np.ndarray | None,
    polarizabilities: np.ndarray | None,
    external_field: np.ndarray,
    scales: np.ndarray,
) -> Response:
    """One linear-response step.

    low (n, 10 or more), φ V and F V/Å of the moments without self terms in its first columns; charges (n,) e, dipoles (n, 3)
    e Å, charge_responses (n,) e/V, polarizabilities (n, 3, 3) e Å²/V, external_field (3,) V/Å, scales (3,) of the self
    terms E = s_q q² + s_u u² + s_Q Q:Q.
    """
    n = len(charges)
    kappa = _NO_NUMBERS if charge_responses is None else charge_responses
    alpha = _NO_MATRICES if polarizabilities is None else polarizabilities
    potentials, fields = np.empty(n), np.empty((n, 3))
    induced, induced_dipoles, source_dipoles = np.empty(n), np.empty((n, 3)), np.empty((n, 3))
    gradient_kappa, gradient_alpha, gradient_field = np.empty(len(kappa)), np.empty((len(alpha), 3, 3)), np.empty(3)
    energy, cross = linear_response(
        low, charges, dipoles, kappa, alpha, external_field, scales, potentials, fields, induced, induced_dipoles,
        source_dipoles, gradient_kappa, gradient_alpha, gradient_field,
    )  # fmt: skip
    return Response(
        energy,
        cross,
        potentials,
        fields,
        None if charge_responses is None else induced,
        None if polarizabilities is None else induced_dipoles,
        induced,
        source_dipoles,
        None if charge_responses is None else gradient_kappa,
        None if polarizabilities is None else gradient_alpha,
        gradient_field,
    )
