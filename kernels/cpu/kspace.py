"""Direct reciprocal sum of Gaussian multipoles on the CPU.

Wave vectors are the half sphere, cut into rows of constant (n0, n1) and consecutive n2, so that a phase costs one
complex product with a table of e^(2πi n s). Each atom's phases are made once per pass in a private buffer; all loops
over wave vectors are contiguous. Structure factors are summed over a fixed number of blocks of atoms and then over
blocks: the result does not depend on the number of threads.
"""

import math

import numba
import numpy as np
from polmd.kernels.compile import REASSOCIATE, kernel
from polmd.kernels.cpu.scalars import dipole_factor, form_factor

#: Blocks of atoms of a structure factor sum.
BLOCKS = 16

_helper = numba.njit(error_model="numpy", nogil=True, fastmath=set(REASSOCIATE))


@_helper
def _axis_table(s, table):
    """e^(2πi n s) for n = −N … N: ``table`` (2, 2N+1)."""
    n_max = table.shape[1] // 2
    s = s - math.floor(s)
    theta = 2.0 * math.pi * s
    c1, s1 = math.cos(theta), math.sin(theta)
    c, si = 1.0, 0.0
    table[0, n_max], table[1, n_max] = c, si
    for n in range(1, n_max + 1):
        c, si = c * c1 - si * s1, c * s1 + si * c1
        table[0, n_max + n], table[1, n_max + n] = c, si
        table[0, n_max - n], table[1, n_max - n] = c, -si


@_helper
def _phases(fraction, rows, t0, t1, t2, cosines, sines):
    """cos and sin of k·r for every wave vector; ``fraction`` (3,) fractional coordinates."""
    _axis_table(fraction[0], t0)
    _axis_table(fraction[1], t1)
    _axis_table(fraction[2], t2)
    o0, o1, o2 = t0.shape[1] // 2, t1.shape[1] // 2, t2.shape[1] // 2
    c2, s2 = t2[0], t2[1]
    for row in range(len(rows)):
        n0, n1, low, start, count = rows[row, 0], rows[row, 1], rows[row, 2], rows[row, 3], rows[row, 4]
        a, b = t0[0, o0 + n0], t0[1, o0 + n0]
        c, d = t1[0, o1 + n1], t1[1, o1 + n1]
        x, y = a * c - b * d, a * d + b * c
        shift = o2 + low
        for k in range(count):
            cosines[start + k] = x * c2[shift + k] - y * s2[shift + k]
            sines[start + k] = x * s2[shift + k] + y * c2[shift + k]


@_helper
def _six(q):
    """Symmetric part of a 3×3 matrix."""
    return (
        q[0, 0], 0.5 * (q[0, 1] + q[1, 0]), 0.5 * (q[0, 2] + q[2, 0]),
        q[1, 1], 0.5 * (q[1, 2] + q[2, 1]), q[2, 2],
    )  # fmt: skip


@_helper
def _add_multipole(q, u, m, k, cosines, sines, real, imaginary):
    for n in range(len(cosines)):
        a, b = form_factor(q, u, m, k[0, n], k[1, n], k[2, n])
        real[n] += a * cosines[n] - b * sines[n]
        imaginary[n] += a * sines[n] + b * cosines[n]


@_helper
def _add_dipole(q, u, k, cosines, sines, real, imaginary):
    for n in range(len(cosines)):
        b = dipole_factor(u, k[0, n], k[1, n], k[2, n])
        real[n] += q * cosines[n] - b * sines[n]
        imaginary[n] += q * sines[n] + b * cosines[n]


@kernel(parallel=True)
def structure_factor(fractions, rows, limits, k, charges, dipoles, quadrupoles, real, imaginary):
    """S(k) = Σ_j [q_j + i k·u_j − ½ k·Q_j·k] e^(ik·r_j) on the half sphere.

    name             shape      dtype    unit  in/out
    fractions        (n, 3)     float64        in, r·cell⁻¹
    rows             (r, 5)     int64          in, n0, n1, first n2, first index, count
    limits           (3,)       int64          in, largest |n| of each axis
    k                (3, nk)    float64  1/Å   in
    charges          (n,)       float64  e     in
    dipoles          (n, 3)     float64  e Å   in
    quadrupoles      (n, 3, 3)  float64  e Å²  in; of length 0 when there are none
    real, imaginary  (nk,)      float64  e     out
    """
    n, nk = len(charges), k.shape[1]
    partial = np.zeros((BLOCKS, 2, nk))
    for block in numba.prange(BLOCKS):
        t0, t1, t2 = (
            np.empty((2, 2 * limits[0] + 1)),
            np.empty((2, 2 * limits[1] + 1)),
            np.empty((2, 2 * limits[2] + 1)),
        )
        cosines, sines = np.empty(nk), np.empty(nk)
        for i in range(block * n // BLOCKS, (block + 1) * n // BLOCKS):
            _phases(fractions[i], rows, t0, t1, t2, cosines, sines)
            u = (dipoles[i, 0], dipoles[i, 1], dipoles[i, 2])
            if len(quadrupoles) > 0:
                m = _six(quadrupoles[i])
                _add_multipole(charges[i], u, m, k, cosines, sines, partial[block, 0], partial[block, 1])
            else:
                _add_dipole(charges[i], u, k, cosines, sines, partial[block, 0], partial[block, 1])
    for c in numba.prange((nk + 255) // 256):
        for j in range(c * 256, min(nk, (c + 1) * 256)):
            x, y = 0.0, 0.0
            for block in range(BLOCKS):
                x += partial[block, 0, j]
                y += partial[block, 1, j]
            real[j], imaginary[j] = x, y


@_helper
def _field(k, real, imaginary, cosines, sines):
    p, x, y, z = 0.0, 0.0, 0.0, 0.0
    for n in range(len(cosines)):
        p += real[n] * cosines[n] + imaginary[n] * sines[n]
        b = real[n] * sines[n] - imaginary[n] * cosines[n]
        x += k[0, n] * b
        y += k[1, n] * b
        z += k[2, n] * b
    return p, x, y, z


@kernel(parallel=True)
def potential_and_field(fractions, rows, limits, k, real, imaginary, potentials, fields):
    """φ_i = Σ_k Re[s e^(−ik·r_i)] and F_i = Σ_k k Im[s* e^(ik·r_i)] for s = w(k) S(k) given as real and imaginary part.

    fractions, rows, limits, k as in structure_factor; real, imaginary (nk,) float64 V in; potentials (n,) V out;
    fields (n, 3) V/Å out.
    """
    n, nk = len(fractions), k.shape[1]
    for block in numba.prange(BLOCKS):
        t0, t1, t2 = (
            np.empty((2, 2 * limits[0] + 1)),
            np.empty((2, 2 * limits[1] + 1)),
            np.empty((2, 2 * limits[2] + 1)),
        )
        cosines, sines = np.empty(nk), np.empty(nk)
        for i in range(block * n // BLOCKS, (block + 1) * n // BLOCKS):
            _phases(fractions[i], rows, t0, t1, t2, cosines, sines)
            potentials[i], fields[i, 0], fields[i, 1], fields[i, 2] = _field(k, real, imaginary, cosines, sines)


@_helper
def _interaction(q, u, m, dq, du, k, total, permanent, cosines, sines, out):
    """Potential, field and second derivatives of ``total`` and the force on (q, u, m) in it and (dq, du) in
    ``permanent``; ``total``, ``permanent`` (2, nk) are w(k) S(k)."""
    p, x, y, z = 0.0, 0.0, 0.0, 0.0
    xx, xy, xz, yy, yz, zz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    fx, fy, fz = 0.0, 0.0, 0.0
    for n in range(len(cosines)):
        kx, ky, kz, c, s = k[0, n], k[1, n], k[2, n], cosines[n], sines[n]
        a = total[0, n] * c + total[1, n] * s
        b = total[0, n] * s - total[1, n] * c
        p += a
        x += kx * b
        y += ky * b
        z += kz * b
        ax, ay = a * kx, a * ky
        xx -= ax * kx
        xy -= ax * ky
        xz -= ax * kz
        yy -= ay * ky
        yz -= ay * kz
        zz -= a * kz * kz
        real, imaginary = form_factor(q, u, m, kx, ky, kz)
        f = real * b + imaginary * a
        a = permanent[0, n] * c + permanent[1, n] * s
        b = permanent[0, n] * s - permanent[1, n] * c
        f += dq * b + dipole_factor(du, kx, ky, kz) * a
        fx += kx * f
        fy += ky * f
        fz += kz * f
    out[0], out[1], out[2], out[3] = p, x, y, z
    out[4], out[5], out[6], out[7], out[8], out[9] = xx, xy, xz, yy, yz, zz
    out[10], out[11], out[12] = fx, fy, fz


@kernel(parallel=True)
def interactions(fractions, rows, limits, k, charges, dipoles, quadrupoles, response_charges, response_dipoles,
                 total, permanent, out):  # fmt: skip
    """Everything atom i needs of the fields of M + M̃ (``total``) and of M (``permanent``).

    name                               shape      dtype    unit    in/out
    fractions, rows, limits, k                                     in, as in structure_factor
    charges, dipoles, quadrupoles                                  in, M
    response_charges, response_dipoles (n,), (n, 3)        e, e Å  in, M̃
    total, permanent                   (2, nk)    float64  V       in, w(k) S(k) of M + M̃ and of M
    out                                (n, 13)    float64          out, φ (V), F (V/Å), ∇∇φ (V/Å², six) of total; force
                                                                   (eV/Å) on M in total plus on M̃ in permanent
    """
    n, nk = len(charges), k.shape[1]
    for block in numba.prange(BLOCKS):
        t0, t1, t2 = (
            np.empty((2, 2 * limits[0] + 1)),
            np.empty((2, 2 * limits[1] + 1)),
            np.empty((2, 2 * limits[2] + 1)),
        )
        cosines, sines = np.empty(nk), np.empty(nk)
        for i in range(block * n // BLOCKS, (block + 1) * n // BLOCKS):
            _phases(fractions[i], rows, t0, t1, t2, cosines, sines)
            u = (dipoles[i, 0], dipoles[i, 1], dipoles[i, 2])
            du = (response_dipoles[i, 0], response_dipoles[i, 1], response_dipoles[i, 2])
            _interaction(charges[i], u, _six(quadrupoles[i]), response_charges[i], du, k, total, permanent, cosines,
                         sines, out[i])  # fmt: skip


@kernel()
def strain_sums(k, sigma, energies, out):
    """Σ_k e(k) and Σ_k 2 (σ²/2 + 1/k²) k_a k_b e(k): ``k`` (3, nk) 1/Å, ``energies`` (nk,) eV in; ``out`` (7,) eV out."""
    out[:] = 0.0
    for n in range(k.shape[1]):
        x, y, z = k[0, n], k[1, n], k[2, n]
        e = energies[n]
        f = e * (sigma * sigma + 2.0 / (x * x + y * y + z * z))
        out[0] += e
        out[1] += f * x * x
        out[2] += f * x * y
        out[3] += f * x * z
        out[4] += f * y * y
        out[5] += f * y * z
        out[6] += f * z * z
