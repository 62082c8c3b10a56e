"""The local network on the CPU: drivers over blocks of atoms, forward and reverse.

Forward keeps per block only Ã (moments), the first layer and the hidden tensors; reverse makes edges and A features
again from positions and Ã, which costs less than storing them, and goes on to forces block by block. Forces on
neighbours are collected in a number of copies that depends on the number of atoms alone and added up in fixed order:
results do not depend on the number of threads.
"""

import numba
import numpy as np
from polmd.kernels.compile import kernel
from polmd.kernels.cpu.descriptor import accumulate, edge_gradients, gather_edges, mix, unmix
from polmd.kernels.cpu.readout import (
    CHARGE,
    ENERGY,
    N_PREDICTIONS,
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
from polmd.kernels.cpu.simd import lanes, load, store
from polmd.kernels.layout import N_COMPONENTS, TILE

#: Copies of the forces on neighbours, and tasks of the reverse pass.
COPIES = 32

_plain = numba.njit(error_model="numpy", nogil=True)


@_plain
def _write(atoms, values, out):
    """From the table of a block to the Multipoles ``out``."""
    step = len(atoms)
    for lane in range(step):
        i = atoms[lane]
        if i >= 0:
            v = values[lane::step]
            out.energies[i], out.charges[i], out.charge_responses[i] = v[0], v[1], v[14]
            for k in range(3):
                out.dipoles[i, k] = v[2 + k]
                for l in range(3):
                    out.quadrupoles[i, k, l] = v[5 + 3 * k + l]
                    out.polarizabilities[i, k, l] = v[15 + 3 * k + l]


@_plain
def _sum(values):
    total = 0.0
    for k in range(len(values)):
        total += values[k]
    return total


@_plain
def _read(atoms, seeds, values):
    """From Multipoles to the table of a block."""
    step = len(atoms)
    for lane in range(step):
        i = atoms[lane]
        if i >= 0:
            v = values[lane::step]
            v[0], v[1], v[14] = seeds.energies[i], seeds.charges[i], seeds.charge_responses[i]
            for k in range(3):
                v[2 + k] = seeds.dipoles[i, k]
                for l in range(3):
                    v[5 + 3 * k + l] = seeds.quadrupoles[i, k, l]
                    v[15 + 3 * k + l] = seeds.polarizabilities[i, k, l]


@_plain
def _forward_block(atoms, kind, positions, cell, types, first, neighbors, shifts, w, ranks, orders, n_l,
                   moments, z, o, out):  # fmt: skip
    step, dtype = lanes(moments), moments.dtype
    nh, n_tiles = w.gate_bias.shape[1], len(w.tensor_weight) // TILE
    nb = len(w.first_transpose) // n_tiles
    slots, edges, _ = gather_edges(
        atoms, positions, cell, types, first, neighbors, shifts, w.cutoff, len(w.mixing), moments
    )
    accumulate(slots, edges, w.frequencies, w.cutoff, w.exponent, n_l, moments)
    a, x = np.empty(TILE * n_l * step, dtype), np.zeros(N_COMPONENTS * step, dtype)
    features = np.empty(n_tiles * TILE * nb * step, dtype)
    o[:] = 0.0
    for tile in range(n_tiles):
        mix(moments, w.mixing[kind], tile, n_tiles, n_l, a)
        for k in range(TILE):
            channel = tile * TILE + k
            invariants(a, k * n_l * step, features, channel * nb * step, ranks, orders)
            if nh > 0:
                products(a, k * n_l * step, x, ranks, orders)
                contract(x, w.tensor_weight[channel], o)
    first_layer(features, w.first_weight, w.first_bias, z)
    layers = np.empty(2 * (w.second_weight.shape[1] // w.second_bias.shape[1] + w.second_bias.shape[1]) * step, dtype)
    values = np.zeros(N_PREDICTIONS * step, dtype)
    store(values, ENERGY * step, scalar_readout(w, 0, z, layers))
    if w.charge_readout >= 0:
        store(values, CHARGE * step, w.charge_scale * scalar_readout(w, w.charge_readout, z, layers))
    if nh > 0:
        g, gate = np.empty(3 * nh * step, dtype), np.empty(3 * nh * step, dtype)
        tensor_heads(w, z, layers, o, g, gate, values)
    _write(atoms, values, out)


@kernel(parallel=True)
def forward(blocks, kinds, positions, cell, types, first, neighbors, shifts, w, ranks, orders, moments, first_out,
            hidden, out):  # fmt: skip
    """Predictions of the local network (spec: kernels/reference/network.py).

    name       shape              dtype    unit  in/out
    blocks     (nb, lanes)        int32          in, atoms of each block, all of one element, or −1
    kinds      (nb,)              int64          in, index of the element of each block in the model
    positions  (n, 3)             float64  Å     in
    cell       (3, 3)             float64  Å     in, rows are lattice vectors
    types      (n,)               int64          in, index of the element in the model
    first      (n+1,)             int64          in, pairs of atom i are first[i]:first[i+1]
    neighbors  (pairs,)           int32          in, neighbour's index; pairs beyond the cutoff are skipped
    shifts     (pairs, 3)         int32          in, v = r_i − r_j − shifts·cell
    w          NetworkWeights                    in
    ranks      tuple of max_l                    in, only its length counts
    orders     tuple of max_nu                   in, only its length counts
    moments    (nb, zn·nl·lanes)  of w           out, Ã
    first_out  (nb, n_first·lanes)  of w         out, first layer of the readouts
    hidden     (nb, nh·12·lanes)  of w           out, o_1 and o_2 (vector, symmetric, axial)
    out        Multipoles                        out
    returned   scalar             float64  eV    sum of the energies
    """
    n_l = 10 * (len(ranks) - 1)
    for b in numba.prange(len(blocks)):
        _forward_block(blocks[b], kinds[b], positions, cell, types, first, neighbors, shifts, w, ranks, orders, n_l,
                       moments[b], first_out[b], hidden[b], out)  # fmt: skip
    return _sum(out.energies)


@_plain
def _moment_gradient(kind, values, w, ranks, orders, n_l, moments, z, o, gradient):
    """dL/dÃ of a block from the seeds ``values``."""
    step, dtype = lanes(moments), moments.dtype
    nh, n_tiles = w.gate_bias.shape[1], len(w.tensor_weight) // TILE
    nb = len(w.first_transpose) // n_tiles
    layers = np.empty(2 * (w.second_weight.shape[1] // w.second_bias.shape[1] + w.second_bias.shape[1]) * step, dtype)
    gz, go = np.zeros(len(z), dtype), np.empty(len(o), dtype)
    scalar_readout(w, 0, z, layers)
    scalar_readout_adjoint(w, 0, load(values, ENERGY * step), layers, gz)
    if w.charge_readout >= 0:
        scalar_readout(w, w.charge_readout, z, layers)
        scalar_readout_adjoint(w, w.charge_readout, w.charge_scale * load(values, CHARGE * step), layers, gz)
    if nh > 0:
        g, gate, ggate = np.empty(3 * nh * step, dtype), np.empty(3 * nh * step, dtype), np.empty(3 * nh * step, dtype)
        tensor_heads_adjoint(w, values, z, layers, o, g, gate, ggate, gz, go)
    a, ga = np.empty(TILE * n_l * step, dtype), np.empty(TILE * n_l * step, dtype)
    gfeatures, p = np.empty(n_tiles * TILE * nb * step, dtype), np.empty(N_COMPONENTS * step, dtype)
    first_layer_adjoint(gz, w.first_transpose, gfeatures)
    gradient[:] = 0.0
    for tile in range(n_tiles):
        mix(moments, w.mixing[kind], tile, n_tiles, n_l, a)
        for k in range(TILE):
            channel, at = tile * TILE + k, k * n_l * step
            invariants_adjoint(a, at, gfeatures, channel * nb * step, ga, ranks, orders)
            if nh > 0:
                contract_adjoint(go, w.tensor_weight[channel], p)
                products_adjoint(a, at, p, ga, ranks, orders)
        unmix(ga, w.mixing[kind], tile, n_tiles, n_l, gradient)


@_plain
def _reverse_block(atoms, kind, positions, cell, types, first, neighbors, shifts, w, ranks, orders, n_l, moments, z,
                   o, seeds, forces, virial):  # fmt: skip
    step, dtype = lanes(moments), moments.dtype
    values, gradient = np.zeros(N_PREDICTIONS * step, dtype), np.empty(len(moments), dtype)
    _read(atoms, seeds, values)
    _moment_gradient(kind, values, w, ranks, orders, n_l, moments, z, o, gradient)
    slots, edges, pairs = gather_edges(
        atoms, positions, cell, types, first, neighbors, shifts, w.cutoff, len(w.mixing), moments
    )
    edge_gradients(slots, edges, w.frequencies, w.cutoff, w.exponent, n_l, gradient, virial)
    size = len(pairs)
    for at in range(size):
        p = pairs[at]
        if p >= 0:
            i, j = atoms[at % step], neighbors[p]
            for c in range(3):
                g = edges[c * size + at]
                forces[i, c] -= g
                forces[j, c] += g


@kernel(parallel=True)
def reverse(blocks, kinds, positions, cell, types, first, neighbors, shifts, w, ranks, orders, moments, first_out,
            hidden, seeds, added, copies, virial, forces, strain):  # fmt: skip
    """Forces and strain gradient of L = Σ seeds·(predictions of :func:`forward`).

    name                        shape           dtype    unit  in/out
    blocks … orders                                            in, as in forward
    moments, first_out, hidden                                 in, from forward
    seeds                       Multipoles                     in, dL/d(prediction)
    added                       (n, 3)          float64  eV/Å  in, forces that are added, or (0, 3)
    copies, virial              (tasks, n, 3), (nb, 9)         scratch, tasks at most COPIES
    forces                      (n, 3)          float64  eV/Å  out, −dL/dr, and what is added
    strain                      (3, 3)          float64  eV    in and out, dL/dstrain[c, d] = Σ v_c ∂L/∂v_d is added
    """
    n_l = 10 * (len(ranks) - 1)
    tasks, nb, n = len(copies), len(blocks), len(forces)
    for task in numba.prange(tasks):
        copies[task, :, :] = 0.0
        for b in range(task * nb // tasks, (task + 1) * nb // tasks):
            _reverse_block(blocks[b], kinds[b], positions, cell, types, first, neighbors, shifts, w, ranks, orders, n_l,
                           moments[b], first_out[b], hidden[b], seeds, copies[task], virial[b])  # fmt: skip
    for part in numba.prange(tasks):
        for i in range(part * n // tasks, (part + 1) * n // tasks):
            x, y, z = (added[i, 0], added[i, 1], added[i, 2]) if len(added) > 0 else (0.0, 0.0, 0.0)
            for task in range(tasks):
                x += copies[task, i, 0]
                y += copies[task, i, 1]
                z += copies[task, i, 2]
            forces[i, 0], forces[i, 1], forces[i, 2] = x, y, z
    for c in range(3):
        for d in range(3):
            strain[c, d] += _sum(virial[:, 3 * c + d])
