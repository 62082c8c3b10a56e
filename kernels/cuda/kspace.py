"""Direct reciprocal sum of Gaussian multipoles on a GPU.

In lattice coordinates, as in kernels/cpu/kspace.py, with one phase computed for each atom and wave vector. A block takes a
number of wave vectors (or atoms) and divides the sum over atoms (or wave vectors) among its threads: the other side comes
tile by tile into shared memory, and the parts are added in a fixed order at the end, in float64. No atomics.

In float32 the phase is exact but for its last rounding: fractional coordinates are integers of 32 bits, and the product
with n modulo 2³² is the fraction of n·s.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numba import cuda, types
from polmd.kernels.cuda.compile import Kernel, array, device, real, scalars

#: Wave vectors (atoms) of a block and parts of the sum of each.
SIDE, PARTS = 32, 8
_F2 = array(types.float64, 2)


def _fraction_type(dtype: np.dtype):
    return types.int64 if np.dtype(dtype).itemsize == 4 else types.float64


def _phase(dtype: np.dtype):
    """Device function: (sin, cos) of 2π n·s."""
    kind, sincos = np.dtype(dtype).type, scalars(dtype).sincos
    whole, half, turn = 1 << 32, 1 << 31, kind(2.0 * math.pi / 2.0**32)
    two_pi, magic = kind(2.0 * math.pi), kind(1.5 * 2.0**52) if np.dtype(dtype).itemsize == 8 else kind(0)

    def phase_single(n0, n1, n2, s0, s1, s2):
        x = (n0 * s0 + n1 * s1 + n2 * s2) & (whole - 1)
        if x >= half:
            x -= whole
        return sincos(kind(x) * turn)

    def phase_double(n0, n1, n2, s0, s1, s2):
        x = n0 * s0 + n1 * s1 + n2 * s2
        return sincos((x - ((x + magic) - magic)) * two_pi)

    return device(phase_single if np.dtype(dtype).itemsize == 4 else phase_double, dtype)


@functools.cache
def structure_factor(rank: int, dtype: np.dtype, side: int = SIDE, parts: int = PARTS) -> Kernel:
    """S(k) = Σ_j [q_j + i k·u_j − ½ k·Q_j·k] e^(ik·r_j) on the half sphere. Blocks: ⌈nk/side⌉.

    name       shape             dtype    unit  in/out
    fractions  (n, 3)            of phases      in, from moments.pack_fractions
    sources    (n, 10 or 4)      of this  e, …  in, charge, dipole and with rank 2 quadrupole in lattice coordinates
    waves      (nk, 3)           int32          in, n of each wave vector
    structure  (2, nk)           float64  e     out, real and imaginary part
    """
    p, kind, columns = scalars(dtype), np.dtype(dtype).type, 10 if rank == 2 else 4
    phase, row_factors, number, fraction = _phase(dtype), p.row_factors, real(dtype), _fraction_type(dtype)
    threads = side * parts
    tile, room, points, sums = threads, threads * columns, 3 * threads, 2 * threads
    nothing, zero = np.float64(0), kind(0)

    def structure_factor(fractions, sources, waves, structure):
        where = cuda.shared.array(points, fraction)  # one line each: the simulator tells arrays apart by line
        what = cuda.shared.array(room, number)
        partial = cuda.shared.array(sums, types.float64)
        thread, n, nk = cuda.threadIdx.x, len(fractions), len(waves)
        part = thread // side
        k = cuda.blockIdx.x * side + thread - part * side
        n0, n1, n2 = 0, 0, 0
        if k < nk:
            n0, n1, n2 = waves[k, 0], waves[k, 1], waves[k, 2]
        i, j, l = kind(n0), kind(n1), kind(n2)
        re, im = nothing, nothing
        for start in range(0, n, tile):
            m = min(tile, n - start)
            cuda.syncthreads()
            if thread < m:
                for d in range(3):
                    where[3 * thread + d] = fractions[start + thread, d]
                for c in range(columns):
                    what[columns * thread + c] = sources[start + thread, c]
            cuda.syncthreads()
            x, y = zero, zero  # sums over a tile in the precision of the kernel: converting every term would cost more
            for a in range(part, m, parts):
                b = columns * a
                sine, cosine = phase(n0, n1, n2, where[3 * a], where[3 * a + 1], where[3 * a + 2])
                if rank == 2:
                    a0, a1, a2, b0, b1 = row_factors(
                        what[b], (what[b + 1], what[b + 2], what[b + 3]),
                        (what[b + 4], what[b + 5], what[b + 6], what[b + 7], what[b + 8], what[b + 9]), i, j,
                    )  # fmt: skip
                    even, odd = a0 + l * (a1 + l * a2), b0 + l * b1
                else:
                    even, odd = what[b], what[b + 1] * i + what[b + 2] * j + what[b + 3] * l
                x += even * cosine - odd * sine
                y += even * sine + odd * cosine
            re, im = re + x, im + y
        partial[thread], partial[threads + thread] = re, im
        cuda.syncthreads()
        if part == 0 and k < nk:
            re, im = nothing, nothing
            for q in range(parts):
                re += partial[thread + q * side]
                im += partial[threads + thread + q * side]
            structure[0, k], structure[1, k] = re, im

    return Kernel(
        structure_factor, (array(fraction, 2), array(number, 2), array(types.int32, 2), _F2), np.dtype(dtype), threads,
        occupancy=0.37 if np.dtype(dtype).itemsize == 4 else 0.25, sums="structure factors",
    )  # fmt: skip


@functools.cache
def fields(columns: int, both: bool, dtype: np.dtype, side: int = SIDE, parts: int = PARTS) -> Kernel:
    """What atoms feel of a source s(k) = w(k) S(k): φ = Σ_k Re[s e^(−ik·r)], F = −∇φ, ∇∇φ and the force on their moments.
    Blocks: ⌈n/side⌉.

    name                     shape         dtype    unit  in/out
    fractions, sources, waves                             in, as in structure_factor (sources of rank 2)
    weights                  (nk,)         of this        in, w
    structure, more          (2, nk)       float64  e     in, S, and with ``both`` what is added to it
    out                      (n, columns)  float64        out, φ (V), F (three), ∇∇φ (six), with 13 columns the force on
                                                          (q, u, Q) (three, eV); lattice coordinates, without 2π
    """
    p, kind = scalars(dtype), np.dtype(dtype).type
    phase, row_factors, number, fraction = _phase(dtype), p.row_factors, real(dtype), _fraction_type(dtype)
    threads = side * parts
    tile, points, force = threads, 3 * threads, columns == 13
    nothing, zero = np.float64(0), kind(0)

    def fields(fractions, sources, waves, weights, structure, more, out):
        numbers = cuda.shared.array(points, types.int32)
        s = cuda.shared.array(tile, number)
        t = cuda.shared.array(tile, number)
        partial = cuda.shared.array(tile, types.float64)
        thread, n, nk = cuda.threadIdx.x, len(fractions), len(waves)
        part = thread // side
        lane = thread - part * side
        a = min(cuda.blockIdx.x * side + lane, n - 1)
        mine = part == 0 and cuda.blockIdx.x * side + lane < n
        s0, s1, s2 = fractions[a, 0], fractions[a, 1], fractions[a, 2]
        q, u = sources[a, 0], (sources[a, 1], sources[a, 2], sources[a, 3])
        m = sources[a, 4], sources[a, 5], sources[a, 6], sources[a, 7], sources[a, 8], sources[a, 9]
        d0, d1, d2, d3, d4, d5, d6 = nothing, nothing, nothing, nothing, nothing, nothing, nothing
        d7, d8, d9, d10, d11, d12 = nothing, nothing, nothing, nothing, nothing, nothing
        for start in range(0, nk, tile):
            count = min(tile, nk - start)
            cuda.syncthreads()
            if thread < count:
                k = start + thread
                w, re, im = weights[k], structure[0, k], structure[1, k]
                if both:
                    re, im = re + more[0, k], im + more[1, k]
                s[thread], t[thread] = w * kind(re), w * kind(im)
                for d in range(3):
                    numbers[3 * thread + d] = waves[k, d]
            cuda.syncthreads()
            v, x, y, z, xx, xy, xz = zero, zero, zero, zero, zero, zero, zero
            yy, yz, zz, fx, fy, fz = zero, zero, zero, zero, zero, zero
            for k in range(part, count, parts):
                n0, n1, n2 = numbers[3 * k], numbers[3 * k + 1], numbers[3 * k + 2]
                sine, cosine = phase(n0, n1, n2, s0, s1, s2)
                i, j, l = kind(n0), kind(n1), kind(n2)
                g, h = cosine * s[k] + sine * t[k], sine * s[k] - cosine * t[k]
                v += g
                x, y, z = x + h * i, y + h * j, z + h * l
                xx, xy, xz = xx - g * i * i, xy - g * i * j, xz - g * i * l
                yy, yz, zz = yy - g * j * j, yz - g * j * l, zz - g * l * l
                if force:
                    a0, a1, a2, b0, b1 = row_factors(q, u, m, i, j)
                    f = (a0 + l * (a1 + l * a2)) * h + (b0 + l * b1) * g
                    fx, fy, fz = fx + f * i, fy + f * j, fz + f * l
            d0, d1, d2, d3, d4, d5, d6 = d0 + v, d1 + x, d2 + y, d3 + z, d4 + xx, d5 + xy, d6 + xz
            d7, d8, d9 = d7 + yy, d8 + yz, d9 + zz
            if force:
                d10, d11, d12 = d10 + fx, d11 + fy, d12 + fz
        found = d0, d1, d2, d3, d4, d5, d6, d7, d8, d9, d10, d11, d12
        for c in range(columns):
            cuda.syncthreads()
            partial[thread] = found[c]
            cuda.syncthreads()
            if mine:
                total = nothing
                for r in range(parts):
                    total += partial[lane + r * side]
                out[a, c] = total

    return Kernel(
        fields,
        (array(fraction, 2), array(number, 2), array(types.int32, 2), array(number), _F2, _F2, _F2),
        np.dtype(dtype), threads, occupancy=0.25, sums="fields of an atom",
    )  # fmt: skip


@functools.cache
def strain_sums(block: int = 256) -> Kernel:
    """Σ_k e(k) and Σ_k 2 (σ²/2 + 1/k²) k_a k_b e(k) with e = ½ w S·(S + 2 S̃), one block.

    name             shape    dtype    unit  in/out
    vectors          (nk, 3)  float64  1/Å   in, k
    sigma            (1,)     float64  Å     in
    weights          (nk,)    float64        in, w
    structure, more  (2, nk)  float64  e     in, S and S̃, those of M and of M̃
    out              (7,)     float64  eV    out
    """
    threads, room = block, 7 * block

    def strain_sums(vectors, sigma, weights, structure, more, out):
        s = cuda.shared.array(room, types.float64)
        thread = cuda.threadIdx.x
        for c in range(7):
            s[7 * thread + c] = 0.0
        for k in range(thread, len(vectors), threads):
            x, y, z = vectors[k, 0], vectors[k, 1], vectors[k, 2]
            re, im = structure[0, k], structure[1, k]
            e = 0.5 * weights[k] * (re * (re + 2.0 * more[0, k]) + im * (im + 2.0 * more[1, k]))
            f = e * (sigma[0] * sigma[0] + 2.0 / (x * x + y * y + z * z))
            s[7 * thread] += e
            s[7 * thread + 1] += f * x * x
            s[7 * thread + 2] += f * x * y
            s[7 * thread + 3] += f * x * z
            s[7 * thread + 4] += f * y * y
            s[7 * thread + 5] += f * y * z
            s[7 * thread + 6] += f * z * z
        cuda.syncthreads()
        for c in range(thread, 7, threads):
            total = 0.0
            for r in range(threads):
                total += s[7 * r + c]
            out[c] = total

    f = array(types.float64)
    return Kernel(strain_sums, (_F2, f, f, _F2, _F2, f), np.dtype(np.float64), block, occupancy=0.25)
