"""Particle mesh on the CPU: B-spline spreading of multipoles and interpolation of potentials up to third derivatives.

Splines are evaluated once for all passes over the same atoms (:func:`place`). Mesh lines along the third axis are worked
on LANES points at a time, whatever the order of the splines: weights beyond the order are zero, and a mesh is padded by
LANES points so that no line wraps. One scratch array with constant offsets holds the sums of one atom: then the compiler
sees that its parts do not overlap, and vectorises.

Spreading is free of races without atomics: a thread owns a slab of planes and goes through all atoms, in the same order
as every other, adding what they bring to its planes. Every point gets its sum in that order: results do not depend on
the number of threads.
"""

import math

import numba
import numpy as np
from polmd.kernels.compile import REASSOCIATE, kernel
from polmd.kernels.cpu.runs import LANES, combine

#: Atoms that share one scratch array in the interpolation.
CHUNK = 32

#: Numbers that hold the splines of an atom: axis a, derivative d at (4 a + d) LANES.
SPLINES = 12 * LANES
# Offsets in the scratch array: lines of the sums
_LINES = 0
_FIRST = _LINES + 4 * LANES  # sums over the second axis, by derivative; behind them those over the first two
_SCRATCH = _FIRST + 10 * LANES
#: Mesh lines along an axis that share a bin of atoms.
_BIN = 8

_helper = numba.njit(error_model="numpy", nogil=True, fastmath=set(REASSOCIATE))


@_helper
def _moments(i, dipoles, quadrupoles):
    """Dipole and symmetric part of the quadrupole (six) of atom i. No views of single atoms here or below: threads would
    fight for the reference count of the whole array."""
    u = (dipoles[i, 0], dipoles[i, 1], dipoles[i, 2])
    if len(quadrupoles) == 0:
        return u, (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    return u, (
        quadrupoles[i, 0, 0], 0.5 * (quadrupoles[i, 0, 1] + quadrupoles[i, 1, 0]),
        0.5 * (quadrupoles[i, 0, 2] + quadrupoles[i, 2, 0]), quadrupoles[i, 1, 1],
        0.5 * (quadrupoles[i, 1, 2] + quadrupoles[i, 2, 1]), quadrupoles[i, 2, 2],
    )  # fmt: skip


@_helper
def _locate(i, positions, inverse, shape, order, corners, p, offset):
    """First mesh point of an atom's patch, in [0, N) on each axis, into row p of ``corners``, and t − ½ for the splines."""
    for axis in range(3):
        s = positions[i, 0] * inverse[0, axis] + positions[i, 1] * inverse[1, axis] + positions[i, 2] * inverse[2, axis]
        x = (s - math.floor(s)) * shape[axis]
        cell = math.floor(x)
        offset[axis] = x - cell - 0.5
        first = int(cell) - order // 2 + 1
        if first < 0:
            first += shape[axis]
        elif first >= shape[axis]:
            first -= shape[axis]
        corners[p, axis] = first


@_helper
def _rows(corners, p, shape, order, rows):
    """Where the lines of a patch begin in a flat mesh: line (i, j) at rows[0, i] + rows[1, j]."""
    width = shape[2] + LANES
    for i in range(order):
        x, y = corners[p, 0] + i, corners[p, 1] + i
        rows[0, i] = (x - shape[0] if x >= shape[0] else x) * shape[1] * width
        rows[1, i] = (y - shape[1] if y >= shape[1] else y) * width + corners[p, 2]


@_helper
def _weights(offset, table, splines, at):
    """Splines and their derivatives at the points of the patch, into ``splines`` from ``at`` on; ``table`` flat."""
    for axis in range(3):
        t = offset[axis]
        t2 = t * t
        t4 = t2 * t2
        t8 = t4 * t4
        powers = 1.0, t, t2, t2 * t, t4, t4 * t, t4 * t2, t4 * t2 * t, t8, t8 * t, t8 * t2, t8 * t2 * t
        for d in range(4):
            o = 12 * d * LANES
            rows = (
                o, o + LANES, o + 2 * LANES, o + 3 * LANES, o + 4 * LANES, o + 5 * LANES, o + 6 * LANES, o + 7 * LANES,
                o + 8 * LANES, o + 9 * LANES, o + 10 * LANES, o + 11 * LANES,
            )  # fmt: skip
            combine(0, splines, at + (4 * axis + d) * LANES, powers, table, rows)


@kernel(parallel=True)
def place(positions, inverse, shape, order, table, members, slabs, corners, splines):
    """Where atoms lie on the mesh and their splines, and who works on what.

    name         shape               dtype    unit  in/out
    positions    (n, 3)              float64  Å     in
    inverse      (3, 3)              float64  1/Å   in, inverse cell: s = r·inverse
    shape        (3,)                int64          in, mesh points N along each axis, at least the order
    order        scalar              int64          in, order of the splines, a multiple of 4, at most 12
    table        (4, 12, 12)         float64        in, their polynomials: derivative, power of t − ½, mesh point
    members      (n,)                int64          out, all atoms, neighbours near each other
    slabs        (s + 1,)            int64          out, first planes of s slabs with about equal numbers of planes to add
    corners      (n, 3)              int64          out, first mesh point of the patch of each of the members
    splines      (n·SPLINES,)        float64        out, splines of each of the members and their first three derivatives
    """
    n, polynomials = len(positions), table.reshape(-1)
    # bins of 8 × 8 lines, counted and filled in the order of the atoms
    columns = shape[1] // _BIN + 1
    bins = np.zeros((shape[0] // _BIN + 1) * columns + 1, np.int64)
    own, planes = np.empty(n, np.int64), np.zeros(shape[0])
    scratch, corner = np.empty(3), np.empty((1, 3), np.int64)
    for i in range(n):
        _locate(i, positions, inverse, shape, order, corner, 0, scratch)
        own[i] = corner[0, 0] // _BIN * columns + corner[0, 1] // _BIN
        bins[own[i] + 1] += 1
        planes[corner[0, 0]] += 1.0
    for b in range(1, len(bins)):
        bins[b] += bins[b - 1]
    for i in range(n):
        members[bins[own[i]]] = i
        bins[own[i]] += 1
    work, slab = 0.0, 1
    slabs[0], slabs[len(slabs) - 1] = 0, shape[0]
    for x in range(shape[0]):
        for k in range(order):
            work += planes[x - k]  # of the planes behind zero, too
        while slab < len(slabs) - 1 and work >= slab * n * order / (len(slabs) - 1):
            slabs[slab] = x
            slab += 1
    for chunk in numba.prange((n + CHUNK - 1) // CHUNK):
        offset = np.empty(3)
        for p in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            _locate(members[p], positions, inverse, shape, order, corners, p, offset)
            _weights(offset, polynomials, splines, p * SPLINES)


@_helper
def _in_grid(g, u, m):
    """Dipole and quadrupole (six) in coordinates of the mesh: u·G and Gᵀ·Q·G."""
    ux = u[0] * g[0, 0] + u[1] * g[1, 0] + u[2] * g[2, 0]
    uy = u[0] * g[0, 1] + u[1] * g[1, 1] + u[2] * g[2, 1]
    uz = u[0] * g[0, 2] + u[1] * g[1, 2] + u[2] * g[2, 2]
    a0, a1, a2 = _times(m, g[0, 0], g[1, 0], g[2, 0])
    b0, b1, b2 = _times(m, g[0, 1], g[1, 1], g[2, 1])
    c0, c1, c2 = _times(m, g[0, 2], g[1, 2], g[2, 2])
    return (ux, uy, uz), (
        a0 * g[0, 0] + a1 * g[1, 0] + a2 * g[2, 0],
        a0 * g[0, 1] + a1 * g[1, 1] + a2 * g[2, 1],
        a0 * g[0, 2] + a1 * g[1, 2] + a2 * g[2, 2],
        b0 * g[0, 1] + b1 * g[1, 1] + b2 * g[2, 1],
        b0 * g[0, 2] + b1 * g[1, 2] + b2 * g[2, 2],
        c0 * g[0, 2] + c1 * g[1, 2] + c2 * g[2, 2],
    )


@_helper
def _times(m, x, y, z):
    return m[0] * x + m[1] * y + m[2] * z, m[1] * x + m[3] * y + m[4] * z, m[2] * x + m[4] * y + m[5] * z


@_helper
def _spread_atom(q, u, m, rows, order, start, stop, s, w, at, mesh):
    """Add [q + u·∇ + ½ Q:∇∇] of an atom's splines (``w`` from ``at`` on) to the places from ``start`` to ``stop`` of ``mesh``
    (flat); moments in coordinates of the mesh, ``s`` the scratch array."""
    z = at + 8 * LANES, at + 9 * LANES, at + 10 * LANES
    lines = _LINES, _LINES + LANES, _LINES + 2 * LANES
    for i in range(order):
        if not start <= rows[0, i] < stop:
            continue
        a0, a1, a2 = w[at + i], w[at + LANES + i], w[at + 2 * LANES + i]
        # one line for each derivative along the second axis
        combine(0, s, lines[0], (q * a0 + u[0] * a1 + 0.5 * m[0] * a2, u[2] * a0 + m[2] * a1, 0.5 * m[5] * a0), w, z)
        combine(0, s, lines[1], (u[1] * a0 + m[1] * a1, m[4] * a0), w, (z[0], z[1]))
        combine(0, s, lines[2], (0.5 * m[3] * a0,), w, (z[0],))
        for j in range(order):
            factors = w[at + 4 * LANES + j], w[at + 5 * LANES + j], w[at + 6 * LANES + j]
            combine(1, mesh, rows[0, i] + rows[1, j], factors, s, lines)


@kernel(parallel=True)
def spread(inverse, shape, order, members, slabs, corners, splines, charges, dipoles, quadrupoles, mesh):
    """ρ(m) = Σ_j [q_j + u_j·∇_j + ½ Q_j:∇_j∇_j] Π_d M(m_d − N_d s_jd): moments spread to a mesh.

    name         shape         dtype    unit  in/out
    inverse … splines                         in, as in place
    charges      (n,)          float64  e     in
    dipoles      (n, 3)        float64  e Å   in
    quadrupoles  (n, 3, 3)     float64  e Å²  in; of length 0 when there are none
    mesh         (Nx, Ny, Nz + 12) float64 e  out; the last 12 of each line are scratch
    """
    flat = mesh.reshape(-1)
    ny, nz = shape[1], shape[2]
    g = np.empty((3, 3))
    for c in range(3):
        for d in range(3):
            g[c, d] = inverse[c, d] * shape[d]
    for slab in numba.prange(len(slabs) - 1):
        first, last = slabs[slab], slabs[slab + 1]
        mesh[first:last] = 0.0
        start, stop = first * ny * (nz + LANES), last * ny * (nz + LANES)
        s, rows = np.zeros(_SCRATCH), np.empty((2, LANES), np.int64)
        for p in range(len(members)):
            x, end = corners[p, 0], corners[p, 0] + order
            if (x < last and end > first) or end - shape[0] > first:
                i = members[p]
                _rows(corners, p, shape, order, rows)
                u, m = _in_grid(g, *_moments(i, dipoles, quadrupoles))
                _spread_atom(charges[i], u, m, rows, order, start, stop, s, splines, p * SPLINES, flat)
        for x in range(first, last):
            for y in range(ny):
                for k in range(order):  # no more than nz
                    mesh[x, y, k] += mesh[x, y, nz + k]


@_helper
def _four(s, start):
    return s[start], s[start + 1], s[start + 2], s[start + 3]


@_helper
def _gather(rows, order, highest, s, w, at, mesh):
    """Sums over the patch of potential × splines (``w`` from ``at`` on): for derivatives (a, b) of the first two axes with
    a + b ≤ highest, a line of sums over those axes, at _FIRST + (row) LANES: rows (0,0), (0,1), (0,2), (1,0), (1,1), (2,0),
    then (0,3), (1,2), (2,1), (3,0)."""
    for k in range(10 * LANES):
        s[_FIRST + k] = 0.0
    r0, r1, r2, r3 = _LINES, _LINES + LANES, _LINES + 2 * LANES, _LINES + 3 * LANES
    for i in range(order):
        for k in range(4 * LANES):
            s[_LINES + k] = 0.0
        for j in range(0, order, 4):
            x = rows[0, i]
            lines = x + rows[1, j], x + rows[1, j + 1], x + rows[1, j + 2], x + rows[1, j + 3]
            combine(1, s, r0, _four(w, at + 4 * LANES + j), mesh, lines)
            combine(1, s, r1, _four(w, at + 5 * LANES + j), mesh, lines)
            combine(1, s, r2, _four(w, at + 6 * LANES + j), mesh, lines)
            if highest == 3:
                combine(1, s, r3, _four(w, at + 7 * LANES + j), mesh, lines)
        a0, a1, a2, a3 = (w[at + i],), (w[at + LANES + i],), (w[at + 2 * LANES + i],), (w[at + 3 * LANES + i],)
        combine(1, s, _FIRST, a0, s, (r0,))
        combine(1, s, _FIRST + LANES, a0, s, (r1,))
        combine(1, s, _FIRST + 2 * LANES, a0, s, (r2,))
        combine(1, s, _FIRST + 3 * LANES, a1, s, (r0,))
        combine(1, s, _FIRST + 4 * LANES, a1, s, (r1,))
        combine(1, s, _FIRST + 5 * LANES, a2, s, (r0,))
        if highest == 3:
            combine(1, s, _FIRST + 6 * LANES, a0, s, (r3,))
            combine(1, s, _FIRST + 7 * LANES, a1, s, (r2,))
            combine(1, s, _FIRST + 8 * LANES, a2, s, (r1,))
            combine(1, s, _FIRST + 9 * LANES, a3, s, (r0,))


@_helper
def _along(s, w, at, row, derivative):
    """Σ over the third axis of a line of sums and a derivative of the splines."""
    total = 0.0
    for k in range(LANES):
        total += s[_FIRST + row * LANES + k] * w[at + (8 + derivative) * LANES + k]
    return total


@_helper
def _low_derivatives(g, s, w, at, i, out):
    """φ, F = −∇φ and ∇∇φ (six) in Cartesian coordinates from the line sums; returns the ∇φ, ∇∇φ of the mesh."""
    x, y, z = _along(s, w, at, 3, 0), _along(s, w, at, 1, 0), _along(s, w, at, 0, 1)
    xx, xy, xz = _along(s, w, at, 5, 0), _along(s, w, at, 4, 0), _along(s, w, at, 3, 1)
    yy, yz, zz = _along(s, w, at, 2, 0), _along(s, w, at, 1, 1), _along(s, w, at, 0, 2)
    out[i, 0] = _along(s, w, at, 0, 0)
    for c in range(3):
        out[i, 1 + c] = -(g[c, 0] * x + g[c, 1] * y + g[c, 2] * z)
    k = 4
    for c in range(3):
        hx = g[c, 0] * xx + g[c, 1] * xy + g[c, 2] * xz
        hy = g[c, 0] * xy + g[c, 1] * yy + g[c, 2] * yz
        hz = g[c, 0] * xz + g[c, 1] * yz + g[c, 2] * zz
        for d in range(c, 3):
            out[i, k] = hx * g[d, 0] + hy * g[d, 1] + hz * g[d, 2]
            k += 1
    return (x, y, z), (xx, xy, xz, yy, yz, zz)


@_helper
def _force(g, q, u, m, first, second, s, w, at):
    """−∇ [q + u·∇ + ½ Q:∇∇] φ in Cartesian coordinates; moments and derivatives in coordinates of the mesh."""
    xxx, xxy, xxz = _along(s, w, at, 9, 0), _along(s, w, at, 8, 0), _along(s, w, at, 5, 1)
    xyy, xyz, xzz = _along(s, w, at, 7, 0), _along(s, w, at, 4, 1), _along(s, w, at, 3, 2)
    yyy, yyz, yzz, zzz = _along(s, w, at, 6, 0), _along(s, w, at, 2, 1), _along(s, w, at, 1, 2), _along(s, w, at, 0, 3)
    hx, hy, hz = _times(second, u[0], u[1], u[2])
    fx = q * first[0] + hx + 0.5 * (m[0] * xxx + m[3] * xyy + m[5] * xzz) + m[1] * xxy + m[2] * xxz + m[4] * xyz
    fy = q * first[1] + hy + 0.5 * (m[0] * xxy + m[3] * yyy + m[5] * yzz) + m[1] * xyy + m[2] * xyz + m[4] * yyz
    fz = q * first[2] + hz + 0.5 * (m[0] * xxz + m[3] * yyz + m[5] * zzz) + m[1] * xyz + m[2] * xzz + m[4] * yzz
    return (
        -(g[0, 0] * fx + g[0, 1] * fy + g[0, 2] * fz),
        -(g[1, 0] * fx + g[1, 1] * fy + g[1, 2] * fz),
        -(g[2, 0] * fx + g[2, 1] * fy + g[2, 2] * fz),
    )


@kernel(parallel=True)
def interpolate(inverse, shape, order, members, corners, splines, mesh, charges, dipoles, quadrupoles, out):
    """Potential, field and second derivatives at the atoms, and on request the force on their moments.

    name                       shape            dtype    unit  in/out
    inverse … splines                                          in, as in place
    mesh                       (Nx, Ny, Nz + 12)  float64  V   in, potential; the last 12 of each line repeat the first
    charges, dipoles, quadrupoles                              in, moments that feel the force; as in spread
    out                        (n, 10 or 13)    float64        out, φ (V), F (V/Å), ∇∇φ (V/Å², six) and with 13 columns
                                                               the force (eV/Å) −∇ [q + u·∇ + ½ Q:∇∇] φ
    """
    n, flat = len(members), mesh.reshape(-1)
    g = np.empty((3, 3))
    for c in range(3):
        for d in range(3):
            g[c, d] = inverse[c, d] * shape[d]
    highest = 3 if out.shape[1] == 13 else 2
    for chunk in numba.prange((n + CHUNK - 1) // CHUNK):
        s, rows = np.zeros(_SCRATCH), np.empty((2, LANES), np.int64)
        for p in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            i, at = members[p], p * SPLINES
            _rows(corners, p, shape, order, rows)
            _gather(rows, order, highest, s, splines, at, flat)
            first, second = _low_derivatives(g, s, splines, at, i, out)
            if highest == 3:
                u, m = _in_grid(g, *_moments(i, dipoles, quadrupoles))
                out[i, 10], out[i, 11], out[i, 12] = _force(g, charges[i], u, m, first, second, s, splines, at)
