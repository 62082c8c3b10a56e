"""The local network on the CPU: drivers over atoms, forward, reverse and edges.

Forward keeps per atom only Ã (moments), the first layer and the hidden tensors; reverse makes the A features again from
Ã, which costs less than storing them. No scatter and no reduction over threads anywhere: results do not depend on the
number of threads.
"""

import numba
import numpy as np
from polmd.kernels.compile import kernel
from polmd.kernels.cpu.descriptor import (
    EDGE_ROWS,
    INVERSE_R,
    VX,
    VY,
    VZ,
    accumulate,
    edge_gradient,
    gather_edges,
    mix,
    radial_table,
    unmix,
)
from polmd.kernels.cpu.readout import (
    contract,
    contract_adjoint,
    first_layer,
    first_layer_adjoint,
    invariants,
    invariants_adjoint,
    products,
    products_adjoint,
    scalar_readout,
    scalar_readout_adjoint,
    tensor_heads,
    tensor_heads_adjoint,
)
from polmd.kernels.layout import LANES, N_COMPONENTS

#: Atoms that share one set of scratch arrays.
CHUNK = 8

_plain = numba.njit(error_model="numpy", nogil=True)


@_plain
def _capacity(first):
    most = 1
    for i in range(len(first) - 1):
        most = max(most, first[i + 1] - first[i])
    return most


@_plain
def _copy_block(a, block, column):
    for l in range(len(a)):
        for lane in range(LANES):
            block[l * LANES + lane] = a[l, column + lane]


@_plain
def _paste_block(block, column, a):
    for l in range(len(a)):
        for lane in range(LANES):
            a[l, column + lane] = block[l * LANES + lane]


@_plain
def _forward_chunk(start, stop, positions, cell, types, first, neighbors, shifts, w, ranks, orders, capacity,
                   moments, first_out, hidden, out):  # fmt: skip
    n_l, nc, nh = moments.shape[2], w.mixing.shape[3], w.gate_bias.shape[1]
    dtype = w.mixing.dtype
    nb = w.first_weight.shape[1] // nc
    edges = np.empty((EDGE_ROWS, capacity))
    atoms = np.empty(capacity, np.int32)
    values, slopes = np.empty((len(w.frequencies), capacity)), np.empty((len(w.frequencies), capacity))
    angular = np.empty(n_l)
    a, block = np.empty((n_l, nc), dtype), np.empty(n_l * LANES, dtype)
    features, x = np.empty(nb * nc, dtype), np.zeros(N_COMPONENTS * LANES, dtype)
    feature_block = np.empty(nb * LANES, dtype)
    layers = np.empty((4, max(w.second_weight.shape[1], w.second_weight.shape[2])))
    g, gate, b = np.empty(3 * nh), np.empty((3, nh)), np.empty((3, 3))
    for i in range(start, stop):
        count = gather_edges(i, positions, cell, first, neighbors, shifts, w.cutoff, w.exponent, edges, atoms)
        radial_table(edges, count, w.frequencies, w.cutoff, values, slopes)
        accumulate(edges, atoms, types, count, values, angular, moments[i])
        mix(moments[i], w.mixing[types[i]], a)
        o = hidden[i]
        o[:, :] = 0.0
        for k in range(nc // LANES):
            _copy_block(a, block, k * LANES)
            invariants(block, feature_block, ranks, orders)
            features[k * nb * LANES : (k + 1) * nb * LANES] = feature_block
            if nh > 0:
                products(block, x, ranks, orders)
                contract(x, w.tensor_weight[k], o)
        z = first_out[i]
        first_layer(features, w.first_weight, w.first_bias, z)
        out.energies[i] = scalar_readout(w, 0, z, layers)
        if w.charge_readout >= 0:
            out.charges[i] = w.charge_scale * scalar_readout(w, w.charge_readout, z, layers)
        if nh > 0:
            tensor_heads(w, i, z, layers, o, g, gate, b, out)


@kernel(parallel=True)
def forward(positions, cell, types, first, neighbors, shifts, w, ranks, orders, moments, first_out, hidden, out):
    """Predictions of the local network (spec: kernels/reference/network.py).

    name       shape              dtype    unit  in/out
    positions  (n, 3)             float64  Å     in
    cell       (3, 3)             float64  Å     in, rows are lattice vectors
    types      (n,)               int64          in, index of the element in the model
    first      (n+1,)             int64          in, pairs of atom i are first[i]:first[i+1]
    neighbors  (pairs,)           int32          in, neighbour's index; pairs beyond the cutoff are skipped
    shifts     (pairs, 3)         int32          in, v = r_i − r_j − shifts·cell
    w          NetworkWeights                    in
    ranks      tuple of max_l                    in, only its length counts
    orders     tuple of max_nu                   in, only its length counts
    moments    (n, zn, nl)        float64        out, Ã
    first_out  (n, n_first)       float64        out, first layer of the readouts
    hidden     (n, nh, 12)        float64        out, o_1 and o_2 (vector, symmetric, axial)
    out        Multipoles                        out
    """
    n = len(types)
    capacity = _capacity(first)
    for chunk in numba.prange((n + CHUNK - 1) // CHUNK):
        _forward_chunk(chunk * CHUNK, min(n, (chunk + 1) * CHUNK), positions, cell, types, first, neighbors, shifts, w,
                       ranks, orders, capacity, moments, first_out, hidden, out)  # fmt: skip


@_plain
def _reverse_chunk(start, stop, types, w, ranks, orders, moments, first_out, hidden, seeds, gradient):
    n_l, nc, nh = moments.shape[2], w.mixing.shape[3], w.gate_bias.shape[1]
    dtype = w.mixing.dtype
    half = dtype.type(0.5)
    nb = w.first_weight.shape[1] // nc
    a, ga = np.empty((n_l, nc), dtype), np.empty((n_l, nc), dtype)
    block, gblock = np.empty(n_l * LANES, dtype), np.empty(n_l * LANES, dtype)
    gfeatures, p = np.empty(nb * nc, dtype), np.empty(N_COMPONENTS * LANES, dtype)
    layers = np.empty((4, max(w.second_weight.shape[1], w.second_weight.shape[2])))
    gz, go = np.empty(len(w.first_bias)), np.empty((nh, 12))
    g, gate, ggate, b, g9 = np.empty(3 * nh), np.empty((3, nh)), np.empty((3, nh)), np.empty((3, 3)), np.empty((3, 3))
    for i in range(start, stop):
        mix(moments[i], w.mixing[types[i]], a)
        z = first_out[i]
        gz[:] = 0.0
        if seeds.energies[i] != 0.0:
            scalar_readout(w, 0, z, layers)
            scalar_readout_adjoint(w, 0, seeds.energies[i], layers, gz)
        if w.charge_readout >= 0:
            scalar_readout(w, w.charge_readout, z, layers)
            scalar_readout_adjoint(w, w.charge_readout, w.charge_scale * seeds.charges[i], layers, gz)
        if nh > 0:
            tensor_heads_adjoint(w, i, seeds, z, layers, hidden[i], g, gate, ggate, b, g9, gz, go)
        first_layer_adjoint(gz, w.first_weight, gfeatures)
        for k in range(nc // LANES):
            _copy_block(a, block, k * LANES)
            invariants_adjoint(block, gfeatures[k * nb * LANES : (k + 1) * nb * LANES], gblock, ranks, orders)
            if nh > 0:
                contract_adjoint(go, w.tensor_weight[k], p)
                products_adjoint(block, p, half, gblock, ranks, orders)
            _paste_block(gblock, k * LANES, ga)
        unmix(ga, w.mixing[types[i]], gradient[i])


@kernel(parallel=True)
def reverse(types, w, ranks, orders, moments, first_out, hidden, seeds, gradient):
    """Gradient with respect to Ã of L = Σ seeds·(predictions of :func:`forward`).

    name                        shape        dtype    in/out
    types, w, ranks, orders                           in, as in forward
    moments, first_out, hidden                        in, from forward
    seeds                       Multipoles            in, dL/d(prediction)
    gradient                    (n, 2, zn, nl)  float64  out, dL/dÃ and (−1)^L dL/dÃ
    """
    n = len(types)
    for chunk in numba.prange((n + CHUNK - 1) // CHUNK):
        _reverse_chunk(chunk * CHUNK, min(n, (chunk + 1) * CHUNK), types, w, ranks, orders, moments, first_out, hidden,
                       seeds, gradient)  # fmt: skip


@_plain
def _forces_chunk(start, stop, positions, cell, types, first, neighbors, shifts, w, capacity, gradient, forces, virial):
    n_l = gradient.shape[3]
    n_rbf = len(w.frequencies)
    edges = np.empty((EDGE_ROWS, capacity))
    atoms = np.empty(capacity, np.int32)
    values, slopes = np.empty((n_rbf, capacity)), np.empty((n_rbf, capacity))
    angular, radial, change = np.empty(n_l), np.empty(n_l), np.empty(n_l)
    for i in range(start, stop):
        count = gather_edges(i, positions, cell, first, neighbors, shifts, w.cutoff, w.exponent, edges, atoms)
        radial_table(edges, count, w.frequencies, w.cutoff, values, slopes)
        fx, fy, fz = 0.0, 0.0, 0.0
        virial[i, :, :] = 0.0
        for e in range(count):
            inverse, j = edges[INVERSE_R, e], atoms[e]
            v = edges[VX, e], edges[VY, e], edges[VZ, e]
            g = edge_gradient(v[0] * inverse, v[1] * inverse, v[2] * inverse, inverse, e, values, slopes, gradient[i, 0],
                              types[j] * n_rbf, gradient[j, 1], types[i] * n_rbf, angular, radial, change)  # fmt: skip
            fx -= g[0]
            fy -= g[1]
            fz -= g[2]
            for c in range(3):
                for d in range(3):
                    virial[i, c, d] += 0.5 * v[c] * g[d]
        forces[i, 0], forces[i, 1], forces[i, 2] = fx, fy, fz


@kernel(parallel=True)
def edge_forces(positions, cell, types, first, neighbors, shifts, w, gradient, forces, virial):
    """Forces and strain gradient of L from dL/dÃ: each atom gathers the gradients of its own edges, both directions.

    name                                     shape        dtype    unit  in/out
    positions … shifts, w                                                in, as in forward
    gradient                                 (n, 2, zn, nl)  float64     in, from reverse
    forces                                   (n, 3)       float64  eV/Å  out, −dL/dr
    virial                                   (n, 3, 3)    float64  eV    out, per-atom part of dL/dstrain[c, d] = Σ v_c ∂L/∂v_d
    """
    n = len(types)
    capacity = _capacity(first)
    for chunk in numba.prange((n + CHUNK - 1) // CHUNK):
        _forces_chunk(chunk * CHUNK, min(n, (chunk + 1) * CHUNK), positions, cell, types, first, neighbors, shifts, w,
                      capacity, gradient, forces, virial)  # fmt: skip
