"""Long-range energy of polarizable Gaussian multipoles, slow and obvious: full sphere, explicit derivatives, NumPy.

The energy is an analytic function of every argument, so complex-step derivatives of it (``complex_step_gradient`` in
network.py) are the oracle for forces, strain and moment gradients. Self terms as in the published code.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy.special import erf


def wave_numbers(cell, dl):
    """All integer n ≠ 0 with |2π n·cell⁻ᵀ|² ≤ (2π/dl)²(1 + 1e-9), (nk, 3)."""
    reciprocal = 2 * np.pi * np.linalg.inv(cell).T
    limits = [int(np.linalg.norm(row) / dl) + 1 for row in cell]
    n = np.array(list(itertools.product(*[range(-m, m + 1) for m in limits])))
    k2 = ((n @ reciprocal) ** 2).sum(1)
    return n[(k2 > 0) & (k2 <= (2 * np.pi / dl) ** 2 * (1 + 1e-9))]


def periodic_fields(r, cell, q, u, m, sigma, norm_factor, n):
    """Energy, potentials and fields of the permanent moments from the reciprocal sum, without self terms."""
    k = n @ (2 * np.pi * np.linalg.inv(cell).T)
    k2 = (k * k).sum(1)
    volume = np.linalg.det(cell)
    volume = volume if volume.real > 0 else -volume
    green = np.exp(-0.5 * sigma**2 * k2) / k2
    cosine, sine = np.cos(r @ k.T), np.sin(r @ k.T)  # (atoms, nk)
    even = q[:, None] - 0.5 * np.einsum("kc,ncd,kd->nk", k, m, k)
    odd = u @ k.T
    real = (even * cosine - odd * sine).sum(0)
    imaginary = (even * sine + odd * cosine).sum(0)
    energy = norm_factor / volume * (green * (real**2 + imaginary**2)).sum()
    weight = 2 * norm_factor / volume * green
    potentials = cosine @ (weight * real) + sine @ (weight * imaginary)
    fields = (sine * (weight * real) - cosine * (weight * imaginary)) @ k
    return energy, potentials, fields


def derivatives_of_smeared_coulomb(v, sigma):
    """f = erf(|v|/(σ√2))/|v| and its Cartesian derivatives up to fourth order, by the recursion
    b_{n+1} = ((2n+1) b_n − (2a²)^(n+1) e^(−a²r²)/(a√π))/r², for r not small against σ."""
    a = 1 / (sigma * np.sqrt(2))
    r2 = (v * v).sum()
    r = np.sqrt(r2)
    b = [erf(a * r) / r]
    for order in range(4):
        b.append(
            ((2 * order + 1) * b[-1] - (2 * a * a) ** (order + 1) * np.exp(-a * a * r2) / (a * np.sqrt(np.pi))) / r2
        )
    one, e = np.eye(3), np.einsum
    d1 = -v * b[1]
    d2 = e("a,b->ab", v, v) * b[2] - one * b[1]
    vo = e("a,bc->abc", v, one)
    d3 = -e("a,b,c->abc", v, v, v) * b[3] + (vo + vo.transpose(1, 0, 2) + vo.transpose(1, 2, 0)) * b[2]
    vvo, oo = e("a,b,cd->abcd", v, v, one), e("ab,cd->abcd", one, one)
    placings = [
        vvo.transpose(np.argsort(p))
        for p in ((0, 1, 2, 3), (0, 2, 1, 3), (0, 3, 1, 2), (1, 2, 0, 3), (1, 3, 0, 2), (2, 3, 0, 1))
    ]
    d4 = e("a,b,c,d->abcd", v, v, v, v) * b[4] - sum(placings) * b[3]
    d4 = d4 + (oo + oo.transpose(0, 2, 1, 3) + oo.transpose(0, 2, 3, 1)) * b[2]
    return b[0], d1, d2, d3, d4


def open_fields(r, q, u, m, sigma, norm_factor):
    """Energy, potentials and fields of the permanent moments from all pairs, without self terms."""
    kind = np.result_type(r, q, u, m)
    potentials, fields = np.zeros(len(q), kind), np.zeros((len(q), 3), kind)
    energy = 0.0
    for i in range(len(q)):
        for j in range(len(q)):
            if i == j:
                continue
            f, d1, d2, d3, d4 = derivatives_of_smeared_coulomb(r[i] - r[j], sigma)
            # potential of j and its gradient and second derivatives at i
            p = q[j] * f - u[j] @ d1 + 0.5 * np.einsum("ab,ab", m[j], d2)
            g = q[j] * d1 - d2 @ u[j] + 0.5 * np.einsum("abc,bc->a", d3, m[j])
            h = q[j] * d2 - d3 @ u[j] + 0.5 * np.einsum("abcd,cd->ab", d4, m[j])
            potentials[i] += p
            fields[i] -= g
            energy += 0.5 * (q[i] * p + u[i] @ g + 0.5 * np.einsum("ab,ab", m[i], h))
    scale = norm_factor / (2 * np.pi)
    return scale * energy, scale * potentials, scale * fields


def long_range_energy(r, cell, q, u, m, kappa, alpha, field, sigma, norm_factor, remove_self, numbers):
    """E0 + E_ind (eV) with one linear-response step.

    r (n, 3); cell (3, 3) or None; q (n,); u (n, 3); m (n, 3, 3); kappa (n,); alpha (n, 3, 3); field (3,); numbers from
    :func:`wave_numbers`, ignored in open boundaries. Any of them may be complex.
    """
    if cell is None:
        energy, potentials, fields = open_fields(r, q, u, m, sigma, norm_factor)
        sign = 0.0 if remove_self else 1.0
    else:
        energy, potentials, fields = periodic_fields(r, cell, q, u, m, sigma, norm_factor, numbers)
        sign = -1.0 if remove_self else 0.0
    c = sign * norm_factor / (2 * np.pi) ** 1.5
    energy = energy + c * ((q * q).sum() / sigma + (u * u).sum() / (3 * sigma**3) + (m * m).sum() / (10 * sigma**5))
    potentials = potentials + 2 * c / sigma * q
    fields = fields - 2 * c / (3 * sigma**3) * u
    induced_charges = -kappa * potentials
    induced_dipoles = np.einsum("nc,ncd->nd", fields + field, alpha)
    return energy + 0.5 * (potentials * induced_charges).sum() - 0.5 * (fields * induced_dipoles).sum()
