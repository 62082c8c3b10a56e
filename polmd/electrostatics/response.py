"""The linear-response step: induced moments from the potentials and fields of the permanent ones, once.

With M = (q, u, Q), φ and F their potentials and fields (self terms included):
q^ind = −κ φ, u^ind_d = Σ_c (F + E_ext)_c α_cd, E_ind = ½ Σ φ q^ind − ½ Σ F·u^ind.
Gradients follow from the field of M + M̃ with M̃ = (q^ind, ũ, 0), ũ = ½ (u^ind + α·F): no iteration, no autograd.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polmd.kernels.cpu.moments import induced_dipoles


@dataclass(frozen=True)
class Response:
    """Induced moments and what the second field pass needs.

    Attributes
    ----------
    energy : E_ind, eV
    charges : q^ind (n,) e, or None without κ
    dipoles : u^ind (n, 3) e Å, or None without α
    source_charges, source_dipoles : M̃, (n,) and (n, 3), zeros where absent
    gradient_kappa : dE/dκ (n,), or None
    gradient_alpha : dE/dα (n, 3, 3), nine independent components, or None
    gradient_field : dE/dE_ext (3,), or None without α
    """

    energy: float
    charges: np.ndarray | None
    dipoles: np.ndarray | None
    source_charges: np.ndarray
    source_dipoles: np.ndarray
    gradient_kappa: np.ndarray | None
    gradient_alpha: np.ndarray | None
    gradient_field: np.ndarray | None


def respond(
    potentials: np.ndarray,
    fields: np.ndarray,
    charge_responses: np.ndarray | None,
    polarizabilities: np.ndarray | None,
    external_field: np.ndarray,
) -> Response:
    """One linear-response step.

    potentials (n,) V, fields (n, 3) V/Å, charge_responses (n,) e/V, polarizabilities (n, 3, 3) e Å²/V, external_field
    (3,) V/Å.
    """
    energy = 0.0
    charges = dipoles = gradient_kappa = gradient_alpha = gradient_field = None
    source_charges, source_dipoles = np.zeros_like(potentials), np.zeros_like(fields)
    if charge_responses is not None:
        charges = source_charges = -charge_responses * potentials
        energy += 0.5 * float(np.sum(potentials * charges))
        gradient_kappa = -0.5 * potentials**2
    if polarizabilities is not None:
        dipoles, source_dipoles = np.empty_like(fields), np.empty_like(fields)
        gradient_alpha = np.empty_like(polarizabilities)
        product, *alpha_field = induced_dipoles(
            fields, external_field, polarizabilities, dipoles, source_dipoles, gradient_alpha
        )
        energy -= 0.5 * product
        gradient_field = -0.5 * np.array(alpha_field)
    return Response(
        energy, charges, dipoles, source_charges, source_dipoles, gradient_kappa, gradient_alpha, gradient_field
    )
