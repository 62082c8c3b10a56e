"""Driver of the electrical response on the CPU: the rates of all predictions when the atoms move (forward
differentiation). Every helper is the derivative of one of descriptor.py or readout.py along the rates of what that takes."""

import numba
import numpy as np
from polmd.kernels.compile import kernel
from polmd.kernels.cpu.adjoints import rows_of_first_layer
from polmd.kernels.cpu.descriptor import (
    RUN,
    _accumulate_ten,
    _geometry,
    _high_monomials,
    _low_monomials,
    gather_edges,
    mix,
    zero_tile,
)
from polmd.kernels.cpu.network import _write
from polmd.kernels.cpu.readout import (
    _AXIAL,
    _SYMMETRIC,
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
    gates,
    scalar_output,
    scalar_readout,
)
from polmd.kernels.cpu.scalars import (
    add3,
    add6,
    axial_part,
    cross,
    dot,
    double,
    matrix_product,
    matrix_vector,
    outer_symmetric,
    radial_basis,
    scale3,
    scale6,
    sigmoid,
    silu,
    square,
    symmetric_part,
    tensor_matrix,
    tensor_square,
    tensor_vector,
    trace_product,
)
from polmd.kernels.cpu.simd import add_weighted, item, lanes, load, load_many, store, store_many, zeros
from polmd.kernels.layout import (
    A_R,
    A_T,
    AA,
    C_S_M13,
    C_S_M33,
    M13,
    M13_A,
    M22,
    M33,
    N_AXIAL,
    N_COMPONENTS,
    N_SYMMETRIC,
    N_VECTOR,
    S_M13,
    S_M22,
    S_M33,
    S_V1,
    S_V2,
    T_M13,
    T_M22,
    T_M33,
    T_V1,
    T_V2,
    TILE,
    V1,
    V1_A,
    V1_X_A,
    V2,
    V2_A,
    V2_X_A,
    A,
    Multipoles,
    S,
)

_plain = numba.njit(error_model="numpy", nogil=True)
_helper = numba.njit(error_model="numpy", nogil=True, fastmath={"contract"})
_inline = numba.njit(error_model="numpy", nogil=True, forceinline=True, fastmath={"contract"})


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
def _accumulate_rates(slots, edges, speeds, frequencies, cutoff, exponent, n_l, rates):
    """dÃ/dt of a block, ``rates`` (zn·nl·lanes,), from edges and their velocities: twice the sums of
    descriptor.accumulate, of dR_n/dt Y_l and of R_n dY_l/dt."""
    step, n_rbf = lanes(rates), len(frequencies)
    size = len(edges) // 3
    norm = np.sqrt(2.0 / cutoff)
    radial, angular = np.empty(n_rbf * RUN * step, rates.dtype), np.empty(RUN * n_l * step, rates.dtype)
    rates[:] = 0.0
    for z in range(len(slots) - 1):
        for start in range(slots[z], slots[z + 1], RUN // 2):
            count = min(RUN // 2, slots[z + 1] - start)
            for k in range(count):
                _, u, r, inverse, f, df = _geometry(edges, (start + k) * step, size, cutoff, exponent)
                v = load_many(speeds, (start + k) * step, size, 3)
                along = dot(u, v)
                d = (v[0] - along * u[0]) * inverse, (v[1] - along * u[1]) * inverse, (v[2] - along * u[2]) * inverse
                for n in range(n_rbf):
                    value, slope = radial_basis(r, inverse, item(frequencies, n), f, df, norm)
                    at = ((n // 2 * RUN + 2 * k) * 2 + n % 2) * step
                    store(radial, at, slope * along)
                    store(radial, at + 2 * step, value)
                at = 2 * k * n_l * step
                store_many(angular, at, step, _low_monomials(u))
                store(angular, at, zeros(rates) + 1.0)
                store_many(angular, at + n_l * step, step, _low_rates(u, d))
                if n_l > 10:
                    store_many(angular, at + 10 * step, step, _high_monomials(u))
                    store_many(angular, at + (n_l + 10) * step, step, _high_rates(u, d))
            for n in range(0, n_rbf, 2):
                at = (z * n_rbf + n) * n_l * step
                values = radial[n * RUN * step :]
                _accumulate_ten(values, angular, 2 * count, n_l, rates, at, at + n_l * step)
                if n_l > 10:
                    at += 10 * step
                    _accumulate_ten(values, angular[10 * step :], 2 * count, n_l, rates, at, at + n_l * step)


@_helper
def _invariant_rates(a, b, at, features, to, ranks, orders):
    """Rates of readout.invariants from A and its rates ``b``."""
    step = lanes(a)
    v, s = load_many(a, at + step, step, 3), load_many(a, at + 4 * step, step, 6)
    dv, ds = load_many(b, at + step, step, 3), load_many(b, at + 4 * step, step, 6)
    store(features, to, load(b, at))
    store(features, to + step, double(dot(v, dv)))
    store(features, to + 2 * step, double(trace_product(s, ds)))
    if len(ranks) == 3:
        t, dt = load_many(a, at + 10 * step, step, 10), load_many(b, at + 10 * step, step, 10)
        x, y, z = _slices(t)
        dx, dy, dz = _slices(dt)
        store(features, to + 3 * step, double(trace_product(x, dx) + trace_product(y, dy) + trace_product(z, dz)))
        if len(orders) == 3:
            v1, v2 = matrix_vector(s, v), tensor_matrix(t, s)
            dv2 = add3(tensor_matrix(dt, s), tensor_matrix(t, ds))
            store(features, to + 4 * step, double(dot(dv, v1)) + dot(v, matrix_vector(ds, v)))
            store(features, to + 5 * step, dot(dv, v2) + dot(v, dv2))
    elif len(orders) == 3:
        store(features, to + 3 * step, double(dot(dv, matrix_vector(s, v))) + dot(v, matrix_vector(ds, v)))


@_inline
def _slices(t):
    """t_xjk, t_yjk and t_zjk of a symmetric third-rank tensor."""
    return (
        (t[0], t[1], t[2], t[3], t[4], t[5]),
        (t[1], t[3], t[4], t[6], t[7], t[8]),
        (t[2], t[4], t[5], t[7], t[8], t[9]),
    )


@_inline
def _tensor_square_rate(t, dt):
    """Rate of tensor_square(t)."""
    x, y, z = _slices(t)
    dx, dy, dz = _slices(dt)
    return (
        double(trace_product(x, dx)),
        trace_product(x, dy) + trace_product(dx, y),
        trace_product(x, dz) + trace_product(dx, z),
        double(trace_product(y, dy)),
        trace_product(y, dz) + trace_product(dy, z),
        double(trace_product(z, dz)),
    )


@_inline
def _matrix_vector_rate(s, ds, v, dv):
    return add3(matrix_vector(ds, v), matrix_vector(s, dv))


@_inline
def _tensor_vector_rate(t, dt, v, dv):
    return add6(tensor_vector(dt, v), tensor_vector(t, dv))


@_inline
def _tensor_matrix_rate(t, dt, s, ds):
    return add3(tensor_matrix(dt, s), tensor_matrix(t, ds))


@_helper
def _product_rates(a, b, at, x, ranks, orders):
    """Rates of readout.products from A and its rates ``b``."""
    step = lanes(a)
    vectors, matrices, axials = N_VECTOR * step, N_SYMMETRIC * step, N_AXIAL * step
    v, s = load_many(a, at + step, step, 3), load_many(a, at + 4 * step, step, 6)
    dv, ds = load_many(b, at + step, step, 3), load_many(b, at + 4 * step, step, 6)
    v1, m22 = matrix_vector(s, v), square(s)
    dv1, dm22 = _matrix_vector_rate(s, ds, v, dv), symmetric_part(matrix_product(s, ds))
    store_many(x, A * step, vectors, dv)
    store_many(x, V1 * step, vectors, dv1)
    store_many(x, (_SYMMETRIC + S) * step, matrices, ds)
    store_many(x, (_SYMMETRIC + AA) * step, matrices, outer_symmetric(v, dv))
    store_many(x, (_SYMMETRIC + M22) * step, matrices, dm22)
    if len(orders) == 3:
        store_many(x, S_V1 * step, vectors, _matrix_vector_rate(s, ds, v1, dv1))
        store_many(x, A_R * step, vectors, add3(scale3(double(dot(v, dv)), v), scale3(dot(v, v), dv)))
        store_many(x, (_SYMMETRIC + V1_A) * step, matrices, add6(outer_symmetric(dv1, v), outer_symmetric(v1, dv)))
        store_many(x, (_AXIAL + V1_X_A) * step, axials, add3(cross(dv1, v), cross(v1, dv)))
        cube = add6(symmetric_part(matrix_product(ds, m22)), symmetric_part(matrix_product(s, dm22)))
        store_many(x, (_SYMMETRIC + S_M22) * step, matrices, cube)
    if len(ranks) == 3:
        t, dt = load_many(a, at + 10 * step, step, 10), load_many(b, at + 10 * step, step, 10)
        v2, m13, m33 = tensor_matrix(t, s), tensor_vector(t, v), tensor_square(t)
        dv2, dm13 = _tensor_matrix_rate(t, dt, s, ds), _tensor_vector_rate(t, dt, v, dv)
        dm33 = _tensor_square_rate(t, dt)
        store_many(x, V2 * step, vectors, dv2)
        store_many(x, (_SYMMETRIC + M13) * step, matrices, dm13)
        store_many(x, (_SYMMETRIC + M33) * step, matrices, dm33)
        if len(orders) == 3:
            store_many(x, S_V2 * step, vectors, _matrix_vector_rate(s, ds, v2, dv2))
            dr = double(trace_product(s, ds))
            store_many(x, A_T * step, vectors, add3(scale3(dr, v), scale3(trace_product(s, s), dv)))
            store_many(x, M13_A * step, vectors, _matrix_vector_rate(m13, dm13, v, dv))
            store_many(x, T_M13 * step, vectors, _tensor_matrix_rate(t, dt, m13, dm13))
            store_many(x, T_M22 * step, vectors, _tensor_matrix_rate(t, dt, m22, dm22))
            store_many(x, T_M33 * step, vectors, _tensor_matrix_rate(t, dt, m33, dm33))
            store_many(x, (_SYMMETRIC + V2_A) * step, matrices, add6(outer_symmetric(dv2, v), outer_symmetric(v2, dv)))
            store_many(x, (_AXIAL + V2_X_A) * step, axials, add3(cross(dv2, v), cross(v2, dv)))
            store_many(x, (_SYMMETRIC + T_V1) * step, matrices, _tensor_vector_rate(t, dt, v1, dv1))
            store_many(x, (_SYMMETRIC + T_V2) * step, matrices, _tensor_vector_rate(t, dt, v2, dv2))
            one, two = matrix_product(ds, m13), matrix_product(s, dm13)
            c = add3(axial_part(one), axial_part(two))
            store_many(x, (_SYMMETRIC + S_M13) * step, matrices, add6(symmetric_part(one), symmetric_part(two)))
            store_many(x, (_AXIAL + C_S_M13) * step, axials, add3(c, c))
            one, two = matrix_product(ds, m33), matrix_product(s, dm33)
            c = add3(axial_part(one), axial_part(two))
            store_many(x, (_SYMMETRIC + S_M33) * step, matrices, add6(symmetric_part(one), symmetric_part(two)))
            store_many(x, (_AXIAL + C_S_M33) * step, axials, add3(c, c))


@_helper
def _feature_rates(moments, rates, mixing, w, ranks, orders, n_l, features, do):
    """Rates of the invariants, ``features`` (motions, nf·lanes), and of the hidden tensors, ``do`` (motions, nh·12·lanes),
    from Ã and its rates (motions, zn·nl·lanes)."""
    step, dtype, nh = lanes(moments), moments.dtype, w.gate_bias.shape[1]
    n_tiles = len(w.tensor_weight) // TILE
    nb = len(w.first_transpose) // n_tiles
    size = TILE * n_l * step
    scratch = np.zeros(2 * size + N_COMPONENTS * step, dtype)
    a, b, x = scratch[:size], scratch[size : 2 * size], scratch[2 * size :]
    do[:] = 0.0
    for tile in range(n_tiles):
        mix(moments, mixing, tile, n_tiles, n_l, a)
        for g in range(len(rates)):
            mix(rates[g], mixing, tile, n_tiles, n_l, b)
            for k in range(TILE):
                channel, at = tile * TILE + k, k * n_l * step
                _invariant_rates(a, b, at, features[g], channel * nb * step, ranks, orders)
                if nh > 0:
                    _product_rates(a, b, at, x, ranks, orders)
                    contract(x, w.tensor_weight[channel], do[g])


@_helper
def _first_layer_rates(features, w, dz):
    """dz of the rows of the first layer that are needed, and of those in a tile with them; others are zero."""
    step = lanes(dz)
    needed = np.zeros(len(w.first_weight), np.bool_)
    for row in rows_of_first_layer(w, True):
        needed[row // TILE] = True
    dz[:] = 0.0
    for tile in range(len(needed)):
        if needed[tile]:
            weight = w.first_weight[tile]
            sums = zero_tile(dz)
            for f in range(len(weight) // TILE):
                sums = add_weighted(sums, load(features, f * step), weight, f * TILE)
            store_many(dz, tile * TILE * step, step, sums)


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
def _rates_block(atoms, kind, positions, velocities, cell, types, first, neighbors, shifts, w, ranks, orders, n_l,
                 moments, z, o, out):  # fmt: skip
    step, dtype, motions = lanes(moments), moments.dtype, len(velocities)
    slots, edges, pairs = gather_edges(
        atoms, positions, cell, types, first, neighbors, shifts, w.cutoff, len(w.mixing), moments
    )
    speeds, rates = np.empty(len(edges), dtype), np.empty((motions, len(moments)), dtype)
    for g in range(motions):
        _edge_velocities(atoms, pairs, neighbors, velocities[g], speeds)
        _accumulate_rates(slots, edges, speeds, w.frequencies, w.cutoff, w.exponent, n_l, rates[g])
    features = np.empty((motions, len(w.first_transpose) * TILE * step), dtype)
    do, dz = np.empty((motions, len(o)), dtype), np.empty(len(z), dtype)
    _feature_rates(moments, rates, w.mixing[kind], w, ranks, orders, n_l, features, do)
    layers = np.empty(2 * (w.second_weight.shape[1] // w.second_bias.shape[1] + w.second_bias.shape[1]) * step, dtype)
    values = np.zeros(N_PREDICTIONS * step, dtype)
    for g in range(motions):
        _first_layer_rates(features[g], w, dz)
        _head_rates(w, z, dz, layers, o, do[g], values)
        own = Multipoles(out.energies[g], out.charges[g], out.dipoles[g], out.quadrupoles[g], out.charge_responses[g],
                         out.polarizabilities[g])  # fmt: skip
        _write(atoms, values, own)


@kernel(parallel=True)
def rates(blocks, kinds, positions, velocities, cell, types, first, neighbors, shifts, w, ranks, orders, moments,
          first_out, hidden, out):  # fmt: skip
    """d/dt of the predictions of the local network when its atoms move, for several motions: forward differentiation, one
    pass.

    name                                                shape           dtype    unit  in/out
    velocities                                          (motions, n, 3) float64  Å/fs  in
    blocks, kinds, positions, cell, types, first,                                      in, as in network.forward
    neighbors, shifts, w, ranks, orders
    moments, first_out, hidden                                                         in, from network.forward
    out                                                 Multipoles               1/fs  out, (motions, …) each, but for
                                                                                       energies; zeros before
    """
    n_l = 10 * (len(ranks) - 1)
    for b in numba.prange(len(blocks)):
        _rates_block(blocks[b], kinds[b], positions, velocities, cell, types, first, neighbors, shifts, w, ranks, orders,
                     n_l, moments[b], first_out[b], hidden[b], out)  # fmt: skip
