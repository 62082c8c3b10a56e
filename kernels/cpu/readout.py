"""From A features to energies and multipoles and back, for one block of atoms. Helpers of the drivers in network.py.

Every number below is a vector over the atoms of the block (kernels/layout.py), kept in flat arrays ``lanes`` apart.

The products of T1, T2, T3 (a, S, T below) that the readout needs are few once coinciding ones are merged: 11 vectors,
12 symmetric matrices, 4 axial vectors (antisymmetric matrices) per channel, in the order of kernels/layout.py. A
general matrix is kept as its symmetric part and c, m = sym + ½ ε·c. ``ranks`` and ``orders`` are tuples whose lengths
are max_l and max_nu: Numba specialises on lengths, so that absent products cost nothing.
"""

import numba
from polmd.kernels.cpu.descriptor import zero_tile
from polmd.kernels.cpu.scalars import (
    add3,
    add6,
    add10,
    axial_part,
    cross,
    dot,
    double,
    general_matrix,
    general_symmetric_product,
    gradient_matrix,
    gradient_square_norm,
    gradient_tensor_square,
    gradient_vector_matrix,
    matrix_product,
    matrix_vector,
    outer_mean,
    outer_self,
    outer_symmetric,
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
    transpose,
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
    N_SYMMETRIC,
    N_TERMS,
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
    S,
)

_helper = numba.njit(error_model="numpy", nogil=True, fastmath={"contract"})
_inline = numba.njit(error_model="numpy", nogil=True, forceinline=True, fastmath={"contract"})

_SYMMETRIC = 3 * N_VECTOR
_AXIAL = _SYMMETRIC + 6 * N_SYMMETRIC


@_inline
def _twice(m, v):
    """2 m v for a symmetric matrix."""
    u = matrix_vector(m, v)
    return add3(u, u)


@_helper
def invariants(a, at, features, to, ranks, orders):
    """Invariants of one channel: A (nl·lanes from ``at`` on in ``a``) → nb·lanes from ``to`` on in ``features``."""
    step = lanes(a)
    v, s = load_many(a, at + step, step, 3), load_many(a, at + 4 * step, step, 6)
    store(features, to, load(a, at))
    store(features, to + step, dot(v, v))
    store(features, to + 2 * step, trace_product(s, s))
    if len(ranks) == 3:
        t = load_many(a, at + 10 * step, step, 10)
        full = tensor_square(t)
        store(features, to + 3 * step, full[0] + full[3] + full[5])
        if len(orders) == 3:
            store(features, to + 4 * step, dot(v, matrix_vector(s, v)))
            store(features, to + 5 * step, dot(v, tensor_matrix(t, s)))
    elif len(orders) == 3:
        store(features, to + 3 * step, dot(v, matrix_vector(s, v)))


@_helper
def invariants_adjoint(a, at, g, start, gradient, ranks, orders):
    """Adjoint of :func:`invariants`: seeds from ``start`` on in ``g`` → ``gradient`` from ``at`` on, overwritten."""
    step = lanes(a)
    v, s = load_many(a, at + step, step, 3), load_many(a, at + 4 * step, step, 6)
    store(gradient, at, load(g, start))
    gv = scale3(double(load(g, start + step)), v)
    gs = scale6(double(load(g, start + 2 * step)), s)
    if len(ranks) == 3:
        t = load_many(a, at + 10 * step, step, 10)
        gt = gradient_square_norm(double(load(g, start + 3 * step)), t)
        if len(orders) == 3:
            w, h = load(g, start + 4 * step), load(g, start + 5 * step)
            gv = add3(gv, add3(scale3(double(w), matrix_vector(s, v)), scale3(h, tensor_matrix(t, s))))
            gs = add6(gs, add6(scale6(w, outer_self(v)), scale6(h, tensor_vector(t, v))))
            gt = add10(gt, gradient_vector_matrix(scale3(h, v), s))
        store_many(gradient, at + 10 * step, step, gt)
    elif len(orders) == 3:
        w = load(g, start + 3 * step)
        gv = add3(gv, scale3(double(w), matrix_vector(s, v)))
        gs = add6(gs, scale6(w, outer_self(v)))
    store_many(gradient, at + step, step, gv)
    store_many(gradient, at + 4 * step, step, gradient_matrix(gs))


@_helper
def products(a, at, x, ranks, orders):
    """Distinct products of one channel: A (nl·lanes from ``at`` on in ``a``) → ``x`` (N_COMPONENTS·lanes,)."""
    step = lanes(a)
    vectors, matrices, axials = N_VECTOR * step, N_SYMMETRIC * step, N_AXIAL * step
    v, s = load_many(a, at + step, step, 3), load_many(a, at + 4 * step, step, 6)
    v1, m22 = matrix_vector(s, v), square(s)
    store_many(x, A * step, vectors, v)
    store_many(x, V1 * step, vectors, v1)
    store_many(x, (_SYMMETRIC + S) * step, matrices, s)
    store_many(x, (_SYMMETRIC + AA) * step, matrices, outer_self(v))
    store_many(x, (_SYMMETRIC + M22) * step, matrices, m22)
    if len(orders) == 3:
        store_many(x, S_V1 * step, vectors, matrix_vector(s, v1))
        store_many(x, A_R * step, vectors, scale3(dot(v, v), v))
        store_many(x, (_SYMMETRIC + V1_A) * step, matrices, outer_symmetric(v1, v))
        store_many(x, (_AXIAL + V1_X_A) * step, axials, cross(v1, v))
        store_many(x, (_SYMMETRIC + S_M22) * step, matrices, symmetric_part(matrix_product(s, m22)))
    if len(ranks) == 3:
        t = load_many(a, at + 10 * step, step, 10)
        v2, m13, m33 = tensor_matrix(t, s), tensor_vector(t, v), tensor_square(t)
        store_many(x, V2 * step, vectors, v2)
        store_many(x, (_SYMMETRIC + M13) * step, matrices, m13)
        store_many(x, (_SYMMETRIC + M33) * step, matrices, m33)
        if len(orders) == 3:
            store_many(x, S_V2 * step, vectors, matrix_vector(s, v2))
            store_many(x, A_T * step, vectors, scale3(trace_product(s, s), v))
            store_many(x, M13_A * step, vectors, matrix_vector(m13, v))
            store_many(x, T_M13 * step, vectors, tensor_matrix(t, m13))
            store_many(x, T_M22 * step, vectors, tensor_matrix(t, m22))
            store_many(x, T_M33 * step, vectors, tensor_matrix(t, m33))
            store_many(x, (_SYMMETRIC + V2_A) * step, matrices, outer_symmetric(v2, v))
            store_many(x, (_AXIAL + V2_X_A) * step, axials, cross(v2, v))
            store_many(x, (_SYMMETRIC + T_V1) * step, matrices, tensor_vector(t, v1))
            store_many(x, (_SYMMETRIC + T_V2) * step, matrices, tensor_vector(t, v2))
            full = matrix_product(s, m13)
            c = axial_part(full)
            store_many(x, (_SYMMETRIC + S_M13) * step, matrices, symmetric_part(full))
            store_many(x, (_AXIAL + C_S_M13) * step, axials, add3(c, c))
            full = matrix_product(s, m33)
            c = axial_part(full)
            store_many(x, (_SYMMETRIC + S_M33) * step, matrices, symmetric_part(full))
            store_many(x, (_AXIAL + C_S_M33) * step, axials, add3(c, c))


@_helper
def products_adjoint(a, at, p, gradient, ranks, orders):
    """Adjoint of :func:`products`, added to ``gradient`` (nl·lanes from ``at`` on).

    ``p`` (N_COMPONENTS·lanes,) holds the gradient with respect to every product: vectors and axial vectors by
    component, symmetric matrices as the matrix P of dL = Σ_ij P_ij dX_ij; so are gs, gm13, gm22, gm33 below.
    """
    step = lanes(a)
    vectors, matrices, axials = N_VECTOR * step, N_SYMMETRIC * step, N_AXIAL * step
    v, s = load_many(a, at + step, step, 3), load_many(a, at + 4 * step, step, 6)
    v1, m22 = matrix_vector(s, v), square(s)
    gv = add3(load_many(p, A * step, vectors, 3), _twice(load_many(p, (_SYMMETRIC + AA) * step, matrices, 6), v))
    gs = load_many(p, (_SYMMETRIC + S) * step, matrices, 6)
    gv1 = load_many(p, V1 * step, vectors, 3)
    gm22 = load_many(p, (_SYMMETRIC + M22) * step, matrices, 6)
    if len(orders) == 3:
        q = load_many(p, S_V1 * step, vectors, 3)
        gv1 = add3(gv1, matrix_vector(s, q))
        gs = add6(gs, outer_mean(q, v1, 0.5))
        q = load_many(p, A_R * step, vectors, 3)
        gv = add3(gv, add3(scale3(dot(v, v), q), scale3(double(dot(q, v)), v)))
        m = load_many(p, (_SYMMETRIC + V1_A) * step, matrices, 6)
        c = load_many(p, (_AXIAL + V1_X_A) * step, axials, 3)
        gv1 = add3(gv1, add3(_twice(m, v), cross(v, c)))
        gv = add3(gv, add3(_twice(m, v1), cross(c, v1)))
        m = load_many(p, (_SYMMETRIC + S_M22) * step, matrices, 6)
        gs = add6(gs, symmetric_part(matrix_product(m, m22)))
        gm22 = add6(gm22, symmetric_part(matrix_product(m, s)))
    if len(ranks) == 3:
        t = load_many(a, at + 10 * step, step, 10)
        v2, m13, m33 = tensor_matrix(t, s), tensor_vector(t, v), tensor_square(t)
        gv2 = load_many(p, V2 * step, vectors, 3)
        gm13 = load_many(p, (_SYMMETRIC + M13) * step, matrices, 6)
        gm33 = load_many(p, (_SYMMETRIC + M33) * step, matrices, 6)
        gt = load_many(gradient, at + 10 * step, step, 10)
        if len(orders) == 3:
            q = load_many(p, S_V2 * step, vectors, 3)
            gv2 = add3(gv2, matrix_vector(s, q))
            gs = add6(gs, outer_mean(q, v2, 0.5))
            q = load_many(p, A_T * step, vectors, 3)
            gv = add3(gv, scale3(trace_product(s, s), q))
            gs = add6(gs, scale6(double(dot(q, v)), s))
            q = load_many(p, M13_A * step, vectors, 3)
            gv = add3(gv, matrix_vector(m13, q))
            gm13 = add6(gm13, outer_mean(q, v, 0.5))
            q = load_many(p, T_M13 * step, vectors, 3)
            gm13 = add6(gm13, tensor_vector(t, q))
            gt = add10(gt, gradient_vector_matrix(q, m13))
            q = load_many(p, T_M22 * step, vectors, 3)
            gm22 = add6(gm22, tensor_vector(t, q))
            gt = add10(gt, gradient_vector_matrix(q, m22))
            q = load_many(p, T_M33 * step, vectors, 3)
            gm33 = add6(gm33, tensor_vector(t, q))
            gt = add10(gt, gradient_vector_matrix(q, m33))
            m = load_many(p, (_SYMMETRIC + V2_A) * step, matrices, 6)
            c = load_many(p, (_AXIAL + V2_X_A) * step, axials, 3)
            gv2 = add3(gv2, add3(_twice(m, v), cross(v, c)))
            gv = add3(gv, add3(_twice(m, v2), cross(c, v2)))
            m = load_many(p, (_SYMMETRIC + T_V1) * step, matrices, 6)
            gv1 = add3(gv1, tensor_matrix(t, m))
            gt = add10(gt, gradient_vector_matrix(v1, m))
            m = load_many(p, (_SYMMETRIC + T_V2) * step, matrices, 6)
            gv2 = add3(gv2, tensor_matrix(t, m))
            gt = add10(gt, gradient_vector_matrix(v2, m))
            g = general_matrix(
                load_many(p, (_SYMMETRIC + S_M13) * step, matrices, 6),
                load_many(p, (_AXIAL + C_S_M13) * step, axials, 3),
            )
            gs = add6(gs, general_symmetric_product(g, m13))
            gm13 = add6(gm13, general_symmetric_product(transpose(g), s))
            g = general_matrix(
                load_many(p, (_SYMMETRIC + S_M33) * step, matrices, 6),
                load_many(p, (_AXIAL + C_S_M33) * step, axials, 3),
            )
            gs = add6(gs, general_symmetric_product(g, m33))
            gm33 = add6(gm33, general_symmetric_product(transpose(g), s))
        gt = add10(gt, gradient_vector_matrix(v, gm13))
        gv = add3(gv, tensor_matrix(t, gm13))
        gt = add10(gt, gradient_tensor_square(gm33, t))
        gt = add10(gt, gradient_vector_matrix(gv2, s))
        gs = add6(gs, tensor_vector(t, gv2))
        store_many(gradient, at + 10 * step, step, gt)
    gs = add6(gs, symmetric_part(matrix_product(gm22, s)))
    gs = add6(gs, outer_mean(gv1, v, 0.5))
    gv = add3(gv, matrix_vector(s, gv1))
    store_many(gradient, at + step, step, add3(load_many(gradient, at + step, step, 3), gv))
    store_many(gradient, at + 4 * step, step, add6(load_many(gradient, at + 4 * step, step, 6), gradient_matrix(gs)))


@_inline
def _contract_run(x, first, count, weight, p, q, o, at, next_at):
    """Add Σ_term w[term] x[term] for two rows of weights to two places of ``o``."""
    step = lanes(x)
    s, t = load(o, at), load(o, next_at)
    for term in range(count):
        v = load(x, (first + term) * step)
        s = s + v * item(weight, p + term)
        t = t + v * item(weight, q + term)
    store(o, at, s)
    store(o, next_at, t)


@_helper
def contract(x, weight, o):
    """o[h, component] += Σ_term w[h, term] x[component, term] for one channel: vectors (3), symmetric matrices (6), axial
    vectors (3) of the hidden tensors; ``x`` of :func:`products`, ``weight`` (nh·N_TERMS,), ``o`` (nh·12·lanes,)."""
    step = lanes(x)
    for h in range(0, len(weight) // N_TERMS, 2):
        p, at = h * N_TERMS, h * 12 * step
        q, next_at = p + N_TERMS, at + 12 * step
        for k in range(3):
            _contract_run(x, k * N_VECTOR, N_VECTOR, weight, p, q, o, at + k * step, next_at + k * step)
        p, q, at, next_at = p + N_VECTOR, q + N_VECTOR, at + 3 * step, next_at + 3 * step
        for k in range(6):
            first = _SYMMETRIC + k * N_SYMMETRIC
            _contract_run(x, first, N_SYMMETRIC, weight, p, q, o, at + k * step, next_at + k * step)
        p, q, at, next_at = p + N_SYMMETRIC, q + N_SYMMETRIC, at + 6 * step, next_at + 6 * step
        for k in range(3):
            _contract_run(x, _AXIAL + k * N_AXIAL, N_AXIAL, weight, p, q, o, at + k * step, next_at + k * step)


@_inline
def _spread_run(seed, at, next_at, weight, p, q, out, first, count, add):
    """The transpose of _contract_run: writes to ``out``, or adds to it."""
    step = lanes(out)
    s, t = load(seed, at), load(seed, next_at)
    for term in range(count):
        v = s * item(weight, p + term) + t * item(weight, q + term)
        if add:
            v = v + load(out, (first + term) * step)
        store(out, (first + term) * step, v)


@_helper
def contract_adjoint(seed, weight, p):
    """Adjoint of :func:`contract` with respect to x: ``seed`` (nh·12·lanes,) → ``p`` (N_COMPONENTS·lanes,), overwritten."""
    step = lanes(p)
    for h in range(0, len(weight) // N_TERMS, 2):
        w, at, add = h * N_TERMS, h * 12 * step, h > 0
        u, next_at = w + N_TERMS, at + 12 * step
        for k in range(3):
            _spread_run(seed, at + k * step, next_at + k * step, weight, w, u, p, k * N_VECTOR, N_VECTOR, add)
        w, u, at, next_at = w + N_VECTOR, u + N_VECTOR, at + 3 * step, next_at + 3 * step
        for k in range(6):
            first = _SYMMETRIC + k * N_SYMMETRIC
            _spread_run(seed, at + k * step, next_at + k * step, weight, w, u, p, first, N_SYMMETRIC, add)
        w, u, at, next_at = w + N_SYMMETRIC, u + N_SYMMETRIC, at + 6 * step, next_at + 6 * step
        for k in range(3):
            first = _AXIAL + k * N_AXIAL
            _spread_run(seed, at + k * step, next_at + k * step, weight, w, u, p, first, N_AXIAL, add)


@_helper
def first_layer(features, weight, bias, z):
    """z = W f + b, TILE rows at a time; ``features`` (nf·lanes,), ``z`` (n_first·lanes,)."""
    step = lanes(z)
    for tile in range(len(bias) // TILE):
        w = weight[tile]
        sums = add_weighted(zero_tile(z), zeros(z) + 1.0, bias, tile * TILE)
        for f in range(len(w) // TILE):
            sums = add_weighted(sums, load(features, f * step), w, f * TILE)
        store_many(z, tile * TILE * step, step, sums)


@_helper
def first_layer_adjoint(seed, transpose, gradient):
    """df = Wᵀ dz, TILE features at a time; fills ``gradient`` (nf·lanes,)."""
    step = lanes(seed)
    for tile in range(len(transpose)):
        w = transpose[tile]
        sums = zero_tile(seed)
        for row in range(len(w) // TILE):
            sums = add_weighted(sums, load(seed, row * step), w, row * TILE)
        store_many(gradient, tile * TILE * step, step, sums)


@_inline
def _row_dot(x, start, weight, at, count, total):
    """total + Σ_k w[k] x[k]."""
    step = lanes(x)
    for k in range(count):
        total = total + load(x, (start + k) * step) * item(weight, at + k)
    return total


@_helper
def scalar_readout(w, k, z, layers):
    """Value of readout k: MLP(f) + linear(f), from the first layer's z.

    ``layers`` (2·(h0 + h1)·lanes,) receives silu of the first and of the second hidden layer, then silu′ of both.
    """
    step, h0, h1 = lanes(z), len(w.second_weight[0]) // w.second_bias.shape[1], w.second_bias.shape[1]
    slopes = h0 + h1
    for col in range(h0):
        value, slope = silu(load(z, (k * h0 + col) * step))
        store(layers, col * step, value)
        store(layers, (slopes + col) * step, slope)
    weight, bias, last = w.second_weight[k], w.second_bias[k], w.last_weight[k]
    out = load(z, (len(w.last_bias) * h0 + k) * step) + item(w.last_bias, k)
    for row in range(h1):
        value, slope = silu(_row_dot(layers, 0, weight, row * h0, h0, zeros(z) + item(bias, row)))
        store(layers, (h0 + row) * step, value)
        store(layers, (slopes + h0 + row) * step, slope)
        out = out + value * item(last, row)
    return out


@_helper
def scalar_readout_adjoint(w, k, seed, layers, gz):
    """Adjoint of :func:`scalar_readout`, whose ``layers`` it takes: adds to ``gz`` (n_first·lanes,)."""
    step, h0, h1 = lanes(gz), len(w.second_weight[0]) // w.second_bias.shape[1], w.second_bias.shape[1]
    slopes = h0 + h1
    weight, last = w.second_weight[k], w.last_weight[k]
    at = (len(w.last_bias) * h0 + k) * step
    store(gz, at, load(gz, at) + seed)
    for row in range(h1):
        g = seed * item(last, row) * load(layers, (slopes + h0 + row) * step)
        for col in range(h0):
            at = (k * h0 + col) * step
            store(gz, at, load(gz, at) + g * item(weight, row * h0 + col) * load(layers, (slopes + col) * step))


# Rows of the table of a block's predictions or seeds.
ENERGY, CHARGE, DIPOLE, QUADRUPOLE, KAPPA, ALPHA = 0, 1, 2, 5, 14, 15
N_PREDICTIONS = 24


@_inline
def _hidden(o, h, step):
    """Vector, symmetric matrix and axial vector of hidden tensor h."""
    at = h * 12 * step
    return load_many(o, at, step, 3), load_many(o, at + 3 * step, step, 6), load_many(o, at + 9 * step, step, 3)


@_helper
def gates(w, z, o, g, gate):
    """g = [o0, |o1|², |o2|²] and gate[rank] = G g + b; ``o`` (nh·12·lanes,), ``g`` and ``gate`` (3·nh·lanes,)."""
    step, nh = lanes(z), w.gate_bias.shape[1]
    start = len(w.last_bias) * (len(w.second_weight[0]) // w.second_bias.shape[1] + 1)
    for h in range(nh):
        v, s, c = _hidden(o, h, step)
        store(g, h * step, load(z, (start + h) * step))
        store(g, (nh + h) * step, dot(v, v))
        store(g, (2 * nh + h) * step, trace_product(s, s) + 0.5 * dot(c, c))
    for rank in range(3):
        weight, bias = w.gate_weight[rank], w.gate_bias[rank]
        for h in range(nh):
            value = _row_dot(g, 0, weight, h * 3 * nh, 3 * nh, zeros(z) + item(bias, h))
            store(gate, (rank * nh + h) * step, value)


@_helper
def tensor_output(w, output, o, gate):
    """out_2[output] as its symmetric part and axial vector."""
    step, nh = lanes(o), w.gate_bias.shape[1]
    weight, zero = w.out_weight[2, output], zeros(o)
    s, c = (zero, zero, zero, zero, zero, zero), (zero, zero, zero)
    for h in range(nh):
        _, sh, ch = _hidden(o, h, step)
        factor = item(weight, h) * sigmoid(load(gate, (2 * nh + h) * step))
        s, c = add6(s, scale6(factor, sh)), add3(c, scale3(factor, ch))
    return s, c


@_helper
def scalar_output(w, output, gate):
    """out_0[output]."""
    step, weight = lanes(gate), w.out_weight[0, output]
    value = zeros(gate)
    for h in range(w.gate_bias.shape[1]):
        value = value + item(weight, h) * silu(load(gate, h * step))[0]
    return value


@_inline
def _matrix(s, c):
    """The matrix s + ½ ε·c (nine)."""
    return general_matrix(s, scale3(0.5, c))


@_inline
def _rows(m):
    return (m[0], m[1], m[2]), (m[3], m[4], m[5]), (m[6], m[7], m[8])


@_inline
def _raw_polarizability(w, z, layers, o, gate):
    """α before it is made positive (nine)."""
    s, c = tensor_output(w, w.polarizability_output, o, gate)
    if w.scalar_readout >= 0:
        a = w.scalar_polarizability_scale * scalar_readout(w, w.scalar_readout, z, layers)
        s = s[0] + a, s[1], s[2], s[3] + a, s[4], s[5] + a
    return _matrix(s, c)


@_helper
def tensor_heads(w, z, layers, o, g, gate, out):
    """κ, u, α, Q from the hidden tensors, written to ``out`` (N_PREDICTIONS·lanes,); ``layers``, ``g``, ``gate`` are
    scratch."""
    step = lanes(z)
    gates(w, z, o, g, gate)
    if w.charge_response_output >= 0:
        kappa = w.charge_response_scale * scalar_output(w, w.charge_response_output, gate)
        store(out, KAPPA * step, kappa * kappa if w.make_kappa_positive else kappa)
    if w.dipole_output >= 0:
        weight, u = w.out_weight[1, w.dipole_output], (zeros(z), zeros(z), zeros(z))
        nh = len(weight)
        for h in range(nh):
            factor = item(weight, h) * sigmoid(load(gate, (nh + h) * step))
            u = add3(u, scale3(factor, _hidden(o, h, step)[0]))
        store_many(out, DIPOLE * step, step, u)
    if w.polarizability_output >= 0:
        m = _raw_polarizability(w, z, layers, o, gate)
        if w.make_alpha_positive:
            a, b, c = _rows(m)
            ab, ac, bc = dot(a, b), dot(a, c), dot(b, c)
            m = dot(a, a), ab, ac, ab, dot(b, b), bc, ac, bc, dot(c, c)
        store_many(out, ALPHA * step, step, m)
    if w.quadrupole_output >= 0:
        s, c = tensor_output(w, w.quadrupole_output, o, gate)
        if w.make_quad_traceless:
            third = (s[0] + s[3] + s[5]) * (1.0 / 3.0)
            s = s[0] - third, s[1], s[2], s[3] - third, s[4], s[5] - third
        store_many(out, QUADRUPOLE * step, step, _matrix(s, c))


@_helper
def _matrix_seed(w, output, g9, o, gate, ggate, go):
    """Adjoint of :func:`tensor_output`: ``g9`` (nine) is dL/dm; adds to ``ggate`` and ``go``, whose symmetric part is the
    matrix P of dL = Σ_ij P_ij dX_ij."""
    step, nh = lanes(o), w.gate_bias.shape[1]
    weight = w.out_weight[2, output]
    s, c = scale6(0.5, symmetric_part(g9)), scale3(0.5, axial_part(g9))
    for h in range(nh):
        _, sh, ch = _hidden(o, h, step)
        at, place = (2 * nh + h) * step, h * 12 * step
        sigma = sigmoid(load(gate, at))
        factor = item(weight, h) * sigma
        inner = trace_product(s, sh) + dot(c, ch)
        store(ggate, at, load(ggate, at) + factor * inner * (1.0 - sigma))
        store_many(go, place + 3 * step, step, add6(load_many(go, place + 3 * step, step, 6), scale6(factor, s)))
        store_many(go, place + 9 * step, step, add3(load_many(go, place + 9 * step, step, 3), scale3(factor, c)))


@_helper
def tensor_heads_adjoint(w, seeds, z, layers, o, g, gate, ggate, gz, go):
    """Adjoint of :func:`tensor_heads` for the gradients ``seeds`` (N_PREDICTIONS·lanes,): adds to ``gz`` (n_first·lanes,)
    and fills ``go`` (nh·12·lanes,). ``layers``, ``g``, ``gate``, ``ggate`` are scratch."""
    step, nh = lanes(z), w.gate_bias.shape[1]
    gates(w, z, o, g, gate)
    ggate[:] = 0.0
    go[:] = 0.0
    if w.charge_response_output >= 0:
        weight = w.out_weight[0, w.charge_response_output]
        seed = load(seeds, KAPPA * step) * w.charge_response_scale
        if w.make_kappa_positive:
            seed = seed * (2.0 * w.charge_response_scale) * scalar_output(w, w.charge_response_output, gate)
        for h in range(nh):
            store(ggate, h * step, seed * item(weight, h) * silu(load(gate, h * step))[1])
    if w.dipole_output >= 0:
        weight, u = w.out_weight[1, w.dipole_output], load_many(seeds, DIPOLE * step, step, 3)
        for h in range(nh):
            at, place = (nh + h) * step, h * 12 * step
            sigma = sigmoid(load(gate, at))
            factor = item(weight, h) * sigma
            store(ggate, at, factor * dot(u, _hidden(o, h, step)[0]) * (1.0 - sigma))
            store_many(go, place, step, scale3(factor, u))
    if w.polarizability_output >= 0:
        g9 = load_many(seeds, ALPHA * step, step, 9)
        if w.make_alpha_positive:
            x, y, q = _rows(_raw_polarizability(w, z, layers, o, gate))
            s = symmetric_part(g9)
            x, y, q = (x[0], y[0], q[0]), (x[1], y[1], q[1]), (x[2], y[2], q[2])  # columns
            x, y, q = matrix_vector(s, x), matrix_vector(s, y), matrix_vector(s, q)
            g9 = x[0], y[0], q[0], x[1], y[1], q[1], x[2], y[2], q[2]
        if w.scalar_readout >= 0:
            scalar_readout(w, w.scalar_readout, z, layers)
            trace = (g9[0] + g9[4] + g9[8]) * w.scalar_polarizability_scale
            scalar_readout_adjoint(w, w.scalar_readout, trace, layers, gz)
        _matrix_seed(w, w.polarizability_output, g9, o, gate, ggate, go)
    if w.quadrupole_output >= 0:
        g9 = load_many(seeds, QUADRUPOLE * step, step, 9)
        if w.make_quad_traceless:
            third = (g9[0] + g9[4] + g9[8]) * (1.0 / 3.0)
            g9 = g9[0] - third, g9[1], g9[2], g9[3], g9[4] - third, g9[5], g9[6], g9[7], g9[8] - third
        _matrix_seed(w, w.quadrupole_output, g9, o, gate, ggate, go)
    start = len(w.last_bias) * (len(w.second_weight[0]) // w.second_bias.shape[1] + 1)
    for k in range(3 * nh):
        value = zeros(z)
        for rank in range(3):
            weight = w.gate_weight[rank]
            for h in range(nh):
                value = value + load(ggate, (rank * nh + h) * step) * item(weight, h * 3 * nh + k)
        h = k % nh
        v, s, c = _hidden(o, h, step)
        place = h * 12 * step
        if k < nh:
            store(gz, (start + h) * step, load(gz, (start + h) * step) + value)
        elif k < 2 * nh:
            store_many(go, place, step, add3(load_many(go, place, step, 3), scale3(double(value), v)))
        else:
            place += 3 * step
            store_many(go, place, step, add6(load_many(go, place, step, 6), scale6(double(value), s)))
            place += 6 * step
            store_many(go, place, step, add3(load_many(go, place, step, 3), scale3(value, c)))
