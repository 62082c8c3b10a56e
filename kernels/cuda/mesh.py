"""Particle mesh on a GPU: B-spline spreading of multipoles, convolution, interpolation up to third derivatives.

What kernels/cpu/mesh.py does, in coordinates of the mesh: with G[c, d] = inverse[c, d]·N_d in the place of the lattice,
sources, fields and forces are those of kspace.py, and moments.py takes both alike.

Spreading is free of atomics: a block owns a tile of mesh points and goes through the atoms whose patches may reach it,
sorted, batch by batch through shared memory. The transforms are somebody else's (polmd/cuda/fft.py).
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numba import cuda, types
from polmd.kernels.cuda.compile import Kernel, array, device, real
from polmd.kernels.cuda.descriptor import TILES

#: Mesh points along each edge of a tile, atoms of a batch, longest splines.
TILE, BATCH, LONGEST = 8, 8, 12
_POINTS = TILE**3
_F2, _I, _I2 = array(types.float64, 2), array(types.int32), array(types.int32, 2)
_DOUBLE = np.dtype(np.float64)


@functools.cache
def clear(block: int = 128) -> Kernel:
    """Empty the tiles: members (tiles,) out."""

    def clear(members):
        for tile in range(cuda.grid(1), len(members), cuda.gridsize(1)):
            members[tile] = 0

    return Kernel(clear, (_I,), _DOUBLE, block, occupancy=0.5)


@functools.cache
def sort_atoms(order: int, block: int = 128) -> Kernel:
    """First mesh point of every atom's patch, and the atoms of every tile of such points.

    name       shape          dtype    in/out
    fractions  (n, 3)         float64  in, in [0, 1)
    shape      (6,)           int32    in, mesh points and tiles along each axis
    corners    (n, 3)         int32    out, in [0, N)
    offsets    (n, 3)         float64  out, t − ½ of the splines
    members    (tiles,)       int32    in/out
    atoms      (tiles, room)  int32    out
    flags      (6,)           int32    in/out, the room that was needed
    """
    half = order // 2 - 1

    def sort_atoms(fractions, shape, corners, offsets, members, atoms, flags):
        for i in range(cuda.grid(1), len(fractions), cuda.gridsize(1)):
            tile = 0
            for axis in range(3):
                x = fractions[i, axis] * shape[axis]
                cell = int(math.floor(x))  # noqa: RUF046  a float on the device
                offsets[i, axis] = x - cell - 0.5
                corner = cell - half
                if corner < 0:
                    corner += shape[axis]
                elif corner >= shape[axis]:
                    corner -= shape[axis]
                corners[i, axis] = corner
                tile = tile * shape[3 + axis] + corner // TILE
            k = cuda.atomic.add(members, tile, 1)
            if k < atoms.shape[1]:
                atoms[tile, k] = i
            else:
                cuda.atomic.max(flags, TILES, k + 1)

    return Kernel(sort_atoms, (_F2, _I, _I2, _F2, _I, _I2, _I), _DOUBLE, block, occupancy=0.5)


@functools.cache
def order_atoms(block: int = 64) -> Kernel:
    """Sort the atoms of every tile: members, atoms as above, one thread a tile."""

    def order_atoms(members, atoms):
        for tile in range(cuda.grid(1), len(members), cuda.gridsize(1)):
            for k in range(1, min(members[tile], atoms.shape[1])):
                atom, place = atoms[tile, k], k
                while place > 0 and atoms[tile, place - 1] > atom:
                    atoms[tile, place] = atoms[tile, place - 1]
                    place -= 1
                atoms[tile, place] = atom

    return Kernel(order_atoms, (_I, _I2), _DOUBLE, block, occupancy=0.5)


def _spline(dtype: np.dtype, order: int):
    """Device function: the spline (derivative d) of mesh point j of a patch, from the table of its polynomials."""

    def spline(table, d, j, t):
        value = table[d, order - 1, j]
        for power in range(order - 2, -1, -1):
            value = value * t + table[d, power, j]
        return value

    return device(spline, dtype)


@functools.cache
def spread(order: int, rank: int, dtype: np.dtype, block: int = 128) -> Kernel:
    """ρ(m) = Σ_j [q_j + u_j·∇_j + ½ Q_j:∇_j∇_j] Π_d M(m_d − N_d s_jd). One block a tile.

    name              shape           dtype    in/out
    corners, offsets, members, atoms           in, from sort_atoms and order_atoms
    shape             (6,)            int32    in
    near              (3, tiles, 6)   int32    in, how many tiles have patches that reach one, and which
    table             (4, 12, 12)     of this  in, polynomials of the splines: derivative, power of t − ½, mesh point
    sources           (n, 10 or 4)    of this  in, in coordinates of the mesh
    density           (Nx, Ny, Nz)    of this  out
    """
    number, kind, spline = real(dtype), np.dtype(dtype).type, _spline(dtype, order)
    per_thread, columns = -(-_POINTS // block), 10 if rank == 2 else 4
    derivatives = 3 if rank == 2 else 2
    room, what, places, zero = BATCH * 108, BATCH * 10, BATCH * 3, kind(0)

    def spread(corners, offsets, members, atoms, shape, near, table, sources, density):
        s = cuda.shared.array(room, number)  # splines: atom of the batch, axis, derivative, mesh point
        moments = cuda.shared.array(what, number)
        first = cuda.shared.array(places, types.int32)
        sums = cuda.local.array(per_thread, number)
        thread, threads, tile = cuda.threadIdx.x, cuda.blockDim.x, cuda.blockIdx.x
        tz = tile % shape[5]
        ty = (tile // shape[5]) % shape[4]
        tx = tile // (shape[5] * shape[4])
        nx, ny, nz = shape[0], shape[1], shape[2]
        for k in range(per_thread):
            sums[k] = zero
        for a in range(near[0, tx, 0]):
            for b in range(near[1, ty, 0]):
                for c in range(near[2, tz, 0]):
                    other = (near[0, tx, 1 + a] * shape[4] + near[1, ty, 1 + b]) * shape[5] + near[2, tz, 1 + c]
                    count = min(members[other], atoms.shape[1])
                    for start in range(0, count, BATCH):
                        m = min(BATCH, count - start)
                        cuda.syncthreads()
                        for k in range(thread, m * 36, threads):
                            p = k // 36
                            axis = (k - 36 * p) // 12
                            j, i = k % 12, atoms[other, start + p]
                            t = kind(offsets[i, axis])
                            for d in range(derivatives):
                                s[p * 108 + axis * 36 + d * 12 + j] = spline(table, d, j, t) if j < order else zero
                        for k in range(thread, m * columns, threads):
                            p = k // columns
                            moments[p * 10 + k - p * columns] = sources[atoms[other, start + p], k - p * columns]
                        for k in range(thread, m * 3, threads):
                            p = k // 3
                            first[k] = corners[atoms[other, start + p], k - 3 * p]
                        cuda.syncthreads()
                        for k in range(per_thread):
                            point = thread + k * threads
                            x, y = TILE * tx + point // (TILE * TILE), TILE * ty + (point // TILE) % TILE
                            z = TILE * tz + point % TILE
                            if point >= TILE * TILE * TILE or x >= nx or y >= ny or z >= nz:
                                continue
                            total = sums[k]
                            for p in range(m):
                                i, j, l = x - first[3 * p], y - first[3 * p + 1], z - first[3 * p + 2]
                                i, j = i + nx if i < 0 else i, j + ny if j < 0 else j
                                l = l + nz if l < 0 else l
                                if i >= order or j >= order or l >= order:
                                    continue
                                e, w = p * 108, p * 10
                                x0, x1 = s[e + i], s[e + 12 + i]
                                y0, y1 = s[e + 36 + j], s[e + 48 + j]
                                z0, z1 = s[e + 72 + l], s[e + 84 + l]
                                along = moments[w] * x0 + moments[w + 1] * x1
                                across = moments[w + 2] * x0
                                up = moments[w + 3] * x0
                                if rank == 2:
                                    x2, y2, z2 = s[e + 24 + i], s[e + 60 + j], s[e + 96 + l]
                                    along += 0.5 * moments[w + 4] * x2
                                    across += moments[w + 5] * x1
                                    up += moments[w + 6] * x1
                                    total += 0.5 * x0 * (moments[w + 7] * y2 * z0 + moments[w + 9] * y0 * z2)
                                    total += moments[w + 8] * x0 * y1 * z1
                                total += (along * y0 + across * y1) * z0 + up * y0 * z1
                            sums[k] = total
        for k in range(per_thread):
            point = thread + k * threads
            x, y = TILE * tx + point // (TILE * TILE), TILE * ty + (point // TILE) % TILE
            z = TILE * tz + point % TILE
            if point < TILE * TILE * TILE and x < nx and y < ny and z < nz:
                density[x, y, z] = sums[k]

    return Kernel(
        spread,
        (_I2, _F2, _I, _I2, _I, array(types.int32, 3), array(number, 3), array(number, 2), array(number, 3)),
        np.dtype(dtype), block, occupancy=0.25,
    )  # fmt: skip


@functools.cache
def convolve(both: bool, dtype: np.dtype, block: int = 128) -> Kernel:
    """Influence function times spectrum: influence (m,), spectrum, more (m, 2) in; out (m, 2)."""
    number = real(dtype)

    def convolve(influence, spectrum, more, out):
        for k in range(cuda.grid(1), len(influence), cuda.gridsize(1)):
            for part in range(2):
                value = spectrum[k, part]
                if both:
                    value = value + more[k, part]
                out[k, part] = influence[k] * value

    kinds = array(number), array(number, 2), array(number, 2), array(number, 2)
    return Kernel(convolve, kinds, np.dtype(dtype), block, occupancy=0.5)


@functools.cache
def gather_modes(dtype: np.dtype, block: int = 128) -> Kernel:
    """Modes of the sum from a spectrum, as structure factors: spectrum (m, 2), modes (nk,) int64 in; structure (2, nk) out."""

    def gather_modes(spectrum, modes, structure):
        for k in range(cuda.grid(1), len(modes), cuda.gridsize(1)):
            for part in range(2):
                structure[part, k] = spectrum[modes[k], part]

    return Kernel(gather_modes, (array(real(dtype), 2), array(types.int64), _F2), np.dtype(dtype), block, occupancy=0.5)


@functools.cache
def interpolate(order: int, columns: int, dtype: np.dtype, block: int = 64) -> Kernel:
    """Potential of a mesh at the atoms and its derivatives, as kspace.fields has them. One block an atom.

    name               shape         dtype    unit  in/out
    corners, offsets, shape, table                  in, as in spread
    potential          (Nx, Ny, Nz)  of this  V     in
    sources            (n, 10)       of this        in, moments that feel the force, in coordinates of the mesh
    out                (n, columns)  float64        out, φ, F = −∇φ, ∇∇φ (six), with 13 columns the force
    """
    number, kind, spline = real(dtype), np.dtype(dtype).type, _spline(dtype, order)
    threads, force, zero, nothing = block, columns == 13, kind(0), np.float64(0)
    derivatives, count = (4, 20) if force else (3, 10)

    def interpolate(corners, offsets, shape, table, potential, sources, out):
        s = cuda.shared.array(144, number)
        partial = cuda.shared.array(threads, types.float64)
        found = cuda.shared.array(20, number)
        i, thread = cuda.blockIdx.x, cuda.threadIdx.x
        for k in range(thread, 36, threads):
            axis = k // 12
            j, t = k - 12 * axis, kind(offsets[i, axis])
            for d in range(derivatives):
                s[48 * axis + 12 * d + j] = spline(table, d, j, t) if j < order else zero
        cuda.syncthreads()
        v, x, y, z, xx, xy, xz, yy, yz, zz = zero, zero, zero, zero, zero, zero, zero, zero, zero, zero
        xxx, xxy, xxz, xyy, xyz = zero, zero, zero, zero, zero
        xzz, yyy, yyz, yzz, zzz = zero, zero, zero, zero, zero
        for line in range(thread, order * order, threads):
            a = line // order
            b = line - a * order
            px, py = corners[i, 0] + a, corners[i, 1] + b
            px, py = px - shape[0] if px >= shape[0] else px, py - shape[1] if py >= shape[1] else py
            t0, t1, t2, t3 = zero, zero, zero, zero
            for c in range(order):
                pz = corners[i, 2] + c
                pz = pz - shape[2] if pz >= shape[2] else pz
                p = potential[px, py, pz]
                t0, t1, t2 = t0 + p * s[96 + c], t1 + p * s[108 + c], t2 + p * s[120 + c]
                if force:
                    t3 += p * s[132 + c]
            x0, x1, x2 = s[a], s[12 + a], s[24 + a]
            y0, y1, y2 = s[48 + b], s[60 + b], s[72 + b]
            v, x, y, z = v + x0 * y0 * t0, x + x1 * y0 * t0, y + x0 * y1 * t0, z + x0 * y0 * t1
            xx, xy, xz = xx + x2 * y0 * t0, xy + x1 * y1 * t0, xz + x1 * y0 * t1
            yy, yz, zz = yy + x0 * y2 * t0, yz + x0 * y1 * t1, zz + x0 * y0 * t2
            if force:
                x3, y3 = s[36 + a], s[84 + b]
                xxx, xxy, xxz = xxx + x3 * y0 * t0, xxy + x2 * y1 * t0, xxz + x2 * y0 * t1
                xyy, xyz, xzz = xyy + x1 * y2 * t0, xyz + x1 * y1 * t1, xzz + x1 * y0 * t2
                yyy, yyz, yzz, zzz = yyy + x0 * y3 * t0, yyz + x0 * y2 * t1, yzz + x0 * y1 * t2, zzz + x0 * y0 * t3
        sums = v, x, y, z, xx, xy, xz, yy, yz, zz, xxx, xxy, xxz, xyy, xyz, xzz, yyy, yyz, yzz, zzz
        for c in range(count):
            cuda.syncthreads()
            partial[thread] = sums[c]
            cuda.syncthreads()
            if thread == 0:
                total = nothing
                for k in range(threads):
                    total += partial[k]
                found[c] = kind(total)
                if c < 10:
                    out[i, c] = -total if 0 < c < 4 else total
        if force and thread == 0:
            q, u, v_, w = sources[i, 0], sources[i, 1], sources[i, 2], sources[i, 3]
            m0, m1, m2, m3, m4, m5 = (
                0.5 * sources[i, 4], sources[i, 5], sources[i, 6], 0.5 * sources[i, 7], sources[i, 8], 0.5 * sources[i, 9],
            )  # fmt: skip
            f = q * found[1] + u * found[4] + v_ * found[5] + w * found[6]
            f += m0 * found[10] + m3 * found[13] + m5 * found[15] + m1 * found[11] + m2 * found[12] + m4 * found[14]
            out[i, 10] = -f
            f = q * found[2] + u * found[5] + v_ * found[7] + w * found[8]
            f += m0 * found[11] + m3 * found[16] + m5 * found[18] + m1 * found[13] + m2 * found[14] + m4 * found[17]
            out[i, 11] = -f
            f = q * found[3] + u * found[6] + v_ * found[8] + w * found[9]
            f += m0 * found[12] + m3 * found[17] + m5 * found[19] + m1 * found[14] + m2 * found[15] + m4 * found[18]
            out[i, 12] = -f

    return Kernel(
        interpolate,
        (_I2, _F2, _I, array(number, 3), array(number, 3), array(number, 2), _F2), np.dtype(dtype), block,
        occupancy=0.25 if np.dtype(dtype).itemsize == 4 else 0.18, sums="fields of an atom",
    )  # fmt: skip


def plan_tiles(shape: tuple[int, int, int], order: int) -> tuple[np.ndarray, np.ndarray]:
    """``shape`` (6,) and ``near`` (3, tiles, 6) of the kernels above."""
    tiles = [-(-n // TILE) for n in shape]
    near = np.zeros((3, max(tiles), 6), np.int32)
    for axis, n in enumerate(shape):
        for tile in range(tiles[axis]):
            last = min(n, TILE * (tile + 1)) - 1
            reached = sorted({c % n // TILE for c in range(TILE * tile - order + 1, last + 1)})
            near[axis, tile, 0] = len(reached)
            near[axis, tile, 1 : 1 + len(reached)] = reached
    return np.array([*shape, *tiles], np.int32), near
