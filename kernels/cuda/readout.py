"""From A features of one channel to invariants and products of tensors and back: what one thread does.

Arrays are flat and in shared memory; number k of a channel lies at ``at + k·step``. The products are those of
kernels/layout.py, in its order, and the algebra that of ``kernels.scalar.tensor``.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace

import numpy as np
from polmd.kernels.cuda.compile import device, scalars
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

#: First rows of the symmetric matrices and of the axial vectors in the table of products.
SYMMETRIC = 3 * N_VECTOR
AXIAL = SYMMETRIC + 6 * N_SYMMETRIC


def load3(x, at, step):
    """Three numbers."""
    return x[at], x[at + step], x[at + 2 * step]


def load6(x, at, step):
    """Six numbers."""
    return x[at], x[at + step], x[at + 2 * step], x[at + 3 * step], x[at + 4 * step], x[at + 5 * step]


def load10(x, at, step):
    """Ten numbers."""
    return (
        x[at], x[at + step], x[at + 2 * step], x[at + 3 * step], x[at + 4 * step], x[at + 5 * step], x[at + 6 * step],
        x[at + 7 * step], x[at + 8 * step], x[at + 9 * step],
    )  # fmt: skip


def store3(x, at, step, v):
    """Write three numbers."""
    x[at], x[at + step], x[at + 2 * step] = v


def store6(x, at, step, v):
    """Write six numbers."""
    x[at], x[at + step], x[at + 2 * step], x[at + 3 * step], x[at + 4 * step], x[at + 5 * step] = v


@functools.cache
def readout(max_l: int, max_nu: int, dtype: np.dtype) -> SimpleNamespace:
    """``invariants``, ``products`` and their adjoints for an architecture and a precision."""
    p = scalars(dtype)
    l3, l6, l10 = device(load3, dtype), device(load6, dtype), device(load10, dtype)
    s3, s6 = device(store3, dtype), device(store6, dtype)
    high, cubic = max_l == 3, max_nu == 3
    add3, add6, add10, scale3, scale6 = p.add3, p.add6, p.add10, p.scale3, p.scale6
    dot, cross, double, trace_product = p.dot, p.cross, p.double, p.trace_product
    matrix_vector, matrix_product, square = p.matrix_vector, p.matrix_product, p.square
    tensor_vector, tensor_matrix, tensor_square = p.tensor_vector, p.tensor_matrix, p.tensor_square
    outer_self, outer_symmetric, outer_mean = p.outer_self, p.outer_symmetric, p.outer_mean
    symmetric_part, axial_part, transpose = p.symmetric_part, p.axial_part, p.transpose
    general_matrix, general_symmetric_product = p.general_matrix, p.general_symmetric_product
    gradient_matrix, gradient_square_norm = p.gradient_matrix, p.gradient_square_norm
    gradient_vector_matrix, gradient_tensor_square = p.gradient_vector_matrix, p.gradient_tensor_square

    def invariants(a, at, step, features, to):
        v, s = l3(a, at + step, step), l6(a, at + 4 * step, step)
        features[to] = a[at]
        features[to + 1] = dot(v, v)
        features[to + 2] = trace_product(s, s)
        if high:
            t = l10(a, at + 10 * step, step)
            full = tensor_square(t)
            features[to + 3] = full[0] + full[3] + full[5]
            if cubic:
                features[to + 4] = dot(v, matrix_vector(s, v))
                features[to + 5] = dot(v, tensor_matrix(t, s))
        elif cubic:
            features[to + 3] = dot(v, matrix_vector(s, v))

    def invariants_adjoint(a, at, step, g, start, gradient, to):
        v, s = l3(a, at + step, step), l6(a, at + 4 * step, step)
        gradient[to] = g[start]
        gv, gs = scale3(double(g[start + 1]), v), scale6(double(g[start + 2]), s)
        if high:
            t = l10(a, at + 10 * step, step)
            gt = gradient_square_norm(double(g[start + 3]), t)
            if cubic:
                w, h = g[start + 4], g[start + 5]
                gv = add3(gv, add3(scale3(double(w), matrix_vector(s, v)), scale3(h, tensor_matrix(t, s))))
                gs = add6(gs, add6(scale6(w, outer_self(v)), scale6(h, tensor_vector(t, v))))
                gt = add10(gt, gradient_vector_matrix(scale3(h, v), s))
            for k in range(10):
                gradient[to + (10 + k) * step] = gt[k]
        elif cubic:
            w = g[start + 3]
            gv = add3(gv, scale3(double(w), matrix_vector(s, v)))
            gs = add6(gs, scale6(w, outer_self(v)))
        s3(gradient, to + step, step, gv)
        s6(gradient, to + 4 * step, step, gradient_matrix(gs))

    def products(a, at, step, x, to, width):
        vectors, matrices, axials = N_VECTOR * width, N_SYMMETRIC * width, N_AXIAL * width
        sym, ax = to + SYMMETRIC * width, to + AXIAL * width
        v, s = l3(a, at + step, step), l6(a, at + 4 * step, step)
        v1, m22 = matrix_vector(s, v), square(s)
        s3(x, to + A * width, vectors, v)
        s3(x, to + V1 * width, vectors, v1)
        s6(x, sym + S * width, matrices, s)
        s6(x, sym + AA * width, matrices, outer_self(v))
        s6(x, sym + M22 * width, matrices, m22)
        if cubic:
            s3(x, to + S_V1 * width, vectors, matrix_vector(s, v1))
            s3(x, to + A_R * width, vectors, scale3(dot(v, v), v))
            s6(x, sym + V1_A * width, matrices, outer_symmetric(v1, v))
            s3(x, ax + V1_X_A * width, axials, cross(v1, v))
            s6(x, sym + S_M22 * width, matrices, symmetric_part(matrix_product(s, m22)))
        if high:
            t = l10(a, at + 10 * step, step)
            v2, m13, m33 = tensor_matrix(t, s), tensor_vector(t, v), tensor_square(t)
            s3(x, to + V2 * width, vectors, v2)
            s6(x, sym + M13 * width, matrices, m13)
            s6(x, sym + M33 * width, matrices, m33)
            if cubic:
                s3(x, to + S_V2 * width, vectors, matrix_vector(s, v2))
                s3(x, to + A_T * width, vectors, scale3(trace_product(s, s), v))
                s3(x, to + M13_A * width, vectors, matrix_vector(m13, v))
                s3(x, to + T_M13 * width, vectors, tensor_matrix(t, m13))
                s3(x, to + T_M22 * width, vectors, tensor_matrix(t, m22))
                s3(x, to + T_M33 * width, vectors, tensor_matrix(t, m33))
                s6(x, sym + V2_A * width, matrices, outer_symmetric(v2, v))
                s3(x, ax + V2_X_A * width, axials, cross(v2, v))
                s6(x, sym + T_V1 * width, matrices, tensor_vector(t, v1))
                s6(x, sym + T_V2 * width, matrices, tensor_vector(t, v2))
                full = matrix_product(s, m13)
                c = axial_part(full)
                s6(x, sym + S_M13 * width, matrices, symmetric_part(full))
                s3(x, ax + C_S_M13 * width, axials, add3(c, c))
                full = matrix_product(s, m33)
                c = axial_part(full)
                s6(x, sym + S_M33 * width, matrices, symmetric_part(full))
                s3(x, ax + C_S_M33 * width, axials, add3(c, c))

    def twice(m, v):
        u = matrix_vector(m, v)
        return add3(u, u)

    twice = device(twice, dtype)

    def add_low(gradient, to, step, gv, gs):
        """Add gradients with respect to T1 and to T2, the latter as the matrix P of dL = Σ_ij P_ij dS_ij."""
        s3(gradient, to + step, step, add3(l3(gradient, to + step, step), gv))
        s6(gradient, to + 4 * step, step, add6(l6(gradient, to + 4 * step, step), gradient_matrix(gs)))

    def add_high(gradient, to, step, gt):
        """Add gradients with respect to T3."""
        for k in range(10):
            gradient[to + (10 + k) * step] += gt[k]

    add_low, add_high = device(add_low, dtype), device(add_high, dtype)

    # One part for each intermediate tensor, each ending in shared memory: so few numbers are alive at a time that they
    # fit into registers.

    def adjoint_of_vector(a, at, step, p, first, width, gradient, to):
        """Products with V1 = S a and with a alone."""
        vectors, matrices, axials = N_VECTOR * width, N_SYMMETRIC * width, N_AXIAL * width
        sym, ax = first + SYMMETRIC * width, first + AXIAL * width
        v, s = l3(a, at + step, step), l6(a, at + 4 * step, step)
        v1 = matrix_vector(s, v)
        gv = add3(l3(p, first + A * width, vectors), twice(l6(p, sym + AA * width, matrices), v))
        gs = l6(p, sym + S * width, matrices)
        gv1 = l3(p, first + V1 * width, vectors)
        if cubic:
            q = l3(p, first + S_V1 * width, vectors)
            gv1 = add3(gv1, matrix_vector(s, q))
            gs = add6(gs, outer_mean(q, v1, 0.5))
            q = l3(p, first + A_R * width, vectors)
            gv = add3(gv, add3(scale3(dot(v, v), q), scale3(double(dot(q, v)), v)))
            m, c = l6(p, sym + V1_A * width, matrices), l3(p, ax + V1_X_A * width, axials)
            gv1 = add3(gv1, add3(twice(m, v), cross(v, c)))
            gv = add3(gv, add3(twice(m, v1), cross(c, v1)))
            if high:
                t, m = l10(a, at + 10 * step, step), l6(p, sym + T_V1 * width, matrices)
                gv1 = add3(gv1, tensor_matrix(t, m))
                add_high(gradient, to, step, gradient_vector_matrix(v1, m))
                q = l3(p, first + A_T * width, vectors)
                gv = add3(gv, scale3(trace_product(s, s), q))
                gs = add6(gs, scale6(double(dot(q, v)), s))
        gs = add6(gs, outer_mean(gv1, v, 0.5))
        add_low(gradient, to, step, add3(gv, matrix_vector(s, gv1)), gs)

    def adjoint_of_square(a, at, step, p, first, width, gradient, to):
        """Products with M22 = S²."""
        vectors, matrices = N_VECTOR * width, N_SYMMETRIC * width
        sym, s = first + SYMMETRIC * width, l6(a, at + 4 * step, step)
        m22, gm22 = square(s), l6(p, sym + M22 * width, matrices)
        gs = scale6(zero, s)
        if cubic:
            m = l6(p, sym + S_M22 * width, matrices)
            gs = symmetric_part(matrix_product(m, m22))
            gm22 = add6(gm22, symmetric_part(matrix_product(m, s)))
            if high:
                q = l3(p, first + T_M22 * width, vectors)
                gm22 = add6(gm22, tensor_vector(l10(a, at + 10 * step, step), q))
                add_high(gradient, to, step, gradient_vector_matrix(q, m22))
        add_low(gradient, to, step, scale3(zero, l3(a, at + step, step)),
                add6(gs, symmetric_part(matrix_product(gm22, s))))  # fmt: skip

    def adjoint_of_v2(a, at, step, p, first, width, gradient, to):
        """Products with V2 = T:S."""
        vectors, matrices, axials = N_VECTOR * width, N_SYMMETRIC * width, N_AXIAL * width
        sym, ax = first + SYMMETRIC * width, first + AXIAL * width
        v, s, t = l3(a, at + step, step), l6(a, at + 4 * step, step), l10(a, at + 10 * step, step)
        gv2, gv, gs = l3(p, first + V2 * width, vectors), scale3(zero, v), scale6(zero, s)
        if cubic:
            v2, q = tensor_matrix(t, s), l3(p, first + S_V2 * width, vectors)
            gv2 = add3(gv2, matrix_vector(s, q))
            gs = outer_mean(q, v2, 0.5)
            m, c = l6(p, sym + V2_A * width, matrices), l3(p, ax + V2_X_A * width, axials)
            gv2 = add3(gv2, add3(twice(m, v), cross(v, c)))
            gv = add3(twice(m, v2), cross(c, v2))
            m = l6(p, sym + T_V2 * width, matrices)
            gv2 = add3(gv2, tensor_matrix(t, m))
            add_high(gradient, to, step, gradient_vector_matrix(v2, m))
        add_low(gradient, to, step, gv, add6(gs, tensor_vector(t, gv2)))
        add_high(gradient, to, step, gradient_vector_matrix(gv2, s))

    def adjoint_of_m13(a, at, step, p, first, width, gradient, to):
        """Products with M13 = T a."""
        vectors, matrices, axials = N_VECTOR * width, N_SYMMETRIC * width, N_AXIAL * width
        sym, ax = first + SYMMETRIC * width, first + AXIAL * width
        v, t = l3(a, at + step, step), l10(a, at + 10 * step, step)
        gm13 = l6(p, sym + M13 * width, matrices)
        if cubic:
            s, m13 = l6(a, at + 4 * step, step), tensor_vector(t, v)
            g = general_matrix(l6(p, sym + S_M13 * width, matrices), l3(p, ax + C_S_M13 * width, axials))
            gm13 = add6(gm13, general_symmetric_product(transpose(g), s))
            q = l3(p, first + M13_A * width, vectors)
            gm13 = add6(gm13, outer_mean(q, v, 0.5))
            add_low(gradient, to, step, matrix_vector(m13, q), general_symmetric_product(g, m13))
            q = l3(p, first + T_M13 * width, vectors)
            gm13 = add6(gm13, tensor_vector(t, q))
            add_high(gradient, to, step, gradient_vector_matrix(q, m13))
        q = tensor_matrix(t, gm13)
        s3(gradient, to + step, step, add3(l3(gradient, to + step, step), q))
        add_high(gradient, to, step, gradient_vector_matrix(v, gm13))

    def adjoint_of_m33(a, at, step, p, first, width, gradient, to):
        """Products with M33 = T:T."""
        vectors, matrices, axials = N_VECTOR * width, N_SYMMETRIC * width, N_AXIAL * width
        sym, ax = first + SYMMETRIC * width, first + AXIAL * width
        t, gm33 = l10(a, at + 10 * step, step), l6(p, sym + M33 * width, matrices)
        if cubic:
            s, m33 = l6(a, at + 4 * step, step), tensor_square(t)
            g = general_matrix(l6(p, sym + S_M33 * width, matrices), l3(p, ax + C_S_M33 * width, axials))
            gm33 = add6(gm33, general_symmetric_product(transpose(g), s))
            gs = gradient_matrix(general_symmetric_product(g, m33))
            s6(gradient, to + 4 * step, step, add6(l6(gradient, to + 4 * step, step), gs))
            q = l3(p, first + T_M33 * width, vectors)
            gm33 = add6(gm33, tensor_vector(t, q))
            add_high(gradient, to, step, gradient_vector_matrix(q, m33))
        add_high(gradient, to, step, gradient_tensor_square(gm33, t))

    zero = np.dtype(dtype).type(0)
    adjoint_of_vector, adjoint_of_square = device(adjoint_of_vector, dtype), device(adjoint_of_square, dtype)
    adjoint_of_v2, adjoint_of_m13 = device(adjoint_of_v2, dtype), device(adjoint_of_m13, dtype)
    adjoint_of_m33 = device(adjoint_of_m33, dtype)

    def products_adjoint(a, at, step, p, first, width, gradient, to):
        """Adds to ``gradient``. ``p``: gradient with respect to every product, vectors and axial vectors by component,
        symmetric matrices as the matrix P of dL = Σ_ij P_ij dX_ij."""
        adjoint_of_vector(a, at, step, p, first, width, gradient, to)
        adjoint_of_square(a, at, step, p, first, width, gradient, to)
        if high:
            adjoint_of_v2(a, at, step, p, first, width, gradient, to)
            adjoint_of_m13(a, at, step, p, first, width, gradient, to)
            adjoint_of_m33(a, at, step, p, first, width, gradient, to)

    return SimpleNamespace(
        invariants=device(invariants, dtype),
        invariants_adjoint=device(invariants_adjoint, dtype),
        products=device(products, dtype),
        products_adjoint=device(products_adjoint, dtype),
    )
