"""From edges to A features and back, one atom at a time. Helpers of the drivers in network.py."""

import math

import numba
from polmd.kernels.compile import REASSOCIATE
from polmd.kernels.cpu.scalars import cutoff_function, radial_basis

_helper = numba.njit(error_model="numpy", nogil=True, fastmath=set(REASSOCIATE))
_exact = numba.njit(error_model="numpy", nogil=True)

# Rows of the edge table.
VX, VY, VZ, R, INVERSE_R, ENVELOPE, SLOPE = range(7)
EDGE_ROWS = 7


@_exact
def gather_edges(i, positions, cell, first, neighbors, shifts, cutoff, exponent, edges, atoms):
    """Edges of atom i inside the cutoff: fills ``edges`` (EDGE_ROWS, capacity) and ``atoms`` (capacity,) with the
    neighbour's index; returns their number. The list may be longer than the cutoff (Verlet skin)."""
    x, y, z = positions[i, 0], positions[i, 1], positions[i, 2]
    count = 0
    for p in range(first[i], first[i + 1]):
        j = neighbors[p]
        sx, sy, sz = float(shifts[p, 0]), float(shifts[p, 1]), float(shifts[p, 2])
        # exactly antisymmetric under exchange of i and j, so that both see the same r
        vx = (x - positions[j, 0]) - (sx * cell[0, 0] + sy * cell[1, 0] + sz * cell[2, 0])
        vy = (y - positions[j, 1]) - (sx * cell[0, 1] + sy * cell[1, 1] + sz * cell[2, 1])
        vz = (z - positions[j, 2]) - (sx * cell[0, 2] + sy * cell[1, 2] + sz * cell[2, 2])
        r2 = vx * vx + vy * vy + vz * vz
        if r2 < cutoff * cutoff:
            r = math.sqrt(r2)
            u = r / cutoff
            power = 1.0
            for _ in range(exponent - 1):
                power *= u
            f, df = cutoff_function(u, (float(exponent), power))
            edges[VX, count] = vx
            edges[VY, count] = vy
            edges[VZ, count] = vz
            edges[R, count] = r
            edges[INVERSE_R, count] = 1.0 / r
            edges[ENVELOPE, count] = f
            edges[SLOPE, count] = df / cutoff
            atoms[count] = j
            count += 1
    return count


@_exact
def radial_table(edges, count, frequencies, cutoff, values, slopes):
    """R_n and dR_n/dr of every edge: ``values``, ``slopes`` (n_rbf, capacity)."""
    norm = math.sqrt(2.0 / cutoff)
    for n in range(len(frequencies)):
        w = frequencies[n]
        for e in range(count):
            values[n, e], slopes[n, e] = radial_basis(
                edges[R, e], edges[INVERSE_R, e], w, edges[ENVELOPE, e], edges[SLOPE, e], norm
            )


@_exact
def monomials(x, y, z, out):
    """Monomials of a unit vector up to level 2 or 3, by the length of ``out`` (10 or 20)."""
    out[0] = 1.0
    out[1], out[2], out[3] = x, y, z
    xx, xy, xz, yy, yz, zz = x * x, x * y, x * z, y * y, y * z, z * z
    out[4], out[5], out[6], out[7], out[8], out[9] = xx, xy, xz, yy, yz, zz
    if len(out) > 10:
        out[10], out[11], out[12], out[13], out[14] = xx * x, xx * y, xx * z, xy * y, xy * z
        out[15], out[16], out[17], out[18], out[19] = xz * z, yy * y, yy * z, yz * z, zz * z


@_helper
def accumulate(edges, atoms, types, count, values, angular, moments):
    """Ã[(z, n), l] = Σ over edges of neighbour species z of R_n Y_l; fills ``moments`` (zn, nl)."""
    moments[:, :] = 0.0
    n_rbf = len(values)
    for e in range(count):
        inverse = edges[INVERSE_R, e]
        monomials(edges[VX, e] * inverse, edges[VY, e] * inverse, edges[VZ, e] * inverse, angular)
        row = types[atoms[e]] * n_rbf
        for n in range(n_rbf):
            value = values[n, e]
            for l in range(len(angular)):
                moments[row + n, l] += value * angular[l]


@_helper
def mix(moments, mixing, a):
    """A[l, C] = Σ_(z, n) Ã[(z, n), l] K[level(l), (z, n), C], four rows at a time; fills ``a`` (nl, nc)."""
    for l in range(len(a)):
        level = (l > 0) + (l > 3) + (l > 9)
        for k in range(a.shape[1]):
            a[l, k] = 0.0
        for row in range(0, len(moments), 4):
            s0, s1, s2, s3 = moments[row, l], moments[row + 1, l], moments[row + 2, l], moments[row + 3, l]
            for k in range(a.shape[1]):
                a[l, k] += (
                    s0 * mixing[level, row, k]
                    + s1 * mixing[level, row + 1, k]
                    + s2 * mixing[level, row + 2, k]
                    + s3 * mixing[level, row + 3, k]
                )


@_helper
def unmix(gradient_a, mixing, gradient):
    """Adjoint of :func:`mix`: dÃ[(z, n), l] = Σ_C K[level(l), (z, n), C] dA[l, C].

    Fills ``gradient`` (2, zn, nl): dÃ, and (−1)^L dÃ as seen along reversed edges.
    """
    zero = gradient_a[0, 0] * 0
    for l in range(len(gradient_a)):
        level = (l > 0) + (l > 3) + (l > 9)
        for row in range(0, gradient.shape[1], 4):
            s0, s1, s2, s3 = zero, zero, zero, zero
            for k in range(gradient_a.shape[1]):
                g = gradient_a[l, k]
                s0 += mixing[level, row, k] * g
                s1 += mixing[level, row + 1, k] * g
                s2 += mixing[level, row + 2, k] * g
                s3 += mixing[level, row + 3, k] * g
            sign = 1.0 - 2.0 * (level % 2)
            gradient[0, row, l], gradient[1, row, l] = s0, sign * s0
            gradient[0, row + 1, l], gradient[1, row + 1, l] = s1, sign * s1
            gradient[0, row + 2, l], gradient[1, row + 2, l] = s2, sign * s2
            gradient[0, row + 3, l], gradient[1, row + 3, l] = s3, sign * s3


@_helper
def edge_gradient(x, y, z, inverse_r, e, values, slopes, own, row, other, other_row, angular, radial, change):
    """Gradient with respect to v of Σ_nl [g_i[(z_j, n), l] + (−1)^L g_j[(z_i, n), l]] R_n(r) Y_l(v/r): the derivative of
    both atoms' features with respect to their common edge, so that forces need no scatter.

    (x, y, z) : unit vector; ``own`` (zn, nl), row : dÃ_i and first row of species z_j; ``other``, other_row : the same
    of atom j, with the sign (−1)^L; ``angular``, ``radial``, ``change`` (nl,) : scratch
    """
    n_l = len(angular)
    monomials(x, y, z, angular)
    for l in range(n_l):
        radial[l] = 0.0
        change[l] = 0.0
    for n in range(len(values)):
        value, slope = values[n, e], slopes[n, e]
        for l in range(n_l):
            g = own[row + n, l] + other[other_row + n, l]
            radial[l] += value * g
            change[l] += slope * g
    along = 0.0
    for l in range(n_l):
        along += change[l] * angular[l]
    p = radial
    gx = p[1] + 2.0 * p[4] * x + p[5] * y + p[6] * z
    gy = p[2] + p[5] * x + 2.0 * p[7] * y + p[8] * z
    gz = p[3] + p[6] * x + p[8] * y + 2.0 * p[9] * z
    if n_l > 10:
        q = angular
        gx += 3.0 * p[10] * q[4] + 2.0 * (p[11] * q[5] + p[12] * q[6]) + p[13] * q[7] + p[14] * q[8] + p[15] * q[9]
        gy += p[11] * q[4] + 2.0 * (p[13] * q[5] + p[17] * q[8]) + p[14] * q[6] + 3.0 * p[16] * q[7] + p[18] * q[9]
        gz += p[12] * q[4] + p[14] * q[5] + 2.0 * (p[15] * q[6] + p[18] * q[8]) + p[17] * q[7] + 3.0 * p[19] * q[9]
    radial_part = along - (gx * x + gy * y + gz * z) * inverse_r
    return gx * inverse_r + radial_part * x, gy * inverse_r + radial_part * y, gz * inverse_r + radial_part * z
