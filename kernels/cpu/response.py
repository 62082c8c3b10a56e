"""Drivers of the electrical response on the CPU: charge that moves along the edges of the neighbour list, and the rates
of all predictions when the atoms move (forward differentiation).

Invariants and products are polynomials of degree 1, 2 and 3 in the features A, homogeneous term by term. Their
derivative along Ȧ needs no code of its own: (p(A + Ȧ) − p(A − Ȧ))/2 is exact for degrees 1 and 2, and exceeds it by
p(Ȧ) for degree 3. Ȧ is scaled to the size of A first, so that nothing is lost to rounding.
"""

import math

import numba
import numpy as np
from polmd.kernels.compile import kernel
from polmd.kernels.cpu.descriptor import _geometry, _high_monomials, _low_monomials, gather_edges, mix
from polmd.kernels.cpu.network import _write
from polmd.kernels.cpu.readout import (
    ALPHA,
    CHARGE,
    DIPOLE,
    KAPPA,
    N_PREDICTIONS,
    QUADRUPOLE,
    _hidden,
    _matrix,
    _raw_polarizability,
    _row_dot,
    _rows,
    contract,
    first_layer,
    gates,
    invariants,
    products,
    scalar_output,
    scalar_readout,
)
from polmd.kernels.cpu.scalars import (
    add3,
    add6,
    dot,
    double,
    radial_basis,
    scale3,
    scale6,
    sigmoid,
    silu,
    trace_product,
)
from polmd.kernels.cpu.simd import add_scaled, item, lanes, load, load_many, store, store_many, zeros
from polmd.kernels.layout import N_AXIAL, N_COMPONENTS, N_SYMMETRIC, N_VECTOR, S_V1, TILE, V1_A

_plain = numba.njit(error_model="numpy", nogil=True)
_helper = numba.njit(error_model="numpy", nogil=True, fastmath={"contract"})
_inline = numba.njit(error_model="numpy", nogil=True, forceinline=True, fastmath={"contract"})


@kernel()
def edge_charges(positions, cell, inverse, first, neighbors, shifts, slopes, edge, phase):
    """Σ_j d_ij ⊗ ∂L_j/∂r_i over the atoms j that atom i is a neighbour of, L = Σ_j L_j a scalar of the local network.

    d_ij = r_j − r_i along the edge, or D_ij = Σ_k cell_k sin(2π(s_jk − s_ik))/2π, which does not tell images apart. (The
    part of Born charges that comes from local charges: Kim et al., arXiv 2605.05746, and its edge form.)

    name                              shape      dtype    unit  in/out
    positions                         (n, 3)     float64  Å     in
    cell                              (3, 3)     float64  Å     in
    inverse                           (3, 3)     float64  1/Å   in, inverse cell; zeros: phase is zero
    first, neighbors, shifts                                    in, as in network.forward
    slopes                            (pairs, 3) float64        in, ∂L/∂v of every pair by its centre, from network.reverse
    edge, phase                       (n, 3, 3)  float64        out, [a, b]: d_a ∂/∂r_b and D_a ∂/∂r_b
    """
    edge[:, :, :] = 0.0
    phase[:, :, :] = 0.0
    v, d = np.empty(3), np.empty(3)
    for j in range(len(first) - 1):
        for p in range(first[j], first[j + 1]):
            i = neighbors[p]
            if slopes[p, 0] == 0.0 and slopes[p, 1] == 0.0 and slopes[p, 2] == 0.0:
                continue
            for a in range(3):
                shift = shifts[p, 0] * cell[0, a] + shifts[p, 1] * cell[1, a] + shifts[p, 2] * cell[2, a]
                v[a], d[a] = positions[j, a] - positions[i, a] - shift, 0.0
            for k in range(3):
                s = v[0] * inverse[0, k] + v[1] * inverse[1, k] + v[2] * inverse[2, k]
                t = math.sin(2.0 * math.pi * s) / (2.0 * math.pi)
                for a in range(3):
                    d[a] += t * cell[k, a]
            for a in range(3):
                for b in range(3):
                    edge[i, a, b] -= v[a] * slopes[p, b]
                    phase[i, a, b] -= d[a] * slopes[p, b]


@_inline
def _low_rates(u, d):
    """Rates of the monomials of levels 0 to 2 of a unit vector u that moves by d."""
    x, y, z = u
    dx, dy, dz = d
    return (
        0.0 * dx, dx, dy, dz, double(x * dx), x * dy + y * dx, x * dz + z * dx, double(y * dy), y * dz + z * dy,
        double(z * dz),
    )  # fmt: skip


@_inline
def _high_rates(u, d):
    """Those of level 3."""
    x, y, z = u
    dx, dy, dz = d
    xx, yy, zz = x * x, y * y, z * z
    xdx, ydy, zdz = double(x * dx), double(y * dy), double(z * dz)
    return (
        3.0 * xx * dx, xdx * y + xx * dy, xdx * z + xx * dz, ydy * x + yy * dx, (y * dx + x * dy) * z + x * y * dz,
        zdz * x + zz * dx, 3.0 * yy * dy, ydy * z + yy * dz, zdz * y + zz * dy, 3.0 * zz * dz,
    )  # fmt: skip


@_plain
def _edge_velocities(atoms, pairs, neighbors, velocities, out):
    """Velocity of the centre less that of the neighbour along every edge of a block: ``out`` (3·slots·lanes,)."""
    step, size = len(atoms), len(pairs)
    for at in range(size):
        p = pairs[at]
        for c in range(3):
            out[c * size + at] = 0.0
            if p >= 0:
                out[c * size + at] = velocities[atoms[at % step], c] - velocities[neighbors[p], c]


@_helper
def _add_ten(rates, at, change, value, y, dy):
    step = lanes(rates)
    sums = add_scaled(load_many(rates, at, step, 10), change, y)
    store_many(rates, at, step, add_scaled(sums, value, dy))


@_helper
def _accumulate_rates(slots, edges, speeds, frequencies, cutoff, exponent, n_l, rates):
    """dÃ/dt of a block, ``rates`` (zn·nl·lanes,), from edges and their velocities."""
    step, n_rbf = lanes(rates), len(frequencies)
    size = len(edges) // 3
    norm = np.sqrt(2.0 / cutoff)
    rates[:] = 0.0
    one = zeros(rates) + 1.0
    for z in range(len(slots) - 1):
        for slot in range(slots[z], slots[z + 1]):
            _, u, r, inverse, f, df = _geometry(edges, slot * step, size, cutoff, exponent)
            v = load_many(speeds, slot * step, size, 3)
            along = dot(u, v)
            d = (v[0] - along * u[0]) * inverse, (v[1] - along * u[1]) * inverse, (v[2] - along * u[2]) * inverse
            q, low_rates = _low_monomials(u), _low_rates(u, d)
            low = one, q[1], q[2], q[3], q[4], q[5], q[6], q[7], q[8], q[9]
            high, high_rates = _high_monomials(u), _high_rates(u, d)
            for n in range(n_rbf):
                value, slope = radial_basis(r, inverse, item(frequencies, n), f, df, norm)
                change, at = slope * along, (z * n_rbf + n) * n_l * step
                _add_ten(rates, at, change, value, low, low_rates)
                if n_l > 10:
                    _add_ten(rates, at + 10 * step, change, value, high, high_rates)


@_helper
def _difference(x, at, rows, first, last, start):
    """(x[0] − x[1])/2 for rows first … last of tables of ``rows`` rows, less x[2] from row ``start`` on; to x[3]."""
    step = lanes(x)
    table = rows * step
    for row in range(first, last):
        here = at + row * step
        value = 0.5 * (load(x, here) - load(x, here + table))
        if row >= start:
            value = value - load(x, here + 2 * table)
        store(x, here + 3 * table, value)


@_helper
def _feature_rates(moments, rates, mixing, w, ranks, orders, n_l, features, do):
    """Rates of the invariants, ``features`` (nf·lanes,), and of the hidden tensors, ``do`` (nh·12·lanes,), from Ã and its
    rates."""
    step, dtype, nh = lanes(moments), moments.dtype, w.gate_bias.shape[1]
    n_tiles = len(w.tensor_weight) // TILE
    nb = len(w.first_transpose) // n_tiles
    size = TILE * n_l * step
    a = np.empty(3 * size, dtype)
    f, x = np.empty(4 * nb * step, dtype), np.zeros(4 * N_COMPONENTS * step, dtype)
    symmetric, axial = 3 * N_VECTOR, 3 * N_VECTOR + 6 * N_SYMMETRIC
    do[:] = 0.0
    for tile in range(n_tiles):
        mix(moments, mixing, tile, n_tiles, n_l, a[:size])
        mix(rates, mixing, tile, n_tiles, n_l, a[2 * size :])
        for at in range(0, size, step):
            value, change = load(a, at), load(a, 2 * size + at)
            store(a, at, value + change)
            store(a, size + at, value - change)
        for k in range(TILE):
            channel, at = tile * TILE + k, k * n_l * step
            for m in range(3):
                invariants(a, m * size + at, f, m * nb * step, ranks, orders)
            _difference(f, 0, nb, 0, nb, len(ranks) + 1)
            for row in range(nb):
                store(features, (channel * nb + row) * step, load(f, (3 * nb + row) * step))
            if nh > 0:
                for m in range(3):
                    products(
                        a, m * size + at, x[m * N_COMPONENTS * step : (m + 1) * N_COMPONENTS * step], ranks, orders
                    )
                for c in range(3):
                    row = c * N_VECTOR
                    _difference(x, 0, N_COMPONENTS, row, row + N_VECTOR, row + S_V1)
                for c in range(6):
                    row = symmetric + c * N_SYMMETRIC
                    _difference(x, 0, N_COMPONENTS, row, row + N_SYMMETRIC, row + V1_A)
                _difference(x, 0, N_COMPONENTS, axial, axial + 3 * N_AXIAL, axial)
                contract(x[3 * N_COMPONENTS * step :], w.tensor_weight[channel], do)


@_helper
def _readout_rate(w, k, z, dz, layers):
    """Rate of readout k."""
    scalar_readout(w, k, z, layers)
    step, h0, h1 = lanes(z), len(w.second_weight[0]) // w.second_bias.shape[1], w.second_bias.shape[1]
    slopes = h0 + h1
    weight, last = w.second_weight[k], w.last_weight[k]
    for col in range(h0):
        at = (slopes + col) * step
        store(layers, col * step, load(layers, at) * load(dz, (k * h0 + col) * step))
    rate = load(dz, (len(w.last_bias) * h0 + k) * step)
    for row in range(h1):
        change = _row_dot(layers, 0, weight, row * h0, h0, zeros(z))
        rate = rate + load(layers, (slopes + h0 + row) * step) * change * item(last, row)
    return rate


@_helper
def _gate_rates(w, dz, o, do, dg, dgate):
    """Rates of what :func:`polmd.kernels.cpu.readout.gates` fills."""
    step, nh = lanes(dz), w.gate_bias.shape[1]
    start = len(w.last_bias) * (len(w.second_weight[0]) // w.second_bias.shape[1] + 1)
    for h in range(nh):
        v, s, c = _hidden(o, h, step)
        dv, ds, dc = _hidden(do, h, step)
        store(dg, h * step, load(dz, (start + h) * step))
        store(dg, (nh + h) * step, double(dot(v, dv)))
        store(dg, (2 * nh + h) * step, double(trace_product(s, ds)) + dot(c, dc))
    for rank in range(3):
        for h in range(nh):
            value = _row_dot(dg, 0, w.gate_weight[rank], h * 3 * nh, 3 * nh, zeros(dz))
            store(dgate, (rank * nh + h) * step, value)


@_helper
def _matrix_rate(w, output, o, do, gate, dgate):
    """Rate of out_2[output] as its symmetric part and axial vector."""
    step, nh = lanes(o), w.gate_bias.shape[1]
    weight, zero = w.out_weight[2, output], zeros(o)
    s, c = (zero, zero, zero, zero, zero, zero), (zero, zero, zero)
    for h in range(nh):
        _, sh, ch = _hidden(o, h, step)
        _, dsh, dch = _hidden(do, h, step)
        sigma = sigmoid(load(gate, (2 * nh + h) * step))
        factor = item(weight, h) * sigma
        slope = factor * (1.0 - sigma) * load(dgate, (2 * nh + h) * step)
        s = add6(s, add6(scale6(factor, dsh), scale6(slope, sh)))
        c = add3(c, add3(scale3(factor, dch), scale3(slope, ch)))
    return s, c


@_helper
def _head_rates(w, z, dz, layers, o, do, out):
    """Rates of all predictions, ``out`` (N_PREDICTIONS·lanes,), from those of the first layer and the hidden tensors."""
    step, dtype, nh = lanes(z), z.dtype, w.gate_bias.shape[1]
    if w.charge_readout >= 0:
        store(out, CHARGE * step, w.charge_scale * _readout_rate(w, w.charge_readout, z, dz, layers))
    if nh == 0:
        return
    g, gate, dg, dgate = (np.empty(3 * nh * step, dtype), np.empty(3 * nh * step, dtype),
                          np.empty(3 * nh * step, dtype), np.empty(3 * nh * step, dtype))  # fmt: skip
    gates(w, z, o, g, gate)
    _gate_rates(w, dz, o, do, dg, dgate)
    if w.charge_response_output >= 0:
        weight, rate = w.out_weight[0, w.charge_response_output], zeros(z)
        for h in range(nh):
            rate = rate + item(weight, h) * silu(load(gate, h * step))[1] * load(dgate, h * step)
        rate = w.charge_response_scale * rate
        if w.make_kappa_positive:
            rate = rate * (2.0 * w.charge_response_scale) * scalar_output(w, w.charge_response_output, gate)
        store(out, KAPPA * step, rate)
    if w.dipole_output >= 0:
        weight, u = w.out_weight[1, w.dipole_output], (zeros(z), zeros(z), zeros(z))
        for h in range(nh):
            sigma = sigmoid(load(gate, (nh + h) * step))
            factor = item(weight, h) * sigma
            slope = factor * (1.0 - sigma) * load(dgate, (nh + h) * step)
            change = add3(scale3(factor, _hidden(do, h, step)[0]), scale3(slope, _hidden(o, h, step)[0]))
            u = add3(u, change)
        store_many(out, DIPOLE * step, step, u)
    if w.polarizability_output >= 0:
        s, c = _matrix_rate(w, w.polarizability_output, o, do, gate, dgate)
        if w.scalar_readout >= 0:
            a = w.scalar_polarizability_scale * _readout_rate(w, w.scalar_readout, z, dz, layers)
            s = s[0] + a, s[1], s[2], s[3] + a, s[4], s[5] + a
        m = _matrix(s, c)
        if w.make_alpha_positive:
            da, db, dc = _rows(m)
            a, b, c = _rows(_raw_polarizability(w, z, layers, o, gate))
            ab, ac, bc = dot(da, b) + dot(a, db), dot(da, c) + dot(a, dc), dot(db, c) + dot(b, dc)
            m = double(dot(a, da)), ab, ac, ab, double(dot(b, db)), bc, ac, bc, double(dot(c, dc))
        store_many(out, ALPHA * step, step, m)
    if w.quadrupole_output >= 0:
        s, c = _matrix_rate(w, w.quadrupole_output, o, do, gate, dgate)
        if w.make_quad_traceless:
            third = (s[0] + s[3] + s[5]) * (1.0 / 3.0)
            s = s[0] - third, s[1], s[2], s[3] - third, s[4], s[5] - third
        store_many(out, QUADRUPOLE * step, step, _matrix(s, c))


@_plain
def _largest(x):
    size = 0.0
    for value in x:
        size = max(size, abs(value))
    return size


@_plain
def _rates_block(atoms, kind, positions, velocities, cell, types, first, neighbors, shifts, w, ranks, orders, n_l,
                 moments, z, o, out):  # fmt: skip
    step, dtype = lanes(moments), moments.dtype
    slots, edges, pairs = gather_edges(
        atoms, positions, cell, types, first, neighbors, shifts, w.cutoff, len(w.mixing), moments
    )
    speeds, rates = np.empty(len(edges), dtype), np.empty(len(moments), dtype)
    _edge_velocities(atoms, pairs, neighbors, velocities, speeds)
    _accumulate_rates(slots, edges, speeds, w.frequencies, w.cutoff, w.exponent, n_l, rates)
    speed = _largest(rates)
    if speed == 0.0:
        return
    scale = _largest(moments) / speed
    for at in range(len(rates)):
        rates[at] *= scale
    features, do = np.empty(len(w.first_transpose) * TILE * step, dtype), np.empty(len(o), dtype)
    _feature_rates(moments, rates, w.mixing[kind], w, ranks, orders, n_l, features, do)
    dz, layers = np.empty(len(z), dtype), np.empty(2 * (w.second_weight.shape[1] // w.second_bias.shape[1]
                                                        + w.second_bias.shape[1]) * step, dtype)  # fmt: skip
    first_layer(features, w.first_weight, np.zeros(len(w.first_bias), dtype), dz)
    values = np.zeros(N_PREDICTIONS * step, dtype)
    _head_rates(w, z, dz, layers, o, do, values)
    for at in range(len(values)):
        values[at] /= scale
    _write(atoms, values, out)


@kernel(parallel=True)
def rates(blocks, kinds, positions, velocities, cell, types, first, neighbors, shifts, w, ranks, orders, moments,
          first_out, hidden, out):  # fmt: skip
    """d/dt of the predictions of the local network when its atoms move: forward differentiation, one pass.

    name                                                shape    dtype    unit  in/out
    velocities                                          (n, 3)   float64  Å/fs  in
    blocks, kinds, positions, cell, types, first,                               in, as in network.forward
    neighbors, shifts, w, ranks, orders
    moments, first_out, hidden                                                  in, from network.forward
    out                                                 Multipoles        1/fs  out, but for energies; zeros before
    """
    n_l = 10 * (len(ranks) - 1)
    for b in numba.prange(len(blocks)):
        _rates_block(blocks[b], kinds[b], positions, velocities, cell, types, first, neighbors, shifts, w, ranks, orders,
                     n_l, moments[b], first_out[b], hidden[b], out)  # fmt: skip
