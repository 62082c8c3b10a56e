"""From positions to edges, and from edges to radial functions and monomials and back."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import numpy as np
from numba import cuda, types
from polmd.kernels.cuda.compile import Kernel, array, device, real, scalars

#: Places of the flags on the device (neighbors.py).
REBUILD, CELLS, NEIGHBORS, BUILDS, BAD, TILES = range(6)


@functools.cache
def functions(exponent: int, cutoff: float, n_l: int, dtype: np.dtype) -> SimpleNamespace:
    """Device functions: ``geometry`` of an edge, ``monomials``, ``radial``."""
    p, kind = scalars(dtype), np.dtype(dtype).type
    cutoff_function, radial_basis, square_root = p.cutoff_function, p.radial_basis, p.square_root
    reach, per_cutoff, order, norm = kind(cutoff), kind(1.0 / cutoff), kind(exponent), kind(np.sqrt(2.0 / cutoff))

    def geometry(x, y, z):
        """(r, 1/r, f, df/dr) of an edge."""
        r = square_root(x * x + y * y + z * z)
        u = r * per_cutoff
        power = u
        for _ in range(exponent - 2):
            power = power * u
        f, df = cutoff_function(u, (order, power))
        if r < reach:
            return r, 1.0 / r, f, df * per_cutoff
        return r, 1.0 / r, 0.0, 0.0

    def monomials(x, y, z, out, at, step):
        """1, x, y, z, xx, … zzz of a unit vector."""
        xx, yy, zz = x * x, y * y, z * z
        out[at] = 1.0
        out[at + step], out[at + 2 * step], out[at + 3 * step] = x, y, z
        out[at + 4 * step], out[at + 5 * step], out[at + 6 * step] = xx, x * y, x * z
        out[at + 7 * step], out[at + 8 * step], out[at + 9 * step] = yy, y * z, zz
        if n_l > 10:
            out[at + 10 * step], out[at + 11 * step], out[at + 12 * step] = xx * x, xx * y, xx * z
            out[at + 13 * step], out[at + 14 * step], out[at + 15 * step] = yy * x, x * y * z, zz * x
            out[at + 16 * step], out[at + 17 * step] = yy * y, yy * z
            out[at + 18 * step], out[at + 19 * step] = zz * y, zz * z

    def radial(r, inverse, frequency, f, df):
        """R and dR/dr."""
        return radial_basis(r, inverse, frequency, f, df, norm)

    return SimpleNamespace(
        geometry=device(geometry, dtype), monomials=device(monomials, dtype), radial=device(radial, dtype)
    )


@functools.cache
def find_edges(n_types: int, cutoff: float, capacity: int, dtype: np.dtype, block: int = 32) -> Kernel:
    """Edges inside the cutoff, sorted by the element of the neighbour, in the order of the list.

    name            shape          dtype         unit  in/out
    positions       (n, 3)         float64       Å     in
    cell            (3, 3)         float64       Å     in
    types           (n,)           int32               in, element of every atom
    counts          (n,)           int32               in, pairs of every atom
    neighbors       (n, capacity)  int32               in
    shifts          (n, capacity, 3) int32             in, v = r_i − r_j − shifts·cell
    vectors         (n, capacity, 3) of network  Å     out, v of every edge
    starts          (n, n_types + 1) int32             out, first edge of each element
    edge_of         (n, capacity)  int32               out, edge of every pair or −1
    flags           (6,)           int32               in/out, the list is up to date from now on
    """
    kind = np.dtype(dtype).type
    edge = real(dtype)
    square, room, int32 = np.float64(cutoff * cutoff), 3 * capacity, types.int32

    def edges(positions, cell, types, counts, neighbors, shifts, vectors, starts, edge_of, flags):
        marks = cuda.shared.array(capacity, int32)
        found = cuda.shared.array(room, edge)
        i, thread, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
        if i == 0 and thread == 0:
            flags[REBUILD] = 0
        m = min(counts[i], capacity)
        for p in range(thread, m, threads):
            j = neighbors[i, p]
            s0, s1, s2 = shifts[i, p, 0], shifts[i, p, 1], shifts[i, p, 2]
            x = (positions[i, 0] - positions[j, 0]) - (s0 * cell[0, 0] + s1 * cell[1, 0] + s2 * cell[2, 0])
            y = (positions[i, 1] - positions[j, 1]) - (s0 * cell[0, 1] + s1 * cell[1, 1] + s2 * cell[2, 1])
            z = (positions[i, 2] - positions[j, 2]) - (s0 * cell[0, 2] + s1 * cell[1, 2] + s2 * cell[2, 2])
            marks[p] = types[j] + 1 if x * x + y * y + z * z < square else 0
            found[3 * p], found[3 * p + 1], found[3 * p + 2] = kind(x), kind(y), kind(z)
        cuda.syncthreads()
        for p in range(thread, m, threads):
            mine, place = marks[p], 0
            if mine == 0:
                edge_of[i, p] = -1
                continue
            for q in range(m):
                other = marks[q]
                if 0 < other < mine or (other == mine and q < p):
                    place += 1
            edge_of[i, p] = place
            for c in range(3):
                vectors[i, place, c] = found[3 * p + c]
        for z in range(thread, n_types + 1, threads):
            before = 0
            for q in range(m):
                if 0 < marks[q] <= z:
                    before += 1
            starts[i, z] = before

    return Kernel(
        edges,
        (
            array(types.float64, 2), array(types.float64, 2), array(int32), array(int32), array(int32, 2),
            array(int32, 3), array(edge, 3), array(int32, 2), array(int32, 2), array(int32),
        ),
        np.dtype(dtype), block, occupancy=0.5, double=(24, "edge vectors and their squares, made of float64 positions"),
    )  # fmt: skip
