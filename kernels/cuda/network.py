"""The local network on a GPU: one block of threads for an atom, its features in shared memory.

Forward keeps per atom Ã (moments), the first layer and the hidden tensors; reverse makes the features A again from Ã.
Threads share the work of an atom in every stage by output: moments (n, l), features (C, l), products of a channel, rows
of a layer; sums run within a thread in fixed order, so that results are the same bit for bit every time. Weights are
read through the cache, from where neighbouring threads take neighbouring numbers. Sizes of the model are constants of
the kernel: the compiler unrolls with them.

Shared memory is one array of the precision of the network; ``Places`` says what lies where. Tables of edges, needed
before and after the features, share their place.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
from numba import cuda, types
from polmd.kernels.cuda.compile import Kernel, array, device, real, scalars
from polmd.kernels.cuda.descriptor import functions
from polmd.kernels.cuda.readout import AXIAL, SYMMETRIC, load3, load6, readout
from polmd.kernels.layout import N_AXIAL, N_COMPONENTS, N_SYMMETRIC, N_TERMS, N_VECTOR, TILE, NetworkWeights

#: Columns of predictions and seeds of an atom: energy, charge, dipole, quadrupole, κ, α.
ENERGY, CHARGE, DIPOLE, QUADRUPOLE, KAPPA, ALPHA = 0, 1, 2, 5, 14, 15
N_PREDICTIONS = 24
#: Edges whose tables are made at a time, and channels whose products are.
EDGES, CHANNELS = 32, 16
#: Parts into which the sums of the first layer are divided.
PARTS = 4


class Spec(NamedTuple):
    """Sizes and switches of a model, constants of its kernels (names: :class:`polmd.kernels.layout.NetworkWeights`)."""

    max_l: int
    max_nu: int
    cutoff: float
    exponent: int
    nz: int
    nr: int
    nc: int
    nb: int
    n_first: int
    readouts: int
    h0: int
    h1: int
    nh: int
    no: int
    charge_readout: int
    scalar_readout: int
    charge_response_output: int
    dipole_output: int
    polarizability_output: int
    quadrupole_output: int
    charge_scale: float
    charge_response_scale: float
    scalar_polarizability_scale: float
    make_alpha_positive: bool
    make_kappa_positive: bool
    make_quad_traceless: bool

    @property
    def nl(self) -> int:
        """Monomials."""
        return 10 * (self.max_l - 1)

    @property
    def rows(self) -> int:
        """Rows of moments: element of the neighbour, radial function."""
        return self.nz * self.nr

    @property
    def group(self) -> int:
        """Channels whose products are made at a time."""
        return CHANNELS if self.nc % CHANNELS == 0 else TILE


def spec_of(w: NetworkWeights, max_l: int, max_nu: int) -> Spec:
    """Sizes of packed weights."""
    nc = len(w.tensor_weight)
    r, h1 = w.second_bias.shape
    return Spec(
        max_l, max_nu, w.cutoff, w.exponent, len(w.mixing), len(w.frequencies), nc, w.first_transpose.shape[0] * TILE // nc,
        len(w.first_bias), r, w.second_weight.shape[1] // h1, h1, w.gate_bias.shape[1], w.out_weight.shape[1],
        w.charge_readout, w.scalar_readout, w.charge_response_output, w.dipole_output, w.polarizability_output,
        w.quadrupole_output, w.charge_scale, w.charge_response_scale, w.scalar_polarizability_scale,
        w.make_alpha_positive, w.make_kappa_positive, w.make_quad_traceless,
    )  # fmt: skip


def lay_out(w: NetworkWeights, spec: Spec) -> tuple[np.ndarray, ...]:
    """Weights as the kernels below take them: frequencies, mixing (element, level, row, C), first layer (feature, row),
    its transpose (row, feature), its bias, second and last layers, tensor, gate and out weights; all flat."""
    levels, tiles, nf = spec.max_l + 1, spec.nc // TILE, spec.nc * spec.nb
    mixing = w.mixing.reshape(spec.nz, levels, tiles, spec.rows, TILE).transpose(0, 1, 3, 2, 4)
    first = w.first_weight.reshape(spec.n_first // TILE, nf, TILE).transpose(1, 0, 2).reshape(nf, spec.n_first)
    arrays = (
        w.frequencies, mixing, first, first.T, w.first_bias, w.second_weight, w.second_bias, w.last_weight, w.last_bias,
        w.tensor_weight, w.gate_weight, w.gate_bias, w.out_weight,
    )  # fmt: skip
    flat = (np.ascontiguousarray(a).reshape(-1) for a in arrays)
    return tuple(a if len(a) else np.zeros(1, a.dtype) for a in flat)  # a device array has a length


class Places(NamedTuple):
    """Where things lie in shared memory, in numbers of the network's precision."""

    moments: int
    first: int
    parts: int
    layers: int
    values: int
    hidden: int
    seeds: int
    heads: int
    features: int
    x: int
    a: int
    ga: int
    radial: int
    slope: int
    angular: int
    edge: int
    out: int
    size: int


def places(spec: Spec, reverse: bool) -> Places:
    """Shared memory of the forward or of the reverse kernel."""
    at, found = 0, {}

    def take(name: str, size: int) -> None:
        nonlocal at
        found[name] = at
        at += size

    nf, nh = spec.nc * spec.nb, spec.nh
    take("moments", spec.rows * spec.nl)
    take("first", spec.n_first)
    take("parts", spec.n_first * (1 if reverse else PARTS))
    take("layers", 2 * spec.readouts * (spec.h0 + spec.h1))
    take("values", 2 * spec.readouts)
    take("hidden", 12 * nh)
    take("seeds", 12 * nh + 32 if reverse else 0)  # of the hidden tensors; then those of the heads
    take("heads", 12 * nh + 24)  # g, gates, their sigmoids, gradients; then the raw tensors
    start = at
    take("features", nf)
    take("a", spec.nc * spec.nl)
    take("ga", spec.nc * spec.nl if reverse else 0)
    take("x", N_COMPONENTS * spec.group if nh else 0)
    end, at = at, start
    take("radial", spec.nr * EDGES)
    take("slope", spec.nr * EDGES if reverse else 0)
    take("angular", spec.nl * EDGES)
    take("edge", 7 * EDGES)
    take("out", 3 * EDGES if reverse else 0)
    return Places(**found, size=max(end, at))


def shared_bytes(spec: Spec, dtype: np.dtype, reverse: bool) -> int:
    """Bytes of shared memory of a block."""
    return places(spec, reverse).size * np.dtype(dtype).itemsize


def _stages(spec: Spec, dtype: np.dtype, reverse: bool):
    """Device functions that all threads of a block call together: each ends with all threads in step."""
    p, at, kind = scalars(dtype), places(spec, reverse), np.dtype(dtype).type
    edge = functions(spec.exponent, spec.cutoff, spec.nl, dtype)
    geometry, monomials, radial = edge.geometry, edge.monomials, edge.radial
    silu, sigmoid, dot, trace_product = p.silu, p.sigmoid, p.dot, p.trace_product
    l3, l6 = device(load3, dtype), device(load6, dtype)
    nl, nc, nh, nr, rows = spec.nl, spec.nc, spec.nh, spec.nr, spec.rows
    readouts, h0, h1 = spec.readouts, spec.h0, spec.h1
    levels, A_OUT, S_READOUT = spec.max_l + 1, spec.polarizability_output, spec.scalar_readout
    MOMENTS, FIRST, LAYERS, VALUES, HIDDEN, HEADS = at.moments, at.first, at.layers, at.values, at.hidden, at.heads
    A, RADIAL, SLOPE, ANGULAR, EDGE = at.a, at.radial, at.slope, at.angular, at.edge
    SLOPES = LAYERS + readouts * (h0 + h1)
    GATE, SIGMA = HEADS + 3 * nh, HEADS + 6 * nh
    tensor_start = readouts * (h0 + 1)

    def level(l):
        return (1 if l > 0 else 0) + (1 if l > 3 else 0) + (1 if l > 9 else 0)

    level = device(level, dtype)

    def edge_tables(s, thread, threads, vectors, i, start, m, frequencies, slopes):
        """Unit vectors, radial functions and monomials of ``m`` edges from ``start`` on."""
        cuda.syncthreads()
        for e in range(thread, m, threads):
            x, y, z = vectors[i, start + e, 0], vectors[i, start + e, 1], vectors[i, start + e, 2]
            distance, inverse, f, df = geometry(x, y, z)
            x, y, z = x * inverse, y * inverse, z * inverse
            s[EDGE + e], s[EDGE + EDGES + e], s[EDGE + 2 * EDGES + e] = x, y, z
            s[EDGE + 3 * EDGES + e], s[EDGE + 4 * EDGES + e] = distance, inverse
            s[EDGE + 5 * EDGES + e], s[EDGE + 6 * EDGES + e] = f, df
            monomials(x, y, z, s, ANGULAR + e, EDGES)
        cuda.syncthreads()
        for k in range(thread, nr * m, threads):
            n = k // m
            e = k - n * m
            value, slope = radial(
                s[EDGE + 3 * EDGES + e], s[EDGE + 4 * EDGES + e], frequencies[n], s[EDGE + 5 * EDGES + e],
                s[EDGE + 6 * EDGES + e],
            )  # fmt: skip
            s[RADIAL + n * EDGES + e] = value
            if slopes:
                s[SLOPE + n * EDGES + e] = slope
        cuda.syncthreads()

    def mix(s, thread, threads, mixing, element):
        """A[l, C] from Ã."""
        for k in range(thread, nl * nc, threads):
            l = k // nc
            c = k - l * nc
            w = (element * levels + level(l)) * rows * nc + c
            value = s[MOMENTS + l] * mixing[w]
            for row in range(1, rows):
                value += s[MOMENTS + row * nl + l] * mixing[w + row * nc]
            s[A + k] = value
        cuda.syncthreads()

    def layers(s, thread, threads, second_weight, second_bias, last_weight, last_bias):
        """Hidden layers of all readouts, their slopes, and their values."""
        for k in range(thread, readouts * h0, threads):
            value, slope = silu(s[FIRST + k])
            s[LAYERS + k], s[SLOPES + k] = value, slope
        cuda.syncthreads()
        for k in range(thread, readouts * h1, threads):
            which = k // h1
            total = second_bias[k]
            for col in range(h0):
                total += second_weight[k * h0 + col] * s[LAYERS + which * h0 + col]
            value, slope = silu(total)
            s[LAYERS + readouts * h0 + k], s[SLOPES + readouts * h0 + k] = value, slope
        cuda.syncthreads()
        for k in range(thread, readouts, threads):
            total = s[FIRST + readouts * h0 + k] + last_bias[k]
            for row in range(h1):
                total += last_weight[k * h1 + row] * s[LAYERS + readouts * h0 + k * h1 + row]
            s[VALUES + k] = total
        cuda.syncthreads()

    def gates(s, thread, threads, gate_weight, gate_bias):
        """g = [o0, |o1|², |o2|²], gate = G g + b, and its sigmoid."""
        for h in range(thread, nh, threads):
            o = HIDDEN + 12 * h
            v, m, c = l3(s, o, 1), l6(s, o + 3, 1), l3(s, o + 9, 1)
            s[HEADS + h] = s[FIRST + tensor_start + h]
            s[HEADS + nh + h] = dot(v, v)
            s[HEADS + 2 * nh + h] = trace_product(m, m) + 0.5 * dot(c, c)
        cuda.syncthreads()
        for k in range(thread, 3 * nh, threads):
            total = gate_bias[k]
            for col in range(3 * nh):
                total += gate_weight[k * 3 * nh + col] * s[HEADS + col]
            s[GATE + k], s[SIGMA + k] = total, sigmoid(total)
        cuda.syncthreads()

    def raw_polarizability(s, out_weight):
        """α before it is made positive, as nine numbers; one thread."""
        w = (2 * no + A_OUT) * nh
        m0, m1, m2, m3, m4, m5, c0, c1, c2 = zero, zero, zero, zero, zero, zero, zero, zero, zero
        for h in range(nh):
            f, o = out_weight[w + h] * s[SIGMA + 2 * nh + h], HIDDEN + 12 * h + 3
            m0, m1, m2 = m0 + f * s[o], m1 + f * s[o + 1], m2 + f * s[o + 2]
            m3, m4, m5 = m3 + f * s[o + 3], m4 + f * s[o + 4], m5 + f * s[o + 5]
            c0, c1, c2 = c0 + f * s[o + 6], c1 + f * s[o + 7], c2 + f * s[o + 8]
        if S_READOUT >= 0:
            extra = scalar_scale * s[VALUES + S_READOUT]
            m0, m3, m5 = m0 + extra, m3 + extra, m5 + extra
        c0, c1, c2 = 0.5 * c0, 0.5 * c1, 0.5 * c2
        return m0, m1 + c2, m2 - c1, m1 - c2, m3, m4 + c0, m2 + c1, m4 - c0, m5

    no, zero, scalar_scale = spec.no, kind(0), kind(spec.scalar_polarizability_scale)
    found = edge_tables, mix, layers, gates, raw_polarizability
    return tuple(device(f, dtype) for f in found)


_WEIGHTS = 13


@functools.cache
def forward(spec: Spec, dtype: np.dtype, block: int = 64) -> Kernel:
    """Predictions of the local network (spec: kernels/reference/network.py). One block an atom.

    name         shape                dtype        unit  in/out
    types        (n,)                 int32              in, element of every atom
    vectors      (n, capacity, 3)     network      Å     in, edges, from descriptor.find_edges
    starts       (n, nz + 1)          int32              in, first edge of each element
    weights      thirteen arrays      network            in, from lay_out
    moments      (n, zn·nl)           network            out, Ã
    first        (n, n_first)         network            out, first layer
    hidden       (n, 12·nh)           network            out, o_1 and o_2 (vector, symmetric, axial)
    predictions  (n, N_PREDICTIONS)   float64            out
    """
    edge_tables, mix, layers, gates, raw_polarizability = _stages(spec, dtype, False)
    r, at, kind = readout(spec.max_l, spec.max_nu, dtype), places(spec, False), np.dtype(dtype).type
    invariants, products, p = r.invariants, r.products, scalars(dtype)
    dot = p.dot
    number, int32 = real(dtype), types.int32
    nl, nc, nb, nh, nr, rows, n_first = spec.nl, spec.nc, spec.nb, spec.nh, spec.nr, spec.rows, spec.n_first
    nf, group, no = nc * nb, spec.group, spec.no
    MOMENTS, FIRST, SUMS, VALUES, HIDDEN, HEADS = at.moments, at.first, at.parts, at.values, at.hidden, at.heads
    A, FEATURES, X, RADIAL, ANGULAR = at.a, at.features, at.x, at.radial, at.angular
    GATE, SIGMA = HEADS + 3 * nh, HEADS + 6 * nh
    charge_scale, kappa_scale, third = kind(spec.charge_scale), kind(spec.charge_response_scale), kind(1.0 / 3.0)
    zero, spent = kind(0), 12 * nh
    nz, Q_READOUT = spec.nz, spec.charge_readout
    K_OUT, U_OUT = spec.charge_response_output, spec.dipole_output
    A_OUT, M_OUT = spec.polarizability_output, spec.quadrupole_output
    POSITIVE_A, POSITIVE_K, TRACELESS = spec.make_alpha_positive, spec.make_kappa_positive, spec.make_quad_traceless

    def forward(types_, vectors, starts, frequencies, mixing, first_weight, first_transpose, first_bias, second_weight,
                second_bias, last_weight, last_bias, tensor_weight, gate_weight, gate_bias, out_weight, moments, first,
                hidden, predictions):  # fmt: skip
        s = cuda.shared.array(0, number)
        i, thread, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
        element, count = types_[i], starts[i, nz]
        for k in range(thread, rows * nl, threads):
            s[MOMENTS + k] = 0.0
        for k in range(thread, spent, threads):
            s[HIDDEN + k] = 0.0
        for start in range(0, count, EDGES):
            m = min(EDGES, count - start)
            edge_tables(s, thread, threads, vectors, i, start, m, frequencies, False)
            for k in range(thread, rows * nl, threads):
                row = k // nl
                l, z = k - row * nl, row // nr
                n, total = row - z * nr, s[MOMENTS + k]
                for e in range(max(starts[i, z] - start, 0), min(starts[i, z + 1] - start, m)):
                    total += s[RADIAL + n * EDGES + e] * s[ANGULAR + l * EDGES + e]
                s[MOMENTS + k] = total
        cuda.syncthreads()
        for k in range(thread, rows * nl, threads):
            moments[i, k] = s[MOMENTS + k]
        mix(s, thread, threads, mixing, element)
        for base in range(0, nc, group):
            for c in range(thread, group, threads):
                invariants(s, A + base + c, nc, s, FEATURES + (base + c) * nb)
                if nh > 0:
                    products(s, A + base + c, nc, s, X + c, group)
            cuda.syncthreads()
            for k in range(thread, spent, threads):
                h = k // 12
                component, total = k - h * 12, s[HIDDEN + k]
                x, w, terms = X + component * N_VECTOR * group, h * N_TERMS, N_VECTOR
                if component > 8:
                    x, w = X + (AXIAL + (component - 9) * N_AXIAL) * group, w + N_VECTOR + N_SYMMETRIC
                    terms = N_AXIAL
                elif component > 2:
                    x, w = X + (SYMMETRIC + (component - 3) * N_SYMMETRIC) * group, w + N_VECTOR
                    terms = N_SYMMETRIC
                for c in range(group):
                    weight = (base + c) * nh * N_TERMS + w
                    for term in range(terms):
                        total += tensor_weight[weight + term] * s[x + term * group + c]
                s[HIDDEN + k] = total
            cuda.syncthreads()
        for k in range(thread, n_first * PARTS, threads):
            part = k // n_first
            row, total = k - part * n_first, zero
            for f in range(part * nf // PARTS, (part + 1) * nf // PARTS):
                total += s[FEATURES + f] * first_weight[f * n_first + row]
            s[SUMS + k] = total
        cuda.syncthreads()
        for row in range(thread, n_first, threads):
            total = first_bias[row]
            for part in range(PARTS):
                total += s[SUMS + part * n_first + row]
            s[FIRST + row] = total
            first[i, row] = total
        for k in range(thread, spent, threads):
            hidden[i, k] = s[HIDDEN + k]
        cuda.syncthreads()
        layers(s, thread, threads, second_weight, second_bias, last_weight, last_bias)
        for k in range(thread, N_PREDICTIONS, threads):
            if k == ENERGY:
                predictions[i, k] = s[VALUES]
            elif k == CHARGE and Q_READOUT >= 0:
                predictions[i, k] = charge_scale * s[VALUES + Q_READOUT]
            else:
                predictions[i, k] = 0.0
        if nh > 0:
            gates(s, thread, threads, gate_weight, gate_bias)
            if thread == 0 and K_OUT >= 0:
                kappa = zero
                for h in range(nh):
                    kappa += out_weight[K_OUT * nh + h] * s[GATE + h] * s[SIGMA + h]
                kappa = kappa_scale * kappa
                predictions[i, KAPPA] = kappa * kappa if POSITIVE_K else kappa
            if U_OUT >= 0:
                for c in range(thread, 3, threads):
                    total = zero
                    for h in range(nh):
                        w = out_weight[(no + U_OUT) * nh + h]
                        total += w * s[SIGMA + nh + h] * s[HIDDEN + 12 * h + c]
                    predictions[i, DIPOLE + c] = total
            if thread == 0 and A_OUT >= 0:
                m = raw_polarizability(s, out_weight)
                if POSITIVE_A:
                    a, b, c_ = (m[0], m[1], m[2]), (m[3], m[4], m[5]), (m[6], m[7], m[8])
                    ab, ac, bc = dot(a, b), dot(a, c_), dot(b, c_)
                    m = dot(a, a), ab, ac, ab, dot(b, b), bc, ac, bc, dot(c_, c_)
                for k in range(9):
                    predictions[i, ALPHA + k] = m[k]
            if M_OUT >= 0:
                for k in range(thread, 9, threads):
                    row = k // 3
                    col = k - 3 * row
                    low, top = min(row, col), max(row, col)
                    symmetric = 3 + low * 3 - low * (low + 1) // 2 + top
                    axial, sign = 9 + 3 - row - col, kind(0.5)
                    if row == col:
                        axial, sign = 9, zero
                    elif (col - row) % 3 == 2:
                        sign = -sign
                    total, trace = zero, zero
                    for h in range(nh):
                        o = HIDDEN + 12 * h
                        f = out_weight[(2 * no + M_OUT) * nh + h] * s[SIGMA + 2 * nh + h]
                        total += f * (s[o + symmetric] + sign * s[o + axial])
                        trace += f * (s[o + 3] + s[o + 6] + s[o + 8])
                    if TRACELESS and row == col:
                        total -= third * trace
                    predictions[i, QUADRUPOLE + k] = total

    return Kernel(
        forward,
        (
            array(int32), array(number, 3), array(int32, 2), *(array(number),) * _WEIGHTS, array(number, 2),
            array(number, 2), array(number, 2), array(types.float64, 2),
        ),
        np.dtype(dtype), block, shared_bytes(spec, dtype, False), occupancy=_OCCUPANCY[np.dtype(dtype).itemsize][0],
    )  # fmt: skip


#: Stated occupancy of forward and reverse, by the size of a number.
_OCCUPANCY = {4: (0.28, 0.18), 8: (0.15, 0.12)}


@functools.cache
def reverse(spec: Spec, dtype: np.dtype, block: int = 64) -> Kernel:
    """Forces and strain gradient of L = Σ seeds·predictions through the features of each atom. One block an atom.

    name                    shape               dtype    unit  in/out
    types … weights                                            in, as in forward
    moments, first, hidden                                     in, from forward
    seeds                   (n, N_PREDICTIONS)  float64        in, dL/d(prediction)
    slopes                  (n, capacity, 3)    network  eV/Å  out, ∂L/∂v of every edge
    forces                  (n, 3)              float64  eV/Å  out, −Σ of these: the part of the centre
    virial                  (n, 9)              float64  eV    out, Σ v_c ∂L/∂v_d of the atom's edges
    """
    edge_tables, mix, layers, gates, raw_polarizability = _stages(spec, dtype, True)
    r, at, kind = readout(spec.max_l, spec.max_nu, dtype), places(spec, True), np.dtype(dtype).type
    invariants_adjoint, products_adjoint, p = r.invariants_adjoint, r.products_adjoint, scalars(dtype)
    dot, trace_product, matrix_vector = p.dot, p.trace_product, p.matrix_vector
    number, int32 = real(dtype), types.int32
    l3, l6 = device(load3, dtype), device(load6, dtype)
    nl, nc, nb, nh, nr, rows, n_first = spec.nl, spec.nc, spec.nb, spec.nh, spec.nr, spec.rows, spec.n_first
    nf, group, no, readouts, h0, h1 = nc * nb, spec.group, spec.no, spec.readouts, spec.h0, spec.h1
    levels, tensor_start = spec.max_l + 1, readouts * (h0 + 1)
    MOMENTS, FIRST, GZ, LAYERS, VALUES, HIDDEN = at.moments, at.first, at.parts, at.layers, at.values, at.hidden
    GO, HEADS, GF, A, GA, X = at.seeds, at.heads, at.features, at.a, at.ga, at.x
    RADIAL, SLOPE, ANGULAR, EDGE, OUT = at.radial, at.slope, at.angular, at.edge, at.out
    SLOPES, SEEDS = LAYERS + readouts * (h0 + h1), VALUES + readouts
    GATE, SIGMA, GGATE = HEADS + 3 * nh, HEADS + 6 * nh, HEADS + 9 * nh
    TENSORS = GO + 12 * nh  # seeds of the raw tensors: κ, u (3), α as symmetric and axial (9), Q (9), trace of α
    spent = 12 * nh
    charge_scale, kappa_scale, third = kind(spec.charge_scale), kind(spec.charge_response_scale), kind(1.0 / 3.0)
    scalar_scale, zero, nothing = kind(spec.scalar_polarizability_scale), kind(0), np.float64(0)
    nz, Q_READOUT, S_READOUT = spec.nz, spec.charge_readout, spec.scalar_readout
    K_OUT, U_OUT = spec.charge_response_output, spec.dipole_output
    A_OUT, M_OUT = spec.polarizability_output, spec.quadrupole_output
    POSITIVE_A, POSITIVE_K, TRACELESS = spec.make_alpha_positive, spec.make_kappa_positive, spec.make_quad_traceless

    def matrix_seed(s, to, g0, g1, g2, g3, g4, g5, g6, g7, g8):
        """The symmetric part and half the axial vector of a gradient with respect to a matrix."""
        s[to], s[to + 1], s[to + 2] = g0, 0.5 * (g1 + g3), 0.5 * (g2 + g6)
        s[to + 3], s[to + 4], s[to + 5] = g4, 0.5 * (g5 + g7), g8
        s[to + 6], s[to + 7], s[to + 8] = 0.5 * (g5 - g7), 0.5 * (g6 - g2), 0.5 * (g1 - g3)

    matrix_seed = device(matrix_seed, dtype)

    def heads_seeds(s, seeds, i, out_weight):
        """Gradients with respect to the raw outputs of the tensor readout; one thread."""
        if K_OUT >= 0:
            g = kind(seeds[i, KAPPA]) * kappa_scale
            if POSITIVE_K:
                kappa = zero
                for h in range(nh):
                    kappa += out_weight[K_OUT * nh + h] * s[GATE + h] * s[SIGMA + h]
                g = g * (2.0 * kappa_scale) * kappa
            s[TENSORS] = g
        if U_OUT >= 0:
            for c in range(3):
                s[TENSORS + 1 + c] = kind(seeds[i, DIPOLE + c])
        if A_OUT >= 0:
            a0, a1, a2 = kind(seeds[i, ALPHA]), kind(seeds[i, ALPHA + 1]), kind(seeds[i, ALPHA + 2])
            a3, a4, a5 = kind(seeds[i, ALPHA + 3]), kind(seeds[i, ALPHA + 4]), kind(seeds[i, ALPHA + 5])
            a6, a7, a8 = kind(seeds[i, ALPHA + 6]), kind(seeds[i, ALPHA + 7]), kind(seeds[i, ALPHA + 8])
            if POSITIVE_A:
                m = raw_polarizability(s, out_weight)
                both = a0 + a0, a1 + a3, a2 + a6, a4 + a4, a5 + a7, a8 + a8
                x = matrix_vector(both, (m[0], m[3], m[6]))
                y = matrix_vector(both, (m[1], m[4], m[7]))
                z = matrix_vector(both, (m[2], m[5], m[8]))
                a0, a1, a2, a3, a4, a5, a6, a7, a8 = x[0], y[0], z[0], x[1], y[1], z[1], x[2], y[2], z[2]
            if S_READOUT >= 0:
                s[SEEDS + S_READOUT] = (a0 + a4 + a8) * scalar_scale
            matrix_seed(s, TENSORS + 4, a0, a1, a2, a3, a4, a5, a6, a7, a8)
        if M_OUT >= 0:
            q0, q1, q2 = kind(seeds[i, QUADRUPOLE]), kind(seeds[i, QUADRUPOLE + 1]), kind(seeds[i, QUADRUPOLE + 2])
            q3, q4, q5 = kind(seeds[i, QUADRUPOLE + 3]), kind(seeds[i, QUADRUPOLE + 4]), kind(seeds[i, QUADRUPOLE + 5])
            q6, q7, q8 = kind(seeds[i, QUADRUPOLE + 6]), kind(seeds[i, QUADRUPOLE + 7]), kind(seeds[i, QUADRUPOLE + 8])
            if TRACELESS:
                part = (q0 + q4 + q8) * third
                q0, q4, q8 = q0 - part, q4 - part, q8 - part
            matrix_seed(s, TENSORS + 13, q0, q1, q2, q3, q4, q5, q6, q7, q8)

    heads_seeds = device(heads_seeds, dtype)

    def add_matrix(s, h, factor, seed):
        """One matrix's part of the gradients of hidden tensor ``h``; returns its part of the gate's."""
        o, g = HIDDEN + 12 * h, GO + 12 * h
        m, c = l6(s, seed, 1), l3(s, seed + 6, 1)
        for k in range(6):
            s[g + 3 + k] += factor * m[k]
        for k in range(3):
            s[g + 9 + k] += factor * c[k]
        return trace_product(m, l6(s, o + 3, 1)) + dot(c, l3(s, o + 9, 1))

    add_matrix = device(add_matrix, dtype)

    def heads_adjoint(s, thread, threads, out_weight, gate_weight):
        """Gradients with respect to hidden tensors and the first layer's part of the readout."""
        for h in range(thread, nh, threads):
            g = GO + 12 * h
            for k in range(12):
                s[g + k] = 0.0
            for rank in range(3):
                s[GGATE + rank * nh + h] = 0.0
            if K_OUT >= 0:
                w = out_weight[K_OUT * nh + h]
                sigma, gate = s[SIGMA + h], s[GATE + h]
                s[GGATE + h] = s[TENSORS] * w * (sigma * (1.0 + gate * (1.0 - sigma)))
            if U_OUT >= 0:
                sigma, u = s[SIGMA + nh + h], l3(s, TENSORS + 1, 1)
                factor = out_weight[(no + U_OUT) * nh + h] * sigma
                s[GGATE + nh + h] = factor * dot(u, l3(s, HIDDEN + 12 * h, 1)) * (1.0 - sigma)
                s[g], s[g + 1], s[g + 2] = factor * u[0], factor * u[1], factor * u[2]
            sigma = s[SIGMA + 2 * nh + h]
            if A_OUT >= 0:
                factor = out_weight[(2 * no + A_OUT) * nh + h] * sigma
                s[GGATE + 2 * nh + h] += factor * add_matrix(s, h, factor, TENSORS + 4) * (1.0 - sigma)
            if M_OUT >= 0:
                factor = out_weight[(2 * no + M_OUT) * nh + h] * sigma
                s[GGATE + 2 * nh + h] += factor * add_matrix(s, h, factor, TENSORS + 13) * (1.0 - sigma)
        cuda.syncthreads()
        for k in range(thread, 3 * nh, threads):
            value = zero
            for row in range(3 * nh):
                value += s[GGATE + row] * gate_weight[row * 3 * nh + k]
            rank = k // nh
            h = k - rank * nh
            o, g = HIDDEN + 12 * h, GO + 12 * h
            if rank == 0:
                s[GZ + tensor_start + h] = value
            elif rank == 1:
                for c in range(3):
                    s[g + c] += 2.0 * value * s[o + c]
            else:
                for c in range(3, 9):
                    s[g + c] += 2.0 * value * s[o + c]
                for c in range(9, 12):
                    s[g + c] += value * s[o + c]
        cuda.syncthreads()

    heads_adjoint = device(heads_adjoint, dtype)

    def along_edge(s, base, l, e):
        """Σ_n R_n g[n, l] and Σ_n dR_n/dr g[n, l]."""
        value, change = zero, zero
        for n in range(nr):
            m = s[base + n * nl + l]
            value += s[RADIAL + n * EDGES + e] * m
            change += s[SLOPE + n * EDGES + e] * m
        return value, change * s[ANGULAR + l * EDGES + e]

    along_edge = device(along_edge, dtype)

    def edge_slope(s, e, z):
        """∂L/∂v of edge ``e`` of the tables, whose neighbour is of element ``z``."""
        x, y, w = s[EDGE + e], s[EDGE + EDGES + e], s[EDGE + 2 * EDGES + e]
        inverse, base = s[EDGE + 4 * EDGES + e], MOMENTS + z * nr * nl
        _, along = along_edge(s, base, 0, e)
        gx, d = along_edge(s, base, 1, e)
        along += d
        gy, d = along_edge(s, base, 2, e)
        along += d
        gz, d = along_edge(s, base, 3, e)
        along += d
        p, d = along_edge(s, base, 4, e)
        gx, along = gx + 2.0 * p * x, along + d
        p, d = along_edge(s, base, 5, e)
        gx, gy, along = gx + p * y, gy + p * x, along + d
        p, d = along_edge(s, base, 6, e)
        gx, gz, along = gx + p * w, gz + p * x, along + d
        p, d = along_edge(s, base, 7, e)
        gy, along = gy + 2.0 * p * y, along + d
        p, d = along_edge(s, base, 8, e)
        gy, gz, along = gy + p * w, gz + p * y, along + d
        p, d = along_edge(s, base, 9, e)
        gz, along = gz + 2.0 * p * w, along + d
        if nl > 10:
            p, d = along_edge(s, base, 10, e)
            gx, along = gx + 3.0 * p * x * x, along + d
            p, d = along_edge(s, base, 11, e)
            gx, gy, along = gx + 2.0 * p * x * y, gy + p * x * x, along + d
            p, d = along_edge(s, base, 12, e)
            gx, gz, along = gx + 2.0 * p * x * w, gz + p * x * x, along + d
            p, d = along_edge(s, base, 13, e)
            gx, gy, along = gx + p * y * y, gy + 2.0 * p * x * y, along + d
            p, d = along_edge(s, base, 14, e)
            gx, gy, gz, along = gx + p * y * w, gy + p * x * w, gz + p * x * y, along + d
            p, d = along_edge(s, base, 15, e)
            gx, gz, along = gx + p * w * w, gz + 2.0 * p * x * w, along + d
            p, d = along_edge(s, base, 16, e)
            gy, along = gy + 3.0 * p * y * y, along + d
            p, d = along_edge(s, base, 17, e)
            gy, gz, along = gy + 2.0 * p * y * w, gz + p * y * y, along + d
            p, d = along_edge(s, base, 18, e)
            gy, gz, along = gy + p * w * w, gz + 2.0 * p * y * w, along + d
            p, d = along_edge(s, base, 19, e)
            gz, along = gz + 3.0 * p * w * w, along + d
        across = along - (gx * x + gy * y + gz * w) * inverse
        return gx * inverse + across * x, gy * inverse + across * y, gz * inverse + across * w

    edge_slope = device(edge_slope, dtype)

    def reverse(types_, vectors, starts, frequencies, mixing, first_weight, first_transpose, first_bias, second_weight,
                second_bias, last_weight, last_bias, tensor_weight, gate_weight, gate_bias, out_weight, moments, first,
                hidden, seeds, slopes, forces, virial):  # fmt: skip
        s = cuda.shared.array(0, number)
        i, thread, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
        element, count = types_[i], starts[i, nz]
        for k in range(thread, rows * nl, threads):
            s[MOMENTS + k] = moments[i, k]
        for k in range(thread, n_first, threads):
            s[FIRST + k], s[GZ + k] = first[i, k], 0.0
        for k in range(thread, spent, threads):
            s[HIDDEN + k] = hidden[i, k]
        for k in range(thread, readouts, threads):
            seed = zero
            if k == 0:
                seed = kind(seeds[i, ENERGY])
            elif k == Q_READOUT:
                seed = charge_scale * kind(seeds[i, CHARGE])
            s[SEEDS + k] = seed
        cuda.syncthreads()
        layers(s, thread, threads, second_weight, second_bias, last_weight, last_bias)
        if nh > 0:
            gates(s, thread, threads, gate_weight, gate_bias)
            if thread == 0:
                heads_seeds(s, seeds, i, out_weight)
            cuda.syncthreads()
            heads_adjoint(s, thread, threads, out_weight, gate_weight)
        for k in range(thread, readouts * h0, threads):
            which = k // h0
            col, total = k - which * h0, zero
            for row in range(h1):
                j = which * h1 + row
                total += last_weight[j] * s[SLOPES + readouts * h0 + j] * second_weight[j * h0 + col]
            s[GZ + k] = s[SEEDS + which] * total * s[SLOPES + k]
        for k in range(thread, readouts, threads):
            s[GZ + readouts * h0 + k] = s[SEEDS + k]
        cuda.syncthreads()
        for f in range(thread, nf, threads):
            total = zero
            for row in range(n_first):
                total += s[GZ + row] * first_transpose[row * nf + f]
            s[GF + f] = total
        mix(s, thread, threads, mixing, element)
        for base in range(0, nc, group):
            if nh > 0:
                for k in range(thread, N_COMPONENTS * group, threads):
                    row = k // group
                    c, component, term = k - row * group, row // N_VECTOR, row % N_VECTOR
                    if row >= AXIAL:
                        component, term = 9 + (row - AXIAL) // N_AXIAL, N_VECTOR + N_SYMMETRIC + (row - AXIAL) % N_AXIAL
                    elif row >= SYMMETRIC:
                        component = 3 + (row - SYMMETRIC) // N_SYMMETRIC
                        term = N_VECTOR + (row - SYMMETRIC) % N_SYMMETRIC
                    weight, total = (base + c) * nh * N_TERMS + term, zero
                    for h in range(nh):
                        total += s[GO + 12 * h + component] * tensor_weight[weight + h * N_TERMS]
                    s[X + k] = total
                cuda.syncthreads()
            for c in range(thread, group, threads):
                invariants_adjoint(s, A + base + c, nc, s, GF + (base + c) * nb, s, GA + base + c)
                if nh > 0:
                    products_adjoint(s, A + base + c, nc, s, X + c, group, s, GA + base + c)
            cuda.syncthreads()
        for k in range(thread, rows * nl, threads):
            row = k // nl
            l = k - row * nl
            level = (1 if l > 0 else 0) + (1 if l > 3 else 0) + (1 if l > 9 else 0)
            weight, total = ((element * levels + level) * rows + row) * nc, zero
            for c in range(nc):
                total += mixing[weight + c] * s[GA + l * nc + c]
            s[MOMENTS + k] = total
        for start in range(0, count, EDGES):
            m = min(EDGES, count - start)
            edge_tables(s, thread, threads, vectors, i, start, m, frequencies, True)
            for e in range(thread, m, threads):
                z = 0
                while starts[i, z + 1] <= start + e:
                    z += 1
                x, y, w = edge_slope(s, e, z)
                s[OUT + e], s[OUT + EDGES + e], s[OUT + 2 * EDGES + e] = x, y, w
                slopes[i, start + e, 0], slopes[i, start + e, 1], slopes[i, start + e, 2] = x, y, w
            cuda.syncthreads()
            for k in range(thread, 12, threads):
                exact = nothing
                if k < 3:
                    for e in range(m):
                        exact -= s[OUT + k * EDGES + e]
                    exact += forces[i, k] if start > 0 else nothing
                    forces[i, k] = exact
                else:
                    c = (k - 3) // 3
                    d = k - 3 - 3 * c
                    for e in range(m):
                        exact += s[EDGE + c * EDGES + e] * s[EDGE + 3 * EDGES + e] * s[OUT + d * EDGES + e]
                    exact += virial[i, k - 3] if start > 0 else nothing
                    virial[i, k - 3] = exact
        if count == 0:
            for k in range(thread, 12, threads):
                if k < 3:
                    forces[i, k] = nothing
                else:
                    virial[i, k - 3] = nothing

    return Kernel(
        reverse,
        (
            array(int32), array(number, 3), array(int32, 2), *(array(number),) * _WEIGHTS, array(number, 2),
            array(number, 2), array(number, 2), array(types.float64, 2), array(number, 3), array(types.float64, 2),
            array(types.float64, 2),
        ),
        np.dtype(dtype), block, shared_bytes(spec, dtype, True), occupancy=_OCCUPANCY[np.dtype(dtype).itemsize][1],
        sums="the part of the centre in its force, the virial of an atom",
    )  # fmt: skip
