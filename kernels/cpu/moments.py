"""What lies between the passes over fields: moments in and out of blocks, the linear response, sums over atoms.

One pass over the atoms each, on one thread: the work is small, but as many array operations it would cost a fifth of a
step of a few hundred atoms. All arrays are float64. Equations: polmd/electrostatics.
"""

import math

import numpy as np
from polmd.kernels.compile import kernel


@kernel()
def pack_fractions(positions, inverse, atoms):
    """Fractional coordinates in [0, 1): positions (n, 3) Å and inverse of the cell (3, 3) 1/Å in; rows 0 to 2 of atoms
    (blocks, rows, lanes) out."""
    lanes = atoms.shape[2]
    for i in range(len(positions)):
        block, lane = i // lanes, i % lanes
        for d in range(3):
            s = positions[i, 0] * inverse[0, d] + positions[i, 1] * inverse[1, d] + positions[i, 2] * inverse[2, d]
            atoms[block, d, lane] = s - math.floor(s)


@kernel()
def pack_sources(charges, dipoles, quadrupoles, lattice, atoms):
    """Moments in lattice coordinates, k_c = Σ_d lattice[c, d] n_d: charges (n,), dipoles (n, 3), quadrupoles (n, 3, 3), or
    of length 0 where there are none, and lattice (3, 3) in; rows 3 to 12 of atoms (blocks, rows, lanes) out."""
    lanes = atoms.shape[2]
    half = np.empty((3, 3))
    for i in range(len(charges)):
        block, lane = i // lanes, i % lanes
        atoms[block, 3, lane] = charges[i]
        for d in range(3):
            atoms[block, 4 + d, lane] = (
                dipoles[i, 0] * lattice[0, d] + dipoles[i, 1] * lattice[1, d] + dipoles[i, 2] * lattice[2, d]
            )
        if len(quadrupoles) == 0:
            for row in range(7, 13):
                atoms[block, row, lane] = 0.0
            continue
        for a in range(3):
            for d in range(3):
                total = 0.0
                for b in range(3):
                    total += 0.5 * (quadrupoles[i, a, b] + quadrupoles[i, b, a]) * lattice[b, d]
                half[a, d] = total
        row = 7
        for c in range(3):
            for d in range(c, 3):
                atoms[block, row, lane] = (
                    lattice[0, c] * half[0, d] + lattice[1, c] * half[1, d] + lattice[2, c] * half[2, d]
                )
                row += 1


@kernel()
def unpack_fields(blocks, lattice, out):
    """φ, F, ∇∇φ (six) and, with 13 columns, a force from lattice to Cartesian coordinates: blocks (blocks, columns, lanes)
    and lattice (3, 3) as in :func:`pack_sources` in; out (n, columns)."""
    lanes, columns = blocks.shape[2], out.shape[1]
    full, half = np.empty((3, 3)), np.empty((3, 3))
    for i in range(len(out)):
        block, lane = i // lanes, i % lanes
        out[i, 0] = blocks[block, 0, lane]
        for start in range(1, columns, 9):
            for c in range(3):
                total = 0.0
                for d in range(3):
                    total += lattice[c, d] * blocks[block, start + d, lane]
                out[i, start + c] = total
        row = 4
        for c in range(3):
            for d in range(c, 3):
                full[c, d] = full[d, c] = blocks[block, row, lane]
                row += 1
        for c in range(3):
            for d in range(3):
                half[c, d] = full[c, 0] * lattice[d, 0] + full[c, 1] * lattice[d, 1] + full[c, 2] * lattice[d, 2]
        row = 4
        for c in range(3):
            for d in range(c, 3):
                out[i, row] = lattice[c, 0] * half[0, d] + lattice[c, 1] * half[1, d] + lattice[c, 2] * half[2, d]
                row += 1


@kernel()
def moment_strain(dipoles, quadrupoles, out, response_dipoles, response_fields, strain):
    """Σ u ⊗ F − Σ sym(Q)·∇∇φ + Σ ũ ⊗ F of M, added to strain (3, 3) eV: dipoles (n, 3), quadrupoles (n, 3, 3), fields ``out``
    (n, 10 or more) of the total sources, response_dipoles and response_fields (n, 3), or of length 0, in."""
    hessian = np.empty((3, 3))
    for i in range(len(dipoles)):
        row = 4
        for a in range(3):
            for b in range(a, 3):
                hessian[a, b] = hessian[b, a] = out[i, row]
                row += 1
        for a in range(3):
            for b in range(3):
                value = dipoles[i, a] * out[i, 1 + b]
                for c in range(3):
                    value -= 0.5 * (quadrupoles[i, a, c] + quadrupoles[i, c, a]) * hessian[c, b]
                if len(response_dipoles) > 0:
                    value += response_dipoles[i, a] * response_fields[i, b]
                strain[a, b] += value


@kernel()
def add_response_forces(charges, dipoles, low, forces):
    """Force on M̃ in the field of M: charges (n,), dipoles (n, 3), low (n, 10) φ, F, ∇∇φ of M in; added to columns 10 to 12
    of forces (n, 13 or more) eV/Å."""
    for i in range(len(charges)):
        x, y, z = dipoles[i, 0], dipoles[i, 1], dipoles[i, 2]
        forces[i, 10] += charges[i] * low[i, 1] - (low[i, 4] * x + low[i, 5] * y + low[i, 6] * z)
        forces[i, 11] += charges[i] * low[i, 2] - (low[i, 5] * x + low[i, 7] * y + low[i, 8] * z)
        forces[i, 12] += charges[i] * low[i, 3] - (low[i, 6] * x + low[i, 8] * y + low[i, 9] * z)


@kernel()
def induced_dipoles(fields, external, polarizabilities, dipoles, sources, gradient):
    """u^ind_d = Σ_c (F + E)_c α_cd, ũ = ½ (u^ind + α·F), dE/dα_cd = −½ (F + E)_c F_d, Σ α·F.

    fields (n, 3) V/Å, external (3,), polarizabilities (n, 3, 3) in; dipoles, sources (n, 3) e Å, gradient (n, 3, 3) out.
    Returns Σ F·u^ind in eV and the three components of Σ α·F.
    """
    product, x, y, z = 0.0, 0.0, 0.0, 0.0
    alpha_field = np.empty(3)
    for i in range(len(fields)):
        for d in range(3):
            total, other = 0.0, 0.0
            for c in range(3):
                total += (fields[i, c] + external[c]) * polarizabilities[i, c, d]
                other += polarizabilities[i, d, c] * fields[i, c]
                gradient[i, c, d] = -0.5 * (fields[i, c] + external[c]) * fields[i, d]
            dipoles[i, d] = total
            sources[i, d] = 0.5 * (total + other)
            alpha_field[d] = other
            product += fields[i, d] * total
        x += alpha_field[0]
        y += alpha_field[1]
        z += alpha_field[2]
    return product, x, y, z


@kernel()
def moment_energy(charges, dipoles, quadrupoles, out, response_charges, response_dipoles, scales, dipole_gradient,
                  quadrupole_gradient):  # fmt: skip
    """M·T·(M + M̃) and the gradients of the energy with respect to dipoles and quadrupoles.

    name                               shape      dtype    unit   in/out
    charges, dipoles, quadrupoles      as M                       in
    out                                (n, 10+)   float64         in, φ, F, ∇∇φ of M + M̃ without self terms
    response_charges, response_dipoles (n,), (n, 3)               in, M̃
    scales                             (3,)       float64         in, self terms E = s_q q² + s_u u² + s_Q Q:Q
    dipole_gradient                    (n, 3)     float64  V/Å    out
    quadrupole_gradient                (n, 3, 3)  float64  V/Å²   out
    returned                           two        float64  eV     Σ [q φ − u·F + ½ Q:∇∇φ], self energy of M
    """
    total, own = 0.0, 0.0
    hessian = np.empty((3, 3))
    for i in range(len(charges)):
        row = 4
        for a in range(3):
            for b in range(a, 3):
                hessian[a, b] = hessian[b, a] = out[i, row]
                row += 1
        total += charges[i] * out[i, 0]
        own += scales[0] * charges[i] * charges[i]
        for a in range(3):
            u = dipoles[i, a]
            total -= u * out[i, 1 + a]
            own += scales[1] * u * u
            dipole_gradient[i, a] = 2.0 * scales[1] * (u + response_dipoles[i, a]) - out[i, 1 + a]
            for b in range(3):
                q = quadrupoles[i, a, b]
                total += 0.5 * q * hessian[a, b]
                own += scales[2] * q * q
                quadrupole_gradient[i, a, b] = 0.5 * hessian[a, b] + 2.0 * scales[2] * q
    return total, own
