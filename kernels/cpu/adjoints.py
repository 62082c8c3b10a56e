"""Derivatives of several scalars of the local network at once, for the electrical response: edges, radial functions and A
features are made once for all of them."""

import math

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
    zero_tile,
)
from polmd.kernels.cpu.network import _read
from polmd.kernels.cpu.readout import (
    CHARGE,
    DIPOLE,
    N_PREDICTIONS,
    contract_adjoint,
    invariants_adjoint,
    products_adjoint,
    scalar_readout,
    scalar_readout_adjoint,
    tensor_heads_adjoint,
)
from polmd.kernels.cpu.scalars import radial_basis
from polmd.kernels.cpu.simd import add_weighted, item, lanes, load, store, store_many, zeros
from polmd.kernels.layout import N_COMPONENTS, TILE, Multipoles

#: Copies of the gradients, and tasks; fewer than in network.py, because each holds several gradients.
COPIES = 8

_plain = numba.njit(error_model="numpy", nogil=True)
_helper = numba.njit(error_model="numpy", nogil=True, fastmath={"contract"})


@_plain
def rows_of_first_layer(w, tensor):
    """Rows of the first layer that the charge, and with ``tensor`` the tensor readout, come from."""
    h0, readouts = w.second_weight.shape[1] // w.second_bias.shape[1], len(w.last_bias)
    rows = np.empty(2 * (h0 + 1) + w.gate_bias.shape[1], np.int64)
    count = 0
    for k in (w.charge_readout, w.scalar_readout if tensor else -1):
        if k >= 0:
            for h in range(h0):
                rows[count + h] = k * h0 + h
            rows[count + h0] = readouts * h0 + k
            count += h0 + 1
    if tensor:
        for h in range(w.gate_bias.shape[1]):
            rows[count + h] = readouts * (h0 + 1) + h
        count += w.gate_bias.shape[1]
    return rows[:count]


@_helper
def _first_layer_adjoint(seed, rows, transpose, first, gradient):
    """df = Wᵀ dz of some rows of the first layer, for the tiles of features from ``first`` on that fill ``gradient``."""
    step = lanes(seed)
    for tile in range(len(gradient) // (TILE * step)):
        w = transpose[first + tile]
        sums = zero_tile(seed)
        for row in rows:
            sums = add_weighted(sums, load(seed, row * step), w, row * TILE)
        store_many(gradient, tile * TILE * step, step, sums)


@_plain
def _is_zero(values):
    for value in values:
        if value != 0.0:
            return False
    return True


@_plain
def _moment_gradients(atoms, kind, seeds, w, ranks, orders, n_l, moments, z, o, gradients):
    """dL/dÃ of a block for every seed, ``gradients`` (seeds, zn·nl·lanes): A features are made once for all."""
    step, dtype, count = lanes(moments), moments.dtype, len(gradients)
    nh, n_tiles = w.gate_bias.shape[1], len(w.tensor_weight) // TILE
    nb = len(w.first_transpose) // n_tiles
    layers = np.empty(2 * (w.second_weight.shape[1] // w.second_bias.shape[1] + w.second_bias.shape[1]) * step, dtype)
    gz, go, tensors = np.zeros((count, len(z)), dtype), np.zeros((count, len(o)), dtype), np.empty(count, np.bool_)
    g, gate, ggate = np.empty(3 * nh * step, dtype), np.empty(3 * nh * step, dtype), np.empty(3 * nh * step, dtype)
    values = np.zeros(N_PREDICTIONS * step, dtype)
    for s in range(count):
        own = Multipoles(seeds.energies[s], seeds.charges[s], seeds.dipoles[s], seeds.quadrupoles[s],
                         seeds.charge_responses[s], seeds.polarizabilities[s])  # fmt: skip
        _read(atoms, own, values)
        if w.charge_readout >= 0:
            scalar_readout(w, w.charge_readout, z, layers)
            seed = w.charge_scale * load(values, CHARGE * step)
            scalar_readout_adjoint(w, w.charge_readout, seed, layers, gz[s])
        tensors[s] = nh > 0 and not _is_zero(values[DIPOLE * step :])
        if tensors[s]:
            tensor_heads_adjoint(w, values, z, layers, o, g, gate, ggate, gz[s], go[s])
        gradients[s, :] = 0.0
    # seed by seed within a tile of channels: what one seed needs stays in the first-level cache
    a, ga = np.empty(TILE * n_l * step, dtype), np.empty(TILE * n_l * step, dtype)
    gfeatures, p = np.empty(nb * TILE * step, dtype), np.empty(N_COMPONENTS * step, dtype)
    rows, all_rows = rows_of_first_layer(w, False), rows_of_first_layer(w, True)
    for tile in range(n_tiles):
        mix(moments, w.mixing[kind], tile, n_tiles, n_l, a)
        for s in range(count):
            _first_layer_adjoint(gz[s], all_rows if tensors[s] else rows, w.first_transpose, tile * nb, gfeatures)
            for k in range(TILE):
                at = k * n_l * step
                invariants_adjoint(a, at, gfeatures, k * nb * step, ga, ranks, orders)
                if tensors[s]:
                    contract_adjoint(go[s], w.tensor_weight[tile * TILE + k], p)
                    products_adjoint(a, at, p, ga, ranks, orders)
            unmix(ga, w.mixing[kind], tile, n_tiles, n_l, gradients[s])


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
def _scatter(atoms, pairs, neighbors, slopes, gradient):
    """Add ∂L/∂v of the edges of a block to ∂L/∂r of their two atoms."""
    step, size = len(atoms), len(pairs)
    for at in range(size):
        p = pairs[at]
        if p >= 0:
            i, j = atoms[at % step], neighbors[p]
            for c in range(3):
                g = slopes[c * size + at]
                gradient[i, c] += g
                gradient[j, c] -= g


@_plain
def _scatter_moved(atoms, pairs, neighbors, edges, slopes, angles, scaled, moved):
    """Add −v ⊗ ∂L/∂v and −D ⊗ ∂L/∂v of the edges of a block to ``moved`` (6, n, 3) of the neighbours."""
    step, size = len(atoms), len(pairs)
    for at in range(size):
        p = pairs[at]
        if p >= 0:
            i, j = atoms[at % step], neighbors[p]
            x, y, z = slopes[at], slopes[size + at], slopes[2 * size + at]
            t0 = angles[i, 0] * angles[j, 3] - angles[i, 3] * angles[j, 0]
            t1 = angles[i, 1] * angles[j, 4] - angles[i, 4] * angles[j, 1]
            t2 = angles[i, 2] * angles[j, 5] - angles[i, 5] * angles[j, 2]
            for a in range(3):
                v = edges[a * size + at]
                d = t0 * scaled[0, a] + t1 * scaled[1, a] + t2 * scaled[2, a]
                moved[a, j, 0] -= v * x
                moved[a, j, 1] -= v * y
                moved[a, j, 2] -= v * z
                moved[3 + a, j, 0] -= d * x
                moved[3 + a, j, 1] -= d * y
                moved[3 + a, j, 2] -= d * z


@_plain
def _gradients_block(atoms, kind, positions, cell, types, first, neighbors, shifts, w, ranks, orders, n_l, moments, z, o,
                     seeds, angles, scaled, out):  # fmt: skip
    dtype, count = moments.dtype, len(seeds.charges)
    gradients = np.empty((count, len(moments)), dtype)
    _moment_gradients(atoms, kind, seeds, w, ranks, orders, n_l, moments, z, o, gradients)
    slots, edges, pairs = gather_edges(
        atoms, positions, cell, types, first, neighbors, shifts, w.cutoff, len(w.mixing), moments
    )
    slopes = np.empty((count, len(edges)), dtype)
    _edge_gradients(slots, edges, w.frequencies, w.cutoff, w.exponent, n_l, gradients, slopes)
    for s in range(count):
        _scatter(atoms, pairs, neighbors, slopes[s], out[s])
    if len(out) > count:
        _scatter_moved(atoms, pairs, neighbors, edges, slopes[0], angles, scaled, out[count:])


@kernel(parallel=True)
def gradients(blocks, kinds, positions, cell, types, first, neighbors, shifts, w, ranks, orders, moments, first_out,
              hidden, seeds, angles, copies, out):  # fmt: skip
    """∂L/∂r of several L = Σ_j L_j = Σ seeds·(predictions of network.forward), energies left out, in one pass.

    With ``angles``, for the first L also Σ_j d_ij ⊗ ∂L_j/∂r_i over the atoms j that atom i is a neighbour of: with
    d_ij = r_j − r_i along the edge, and with D_ij = Σ_k cell_k sin(2π(s_jk − s_ik))/2π, which does not tell images apart.
    (The part of Born charges that comes from local charges: Kim et al., arXiv 2605.05746, and its edge form.)

    name                        shape                dtype    unit  in/out
    blocks … orders                                                 in, as in network.forward
    moments, first_out, hidden                                      in, from network.forward
    seeds                       Multipoles                          in, dL/d(prediction), (seeds, …) each
    angles                      (n, 6)               float64        in, sin and cos of 2π s_ik (zeros: D is zero), or (0, 6)
    copies                      (tasks, rows, n, 3)  float64        scratch, tasks at most COPIES
    out                         (rows, n, 3)         float64        out, a row per L; with ``angles`` six more, d_a ∂/∂r
                                                                    for a = x, y, z, then D_a ∂/∂r
    """
    n_l = 10 * (len(ranks) - 1)
    tasks, nb, n, rows = len(copies), len(blocks), out.shape[1], len(out)
    scaled = cell / (2.0 * math.pi)
    for task in numba.prange(tasks):
        copies[task] = 0.0
        for b in range(task * nb // tasks, (task + 1) * nb // tasks):
            _gradients_block(blocks[b], kinds[b], positions, cell, types, first, neighbors, shifts, w, ranks, orders, n_l,
                             moments[b], first_out[b], hidden[b], seeds, angles, scaled, copies[task])  # fmt: skip
    for part in numba.prange(tasks):
        for row in range(rows):
            for i in range(part * n // tasks, (part + 1) * n // tasks):
                x, y, z = 0.0, 0.0, 0.0
                for task in range(tasks):
                    x += copies[task, row, i, 0]
                    y += copies[task, row, i, 1]
                    z += copies[task, row, i, 2]
                out[row, i, 0], out[row, i, 1], out[row, i, 2] = x, y, z
