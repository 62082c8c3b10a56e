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
def pack_velocities(velocities, lattice, atoms):
    """Velocities along the lattice, k·v = Σ_d n_d v_d: velocities (n, 3) Å/fs and lattice (3, 3) as in :func:`pack_sources`
    in; rows 0 to 2 of atoms (blocks, rows, lanes) out."""
    lanes = atoms.shape[2]
    for i in range(len(velocities)):
        x, y, z = velocities[i, 0], velocities[i, 1], velocities[i, 2]
        for d in range(3):
            atoms[i // lanes, d, i % lanes] = x * lattice[0, d] + y * lattice[1, d] + z * lattice[2, d]


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
def moment_strain(dipoles, quadrupoles, out, response_dipoles, low, strain):
    """Σ u ⊗ F − Σ sym(Q)·∇∇φ + Σ ũ ⊗ F of M, added to strain (3, 3) eV: dipoles (n, 3), quadrupoles (n, 3, 3), fields ``out``
    (n, 10 or more) of the total sources in; response_dipoles (n, 3) and fields ``low`` (n, 10) of M, or of length 0, in."""
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
                if len(low) > 0:
                    value += response_dipoles[i, a] * low[i, 1 + b]
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
def linear_response(low, charges, dipoles, kappa, alpha, external, scales, potentials, fields, induced_charges,
                    induced_dipoles, source_dipoles, kappa_gradient, alpha_gradient, field_gradient):  # fmt: skip
    """One linear-response step: φ and F with self terms, q^ind = −κ φ, u^ind_d = Σ_c (F + E)_c α_cd,
    ũ = ½ (u^ind + α·F), E_ind = ½ Σ φ q^ind − ½ Σ F·u^ind.

    name                         shape      dtype    unit     in/out
    low                          (n, 10+)   float64  V, V/Å   in, φ, F, … of M without self terms
    charges, dipoles             (n,), (n, 3)        e, e Å   in, of M
    kappa, alpha                 (n,), (n, 3, 3)     e/V, …   in, or of length 0: no such response
    external                     (3,)                V/Å      in
    scales                       (3,)                         in, self terms E = s_q q² + s_u u² + s_Q Q:Q
    potentials, fields           (n,), (n, 3)                 out, φ and F
    induced_charges              (n,)                e        out, zero without κ
    induced_dipoles              (n, 3)              e Å      out, zero without α
    source_dipoles               (n, 3)              e Å      out, ũ, zero without α
    kappa_gradient               (n,)                V²       out, dE/dκ, as long as kappa
    alpha_gradient               (n, 3, 3)           V²/Å²    out, dE/dα_cd = −½ (F + E)_c F_d, as long as alpha
    field_gradient               (3,)                e Å      out, dE/dE = −½ Σ α·F
    returned                     two                 eV       E_ind, M̃·T·M without self terms
    """
    energy, cross = 0.0, 0.0
    field_gradient[:] = 0.0
    for i in range(len(charges)):
        phi = low[i, 0] + 2.0 * scales[0] * charges[i]
        potentials[i] = phi
        for c in range(3):
            fields[i, c] = low[i, 1 + c] - 2.0 * scales[1] * dipoles[i, c]
        induced_charges[i] = 0.0
        if len(kappa) > 0:
            induced_charges[i] = -kappa[i] * phi
            energy += 0.5 * phi * induced_charges[i]
            cross += induced_charges[i] * low[i, 0]
            kappa_gradient[i] = -0.5 * phi * phi
        for d in range(3):
            total, other = 0.0, 0.0
            if len(alpha) > 0:
                for c in range(3):
                    total += (fields[i, c] + external[c]) * alpha[i, c, d]
                    other += alpha[i, d, c] * fields[i, c]
                    alpha_gradient[i, c, d] = -0.5 * (fields[i, c] + external[c]) * fields[i, d]
            induced_dipoles[i, d] = total
            source_dipoles[i, d] = 0.5 * (total + other)
            field_gradient[d] -= 0.5 * other
            energy -= 0.5 * fields[i, d] * total
            cross -= source_dipoles[i, d] * low[i, 1 + d]
    return energy, cross


@kernel()
def moment_energy(charges, dipoles, quadrupoles, out, response_charges, response_dipoles, scales, charge_gradient,
                  dipole_gradient, quadrupole_gradient, forces):  # fmt: skip
    """M·T·(M + M̃), and gradients of the energy with respect to moments and positions.

    name                               shape      dtype    unit   in/out
    charges, dipoles, quadrupoles      as M                       in
    out                                (n, 13)    float64         in, φ, F, ∇∇φ of M + M̃ without self terms, forces
    response_charges, response_dipoles (n,), (n, 3)               in, M̃
    scales                             (3,)       float64         in, self terms E = s_q q² + s_u u² + s_Q Q:Q
    charge_gradient                    (n,)       float64  V      out
    dipole_gradient                    (n, 3)     float64  V/Å    out
    quadrupole_gradient                (n, 3, 3)  float64  V/Å²   out
    forces                             (n, 3)     float64  eV/Å   out, the last columns of ``out``
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
        charge_gradient[i] = out[i, 0] + 2.0 * scales[0] * (charges[i] + response_charges[i])
        for a in range(3):
            u = dipoles[i, a]
            total -= u * out[i, 1 + a]
            own += scales[1] * u * u
            dipole_gradient[i, a] = 2.0 * scales[1] * (u + response_dipoles[i, a]) - out[i, 1 + a]
            forces[i, a] = out[i, 10 + a]
            for b in range(3):
                q = quadrupoles[i, a, b]
                total += 0.5 * q * hessian[a, b]
                own += scales[2] * q * q
                quadrupole_gradient[i, a, b] = 0.5 * hessian[a, b] + 2.0 * scales[2] * q
    return total, own


@kernel()
def weigh(weight, structure, induced, spectrum, energies):
    """Spectrum w (S + S̃) of the fields of M + M̃ and ½ w Re[S* (S + 2 S̃)], the energies by wave vector of M and of M̃ in M.

    weight (nk,), structure S and induced S̃ (2, nk), the latter of shape (2, 0) without M̃, in; spectrum (2, nk), energies
    (nk,) eV out.
    """
    for k in range(len(weight)):
        energy = 0.0
        for part in range(2):
            s = structure[part, k]
            more = induced[part, k] if induced.shape[1] > 0 else 0.0
            spectrum[part, k] = weight[k] * (s + more)
            energy += s * (s + 2.0 * more)
        energies[k] = 0.5 * weight[k] * energy
