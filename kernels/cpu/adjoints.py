"""Derivatives of several scalars of the local network at once, for the electrical response: edges, radial functions and A
features are made once for all of them."""

import numba
import numpy as np
from polmd.kernels.compile import kernel
from polmd.kernels.cpu.descriptor import (
    _geometry,
    _high_monomials,
    _low_monomials,
    _slopes_ten,
    gather_edges,
    mix,
    unmix,
)
from polmd.kernels.cpu.network import _read
from polmd.kernels.cpu.readout import (
    CHARGE,
    N_PREDICTIONS,
    contract_adjoint,
    first_layer_adjoint,
    invariants_adjoint,
    products_adjoint,
    scalar_readout,
    scalar_readout_adjoint,
    tensor_heads_adjoint,
)
from polmd.kernels.cpu.scalars import radial_basis
from polmd.kernels.cpu.simd import item, lanes, load, store, store_many, zeros
from polmd.kernels.layout import N_COMPONENTS, TILE, Multipoles

_plain = numba.njit(error_model="numpy", nogil=True)
_helper = numba.njit(error_model="numpy", nogil=True, fastmath={"contract"})


@_plain
def _moment_gradients(atoms, kind, seeds, tensors, w, ranks, orders, n_l, moments, z, o, gradients):
    """dL/dÃ of a block for every seed, ``gradients`` (seeds, zn·nl·lanes): A features are made once for all."""
    step, dtype, count = lanes(moments), moments.dtype, len(tensors)
    nh, n_tiles = w.gate_bias.shape[1], len(w.tensor_weight) // TILE
    nb = len(w.first_transpose) // n_tiles
    layers = np.empty(2 * (w.second_weight.shape[1] // w.second_bias.shape[1] + w.second_bias.shape[1]) * step, dtype)
    gz, go = np.zeros((count, len(z)), dtype), np.zeros((count, len(o)), dtype)
    g, gate, ggate = np.empty(3 * nh * step, dtype), np.empty(3 * nh * step, dtype), np.empty(3 * nh * step, dtype)
    gfeatures = np.empty((count, n_tiles * TILE * nb * step), dtype)
    values = np.zeros(N_PREDICTIONS * step, dtype)
    for s in range(count):
        own = Multipoles(seeds.energies[s], seeds.charges[s], seeds.dipoles[s], seeds.quadrupoles[s],
                         seeds.charge_responses[s], seeds.polarizabilities[s])  # fmt: skip
        _read(atoms, own, values)
        if w.charge_readout >= 0:
            scalar_readout(w, w.charge_readout, z, layers)
            seed = w.charge_scale * load(values, CHARGE * step)
            scalar_readout_adjoint(w, w.charge_readout, seed, layers, gz[s])
        if nh > 0 and tensors[s]:
            tensor_heads_adjoint(w, values, z, layers, o, g, gate, ggate, gz[s], go[s])
        first_layer_adjoint(gz[s], w.first_transpose, gfeatures[s])
        gradients[s, :] = 0.0
    a, ga = np.empty(TILE * n_l * step, dtype), np.empty((count, TILE * n_l * step), dtype)
    p = np.empty(N_COMPONENTS * step, dtype)
    for tile in range(n_tiles):
        mix(moments, w.mixing[kind], tile, n_tiles, n_l, a)
        for k in range(TILE):
            channel, at = tile * TILE + k, k * n_l * step
            for s in range(count):
                invariants_adjoint(a, at, gfeatures[s], channel * nb * step, ga[s], ranks, orders)
                if nh > 0 and tensors[s]:
                    contract_adjoint(go[s], w.tensor_weight[channel], p)
                    products_adjoint(a, at, p, ga[s], ranks, orders)
        for s in range(count):
            unmix(ga[s], w.mixing[kind], tile, n_tiles, n_l, gradients[s])


@_helper
def _edge_gradients(slots, edges, frequencies, cutoff, exponent, n_l, gradients, out):
    """∂L/∂v of every edge for every seed, ``out`` (seeds, 3·slots·lanes), from ``gradients`` (seeds, zn·nl·lanes): radial
    functions and monomials are made once for all. Formulas as in descriptor.edge_gradients."""
    step, n_rbf = lanes(edges), len(frequencies)
    size = len(edges) // 3
    norm = np.sqrt(2.0 / cutoff)
    table = np.empty(2 * n_rbf * step, edges.dtype)
    one = zeros(edges) + 1.0
    for z in range(len(slots) - 1):
        own = z * n_rbf * n_l * step
        for slot in range(slots[z], slots[z + 1]):
            _, u, r, inverse, f, df = _geometry(edges, slot * step, size, cutoff, exponent)
            for n in range(n_rbf):
                value, slope = radial_basis(r, inverse, item(frequencies, n), f, df, norm)
                store(table, n * step, value)
                store(table, (n_rbf + n) * step, slope)
            x, y, z_ = u
            q, t = _low_monomials(u), _high_monomials(u)
            low = one, q[1], q[2], q[3], q[4], q[5], q[6], q[7], q[8], q[9]
            xy_, xz_, yz_ = 2.0 * q[5], 2.0 * q[6], 2.0 * q[8]
            for s in range(len(gradients)):
                p, along = _slopes_ten(gradients[s], own, n_l, table, n_rbf, low)
                gx = p[1] + 2.0 * p[4] * x + p[5] * y + p[6] * z_
                gy = p[2] + p[5] * x + 2.0 * p[7] * y + p[8] * z_
                gz = p[3] + p[6] * x + p[8] * y + 2.0 * p[9] * z_
                if n_l > 10:
                    p, more = _slopes_ten(gradients[s], own + 10 * step, n_l, table, n_rbf, t)
                    along = along + more
                    gx = gx + 3.0 * p[0] * q[4] + p[1] * xy_ + p[2] * xz_ + p[3] * q[7] + p[4] * q[8] + p[5] * q[9]
                    gy = gy + p[1] * q[4] + p[3] * xy_ + p[4] * q[6] + 3.0 * p[6] * q[7] + p[7] * yz_ + p[8] * q[9]
                    gz = gz + p[2] * q[4] + p[4] * q[5] + p[5] * xz_ + p[7] * q[7] + p[8] * yz_ + 3.0 * p[9] * q[9]
                across = along - (gx * x + gy * y + gz * z_) * inverse
                g = gx * inverse + across * x, gy * inverse + across * y, gz * inverse + across * z_
                store_many(out[s], slot * step, size, g)


@_plain
def _gradients_block(atoms, kind, positions, cell, types, first, neighbors, shifts, w, ranks, orders, n_l, moments, z, o,
                     seeds, tensors, out, slopes):  # fmt: skip
    step, dtype, count = lanes(moments), moments.dtype, len(tensors)
    gradients = np.empty((count, len(moments)), dtype)
    _moment_gradients(atoms, kind, seeds, tensors, w, ranks, orders, n_l, moments, z, o, gradients)
    slots, edges, pairs = gather_edges(
        atoms, positions, cell, types, first, neighbors, shifts, w.cutoff, len(w.mixing), moments
    )
    found = np.empty((count, len(edges)), dtype)
    _edge_gradients(slots, edges, w.frequencies, w.cutoff, w.exponent, n_l, gradients, found)
    size = len(pairs)
    for at in range(size):
        p = pairs[at]
        if p >= 0:
            i, j = atoms[at % step], neighbors[p]
            for s in range(count):
                for c in range(3):
                    g = found[s, c * size + at]
                    out[s, i, c] += g
                    out[s, j, c] -= g
            if len(slopes) > 0:
                for c in range(3):
                    slopes[p, c] = found[0, c * size + at]


@kernel(parallel=True)
def gradients(blocks, kinds, positions, cell, types, first, neighbors, shifts, w, ranks, orders, moments, first_out,
              hidden, seeds, tensors, copies, out, slopes):  # fmt: skip
    """∂L/∂r of several L = Σ seeds·(predictions of network.forward), energies left out, in one pass.

    name                        shape               dtype    unit  in/out
    blocks … orders                                                in, as in network.forward
    moments, first_out, hidden                                     in, from network.forward
    seeds                       Multipoles                         in, dL/d(prediction), (seeds, …) each
    tensors                     (seeds,)            bool           in, whether a seed has more than charges
    copies                      (tasks, seeds, n, 3) float64       scratch, tasks as in network.reverse
    out                         (seeds, n, 3)       float64        out
    slopes                      (pairs, 3)          float64        out, ∂L/∂v of the first L for every pair inside the
                                                                   cutoff by its centre's features; or of length 0
    """
    n_l = 10 * (len(ranks) - 1)
    tasks, nb, n, count = len(copies), len(blocks), out.shape[1], len(tensors)
    for task in numba.prange(tasks):
        copies[task] = 0.0
        for b in range(task * nb // tasks, (task + 1) * nb // tasks):
            _gradients_block(blocks[b], kinds[b], positions, cell, types, first, neighbors, shifts, w, ranks, orders, n_l,
                             moments[b], first_out[b], hidden[b], seeds, tensors, copies[task], slopes)  # fmt: skip
    for part in numba.prange(tasks):
        for i in range(part * n // tasks, (part + 1) * n // tasks):
            for s in range(count):
                for c in range(3):
                    total = 0.0
                    for task in range(tasks):
                        total += copies[task, s, i, c]
                    out[s, i, c] = total
