"""From A features to energies and multipoles and back, one atom at a time. Helpers of the drivers in network.py.

The products of T1, T2, T3 (a, S, T below) that the readout needs are few once coinciding ones are merged: 11 vectors,
12 symmetric matrices, 4 axial vectors (antisymmetric matrices) per channel, in the order of kernels/layout.py. A
general matrix is kept as its symmetric part and c, m = sym + ½ ε·c. ``ranks`` and ``orders`` are tuples whose lengths
are max_l and max_nu: Numba specialises on lengths, so that absent products cost nothing.
"""

import math

import numba
from polmd.kernels.compile import REASSOCIATE
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
    square,
    symmetric_part,
    tensor_matrix,
    tensor_square,
    tensor_vector,
    trace_product,
    transpose,
)
from polmd.kernels.layout import (
    A_R,
    A_T,
    AA,
    C_S_M13,
    C_S_M33,
    LANES,
    M13,
    M13_A,
    M22,
    M33,
    N_AXIAL,
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
    V1,
    V1_A,
    V1_X_A,
    V2,
    V2_A,
    V2_X_A,
    A,
    S,
)

_helper = numba.njit(error_model="numpy", nogil=True, fastmath=set(REASSOCIATE))
_inline = numba.njit(error_model="numpy", nogil=True, forceinline=True, fastmath={"contract"})
_lanes = numba.njit(error_model="numpy", nogil=True, fastmath={"contract", "nsz"})

_SYMMETRIC = 3 * N_VECTOR
_AXIAL = _SYMMETRIC + 6 * N_SYMMETRIC


@_inline
def _put3(x, row, lane, v):
    x[row * LANES + lane], x[(row + 1) * LANES + lane], x[(row + 2) * LANES + lane] = v


@_inline
def _put6(x, row, lane, v):
    _put3(x, row, lane, (v[0], v[1], v[2]))
    _put3(x, row + 3, lane, (v[3], v[4], v[5]))


@_inline
def _get3(x, row, lane):
    return x[row * LANES + lane], x[(row + 1) * LANES + lane], x[(row + 2) * LANES + lane]


@_inline
def _get6(x, row, lane):
    u, v = _get3(x, row, lane), _get3(x, row + 3, lane)
    return u[0], u[1], u[2], v[0], v[1], v[2]


@_inline
def _get10(x, row, lane):
    u, v, w = _get3(x, row, lane), _get3(x, row + 3, lane), _get3(x, row + 6, lane)
    return u[0], u[1], u[2], v[0], v[1], v[2], w[0], w[1], w[2], x[(row + 9) * LANES + lane]


@_inline
def _put10(x, row, lane, v):
    _put3(x, row, lane, (v[0], v[1], v[2]))
    _put3(x, row + 3, lane, (v[3], v[4], v[5]))
    _put3(x, row + 6, lane, (v[6], v[7], v[8]))
    x[(row + 9) * LANES + lane] = v[9]


@_inline
def _put_vector(x, term, lane, v):
    x[term * LANES + lane] = v[0]
    x[(N_VECTOR + term) * LANES + lane] = v[1]
    x[(2 * N_VECTOR + term) * LANES + lane] = v[2]


@_inline
def _get_vector(x, term, lane):
    return x[term * LANES + lane], x[(N_VECTOR + term) * LANES + lane], x[(2 * N_VECTOR + term) * LANES + lane]


@_inline
def _put_matrix(x, term, lane, v):
    x[(_SYMMETRIC + 0 * N_SYMMETRIC + term) * LANES + lane] = v[0]
    x[(_SYMMETRIC + 1 * N_SYMMETRIC + term) * LANES + lane] = v[1]
    x[(_SYMMETRIC + 2 * N_SYMMETRIC + term) * LANES + lane] = v[2]
    x[(_SYMMETRIC + 3 * N_SYMMETRIC + term) * LANES + lane] = v[3]
    x[(_SYMMETRIC + 4 * N_SYMMETRIC + term) * LANES + lane] = v[4]
    x[(_SYMMETRIC + 5 * N_SYMMETRIC + term) * LANES + lane] = v[5]


@_inline
def _get_matrix(x, term, lane):
    return (
        x[(_SYMMETRIC + term) * LANES + lane],
        x[(_SYMMETRIC + N_SYMMETRIC + term) * LANES + lane],
        x[(_SYMMETRIC + 2 * N_SYMMETRIC + term) * LANES + lane],
        x[(_SYMMETRIC + 3 * N_SYMMETRIC + term) * LANES + lane],
        x[(_SYMMETRIC + 4 * N_SYMMETRIC + term) * LANES + lane],
        x[(_SYMMETRIC + 5 * N_SYMMETRIC + term) * LANES + lane],
    )


@_inline
def _put_axial(x, term, lane, v):
    x[(_AXIAL + term) * LANES + lane] = v[0]
    x[(_AXIAL + N_AXIAL + term) * LANES + lane] = v[1]
    x[(_AXIAL + 2 * N_AXIAL + term) * LANES + lane] = v[2]


@_inline
def _get_axial(x, term, lane):
    return (
        x[(_AXIAL + term) * LANES + lane],
        x[(_AXIAL + N_AXIAL + term) * LANES + lane],
        x[(_AXIAL + 2 * N_AXIAL + term) * LANES + lane],
    )


@_inline
def _twice(m, v):
    """2 m v for a symmetric matrix."""
    u = matrix_vector(m, v)
    return add3(u, u)


@_lanes
def invariants(a, features, ranks, orders):
    """Invariants of one block of channels: ``a`` (nl·LANES,) → ``features`` (nb·LANES,)."""
    for lane in range(LANES):
        v, s = _get3(a, 1, lane), _get6(a, 4, lane)
        features[lane] = a[lane]
        features[LANES + lane] = dot(v, v)
        features[2 * LANES + lane] = trace_product(s, s)
        if len(ranks) == 3:
            t = _get10(a, 10, lane)
            full = tensor_square(t)
            features[3 * LANES + lane] = full[0] + full[3] + full[5]
            if len(orders) == 3:
                features[4 * LANES + lane] = dot(v, matrix_vector(s, v))
                features[5 * LANES + lane] = dot(v, tensor_matrix(t, s))
        elif len(orders) == 3:
            features[3 * LANES + lane] = dot(v, matrix_vector(s, v))


@_lanes
def invariants_adjoint(a, g, gradient, ranks, orders):
    """Adjoint of :func:`invariants`: ``g`` (nb·LANES,) → ``gradient`` (nl·LANES,) with respect to a."""
    for lane in range(LANES):
        v, s = _get3(a, 1, lane), _get6(a, 4, lane)
        gradient[lane] = g[lane]
        gv = scale3(double(g[LANES + lane]), v)
        gs = scale6(double(g[2 * LANES + lane]), s)
        if len(ranks) == 3:
            t = _get10(a, 10, lane)
            gt = gradient_square_norm(double(g[3 * LANES + lane]), t)
            if len(orders) == 3:
                w, h = g[4 * LANES + lane], g[5 * LANES + lane]
                gv = add3(gv, add3(scale3(double(w), matrix_vector(s, v)), scale3(h, tensor_matrix(t, s))))
                gs = add6(gs, add6(scale6(w, outer_self(v)), scale6(h, tensor_vector(t, v))))
                gt = add10(gt, gradient_vector_matrix(scale3(h, v), s))
            _put10(gradient, 10, lane, gt)
        elif len(orders) == 3:
            w = g[3 * LANES + lane]
            gv = add3(gv, scale3(double(w), matrix_vector(s, v)))
            gs = add6(gs, scale6(w, outer_self(v)))
        _put3(gradient, 1, lane, gv)
        _put6(gradient, 4, lane, gradient_matrix(gs))


@_lanes
def products(a, x, ranks, orders):
    """Distinct products of one block of channels: ``a`` (nl·LANES,) → ``x`` (N_COMPONENTS·LANES,)."""
    for lane in range(LANES):
        v, s = _get3(a, 1, lane), _get6(a, 4, lane)
        v1, m22 = matrix_vector(s, v), square(s)
        _put_vector(x, A, lane, v)
        _put_vector(x, V1, lane, v1)
        _put_matrix(x, S, lane, s)
        _put_matrix(x, AA, lane, outer_self(v))
        _put_matrix(x, M22, lane, m22)
        if len(orders) == 3:
            _put_vector(x, S_V1, lane, matrix_vector(s, v1))
            _put_vector(x, A_R, lane, scale3(dot(v, v), v))
            _put_matrix(x, V1_A, lane, outer_symmetric(v1, v))
            _put_axial(x, V1_X_A, lane, cross(v1, v))
            _put_matrix(x, S_M22, lane, symmetric_part(matrix_product(s, m22)))
        if len(ranks) == 3:
            t = _get10(a, 10, lane)
            v2, m13, m33 = tensor_matrix(t, s), tensor_vector(t, v), tensor_square(t)
            _put_vector(x, V2, lane, v2)
            _put_matrix(x, M13, lane, m13)
            _put_matrix(x, M33, lane, m33)
            if len(orders) == 3:
                _put_vector(x, S_V2, lane, matrix_vector(s, v2))
                _put_vector(x, A_T, lane, scale3(trace_product(s, s), v))
                _put_vector(x, M13_A, lane, matrix_vector(m13, v))
                _put_vector(x, T_M13, lane, tensor_matrix(t, m13))
                _put_vector(x, T_M22, lane, tensor_matrix(t, m22))
                _put_vector(x, T_M33, lane, tensor_matrix(t, m33))
                _put_matrix(x, V2_A, lane, outer_symmetric(v2, v))
                _put_axial(x, V2_X_A, lane, cross(v2, v))
                _put_matrix(x, T_V1, lane, tensor_vector(t, v1))
                _put_matrix(x, T_V2, lane, tensor_vector(t, v2))
                full = matrix_product(s, m13)
                c = axial_part(full)
                _put_matrix(x, S_M13, lane, symmetric_part(full))
                _put_axial(x, C_S_M13, lane, add3(c, c))
                full = matrix_product(s, m33)
                c = axial_part(full)
                _put_matrix(x, S_M33, lane, symmetric_part(full))
                _put_axial(x, C_S_M33, lane, add3(c, c))


@_lanes
def products_adjoint(a, p, half, gradient, ranks, orders):
    """Adjoint of :func:`products`, added to ``gradient`` (nl·LANES,).

    ``p`` (N_COMPONENTS·LANES,) holds the gradient with respect to every product: vectors and axial vectors by
    component, symmetric matrices as the matrix P of dL = Σ_ij P_ij dX_ij; so are gs, gm13, gm22, gm33 below. ``half``
    is ½ in the precision of the arrays.
    """
    for lane in range(LANES):
        v, s = _get3(a, 1, lane), _get6(a, 4, lane)
        v1, m22 = matrix_vector(s, v), square(s)
        gv = add3(_get_vector(p, A, lane), _twice(_get_matrix(p, AA, lane), v))
        gs = _get_matrix(p, S, lane)
        gv1 = _get_vector(p, V1, lane)
        gm22 = _get_matrix(p, M22, lane)
        if len(orders) == 3:
            q = _get_vector(p, S_V1, lane)
            gv1 = add3(gv1, matrix_vector(s, q))
            gs = add6(gs, outer_mean(q, v1, half))
            q = _get_vector(p, A_R, lane)
            gv = add3(gv, add3(scale3(dot(v, v), q), scale3(double(dot(q, v)), v)))
            m = _get_matrix(p, V1_A, lane)
            c = _get_axial(p, V1_X_A, lane)
            gv1 = add3(gv1, add3(_twice(m, v), cross(v, c)))
            gv = add3(gv, add3(_twice(m, v1), cross(c, v1)))
            m = _get_matrix(p, S_M22, lane)
            gs = add6(gs, symmetric_part(matrix_product(m, m22)))
            gm22 = add6(gm22, symmetric_part(matrix_product(m, s)))
        if len(ranks) == 3:
            t = _get10(a, 10, lane)
            v2, m13, m33 = tensor_matrix(t, s), tensor_vector(t, v), tensor_square(t)
            gv2 = _get_vector(p, V2, lane)
            gm13 = _get_matrix(p, M13, lane)
            gm33 = _get_matrix(p, M33, lane)
            gt = _get10(gradient, 10, lane)
            if len(orders) == 3:
                q = _get_vector(p, S_V2, lane)
                gv2 = add3(gv2, matrix_vector(s, q))
                gs = add6(gs, outer_mean(q, v2, half))
                q = _get_vector(p, A_T, lane)
                gv = add3(gv, scale3(trace_product(s, s), q))
                gs = add6(gs, scale6(double(dot(q, v)), s))
                q = _get_vector(p, M13_A, lane)
                gv = add3(gv, matrix_vector(m13, q))
                gm13 = add6(gm13, outer_mean(q, v, half))
                q = _get_vector(p, T_M13, lane)
                gm13 = add6(gm13, tensor_vector(t, q))
                gt = add10(gt, gradient_vector_matrix(q, m13))
                q = _get_vector(p, T_M22, lane)
                gm22 = add6(gm22, tensor_vector(t, q))
                gt = add10(gt, gradient_vector_matrix(q, m22))
                q = _get_vector(p, T_M33, lane)
                gm33 = add6(gm33, tensor_vector(t, q))
                gt = add10(gt, gradient_vector_matrix(q, m33))
                m = _get_matrix(p, V2_A, lane)
                c = _get_axial(p, V2_X_A, lane)
                gv2 = add3(gv2, add3(_twice(m, v), cross(v, c)))
                gv = add3(gv, add3(_twice(m, v2), cross(c, v2)))
                m = _get_matrix(p, T_V1, lane)
                gv1 = add3(gv1, tensor_matrix(t, m))
                gt = add10(gt, gradient_vector_matrix(v1, m))
                m = _get_matrix(p, T_V2, lane)
                gv2 = add3(gv2, tensor_matrix(t, m))
                gt = add10(gt, gradient_vector_matrix(v2, m))
                g = general_matrix(_get_matrix(p, S_M13, lane), _get_axial(p, C_S_M13, lane))
                gs = add6(gs, general_symmetric_product(g, m13))
                gm13 = add6(gm13, general_symmetric_product(transpose(g), s))
                g = general_matrix(_get_matrix(p, S_M33, lane), _get_axial(p, C_S_M33, lane))
                gs = add6(gs, general_symmetric_product(g, m33))
                gm33 = add6(gm33, general_symmetric_product(transpose(g), s))
            gt = add10(gt, gradient_vector_matrix(v, gm13))
            gv = add3(gv, tensor_matrix(t, gm13))
            gt = add10(gt, gradient_tensor_square(gm33, t))
            gt = add10(gt, gradient_vector_matrix(gv2, s))
            gs = add6(gs, tensor_vector(t, gv2))
            _put10(gradient, 10, lane, gt)
        gs = add6(gs, symmetric_part(matrix_product(gm22, s)))
        gs = add6(gs, outer_mean(gv1, v, half))
        gv = add3(gv, matrix_vector(s, gv1))
        _put3(gradient, 1, lane, add3(_get3(gradient, 1, lane), gv))
        _put6(gradient, 4, lane, add6(_get6(gradient, 4, lane), gradient_matrix(gs)))


@_helper
def _dot_run(weight, start, x, first, count):
    u, v = weight[start : start + count], x[first : first + count]  # views: an index with an offset does not vectorise
    total = x[first] * 0
    for k in range(count):
        total += u[k] * v[k]
    return total


@_helper
def contract(x, weight, o):
    """o[h, component] += Σ_(term, lane) weight[h, (term, lane)] x[component, (term, lane)]: vectors (3), symmetric
    matrices (6), axial vectors (3) of the hidden tensors; ``x`` of :func:`products`, ``weight`` (nh, 27·LANES), ``o``
    (nh, 12). Terms and lanes of a component are neighbours in memory: one long dot product each."""
    for h in range(len(o)):
        w = weight[h]
        for k in range(3):
            o[h, k] += _dot_run(w, 0, x, k * N_VECTOR * LANES, N_VECTOR * LANES)
        for k in range(6):
            first = (_SYMMETRIC + k * N_SYMMETRIC) * LANES
            o[h, 3 + k] += _dot_run(w, N_VECTOR * LANES, x, first, N_SYMMETRIC * LANES)
        for k in range(3):
            first = (_AXIAL + k * N_AXIAL) * LANES
            o[h, 9 + k] += _dot_run(w, (N_VECTOR + N_SYMMETRIC) * LANES, x, first, N_AXIAL * LANES)


@_helper
def _add_run(seed, weight, start, p, first, count):
    for k in range(count):
        p[first + k] += seed * weight[start + k]


@_helper
def contract_adjoint(seed, weight, p):
    """Adjoint of :func:`contract` with respect to x: ``seed`` (nh, 12) → ``p`` (N_COMPONENTS·LANES,), overwritten."""
    for row in range(len(p)):
        p[row] = 0.0
    for h in range(len(seed)):
        w = weight[h]
        for k in range(3):
            _add_run(seed[h, k], w, 0, p, k * N_VECTOR * LANES, N_VECTOR * LANES)
        for k in range(6):
            first = (_SYMMETRIC + k * N_SYMMETRIC) * LANES
            _add_run(seed[h, 3 + k], w, N_VECTOR * LANES, p, first, N_SYMMETRIC * LANES)
        for k in range(3):
            first = (_AXIAL + k * N_AXIAL) * LANES
            _add_run(seed[h, 9 + k], w, (N_VECTOR + N_SYMMETRIC) * LANES, p, first, N_AXIAL * LANES)


@_helper
def first_layer(features, weight, bias, z):
    """z = W f + b, four rows at a time so that f is loaded once for four; ``weight`` (n_first, nf)."""
    zero = features[0] * 0
    for row in range(0, len(z), 4):
        s0, s1, s2, s3 = zero, zero, zero, zero
        for k in range(len(features)):
            f = features[k]
            s0 += weight[row, k] * f
            s1 += weight[row + 1, k] * f
            s2 += weight[row + 2, k] * f
            s3 += weight[row + 3, k] * f
        z[row] = s0 + bias[row]
        z[row + 1] = s1 + bias[row + 1]
        z[row + 2] = s2 + bias[row + 2]
        z[row + 3] = s3 + bias[row + 3]


@_helper
def first_layer_adjoint(seed, weight, gradient):
    """df = Wᵀ dz; fills ``gradient`` (nf,)."""
    for k in range(len(gradient)):
        gradient[k] = 0.0
    for row in range(0, len(seed), 4):
        s0, s1, s2, s3 = seed[row], seed[row + 1], seed[row + 2], seed[row + 3]
        for k in range(len(gradient)):
            gradient[k] += (
                s0 * weight[row, k] + s1 * weight[row + 1, k] + s2 * weight[row + 2, k] + s3 * weight[row + 3, k]
            )


@_helper
def _sigmoid(x):
    """1/(1 + e^−x) without overflow."""
    if x >= 0.0:
        return 1.0 / (1.0 + math.exp(-x))
    e = math.exp(x)
    return e / (1.0 + e)


@_helper
def _silu(x):
    """(silu(x), its derivative)."""
    s = _sigmoid(x)
    return x * s, s * (1.0 + x * (1.0 - s))


@_helper
def scalar_readout(w, k, z, layers):
    """Value of readout k: MLP(f) + linear(f), from the first layer's z.

    ``layers`` (4, max(h0, h1)) receives silu and silu′ of the first and of the second hidden layer.
    """
    h0, h1 = w.second_weight.shape[2], w.second_weight.shape[1]
    for col in range(h0):
        layers[0, col], layers[1, col] = _silu(z[k * h0 + col])
    value = w.last_bias[k] + z[len(w.last_bias) * h0 + k]
    for row in range(h1):
        total = w.second_bias[k, row]
        for col in range(h0):
            total += w.second_weight[k, row, col] * layers[0, col]
        layers[2, row], layers[3, row] = _silu(total)
        value += w.last_weight[k, row] * layers[2, row]
    return value


@_helper
def scalar_readout_adjoint(w, k, seed, layers, gz):
    """Adjoint of :func:`scalar_readout`, whose ``layers`` it takes: adds to ``gz`` (n_first,)."""
    h0, h1 = w.second_weight.shape[2], w.second_weight.shape[1]
    gz[len(w.last_bias) * h0 + k] += seed
    for row in range(h1):
        g = seed * w.last_weight[k, row] * layers[3, row]
        for col in range(h0):
            gz[k * h0 + col] += g * w.second_weight[k, row, col] * layers[1, col]


@_helper
def gates(w, z, o, g, gate):
    """g = [o0, |o1|², |o2|²] and gate[rank] = G g + b; ``o`` (nh, 12), ``g`` (3 nh,), ``gate`` (3, nh)."""
    nh = len(o)
    start = len(w.last_bias) * (w.second_weight.shape[2] + 1)
    for h in range(nh):
        g[h] = z[start + h]
        g[nh + h] = o[h, 0] ** 2 + o[h, 1] ** 2 + o[h, 2] ** 2
        diagonal = o[h, 3] ** 2 + o[h, 6] ** 2 + o[h, 8] ** 2
        off = o[h, 4] ** 2 + o[h, 5] ** 2 + o[h, 7] ** 2
        axial = o[h, 9] ** 2 + o[h, 10] ** 2 + o[h, 11] ** 2
        g[2 * nh + h] = diagonal + 2.0 * off + 0.5 * axial
    for rank in range(3):
        for h in range(nh):
            total = w.gate_bias[rank, h]
            for k in range(3 * nh):
                total += w.gate_weight[rank, h, k] * g[k]
            gate[rank, h] = total


@_helper
def tensor_output(w, output, o, gate, m):
    """out_2[output] as a matrix: ``m`` (3, 3)."""
    sxx, sxy, sxz, syy, syz, szz, cx, cy, cz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for h in range(len(o)):
        s = w.out_weight[2, output, h] * _sigmoid(gate[2, h])
        sxx += s * o[h, 3]
        sxy += s * o[h, 4]
        sxz += s * o[h, 5]
        syy += s * o[h, 6]
        syz += s * o[h, 7]
        szz += s * o[h, 8]
        cx += s * o[h, 9]
        cy += s * o[h, 10]
        cz += s * o[h, 11]
    m[0, 0], m[1, 1], m[2, 2] = sxx, syy, szz
    m[0, 1], m[1, 0] = sxy + 0.5 * cz, sxy - 0.5 * cz
    m[0, 2], m[2, 0] = sxz - 0.5 * cy, sxz + 0.5 * cy
    m[1, 2], m[2, 1] = syz + 0.5 * cx, syz - 0.5 * cx


@_helper
def vector_output(w, output, o, gate, u):
    """out_1[output]: ``u`` (3,)."""
    for k in range(3):
        u[k] = 0.0
    for h in range(len(o)):
        s = w.out_weight[1, output, h] * _sigmoid(gate[1, h])
        for k in range(3):
            u[k] += s * o[h, k]


@_helper
def scalar_output(w, output, gate):
    """out_0[output]."""
    total = 0.0
    for h in range(gate.shape[1]):
        total += w.out_weight[0, output, h] * _silu(gate[0, h])[0]
    return total


@_helper
def _raw_polarizability(w, z, layers, o, gate, b):
    """α before it is made positive: ``b`` (3, 3)."""
    tensor_output(w, w.polarizability_output, o, gate, b)
    if w.scalar_readout >= 0:
        scalar = w.scalar_polarizability_scale * scalar_readout(w, w.scalar_readout, z, layers)
        for k in range(3):
            b[k, k] += scalar


@_helper
def tensor_heads(w, i, z, layers, o, g, gate, b, out):
    """κ, u, α, Q of atom i from the hidden tensors, written to the Multipoles ``out``. ``b`` (3, 3) is scratch."""
    gates(w, z, o, g, gate)
    if w.charge_response_output >= 0:
        kappa = w.charge_response_scale * scalar_output(w, w.charge_response_output, gate)
        out.charge_responses[i] = kappa * kappa if w.make_kappa_positive else kappa
    if w.dipole_output >= 0:
        vector_output(w, w.dipole_output, o, gate, out.dipoles[i])
    if w.polarizability_output >= 0:
        _raw_polarizability(w, z, layers, o, gate, b)
        alpha = out.polarizabilities[i]
        for k in range(3):
            for l in range(3):
                if w.make_alpha_positive:
                    alpha[k, l] = b[k, 0] * b[l, 0] + b[k, 1] * b[l, 1] + b[k, 2] * b[l, 2]
                else:
                    alpha[k, l] = b[k, l]
    if w.quadrupole_output >= 0:
        quad = out.quadrupoles[i]
        tensor_output(w, w.quadrupole_output, o, gate, quad)
        if w.make_quad_traceless:
            third = (quad[0, 0] + quad[1, 1] + quad[2, 2]) / 3.0
            for k in range(3):
                quad[k, k] -= third


@_helper
def _matrix_seed(w, output, g9, o, gate, ggate, go):
    """Adjoint of :func:`tensor_output`: ``g9`` (3, 3) is dL/dm; adds to ``ggate`` (3, nh) and ``go`` (nh, 12), whose
    symmetric part is the matrix P of dL = Σ_ij P_ij dX_ij."""
    pxx, pyy, pzz = g9[0, 0], g9[1, 1], g9[2, 2]
    pxy, pxz, pyz = 0.5 * (g9[0, 1] + g9[1, 0]), 0.5 * (g9[0, 2] + g9[2, 0]), 0.5 * (g9[1, 2] + g9[2, 1])
    cx, cy, cz = 0.5 * (g9[1, 2] - g9[2, 1]), 0.5 * (g9[2, 0] - g9[0, 2]), 0.5 * (g9[0, 1] - g9[1, 0])
    for h in range(len(o)):
        sigma = _sigmoid(gate[2, h])
        s = w.out_weight[2, output, h]
        inner = pxx * o[h, 3] + pyy * o[h, 6] + pzz * o[h, 8] + cx * o[h, 9] + cy * o[h, 10] + cz * o[h, 11]
        inner += 2.0 * (pxy * o[h, 4] + pxz * o[h, 5] + pyz * o[h, 7])
        ggate[2, h] += s * inner * sigma * (1.0 - sigma)
        s *= sigma
        go[h, 3] += s * pxx
        go[h, 4] += s * pxy
        go[h, 5] += s * pxz
        go[h, 6] += s * pyy
        go[h, 7] += s * pyz
        go[h, 8] += s * pzz
        go[h, 9] += s * cx
        go[h, 10] += s * cy
        go[h, 11] += s * cz


@_helper
def tensor_heads_adjoint(w, i, seeds, z, layers, o, g, gate, ggate, b, g9, gz, go):
    """Adjoint of :func:`tensor_heads` for the gradients ``seeds`` (Multipoles): adds to ``gz`` (n_first,) and fills
    ``go`` (nh, 12). ``g``, ``gate``, ``ggate``, ``b``, ``g9`` are scratch."""
    nh = len(o)
    gates(w, z, o, g, gate)
    ggate[:, :] = 0.0
    go[:, :] = 0.0
    if w.charge_response_output >= 0:
        seed = seeds.charge_responses[i] * w.charge_response_scale
        if w.make_kappa_positive:
            seed *= 2.0 * w.charge_response_scale * scalar_output(w, w.charge_response_output, gate)
        for h in range(nh):
            ggate[0, h] += seed * w.out_weight[0, w.charge_response_output, h] * _silu(gate[0, h])[1]
    if w.dipole_output >= 0:
        u = seeds.dipoles[i]
        for h in range(nh):
            s, sigma = w.out_weight[1, w.dipole_output, h], _sigmoid(gate[1, h])
            inner = u[0] * o[h, 0] + u[1] * o[h, 1] + u[2] * o[h, 2]
            ggate[1, h] += s * inner * sigma * (1.0 - sigma)
            for k in range(3):
                go[h, k] += s * sigma * u[k]
    if w.polarizability_output >= 0:
        seed9 = seeds.polarizabilities[i]
        if w.make_alpha_positive:
            _raw_polarizability(w, z, layers, o, gate, b)
            for k in range(3):
                for l in range(3):
                    total = 0.0
                    for m in range(3):
                        total += (seed9[k, m] + seed9[m, k]) * b[m, l]
                    g9[k, l] = total
        else:
            g9[:, :] = seed9
        if w.scalar_readout >= 0:
            scalar_readout(w, w.scalar_readout, z, layers)
            trace = g9[0, 0] + g9[1, 1] + g9[2, 2]
            scalar_readout_adjoint(w, w.scalar_readout, trace * w.scalar_polarizability_scale, layers, gz)
        _matrix_seed(w, w.polarizability_output, g9, o, gate, ggate, go)
    if w.quadrupole_output >= 0:
        g9[:, :] = seeds.quadrupoles[i]
        if w.make_quad_traceless:
            third = (g9[0, 0] + g9[1, 1] + g9[2, 2]) / 3.0
            for k in range(3):
                g9[k, k] -= third
        _matrix_seed(w, w.quadrupole_output, g9, o, gate, ggate, go)
    start = len(w.last_bias) * (w.second_weight.shape[2] + 1)
    for k in range(3 * nh):
        total = 0.0
        for rank in range(3):
            for h in range(nh):
                total += ggate[rank, h] * w.gate_weight[rank, h, k]
        h = k % nh
        if k < nh:
            gz[start + h] += total
        elif k < 2 * nh:
            for c in range(3):
                go[h, c] += 2.0 * total * o[h, c]
        else:
            for c in range(3, 9):
                go[h, c] += 2.0 * total * o[h, c]
            for c in range(9, 12):
                go[h, c] += total * o[h, c]
