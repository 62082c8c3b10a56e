"""A Gaussian-smeared multipole in the potential of another: the physics of one pair and of one wave vector.

Moments are primitive: charge q, dipole u, quadrupole Q = Σ q x x (symmetric part, six components), interacting as
[q + u·∇ + ½ Q:∇∇] φ. float64 throughout.
"""

from polmd.kernels.scalar.tensor import dot, matrix_vector, outer_self, tensor_matrix


def row_factors(q, u, m, i, j):
    """(a0, a1, a2, b0, b1): the form factor q + i n·u − ½ n·Q·n of n = (i, j, n2) is
    a0 + a1 n2 + a2 n2² + i (b0 + b1 n2); u and Q in lattice coordinates, u·2π cell⁻¹ and its like."""
    return (
        q - 0.5 * (i * (m[0] * i + 2.0 * j * m[1]) + m[3] * (j * j)),
        -(m[2] * i + m[4] * j),
        -0.5 * m[5],
        u[0] * i + u[1] * j,
        u[2],
    )


def potential_derivatives(q, u, m, r, b):
    """φ, ∇φ (3), ∇∇φ (6), ∇∇∇φ (10) at distance r (vector from the source) of a multipole (q, u, Q = m).

    ``b`` holds B_0 … B_5 with B_0 the kernel of two charges and B_{n+1} = −(1/r) dB_n/dr.
    """
    w = matrix_vector(m, r)
    d, e = dot(u, r) - 0.5 * (m[0] + m[3] + m[5]), 0.5 * dot(r, w)
    p0 = q * b[0] + d * b[1] + e * b[2]
    p1 = q * b[1] + d * b[2] + e * b[3]
    p2 = q * b[2] + d * b[3] + e * b[4]
    p3 = q * b[3] + d * b[4] + e * b[5]
    v1 = (u[0] * b[1] + w[0] * b[2], u[1] * b[1] + w[1] * b[2], u[2] * b[1] + w[2] * b[2])
    v2 = (u[0] * b[2] + w[0] * b[3], u[1] * b[2] + w[1] * b[3], u[2] * b[2] + w[2] * b[3])
    v3 = (u[0] * b[3] + w[0] * b[4], u[1] * b[3] + w[1] * b[4], u[2] * b[3] + w[2] * b[4])
    x, y, z = r
    gradient = (v1[0] - x * p1, v1[1] - y * p1, v1[2] - z * p1)
    rr = outer_self(r)
    hessian = (
        rr[0] * p2 - p1 - 2.0 * x * v2[0] + m[0] * b[2],
        rr[1] * p2 - x * v2[1] - y * v2[0] + m[1] * b[2],
        rr[2] * p2 - x * v2[2] - z * v2[0] + m[2] * b[2],
        rr[3] * p2 - p1 - 2.0 * y * v2[1] + m[3] * b[2],
        rr[4] * p2 - y * v2[2] - z * v2[1] + m[4] * b[2],
        rr[5] * p2 - p1 - 2.0 * z * v2[2] + m[5] * b[2],
    )
    c = (x * p2 - v2[0], y * p2 - v2[1], z * p2 - v2[2])  # with every δ
    b3 = b[3]
    third = (
        3.0 * c[0] - x * rr[0] * p3 + 3.0 * rr[0] * v3[0] - 3.0 * x * m[0] * b3,
        c[1] - x * rr[1] * p3 + rr[0] * v3[1] + 2.0 * rr[1] * v3[0] - (2.0 * x * m[1] + y * m[0]) * b3,
        c[2] - x * rr[2] * p3 + rr[0] * v3[2] + 2.0 * rr[2] * v3[0] - (2.0 * x * m[2] + z * m[0]) * b3,
        c[0] - x * rr[3] * p3 + rr[3] * v3[0] + 2.0 * rr[1] * v3[1] - (2.0 * y * m[1] + x * m[3]) * b3,
        -x * rr[4] * p3 + rr[1] * v3[2] + rr[2] * v3[1] + rr[4] * v3[0] - (x * m[4] + y * m[2] + z * m[1]) * b3,
        c[0] - x * rr[5] * p3 + rr[5] * v3[0] + 2.0 * rr[2] * v3[2] - (2.0 * z * m[2] + x * m[5]) * b3,
        3.0 * c[1] - y * rr[3] * p3 + 3.0 * rr[3] * v3[1] - 3.0 * y * m[3] * b3,
        c[2] - y * rr[4] * p3 + rr[3] * v3[2] + 2.0 * rr[4] * v3[1] - (2.0 * y * m[4] + z * m[3]) * b3,
        c[1] - y * rr[5] * p3 + rr[5] * v3[1] + 2.0 * rr[4] * v3[2] - (2.0 * z * m[4] + y * m[5]) * b3,
        3.0 * c[2] - z * rr[5] * p3 + 3.0 * rr[5] * v3[2] - 3.0 * z * m[5] * b3,
    )
    return p0, gradient, hessian, third


def force_on(q, u, m, gradient, hessian, third):
    """−∇ [q + u·∇ + ½ Q:∇∇] φ from the derivatives of φ."""
    hu, tq = matrix_vector(hessian, u), tensor_matrix(third, m)
    return (
        -q * gradient[0] - hu[0] - 0.5 * tq[0],
        -q * gradient[1] - hu[1] - 0.5 * tq[1],
        -q * gradient[2] - hu[2] - 0.5 * tq[2],
    )
