"""Pairs of multipoles on the CPU: open boundaries (all pairs) and the short-ranged part of an Ewald sum (a list of pairs).

Each atom gathers from its sources, no reduction over threads. Sources are worked on in vectors, one a lane
(kernels/cpu/simd.py), with the pair functions of kernels/scalar as they are; lanes are summed at the end, in order.
"""

import numba
import numpy as np
from polmd.kernels.compile import kernel
from polmd.kernels.cpu.scalars import (
    add3,
    add6,
    force_on,
    point_coulomb,
    potential_derivatives,
    smeared_coulomb,
)
from polmd.kernels.cpu.simd import below, lanes, load, load_many, total, zeros

#: Rows of the sources: position, charge, dipole, quadrupole (six), and a number: an atom does not feel its own.
ROWS = 14
#: How far away sources without an atom are put, in Å, so that nothing divides by zero; their moments are zero.
NOWHERE = 1e3
#: Atoms that share one set of scratch arrays.
CHUNK = 8

_helper = numba.njit(error_model="numpy", nogil=True, fastmath={"contract"})


@_helper
def _gather(target, sources, width, count, sigma, point, smeared, out):
    """What one atom feels of ``count`` sources, lanes rounded up, into ``out`` (22,).

    target : (ROWS,), sources : (ROWS·width,), row by row
    """
    step = lanes(sources)
    o = zeros(sources)
    p, g, h, f, v = o, (o, o, o), (o, o, o, o, o, o), (o, o, o), (o, o, o, o, o, o, o, o, o)
    x, y, z, q = target[0], target[1], target[2], target[3]
    u = (target[4], target[5], target[6])
    m = (target[7], target[8], target[9], target[10], target[11], target[12])
    for k in range(0, count, step):
        s = load_many(sources, k, width, 3)
        r = (x - s[0], y - s[1], z - s[2])
        r2 = r[0] * r[0] + r[1] * r[1] + r[2] * r[2]
        b = (o, o, o, o, o, o)
        other = target[13] - load(sources, 13 * width + k)
        other = below(other * other, 0.25, 0.0, 1.0)
        if smeared != 0.0:
            c, w = smeared_coulomb(r2, sigma), other * smeared
            b = (c[0] * w, c[1] * w, c[2] * w, c[3] * w, c[4] * w, c[5] * w)
        if point != 0.0:
            c, w = point_coulomb(r2), other * point
            b = (
                b[0] + c[0] * w, b[1] + c[1] * w, b[2] + c[2] * w,
                b[3] + c[3] * w, b[4] + c[4] * w, b[5] + c[5] * w,
            )  # fmt: skip
        charge = load(sources, 3 * width + k)
        dipole, quadrupole = load_many(sources, 4 * width + k, width, 3), load_many(sources, 7 * width + k, width, 6)
        value, gradient, hessian, third = potential_derivatives(charge, dipole, quadrupole, r, b)
        d = force_on(q, u, m, gradient, hessian, third)
        v = (
            v[0] + r[0] * d[0], v[1] + r[0] * d[1], v[2] + r[0] * d[2],
            v[3] + r[1] * d[0], v[4] + r[1] * d[1], v[5] + r[1] * d[2],
            v[6] + r[2] * d[0], v[7] + r[2] * d[1], v[8] + r[2] * d[2],
        )  # fmt: skip
        p, g, h, f = p + value, add3(g, gradient), add6(h, hessian), add3(f, d)
    out[0] = total(p)
    out[1], out[2], out[3] = -total(g[0]), -total(g[1]), -total(g[2])
    out[4], out[5], out[6], out[7] = total(h[0]), total(h[1]), total(h[2]), total(h[3])
    out[8], out[9] = total(h[4]), total(h[5])
    out[10], out[11], out[12] = total(f[0]), total(f[1]), total(f[2])
    out[13], out[14], out[15], out[16], out[17] = total(v[0]), total(v[1]), total(v[2]), total(v[3]), total(v[4])
    out[18], out[19], out[20], out[21] = total(v[5]), total(v[6]), total(v[7]), total(v[8])


@kernel(parallel=True)
def all_pairs(targets, sources, sigma, point, smeared, out):
    """Potential, field, second derivatives and force of all other sources on all targets, without prefactor.

    The kernel of two charges is f(r) = point/r + smeared·erf(r/(σ√2))/r.

    name            shape          dtype    unit        in/out
    targets         (n, ROWS)      float64  Å, e, …     in, position, charge, dipole, quadrupole (six), number
    sources         (ROWS·width,)  float64  Å, e, …     in, the same of the sources, row by row; width a multiple of the
                                                        lanes, places left over NOWHERE away, without moments
    sigma           scalar         float64  Å           in
    point, smeared  scalar         float64              in
    out             (n, 22)        float64  e/Å, …      out, φ, F = −∇φ, ∇∇φ (six), force f = −∇ [q + u·∇ + ½ Q:∇∇] φ on
                                                        the target, Σ over sources of r ⊗ f (nine), r from the source
    """
    n, width = len(targets), len(sources) // ROWS
    for i in numba.prange(n):
        _gather(targets[i], sources, width, width, sigma, point, smeared, out[i])


@kernel(parallel=True)
def listed_pairs(targets, sources, cell, first, neighbors, shifts, sigma, point, smeared, out):
    """The same for the pairs of a list: atom i feels sources at r_j + shifts·cell, its own images too.

    name       shape    dtype    unit     in/out
    sources    (n, ROWS) float64 Å, e, …  in
    cell       (3, 3)   float64  Å        in
    first      (n+1,)   int64             in, pairs of atom i are first[i]:first[i+1]
    neighbors  (m,)     int32             in, index of the source
    shifts     (m, 3)   int32             in
    """
    n, most = len(targets), 1
    for i in range(n):
        most = max(most, first[i + 1] - first[i])
    step = lanes(targets)
    width = (most + step - 1) // step * step
    for chunk in numba.prange((n + CHUNK - 1) // CHUNK):
        near = np.zeros(ROWS * width)
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            count = first[i + 1] - first[i]
            for k in range(count):
                j = neighbors[first[i] + k]
                a, b, c = float(shifts[first[i] + k, 0]), float(shifts[first[i] + k, 1]), float(shifts[first[i] + k, 2])
                for row in range(ROWS):
                    near[row * width + k] = sources[j, row]
                near[13 * width + k] = -1.0
                for axis in range(3):
                    near[axis * width + k] += a * cell[0, axis] + b * cell[1, axis] + c * cell[2, axis]
            for k in range(count, (count + step - 1) // step * step):
                for row in range(ROWS):
                    near[row * width + k] = targets[i, row] + NOWHERE if row < 3 else 0.0
            _gather(targets[i], near, width, count, sigma, point, smeared, out[i])
