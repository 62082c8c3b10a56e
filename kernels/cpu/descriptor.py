"""From edges to A features and back, for one block of atoms (kernels/layout.py). Helpers of the drivers in network.py.

Edges of a block lie in slots: slot k of a neighbour species holds the k-th edge of every atom of the block, so that all
atoms add up their edges in step. Atoms with fewer edges of a species than others have edges far away in the slots left
over, whose radial functions are zero.
"""

import numba
import numpy as np
from polmd.kernels.cpu.scalars import cutoff_function, radial_basis
from polmd.kernels.cpu.simd import (
    add_scaled,
    add_weighted,
    below,
    item,
    lanes,
    load,
    load_many,
    square_root,
    store,
    store_many,
    total,
    zeros,
)
from polmd.kernels.layout import TILE

#: No fastmath beyond fused multiply-add: vectors make no sums that would have to be reordered.
_helper = numba.njit(error_model="numpy", nogil=True, fastmath={"contract"})
_inline = numba.njit(error_model="numpy", nogil=True, forceinline=True, fastmath={"contract"})

#: Slots whose tables of radial functions and monomials are made at a time, so that they stay in the first-level cache.
RUN = 8


@_helper
def gather_edges(atoms, positions, cell, types, first, neighbors, shifts, cutoff, n_types, like):
    """Edges of the atoms of a block inside the cutoff. The list may be longer than the cutoff (Verlet skin).

    atoms : (lanes,) int32, in; −1 where the block has no atom
    like : an array of the precision of the network

    Returns ``slots`` (n_types + 1,) int64, first slot of each neighbour species, ``edges`` (3·slots·lanes,) components
    of r_i − r_j in Å, and ``pairs`` (slots·lanes,) int64, place in the neighbour list or −1.
    """
    n_lanes = len(atoms)
    most = 1
    for i in atoms:
        if i >= 0:
            most = max(most, first[i + 1] - first[i])
    vectors, places = np.empty((n_lanes, most + 1, 3)), np.empty((n_lanes, most + 1), np.int64)
    found, counts = np.zeros(n_lanes, np.int64), np.zeros((n_types, n_lanes), np.int64)
    for lane in range(n_lanes):
        i = atoms[lane]
        if i < 0:
            continue
        v, place = vectors[lane], places[lane]
        x, y, z = positions[i, 0], positions[i, 1], positions[i, 2]
        count = np.uintp(0)
        for p in range(first[i], first[i + 1]):
            j = np.uintp(neighbors[p])
            sx, sy, sz = float(shifts[p, 0]), float(shifts[p, 1]), float(shifts[p, 2])
            vx = (x - positions[j, 0]) - (sx * cell[0, 0] + sy * cell[1, 0] + sz * cell[2, 0])
            vy = (y - positions[j, 1]) - (sx * cell[0, 1] + sy * cell[1, 1] + sz * cell[2, 1])
            vz = (z - positions[j, 2]) - (sx * cell[0, 2] + sy * cell[1, 2] + sz * cell[2, 2])
            # every candidate is written and only edges are kept: a branch would be mispredicted
            v[count, 0], v[count, 1], v[count, 2], place[count] = vx, vy, vz, p
            count += np.uintp(vx * vx + vy * vy + vz * vz < cutoff * cutoff)
        found[lane] = count
        for e in range(count):
            counts[types[neighbors[place[e]]], lane] += 1
    slots = np.zeros(n_types + 1, np.int64)
    for z in range(n_types):
        slots[z + 1] = slots[z] + counts[z].max()
    size = slots[n_types] * n_lanes
    edges, pairs = np.empty(3 * size, like.dtype), np.empty(size, np.int64)
    edges[:] = cutoff  # (1, 1, 1) cutoffs away
    pairs[:] = -1
    counts[:, :] = 0
    for lane in range(n_lanes):
        for e in range(found[lane]):
            p = places[lane, e]
            z = types[neighbors[p]]
            at = (slots[z] + counts[z, lane]) * n_lanes + lane
            counts[z, lane] += 1
            edges[at], edges[size + at], edges[2 * size + at] = vectors[lane, e]
            pairs[at] = p
    return slots, edges, pairs


@_inline
def _geometry(edges, at, size, cutoff, exponent):
    """v, its unit vector, r, 1/r, cutoff function and its slope of the edges of one slot."""
    v = load_many(edges, at, size, 3)
    r = square_root(v[0] * v[0] + v[1] * v[1] + v[2] * v[2])
    inverse = 1.0 / r
    u = r * (1.0 / cutoff)
    power = u
    for _ in range(exponent - 2):
        power = power * u
    f, df = cutoff_function(u, (float(exponent), power))
    f, df = below(r, cutoff, f, 0.0), below(r, cutoff, df * (1.0 / cutoff), 0.0)
    return v, (v[0] * inverse, v[1] * inverse, v[2] * inverse), r, inverse, f, df


@_inline
def _low_monomials(u):
    """Levels 0 (without the 1 itself: its place holds x), 1 and 2."""
    x, y, z = u
    return x, x, y, z, x * x, x * y, x * z, y * y, y * z, z * z


@_inline
def _high_monomials(u):
    """Level 3."""
    x, y, z = u
    xx, yy, zz = x * x, y * y, z * z
    return xx * x, xx * y, xx * z, yy * x, x * y * z, zz * x, yy * y, yy * z, zz * y, zz * z


@_helper
def _accumulate_ten(radial, angular, count, n_l, moments, at, below_at):
    """Add R_n Y_l of a run of slots for ten monomials and two radial functions: twenty sums in registers."""
    step = lanes(moments)
    a, b = load_many(moments, at, step, 10), load_many(moments, below_at, step, 10)
    for k in range(count):
        y = load_many(angular, k * n_l * step, step, 10)
        a = add_scaled(a, load(radial, 2 * k * step), y)
        b = add_scaled(b, load(radial, (2 * k + 1) * step), y)
    store_many(moments, at, step, a)
    store_many(moments, below_at, step, b)


@_helper
def accumulate(slots, edges, frequencies, cutoff, exponent, n_l, moments):
    """Ã[(z, n), l] = Σ over edges of neighbour species z of R_n Y_l; fills ``moments`` (zn·nl·lanes,)."""
    step, n_rbf = lanes(moments), len(frequencies)
    size = len(edges) // 3
    norm = np.sqrt(2.0 / cutoff)
    radial, angular = np.empty(n_rbf * RUN * step, moments.dtype), np.empty(RUN * n_l * step, moments.dtype)
    moments[:] = 0.0
    for z in range(len(slots) - 1):
        for start in range(slots[z], slots[z + 1], RUN):
            count = min(RUN, slots[z + 1] - start)
            for k in range(count):
                _, u, r, inverse, f, df = _geometry(edges, (start + k) * step, size, cutoff, exponent)
                for n in range(n_rbf):
                    value, _ = radial_basis(r, inverse, item(frequencies, n), f, df, norm)
                    store(radial, ((n // 2 * RUN + k) * 2 + n % 2) * step, value)
                store_many(angular, k * n_l * step, step, _low_monomials(u))
                store(angular, k * n_l * step, zeros(moments) + 1.0)
                if n_l > 10:
                    store_many(angular, (k * n_l + 10) * step, step, _high_monomials(u))
            for n in range(0, n_rbf, 2):
                at = (z * n_rbf + n) * n_l * step
                values = radial[n * RUN * step :]
                _accumulate_ten(values, angular, count, n_l, moments, at, at + n_l * step)
                if n_l > 10:
                    at += 10 * step
                    _accumulate_ten(values, angular[10 * step :], count, n_l, moments, at, at + n_l * step)


@_inline
def _level(l):
    return (l > 0) + (l > 3) + (l > 9)


@_inline
def zero_tile(like):
    """TILE zeros."""
    o = zeros(like)
    return o, o, o, o, o, o, o, o


@_helper
def mix(moments, mixing, tile, n_tiles, n_l, a):
    """A[C, l] = Σ_(z, n) Ã[(z, n), l] K[level(l), (z, n), C] for one tile of channels; fills ``a`` (TILE·nl·lanes,)."""
    step = lanes(a)
    rows = len(moments) // (n_l * step)
    for l in range(n_l):
        at = (_level(l) * n_tiles + tile) * rows * TILE
        sums = zero_tile(a)
        for row in range(rows):
            sums = add_weighted(sums, load(moments, (row * n_l + l) * step), mixing, at + row * TILE)
        store_many(a, l * step, n_l * step, sums)


@_helper
def unmix(gradient_a, mixing, tile, n_tiles, n_l, gradient):
    """Adjoint of :func:`mix`, added to ``gradient`` (zn·nl·lanes,): dÃ[(z, n), l] += Σ_C K[level(l), (z, n), C] dA[C, l]
    over the channels of one tile."""
    step = lanes(gradient)
    rows = len(gradient) // (n_l * step)
    for l in range(n_l):
        g = load_many(gradient_a, l * step, n_l * step, TILE)
        at = (_level(l) * n_tiles + tile) * rows * TILE
        for row in range(rows):
            k, where = at + row * TILE, (row * n_l + l) * step
            even = load(gradient, where) + g[0] * item(mixing, k) + g[2] * item(mixing, k + 2)
            odd = g[1] * item(mixing, k + 1) + g[3] * item(mixing, k + 3)
            even = even + g[4] * item(mixing, k + 4) + g[6] * item(mixing, k + 6)
            odd = odd + g[5] * item(mixing, k + 5) + g[7] * item(mixing, k + 7)
            store(gradient, where, even + odd)


@_helper
def _slopes_ten(gradient, at, n_l, table, n_rbf, y):
    """Σ_n R_n g[n, l] for ten monomials, and Σ_nl dR_n/dr g[n, l] Y_l."""
    step = lanes(gradient)
    o = zeros(gradient)
    p, along = (o, o, o, o, o, o, o, o, o, o), o
    for n in range(n_rbf):
        g = load_many(gradient, at + n * n_l * step, step, 10)
        p = add_scaled(p, load(table, n * step), g)
        even = y[0] * g[0] + y[2] * g[2] + y[4] * g[4] + y[6] * g[6] + y[8] * g[8]
        odd = y[1] * g[1] + y[3] * g[3] + y[5] * g[5] + y[7] * g[7] + y[9] * g[9]
        along = along + load(table, (n_rbf + n) * step) * (even + odd)
    return p, along


@_helper
def edge_gradients(slots, edges, frequencies, cutoff, exponent, n_l, gradient, virial):
    """Gradient with respect to v of Σ_nl g[(z, n), l] R_n(r) Y_l(v/r) for every edge: overwrites ``edges``.

    gradient : (zn·nl·lanes,), in; dÃ of the atoms of the block
    virial : (9,) float64, out; Σ over edges of v_c ∂/∂v_d
    """
    step, n_rbf = lanes(gradient), len(frequencies)
    size = len(edges) // 3
    norm = np.sqrt(2.0 / cutoff)
    table = np.empty(2 * n_rbf * step, gradient.dtype)
    o = zeros(gradient)
    xx, xy, xz, yx, yy, yz, zx, zy, zz = o, o, o, o, o, o, o, o, o
    for z in range(len(slots) - 1):
        own = z * n_rbf * n_l * step
        for slot in range(slots[z], slots[z + 1]):
            v, u, r, inverse, f, df = _geometry(edges, slot * step, size, cutoff, exponent)
            for n in range(n_rbf):
                value, slope = radial_basis(r, inverse, item(frequencies, n), f, df, norm)
                store(table, n * step, value)
                store(table, (n_rbf + n) * step, slope)
            x, y, z_ = u
            q = _low_monomials(u)
            p, along = _slopes_ten(gradient, own, n_l, table, n_rbf, (o + 1.0, *q[1:]))
            gx = p[1] + 2.0 * p[4] * x + p[5] * y + p[6] * z_
            gy = p[2] + p[5] * x + 2.0 * p[7] * y + p[8] * z_
            gz = p[3] + p[6] * x + p[8] * y + 2.0 * p[9] * z_
            if n_l > 10:
                p, more = _slopes_ten(gradient, own + 10 * step, n_l, table, n_rbf, _high_monomials(u))
                along = along + more
                xy_, xz_, yz_ = 2.0 * q[5], 2.0 * q[6], 2.0 * q[8]
                gx = gx + 3.0 * p[0] * q[4] + p[1] * xy_ + p[2] * xz_ + p[3] * q[7] + p[4] * q[8] + p[5] * q[9]
                gy = gy + p[1] * q[4] + p[3] * xy_ + p[4] * q[6] + 3.0 * p[6] * q[7] + p[7] * yz_ + p[8] * q[9]
                gz = gz + p[2] * q[4] + p[4] * q[5] + p[5] * xz_ + p[7] * q[7] + p[8] * yz_ + 3.0 * p[9] * q[9]
            across = along - (gx * x + gy * y + gz * z_) * inverse
            gx, gy, gz = gx * inverse + across * x, gy * inverse + across * y, gz * inverse + across * z_
            store_many(edges, slot * step, size, (gx, gy, gz))
            xx, xy, xz = xx + v[0] * gx, xy + v[0] * gy, xz + v[0] * gz
            yx, yy, yz = yx + v[1] * gx, yy + v[1] * gy, yz + v[1] * gz
            zx, zy, zz = zx + v[2] * gx, zy + v[2] * gy, zz + v[2] * gz
    virial[0], virial[1], virial[2] = total(xx), total(xy), total(xz)
    virial[3], virial[4], virial[5] = total(yx), total(yy), total(yz)
    virial[6], virial[7], virial[8] = total(zx), total(zy), total(zz)
