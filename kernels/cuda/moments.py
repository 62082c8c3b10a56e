"""What lies between the passes over fields on a GPU, one thread an atom, all in float64: sources in lattice coordinates,
the linear response, the seeds of the reverse pass and the energy. Equations: polmd/electrostatics.

Rows of predictions and seeds are those of network.py; ``lattice`` (3, 3) is that of k_c = Σ_d lattice[c, d] n_d, the
unit matrix in open boundaries.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numba import cuda, types
from polmd.kernels.cuda.compile import Kernel, array, device, real
from polmd.kernels.cuda.network import ALPHA, CHARGE, DIPOLE, KAPPA, QUADRUPOLE

#: Columns of what electrostatics reports of an atom: φ, F, q^ind, u^ind, forces, and the potential and field of M alone.
PHI, FIELD, INDUCED_CHARGE, INDUCED_DIPOLE, FORCE = 0, 1, 4, 5, 8
N_RESULTS = 11
_DOUBLE = np.dtype(np.float64)
_F, _F2 = array(types.float64), array(types.float64, 2)
_WHOLE = 4294967296.0  # 2³²: fractions of float32 kernels are kept in units of its inverse


@functools.cache
def pack_fractions(dtype: np.dtype, block: int = 128) -> Kernel:
    """Fractional coordinates for the phases of kspace.py.

    name       shape   dtype           unit  in/out
    positions  (n, 3)  float64         Å     in
    inverse    (3, 3)  float64         1/Å   in, inverse cell
    fractions  (n, 3)  float64, int64        out, in [0, 1); for kernels of float32 times 2³², where n·s is exact modulo 1
    """
    single = np.dtype(dtype).itemsize == 4

    def pack_fractions(positions, inverse, fractions):
        for i in range(cuda.grid(1), len(positions), cuda.gridsize(1)):
            for d in range(3):
                s = positions[i, 0] * inverse[0, d] + positions[i, 1] * inverse[1, d] + positions[i, 2] * inverse[2, d]
                if not -1e9 < s < 1e9:
                    s = 0.0
                s = s - math.floor(s)
                if single:
                    fractions[i, d] = int(math.floor(s * _WHOLE + 0.5))  # noqa: RUF046  a float on the device
                else:
                    fractions[i, d] = s

    kind = array(types.int64 if single else types.float64, 2)
    return Kernel(pack_fractions, (_F2, _F2, kind), _DOUBLE, block, occupancy=0.5)


def _lattice_sources(p, i, lattice, u, m):
    """Dipole and quadrupole of an atom in lattice coordinates, into ``u`` (3) and ``m`` (6)."""
    for d in range(3):
        u[d] = p[i, DIPOLE] * lattice[0, d] + p[i, DIPOLE + 1] * lattice[1, d] + p[i, DIPOLE + 2] * lattice[2, d]
    k = 0
    for c in range(3):
        for d in range(c, 3):
            total = 0.0
            for a in range(3):
                for b in range(3):
                    q = 0.5 * (p[i, QUADRUPOLE + 3 * a + b] + p[i, QUADRUPOLE + 3 * b + a])
                    total += lattice[a, c] * q * lattice[b, d]
            m[k] = total
            k += 1


@functools.cache
def pack_sources(dtype: np.dtype, block: int = 64) -> Kernel:
    """Moments of the network as sources.

    name         shape    dtype    unit    in/out
    predictions  (n, 24)  float64  e, …    in
    lattice      (3, 3)   float64          in
    sources      (n, 10)  of kspace        out, charge, dipole, quadrupole (six) in lattice coordinates
    """
    lattice_sources = device(_lattice_sources, _DOUBLE)

    def pack_sources(predictions, lattice, sources):
        u, m = cuda.local.array(3, types.float64), cuda.local.array(6, types.float64)
        for i in range(cuda.grid(1), len(predictions), cuda.gridsize(1)):
            lattice_sources(predictions, i, lattice, u, m)
            sources[i, 0] = predictions[i, CHARGE]
            for d in range(3):
                sources[i, 1 + d] = u[d]
            for d in range(6):
                sources[i, 4 + d] = m[d]

    return Kernel(pack_sources, (_F2, _F2, array(real(dtype), 2)), _DOUBLE, block, occupancy=0.3)


def _cartesian(fields, i, lattice, scale, out):
    """φ, F, ∇∇φ of an atom from lattice to Cartesian coordinates, times ``scale``, into ``out`` (10)."""
    out[0] = scale * fields[i, 0]
    for c in range(3):
        out[1 + c] = scale * (
            lattice[c, 0] * fields[i, 1] + lattice[c, 1] * fields[i, 2] + lattice[c, 2] * fields[i, 3]
        )
    k = 4
    for c in range(3):
        for d in range(c, 3):
            h = lattice[c, 0] * (
                fields[i, 4] * lattice[d, 0] + fields[i, 5] * lattice[d, 1] + fields[i, 6] * lattice[d, 2]
            )
            h += lattice[c, 1] * (
                fields[i, 5] * lattice[d, 0] + fields[i, 7] * lattice[d, 1] + fields[i, 8] * lattice[d, 2]
            )
            h += lattice[c, 2] * (
                fields[i, 6] * lattice[d, 0] + fields[i, 8] * lattice[d, 1] + fields[i, 9] * lattice[d, 2]
            )
            out[k] = scale * h
            k += 1


@functools.cache
def respond(dtype: np.dtype, block: int = 64) -> Kernel:
    """The linear-response step: induced moments, the sources M̃, dE/dκ and dE/dα.

    name         shape    dtype    unit     in/out
    predictions  (n, 24)  float64  e, …     in
    fields       (n, 10+) float64  V, …     in, φ, F, ∇∇φ of M in lattice coordinates, from kspace.fields or pairs
    lattice      (3, 3)   float64           in
    constants    (4,)     float64           in, factor of the fields, self terms E = s_q q² + s_u u² + s_Q Q:Q
    low          (n, 10)  float64  V, …     out, φ, F, ∇∇φ of M without self terms
    results      (n, 11)  float64  V, …     out, φ, F with self terms, q^ind, u^ind
    induced      (n, 4)   float64  e, e Å   out, M̃: q^ind, ũ
    sources      (n, 4)   of kspace         out, the same in lattice coordinates
    seeds        (n, 24)  float64           out, columns of κ and α
    energies     (n, 1)   float64  eV       out, ½ φ q^ind − ½ F·u^ind
    """
    cartesian = device(_cartesian, _DOUBLE)

    def respond(predictions, fields, lattice, constants, low, results, induced, sources, seeds, energies):
        out = cuda.local.array(10, types.float64)
        for i in range(cuda.grid(1), len(predictions), cuda.gridsize(1)):
            cartesian(fields, i, lattice, constants[0], out)
            for k in range(10):
                low[i, k] = out[k]
            phi = out[0] + 2.0 * constants[1] * predictions[i, CHARGE]
            results[i, PHI] = phi
            for c in range(3):
                results[i, FIELD + c] = out[1 + c] - 2.0 * constants[2] * predictions[i, DIPOLE + c]
            q = -predictions[i, KAPPA] * phi
            results[i, INDUCED_CHARGE] = q
            induced[i, 0], sources[i, 0] = q, q
            seeds[i, KAPPA] = -0.5 * phi * phi
            energy = 0.5 * phi * q
            for d in range(3):
                u, other = 0.0, 0.0
                for c in range(3):
                    f = results[i, FIELD + c]
                    u += f * predictions[i, ALPHA + 3 * c + d]
                    other += predictions[i, ALPHA + 3 * d + c] * f
                    seeds[i, ALPHA + 3 * c + d] = -0.5 * f * results[i, FIELD + d]
                results[i, INDUCED_DIPOLE + d] = u
                induced[i, 1 + d] = 0.5 * (u + other)
                energy -= 0.5 * results[i, FIELD + d] * u
            for d in range(3):
                sources[i, 1 + d] = (
                    induced[i, 1] * lattice[0, d] + induced[i, 2] * lattice[1, d] + induced[i, 3] * lattice[2, d]
                )
            energies[i, 0] = energy

    return Kernel(
        respond, (_F2, _F2, _F2, _F, _F2, _F2, _F2, array(real(dtype), 2), _F2, _F2), _DOUBLE, block, occupancy=0.3
    )


@functools.cache
def finish(block: int = 64) -> Kernel:
    """Energy, forces and seeds from the fields of M + M̃.

    name                              shape      dtype    unit   in/out
    predictions, lattice, constants                              in, as in respond
    fields                            (n, 13+)   float64         in, φ, F, ∇∇φ of M + M̃ and the force on M, from kspace.fields
    low, induced                                                 in, from respond
    results                           (n, 11)    float64  eV/Å   out, forces
    seeds                             (n, 24)    float64         out, columns of energy, charge, dipole, quadrupole
    energies                          (n, 1)     float64  eV     in/out, long-range energy of the atom
    virial                            (n, 9)     float64  eV     out, strain gradient through the form factors
    """
    cartesian = device(_cartesian, _DOUBLE)

    def finish(predictions, lattice, constants, fields, low, induced, results, seeds, energies, virial):
        out = cuda.local.array(10, types.float64)
        for i in range(cuda.grid(1), len(predictions), cuda.gridsize(1)):
            cartesian(fields, i, lattice, constants[0], out)
            q, dq = predictions[i, CHARGE], induced[i, 0]
            x, y, z = induced[i, 1], induced[i, 2], induced[i, 3]
            for c in range(3):
                force = lattice[c, 0] * fields[i, 10] + lattice[c, 1] * fields[i, 11] + lattice[c, 2] * fields[i, 12]
                results[i, FORCE + c] = constants[0] * force + dq * low[i, 1 + c]
            results[i, FORCE] -= low[i, 4] * x + low[i, 5] * y + low[i, 6] * z
            results[i, FORCE + 1] -= low[i, 5] * x + low[i, 7] * y + low[i, 8] * z
            results[i, FORCE + 2] -= low[i, 6] * x + low[i, 8] * y + low[i, 9] * z
            energy = 0.5 * (q * out[0] - dq * low[i, 0]) + constants[1] * q * q
            seeds[i, 0] = 1.0
            seeds[i, CHARGE] = out[0] + 2.0 * constants[1] * (q + dq)
            for c in range(3):
                u = predictions[i, DIPOLE + c]
                energy -= 0.5 * (u * out[1 + c] - induced[i, 1 + c] * low[i, 1 + c])
                energy += constants[2] * u * u
                seeds[i, DIPOLE + c] = 2.0 * constants[2] * (u + induced[i, 1 + c]) - out[1 + c]
            k = 4
            for a in range(3):
                for b in range(a, 3):
                    h = out[k]
                    k += 1
                    m = predictions[i, QUADRUPOLE + 3 * a + b]
                    energy += 0.25 * m * h + constants[3] * m * m
                    seeds[i, QUADRUPOLE + 3 * a + b] = 0.5 * h + 2.0 * constants[3] * m
                    if a != b:
                        m = predictions[i, QUADRUPOLE + 3 * b + a]
                        energy += 0.25 * m * h + constants[3] * m * m
                        seeds[i, QUADRUPOLE + 3 * b + a] = 0.5 * h + 2.0 * constants[3] * m
            energies[i, 0] += energy
            for a in range(3):
                for b in range(3):
                    value = predictions[i, DIPOLE + a] * out[1 + b] + induced[i, 1 + a] * low[i, 1 + b]
                    for c in range(3):
                        s = 0.5 * (predictions[i, QUADRUPOLE + 3 * a + c] + predictions[i, QUADRUPOLE + 3 * c + a])
                        low_, top = min(c, b), max(c, b)
                        value -= s * out[4 + low_ * 3 - low_ * (low_ + 1) // 2 + top]
                    virial[i, 3 * a + b] = value

    return Kernel(finish, (_F2, _F2, _F, _F2, _F2, _F2, _F2, _F2, _F2, _F2), _DOUBLE, block, occupancy=0.3)


@functools.cache
def sum_columns(block: int = 256) -> Kernel:
    """Σ over atoms, one block a column, always in the same order: values (n, m) in; out (m,) out."""
    threads = block

    def sum_columns(values, out):
        s = cuda.shared.array(threads, types.float64)
        thread, column, total = cuda.threadIdx.x, cuda.blockIdx.x, 0.0
        for i in range(thread, len(values), threads):
            total += values[i, column]
        s[thread] = total
        cuda.syncthreads()
        if thread == 0:
            total = 0.0
            for k in range(threads):
                total += s[k]
            out[column] = total

    return Kernel(sum_columns, (_F2, _F), _DOUBLE, block, occupancy=0.5)
