"""Direct reciprocal sum of Gaussian multipoles on the CPU.

Everything is in lattice coordinates, k = 2π n·cell⁻ᵀ: dipoles and quadrupoles are given along the n, so that a form
factor is a polynomial in integers. Wave vectors are the half sphere, cut into rows of constant (n0, n1) and consecutive
n2. Atoms are worked on in vectors, one atom a lane (kernels/cpu/simd.py): along a row each atom's phase advances by one
complex product, its form factor is a polynomial of second order in n2, and fields are gathered as sums over the row of
1, n2, n2² times a phase; what depends on n0 and n1 comes in once per row. Structure factors are summed lane by lane over
a fixed number of groups of atoms and then over groups and lanes: results do not depend on the number of threads.
"""

import math

import numba
import numpy as np
from polmd.kernels.compile import kernel
from polmd.kernels.cpu.scalars import row_factors, sincos
from polmd.kernels.cpu.simd import item, lanes, load, load_many, store, total, zeros

#: Most groups of atoms of a structure factor sum.
GROUPS = 16
#: Rows of a block of atoms: fractional coordinates in [0, 1), charge, dipole, quadrupole (six) in lattice coordinates.
ROWS = 13

_helper = numba.njit(error_model="numpy", nogil=True, fastmath={"contract"})
_inline = numba.njit(error_model="numpy", nogil=True, forceinline=True, fastmath={"contract"})


@_inline
def _times(a, b):
    """Complex product of (re, im)."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


@_helper
def _powers(fraction, limit, table):
    """e^(2πi n s) for n = 0 … limit into ``table``; returns the one for n = 1."""
    step = lanes(table)
    s1, c1 = sincos(fraction * (2.0 * math.pi))
    one = (c1, s1)
    value = (zeros(table) + 1.0, zeros(table))
    for n in range(limit + 1):
        store(table, 2 * n * step, value[0])
        store(table, (2 * n + 1) * step, value[1])
        value = _times(value, one)
    return one


@_inline
def _power(table, n):
    """e^(2πi n s) for n of either sign."""
    step = lanes(table)
    at, sign = (n, 1.0) if n >= 0 else (-n, -1.0)
    return load(table, 2 * at * step), load(table, (2 * at + 1) * step) * sign


@_helper
def _add_to_structure(atoms, at, rows, t0, t1, t2, limits, sums, to):
    """Add a block's S(k), lane by lane, to nk·2·lanes numbers of ``sums`` from ``to`` on."""
    step = lanes(atoms)
    f = load_many(atoms, at, step, 3)
    _powers(f[0], limits[0], t0)
    _powers(f[1], limits[1], t1)
    turn = _powers(f[2], limits[2], t2)
    q, u, m = (
        load(atoms, at + 3 * step),
        load_many(atoms, at + 4 * step, step, 3),
        load_many(atoms, at + 7 * step, step, 6),
    )
    for row in range(len(rows)):
        n0, n1, n2, start, count = rows[row, 0], rows[row, 1], rows[row, 2], rows[row, 3], rows[row, 4]
        phase = _times(_times(_power(t0, n0), _power(t1, n1)), _power(t2, n2))
        a0, a1, a2, b0, b1 = row_factors(q, u, m, float(n0), float(n1))
        for k in range(count):
            n = float(n2 + k)
            even, odd = a0 + n * (a1 + n * a2), b0 + n * b1
            where = to + 2 * (start + k) * step
            store(sums, where, load(sums, where) + (even * phase[0] - odd * phase[1]))
            store(sums, where + step, load(sums, where + step) + (even * phase[1] + odd * phase[0]))
            phase = _times(phase, turn)


@_helper
def _add_rates_to_structure(atoms, at, moving, moving_at, rows, t0, t1, t2, limits, sums, to):
    """The same for dS/dt = Σ_j [dM_j(k)/dt + i k·v_j M_j(k)] e^(ik·r_j), M_j(k) the form factor."""
    step = lanes(atoms)
    f = load_many(atoms, at, step, 3)
    _powers(f[0], limits[0], t0)
    _powers(f[1], limits[1], t1)
    turn = _powers(f[2], limits[2], t2)
    q, u, m = (
        load(atoms, at + 3 * step),
        load_many(atoms, at + 4 * step, step, 3),
        load_many(atoms, at + 7 * step, step, 6),
    )
    v, dq, du, dm = (
        load_many(moving, moving_at, step, 3),
        load(moving, moving_at + 3 * step),
        load_many(moving, moving_at + 4 * step, step, 3),
        load_many(moving, moving_at + 7 * step, step, 6),
    )
    for row in range(len(rows)):
        n0, n1, n2, start, count = rows[row, 0], rows[row, 1], rows[row, 2], rows[row, 3], rows[row, 4]
        phase = _times(_times(_power(t0, n0), _power(t1, n1)), _power(t2, n2))
        a0, a1, a2, b0, b1 = row_factors(q, u, m, float(n0), float(n1))
        da0, da1, da2, db0, db1 = row_factors(dq, du, dm, float(n0), float(n1))
        speed = v[0] * float(n0) + v[1] * float(n1)
        for k in range(count):
            n = float(n2 + k)
            along = speed + n * v[2]
            even = da0 + n * (da1 + n * da2) - (b0 + n * b1) * along
            odd = db0 + n * db1 + (a0 + n * (a1 + n * a2)) * along
            where = to + 2 * (start + k) * step
            store(sums, where, load(sums, where) + (even * phase[0] - odd * phase[1]))
            store(sums, where + step, load(sums, where + step) + (even * phase[1] + odd * phase[0]))
            phase = _times(phase, turn)


@kernel(parallel=True)
def structure_factors(atoms, moving, rows, limits, groups, partial, structures):
    """S(k) = Σ_j [q_j + i k·u_j − ½ k·Q_j·k] e^(ik·r_j) on the half sphere, of several sets of moments; or dS/dt, of one set
    of moments in several motions.

    name        shape                       dtype    unit   in/out
    atoms       (sets·blocks·ROWS·lanes,)   float64  e, …   in, blocks of atoms; lanes without an atom hold zeros
    moving      (sets·blocks·ROWS·lanes,)   float64  e/fs   in, rates of the moments, and velocities in place of fractional
                                                            coordinates, times 2π; then atoms is of one set. Or length 0
    rows        (r, 5)                      int64           in, n0, n1, first n2, first index, count
    limits      (3,)                        int64           in, largest |n| of each axis
    groups      scalar                      int64           in, into how many the blocks are divided: the order of the sum
    partial     (sets·groups·nk·2·lanes,)   float64         scratch
    structures  (sets, 2, nk)               float64  e      out, real and imaginary part
    """
    step, sets, nk = lanes(atoms), len(structures), structures.shape[2]
    moves = len(moving) > 0
    blocks = (len(moving) if moves else len(atoms)) // (sets * ROWS * step)
    size, chunks = 2 * nk * step, (nk + 127) // 128
    for task in numba.prange(sets * groups):
        own, group = task // groups * blocks, task % groups
        t0, t1 = np.empty(2 * (limits[0] + 1) * step), np.empty(2 * (limits[1] + 1) * step)
        t2 = np.empty(2 * (limits[2] + 1) * step)
        for k in range(task * size, (task + 1) * size, step):
            store(partial, k, zeros(partial))
        for block in range(group * blocks // groups, (group + 1) * blocks // groups):
            at, at_own = block * ROWS * step, (own + block) * ROWS * step
            if moves:
                _add_rates_to_structure(atoms, at, moving, at_own, rows, t0, t1, t2, limits, partial, task * size)
            else:
                _add_to_structure(atoms, at_own, rows, t0, t1, t2, limits, partial, task * size)
    for task in numba.prange(sets * chunks):
        which, chunk = task // chunks, task % chunks
        for k in range(chunk * 128, min(nk, (chunk + 1) * 128)):
            for part in range(2):
                value = zeros(partial)
                for group in range(which * groups, (which + 1) * groups):
                    value = value + load(partial, group * size + (2 * k + part) * step)
                structures[which, part, k] = total(value)


@_helper
def _gather(atoms, at, rows, t0, t1, t2, limits, real, imaginary, columns, out, to):
    """φ, F and ∇∇φ and with 13 columns the force of one block, in lattice coordinates, into ``out``."""
    step = lanes(atoms)
    f = load_many(atoms, at, step, 3)
    _powers(f[0], limits[0], t0)
    _powers(f[1], limits[1], t1)
    turn = _powers(f[2], limits[2], t2)
    q, u, m = (
        load(atoms, at + 3 * step),
        load_many(atoms, at + 4 * step, step, 3),
        load_many(atoms, at + 7 * step, step, 6),
    )
    o = zeros(atoms)
    p, x, y, z = o, o, o, o
    xx, xy, xz, yy, yz, zz = o, o, o, o, o, o
    fx, fy, fz = o, o, o
    for row in range(len(rows)):
        n0, n1, n2, start, count = rows[row, 0], rows[row, 1], rows[row, 2], rows[row, 3], rows[row, 4]
        phase = _times(_times(_power(t0, n0), _power(t1, n1)), _power(t2, n2))
        s0, s1, s2, g0, g1, h0, h1 = o, o, o, o, o, o, o
        if columns == 13:
            a0, a1, a2, b0, b1 = row_factors(q, u, m, float(n0), float(n1))
            for k in range(count):
                n = float(n2 + k)
                v, w = item(real, start + k), item(imaginary, start + k)
                a, b = phase[0] * v + phase[1] * w, phase[1] * v - phase[0] * w
                h = (a0 + n * (a1 + n * a2)) * b + (b0 + n * b1) * a
                an = a * n
                s0, s1, s2 = s0 + a, s1 + an, s2 + an * n
                g0, g1 = g0 + b, g1 + b * n
                h0, h1 = h0 + h, h1 + h * n
                phase = _times(phase, turn)
        else:
            for k in range(count):
                n = float(n2 + k)
                v, w = item(real, start + k), item(imaginary, start + k)
                a, b = phase[0] * v + phase[1] * w, phase[1] * v - phase[0] * w
                an = a * n
                s0, s1, s2 = s0 + a, s1 + an, s2 + an * n
                g0, g1 = g0 + b, g1 + b * n
                phase = _times(phase, turn)
        i, j = float(n0), float(n1)
        p, x, y, z = p + s0, x + g0 * i, y + g0 * j, z + g1
        xx, xy, xz = xx - s0 * (i * i), xy - s0 * (i * j), xz - s1 * i
        yy, yz, zz = yy - s0 * (j * j), yz - s1 * j, zz - s2
        fx, fy, fz = fx + h0 * i, fy + h0 * j, fz + h1
    k = 0
    for value in (p, x, y, z, xx, xy, xz, yy, yz, zz):
        store(out, to + k * step, value)
        k += 1
    if columns == 13:
        for value in (fx, fy, fz):
            store(out, to + k * step, value)
            k += 1


@kernel(parallel=True)
def fields(atoms, rows, limits, structures, columns, out):
    """What atoms feel of several sources s(k) = w(k) S(k): φ = Σ_k Re[s e^(−ik·r)], F = −∇φ, ∇∇φ and the force on their
    moments.

    name                 shape                        dtype    unit  in/out
    atoms                (blocks·ROWS·lanes,)         float64        in, as in structure_factors
    rows, limits                                                     in, as there
    structures           (sets, 2, nk)                float64  V     in, real and imaginary part of each s on the half sphere
    columns              scalar                       int64          in, 10, or 13 with the force
    out                  (sets·blocks·columns·lanes,) float64        out, by block: φ (V), F (three), ∇∇φ (six), force on
                                                                     (q, u, Q) (three, eV) in lattice coordinates, without
                                                                     2π
    """
    step = lanes(atoms)
    blocks = len(atoms) // (ROWS * step)
    for task in numba.prange(len(structures) * blocks):
        own, block = structures[task // blocks], task % blocks
        t0, t1 = np.empty(2 * (limits[0] + 1) * step), np.empty(2 * (limits[1] + 1) * step)
        t2 = np.empty(2 * (limits[2] + 1) * step)
        _gather(atoms, block * ROWS * step, rows, t0, t1, t2, limits, own[0], own[1], columns, out,
                task * columns * step)  # fmt: skip


@kernel()
def add_strain(k, sigma, energies, strain):
    """Σ_k e(k) [2 (σ²/2 + 1/k²) k ⊗ k − 1] added to ``strain`` (3, 3) eV: the strain gradient through k, G(k) and the volume
    at constant structure factors. ``k`` (3, nk) 1/Å and ``energies`` (nk,) eV in."""
    total, xx, xy, xz, yy, yz, zz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for n in range(k.shape[1]):
        x, y, z = k[0, n], k[1, n], k[2, n]
        e = energies[n]
        f = e * (sigma * sigma + 2.0 / (x * x + y * y + z * z))
        total += e
        xx += f * x * x
        xy += f * x * y
        xz += f * x * z
        yy += f * y * y
        yz += f * y * z
        zz += f * z * z
    strain[0, 0] += xx - total
    strain[1, 1] += yy - total
    strain[2, 2] += zz - total
    strain[0, 1] += xy
    strain[1, 0] += xy
    strain[0, 2] += xz
    strain[2, 0] += xz
    strain[1, 2] += yz
    strain[2, 1] += yz
