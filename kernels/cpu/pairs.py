"""Open boundaries on the CPU: all pairs of Gaussian multipoles. Each atom gathers from all others, no reduction over
threads."""

import numba
from polmd.kernels.compile import kernel
from polmd.kernels.cpu.kspace import _six
from polmd.kernels.cpu.scalars import add3, add6, force_on, potential_derivatives, smeared_coulomb


@kernel(parallel=True)
def potential_and_field(positions, sigma, charges, dipoles, quadrupoles, potentials, fields):
    """φ_i = Σ_{j≠i} [q_j − u_j·∇ + ½ Q_j:∇∇] f(r_i − r_j) and F_i = −∇φ_i, f(r) = erf(r/(σ√2))/r, without prefactor.

    name         shape      dtype    unit  in/out
    positions    (n, 3)     float64  Å     in
    sigma        scalar     float64  Å     in
    charges      (n,)       float64  e     in
    dipoles      (n, 3)     float64  e Å   in
    quadrupoles  (n, 3, 3)  float64  e Å²  in
    potentials   (n,)       float64  e/Å   out
    fields       (n, 3)     float64  e/Å²  out
    """
    n = len(charges)
    for i in numba.prange(n):
        p, g = 0.0, (0.0, 0.0, 0.0)
        for j in range(n):
            if j != i:
                r = (
                    positions[i, 0] - positions[j, 0],
                    positions[i, 1] - positions[j, 1],
                    positions[i, 2] - positions[j, 2],
                )
                b = smeared_coulomb(r[0] * r[0] + r[1] * r[1] + r[2] * r[2], sigma)
                u = (dipoles[j, 0], dipoles[j, 1], dipoles[j, 2])
                value, gradient, _, _ = potential_derivatives(charges[j], u, _six(quadrupoles[j]), r, b)
                p += value
                g = add3(g, gradient)
        potentials[i] = p
        fields[i, 0], fields[i, 1], fields[i, 2] = -g[0], -g[1], -g[2]


@kernel(parallel=True)
def interactions(positions, sigma, charges, dipoles, quadrupoles, response_charges, response_dipoles, out):
    """Everything atom i needs of the fields of M + M̃ and of M, without prefactor; arguments as above, M̃ (n,), (n, 3).

    ``out`` (n, 13) float64 out: φ, F (3), ∇∇φ (six) of M + M̃; force on M in the field of M + M̃ plus on M̃ in that of M.
    """
    n = len(charges)
    none = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    for i in numba.prange(n):
        p, g, h, f = 0.0, (0.0, 0.0, 0.0), none, (0.0, 0.0, 0.0)
        ui = (dipoles[i, 0], dipoles[i, 1], dipoles[i, 2])
        mi = _six(quadrupoles[i])
        dui = (response_dipoles[i, 0], response_dipoles[i, 1], response_dipoles[i, 2])
        for j in range(n):
            if j != i:
                r = (
                    positions[i, 0] - positions[j, 0],
                    positions[i, 1] - positions[j, 1],
                    positions[i, 2] - positions[j, 2],
                )
                b = smeared_coulomb(r[0] * r[0] + r[1] * r[1] + r[2] * r[2], sigma)
                q, u, m = charges[j], (dipoles[j, 0], dipoles[j, 1], dipoles[j, 2]), _six(quadrupoles[j])
                du = (response_dipoles[j, 0], response_dipoles[j, 1], response_dipoles[j, 2])
                _, gradient, hessian, third = potential_derivatives(q, u, m, r, b)
                f = add3(f, force_on(response_charges[i], dui, none, gradient, hessian, third))
                value, gradient, hessian, third = potential_derivatives(q + response_charges[j], add3(u, du), m, r, b)
                f = add3(f, force_on(charges[i], ui, mi, gradient, hessian, third))
                p += value
                g = add3(g, gradient)
                h = add6(h, hessian)
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = p, -g[0], -g[1], -g[2]
        out[i, 4], out[i, 5], out[i, 6], out[i, 7], out[i, 8], out[i, 9] = h
        out[i, 10], out[i, 11], out[i, 12] = f
