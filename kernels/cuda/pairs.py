"""All pairs of multipoles in open boundaries on a GPU: one block an atom, its threads share the sources."""

from __future__ import annotations

import functools

import numpy as np
from numba import cuda, types
from polmd.kernels.cuda.compile import Kernel, array, real, scalars


@functools.cache
def all_pairs(columns: int, which: str, dtype: np.dtype, block: int = 64) -> Kernel:
    """Potential, field, second derivatives and force of all other sources on all atoms, kernel erf(r/(σ√2))/r.

    name       shape         dtype    unit     in/out
    positions  (n, 3)        float64  Å        in
    sources    (n, 10)       of this  e, …     in, charge, dipole, quadrupole (six)
    more       (n, 4)        of this  e, e Å   in, charge and dipole: added to the sources where ``which`` is "both", in their
                                               place where it is "induced"; not looked at where it is "permanent"
    sigma      (1,)          of this  Å        in
    out        (n, columns)  float64  e/Å, …   out, φ, F = −∇φ, ∇∇φ (six) and with 13 columns −∇ [q + u·∇ + ½ Q:∇∇] φ on
                                               the atom's own ``sources``; without prefactor
    """
    p, kind = scalars(dtype), np.dtype(dtype).type
    smeared_coulomb, potential_derivatives, force_on = p.smeared_coulomb, p.potential_derivatives, p.force_on
    number, threads, force, nothing = real(dtype), block, columns == 13, np.float64(0)
    both, induced, zero = which == "both", which == "induced", kind(0)

    def all_pairs(positions, sources, more, sigma, out):
        partial = cuda.shared.array(threads, types.float64)
        i, thread, n = cuda.blockIdx.x, cuda.threadIdx.x, len(positions)
        q, u = sources[i, 0], (sources[i, 1], sources[i, 2], sources[i, 3])
        m = sources[i, 4], sources[i, 5], sources[i, 6], sources[i, 7], sources[i, 8], sources[i, 9]
        d0, d1, d2, d3, d4, d5, d6 = nothing, nothing, nothing, nothing, nothing, nothing, nothing
        d7, d8, d9, d10, d11, d12 = nothing, nothing, nothing, nothing, nothing, nothing
        for j in range(thread, n, threads):
            if j == i:
                continue
            x, y = kind(positions[i, 0] - positions[j, 0]), kind(positions[i, 1] - positions[j, 1])
            z = kind(positions[i, 2] - positions[j, 2])
            b = smeared_coulomb(x * x + y * y + z * z, sigma[0])
            c, d = sources[j, 0], (sources[j, 1], sources[j, 2], sources[j, 3])
            if induced:
                c, d = more[j, 0], (more[j, 1], more[j, 2], more[j, 3])
            if both:
                c, d = c + more[j, 0], (d[0] + more[j, 1], d[1] + more[j, 2], d[2] + more[j, 3])
            h = sources[j, 4], sources[j, 5], sources[j, 6], sources[j, 7], sources[j, 8], sources[j, 9]
            if induced:
                h = zero, zero, zero, zero, zero, zero
            value, g, h, third = potential_derivatives(c, d, h, (x, y, z), b)
            d0, d1, d2, d3 = d0 + value, d1 - g[0], d2 - g[1], d3 - g[2]
            d4, d5, d6, d7, d8, d9 = d4 + h[0], d5 + h[1], d6 + h[2], d7 + h[3], d8 + h[4], d9 + h[5]
            if force:
                f = force_on(q, u, m, g, h, third)
                d10, d11, d12 = d10 + f[0], d11 + f[1], d12 + f[2]
        found = d0, d1, d2, d3, d4, d5, d6, d7, d8, d9, d10, d11, d12
        for c in range(columns):
            cuda.syncthreads()
            partial[thread] = found[c]
            cuda.syncthreads()
            if thread == 0:
                total = nothing
                for k in range(threads):
                    total += partial[k]
                out[i, c] = total

    return Kernel(
        all_pairs,
        (array(types.float64, 2), array(number, 2), array(number, 2), array(number), array(types.float64, 2)),
        np.dtype(dtype), block, occupancy=0.3 if np.dtype(dtype).itemsize == 4 else 0.18,
        sums="differences of positions, fields of an atom",
    )  # fmt: skip
