"""The electrical response on a GPU: charge that moves along the edges of the neighbour list. Its other parts are adjoint passes
(network.reverse) and fields (kspace.fields, pairs.all_pairs) of other seeds and sources."""

from __future__ import annotations

import functools
import math

import numpy as np
from numba import cuda, types
from polmd.kernels.cuda.compile import Kernel, array, real, scalars


@functools.cache
def edge_charges(dtype: np.dtype, block: int = 32) -> Kernel:
    """Σ_j d_ij ⊗ ∂L_j/∂r_i over the atoms j that atom i is a neighbour of, d_ij along the edge, or with the phase
    D = Σ_k cell_k sin(2π s_k)/2π (see kernels/cpu/response.py). One block an atom.

    name                                shape              dtype    unit  in/out
    counts, neighbors, mirrors, edge_of                                   in, as in integrate.gather_forces
    vectors                             (n, capacity, 3)   network  Å     in, from descriptor.find_edges
    slopes                              (n, capacity, 3)   network        in, ∂L/∂v of every edge by its centre, from
                                                                          network.reverse
    cell, inverse                       (3, 3)             float64  Å     in, zeros in open boundaries: D is zero
    out                                 (n, 18)            float64        out, [a, b]: d_a ∂/∂r_b, then D_a ∂/∂r_b
    """
    kind, sincos, number = np.dtype(dtype).type, scalars(dtype).sincos, real(dtype)
    threads, room, nothing = block, 18 * block, np.float64(0)
    two_pi, per_turn = kind(2.0 * math.pi), kind(0.5 / math.pi)

    def edge_charges(counts, neighbors, mirrors, edge_of, vectors, slopes, cell, inverse, out):
        s = cuda.shared.array(room, types.float64)
        i, thread = cuda.blockIdx.x, cuda.threadIdx.x
        at = 18 * thread
        for k in range(18):
            s[at + k] = nothing
        for p in range(thread, counts[i], threads):
            j, mirror = neighbors[i, p], mirrors[i, p]
            e = edge_of[j, mirror] if mirror >= 0 else -1
            if e < 0:
                continue
            x, y, z = vectors[j, e, 0], vectors[j, e, 1], vectors[j, e, 2]
            d0, d1, d2 = kind(0.0), kind(0.0), kind(0.0)
            for k in range(3):
                turn = x * kind(inverse[0, k]) + y * kind(inverse[1, k]) + z * kind(inverse[2, k])
                sine, _ = sincos(two_pi * turn)
                sine = sine * per_turn
                d0, d1, d2 = d0 + sine * kind(cell[k, 0]), d1 + sine * kind(cell[k, 1]), d2 + sine * kind(cell[k, 2])
            for b in range(3):
                g = slopes[j, e, b]
                s[at + b] -= x * g
                s[at + 3 + b] -= y * g
                s[at + 6 + b] -= z * g
                s[at + 9 + b] -= d0 * g
                s[at + 12 + b] -= d1 * g
                s[at + 15 + b] -= d2 * g
        cuda.syncthreads()
        for k in range(thread, 18, threads):
            total = nothing
            for q in range(threads):
                total += s[18 * q + k]
            out[i, k] = total

    f2, i2 = array(types.float64, 2), array(types.int32, 2)
    return Kernel(
        edge_charges, (array(types.int32), i2, i2, i2, array(number, 3), array(number, 3), f2, f2, f2), np.dtype(dtype),
        block, occupancy=0.25, sums="the parts of an atom",
    )  # fmt: skip
