"""What lies between the adjoint passes of the electrical response: angles, net charges, sums over atoms.

One pass over the atoms each, on one thread, for the same reason as kernels/cpu/moments.py. All arrays are float64.
Equations: polmd/born.py. ``cell`` (3, 3) Å is of length 0 in open boundaries.
"""

import math

import numpy as np
from polmd.kernels.compile import kernel


@kernel()
def electrical_state(positions, cell, charges, dipoles, kappa, alpha, potentials, fields, angles, net_charges,
                     induced_dipoles, sums):  # fmt: skip
    """Angles, q̃, u^ind and what they add up to.

    name                shape      dtype    unit      in/out
    positions, cell     (n, 3)     float64  Å         in
    charges, dipoles    (n,), (n, 3)        e, e Å    in
    kappa, alpha        (n,), (n, 3, 3)     e/V, …    in, zeros where there are none
    potentials, fields  (n,), (n, 3)        V, V/Å    in, self terms included
    angles              (n, 6)                        out, sine and cosine of 2π s, zeros in open boundaries
    net_charges         (n,)                e         out, q̃ = q − κ φ less its mean
    induced_dipoles     (n, 3)              e Å       out, u^ind_d = Σ_c F_c α_cd
    sums                (21,)                         out, Σ q̃ sin and Σ q̃ cos of the angles (in open boundaries Σ q̃ r and
                                                      zeros), Σ u, Σ u^ind, Σ α
    """
    n = len(positions)
    mean = 0.0
    for i in range(n):
        net_charges[i] = charges[i] - kappa[i] * potentials[i]
        mean += net_charges[i] / n
    wave = np.zeros((3, 3))  # 2π times the inverse of the cell
    if len(cell) > 0:
        for d in range(3):
            b, c = (d + 1) % 3, (d + 2) % 3
            for k in range(3):
                x, y = (k + 1) % 3, (k + 2) % 3
                wave[k, d] = cell[b, x] * cell[c, y] - cell[b, y] * cell[c, x]
        volume = cell[0, 0] * wave[0, 0] + cell[0, 1] * wave[1, 0] + cell[0, 2] * wave[2, 0]
        wave *= 2.0 * math.pi / volume
    sums[:] = 0.0
    for i in range(n):
        q = net_charges[i] - mean
        net_charges[i] = q
        for d in range(3):
            if len(cell) > 0:
                theta = positions[i, 0] * wave[0, d] + positions[i, 1] * wave[1, d] + positions[i, 2] * wave[2, d]
                angles[i, d], angles[i, 3 + d] = math.sin(theta), math.cos(theta)
                sums[d] += q * angles[i, d]
                sums[3 + d] += q * angles[i, 3 + d]
            else:
                angles[i, d] = angles[i, 3 + d] = 0.0
                sums[d] += q * positions[i, d]
            total = 0.0
            for c in range(3):
                total += fields[i, c] * alpha[i, c, d]
                sums[12 + 3 * d + c] += alpha[i, d, c]
            induced_dipoles[i, d] = total
            sums[6 + d] += dipoles[i, d]
            sums[9 + d] += total


@kernel()
def charge_parts(positions, cell, angles, net_charges, axes, found, source_gradients, edge, phase):
    """Charge part of Z* with both displacements.

    name                        shape             dtype    unit  in/out
    positions, cell             (n, 3)            float64  Å     in
    angles, net_charges         (n, 6), (n,)                     in, from :func:`electrical_state`
    axes                        (m,)              int64          in, of the directions of the non-local charges
    found                       (1 + s + …, n, 3)                in, adjoint passes: local charges, s = m or 2 m non-local ones
                                                                 (sines, then cosines), …, six rows of the edges
    source_gradients            (s, n, 3)                        in, of M̃·T·M of the non-local ones at constant moments
    edge, phase                 (n, 3, 3)         float64  e     out
    """
    n, count, rows = len(positions), len(axes), len(found)
    periodic = len(cell) > 0
    mean = np.zeros(6)
    for i in range(n):
        for d in range(6):
            if periodic:
                mean[d] += angles[i, d] / n
            elif d < 3:
                mean[d] += positions[i, d] / n
    scaled = cell / (2.0 * math.pi)
    moved = np.empty(3)
    for i in range(n):
        for a in range(3):
            if periodic:  # −⟨D_i⟩
                moved[a] = 0.0
                for d in range(3):
                    moved[a] += (mean[3 + d] * angles[i, d] - mean[d] * angles[i, 3 + d]) * scaled[d, a]
            else:
                moved[a] = positions[i, a] - mean[a]
            for b in range(3):
                edge[i, a, b] = moved[a] * found[0, i, b] + (net_charges[i] if a == b else 0.0)
        for m in range(count):
            k = axes[m]
            for b in range(3):
                g = found[1 + m, i, b] + source_gradients[m, i, b]
                if periodic:
                    h = found[1 + count + m, i, b] + source_gradients[count + m, i, b]
                    g = angles[i, 3 + k] * g - angles[i, k] * h
                    for a in range(3):
                        edge[i, a, b] += scaled[k, a] * g
                else:
                    edge[i, k, b] += g
        for a in range(3):
            for b in range(3):
                common = edge[i, a, b]
                edge[i, a, b] = common + found[rows - 6 + a, i, b]
                phase[i, a, b] = common + found[rows - (3 if periodic else 6) + a, i, b]


@kernel()
def charge_current(charges, velocities, sum_rule, out):
    """Σ_i Z_i·v_i of several motions, without the mean of Z where the sum rule is asked for: charges (n, 3, 3) e, velocities
    (g, n, 3) Å/fs in; out (g, 3) e Å/fs."""
    n = len(charges)
    total = np.zeros((3, 3))
    for i in range(n):
        for a in range(3):
            for b in range(3):
                total[a, b] += charges[i, a, b] / n
    for g in range(len(velocities)):
        out[g] = 0.0
        for i in range(n):
            for a in range(3):
                for b in range(3):
                    own = charges[i, a, b] - total[a, b] if sum_rule else charges[i, a, b]
                    out[g, a] += own * velocities[g, i, b]


@kernel()
def dipole_current(dipole_rates, alpha_rates, alpha, fields, self_dipole, out):
    """Current of the permanent dipoles, and of the induced ones what does not come from the rate of the solver's field.

    dipole_rates (g, n, 3) e Å/fs, alpha_rates (g, n, 3, 3), alpha (n, 3, 3), fields (n, 3) V/Å, self_dipole the factor of the
    self terms in; out (g, 3, 3) e Å/fs, rows 1 and 2 of each are added to.
    """
    for g in range(len(dipole_rates)):
        for i in range(len(alpha)):
            for a in range(3):
                out[g, 1, a] += dipole_rates[g, i, a]
                for c in range(3):
                    out[g, 2, a] += fields[i, c] * alpha_rates[g, i, c, a]
                    out[g, 2, a] -= 2.0 * self_dipole * alpha[i, c, a] * dipole_rates[g, i, c]


@kernel()
def dipole_field_rates(dipoles, velocities, low, rates, out):
    """−Σ_i ũ_i·(dF/dt)_i for several ũ and motions, dF/dt = rate at a point − ∇∇φ·v.

    dipoles (m, n, 3) e Å, velocities (g, n, 3) Å/fs, low (n, 10) of M and its rates (g, n, 10) in; out (g, m) eV/fs.
    """
    rate = np.empty(3)
    out[:] = 0.0
    for g in range(len(velocities)):
        for i in range(velocities.shape[1]):
            x, y, z = velocities[g, i, 0], velocities[g, i, 1], velocities[g, i, 2]
            rate[0] = rates[g, i, 1] - (low[i, 4] * x + low[i, 5] * y + low[i, 6] * z)
            rate[1] = rates[g, i, 2] - (low[i, 5] * x + low[i, 7] * y + low[i, 8] * z)
            rate[2] = rates[g, i, 3] - (low[i, 6] * x + low[i, 8] * y + low[i, 9] * z)
            for m in range(len(dipoles)):
                for c in range(3):
                    out[g, m] -= dipoles[m, i, c] * rate[c]
