"""Algebra of Cartesian tensors that are symmetric in all indices, one lane (channel) at a time.

A vector is a tuple (x, y, z). A symmetric matrix is a tuple (xx, xy, xz, yy, yz, zz). A symmetric third-rank tensor is
a tuple (xxx, xxy, xxz, xyy, xyz, xzz, yyy, yyz, yzz, zzz). A general matrix is a tuple of nine, row by row. These are
also the orders of the monomials of the descriptor. No literal appears, so that float32 stays float32; symmetrised
products therefore come without the factor ½, which the weights carry.
"""


def double(x):
    """2 x."""
    return x + x


def add3(a, b):
    """a + b for vectors."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def add6(a, b):
    """a + b for symmetric matrices."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4], a[5] + b[5]


def add10(a, b):
    """a + b for symmetric third-rank tensors."""
    return (
        a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4],
        a[5] + b[5], a[6] + b[6], a[7] + b[7], a[8] + b[8], a[9] + b[9],
    )  # fmt: skip


def scale3(s, a):
    """s a for a vector."""
    return s * a[0], s * a[1], s * a[2]


def scale6(s, a):
    """s a for a symmetric matrix."""
    return s * a[0], s * a[1], s * a[2], s * a[3], s * a[4], s * a[5]


def dot(a, b):
    """Σ_i a_i b_i."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a, b):
    """a × b."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def trace_product(s, t):
    """Σ_ij s_ij t_ij of symmetric matrices."""
    off = s[1] * t[1] + s[2] * t[2] + s[4] * t[4]
    return s[0] * t[0] + s[3] * t[3] + s[5] * t[5] + off + off


def matrix_vector(s, a):
    """Σ_j s_ij a_j of a symmetric matrix and a vector."""
    return (
        s[0] * a[0] + s[1] * a[1] + s[2] * a[2],
        s[1] * a[0] + s[3] * a[1] + s[4] * a[2],
        s[2] * a[0] + s[4] * a[1] + s[5] * a[2],
    )


def tensor_vector(t, a):
    """Σ_k t_ijk a_k, a symmetric matrix."""
    return (
        t[0] * a[0] + t[1] * a[1] + t[2] * a[2],
        t[1] * a[0] + t[3] * a[1] + t[4] * a[2],
        t[2] * a[0] + t[4] * a[1] + t[5] * a[2],
        t[3] * a[0] + t[6] * a[1] + t[7] * a[2],
        t[4] * a[0] + t[7] * a[1] + t[8] * a[2],
        t[5] * a[0] + t[8] * a[1] + t[9] * a[2],
    )


def tensor_matrix(t, s):
    """Σ_jk t_ijk s_jk, a vector."""
    xy, xz, yz = s[1] + s[1], s[2] + s[2], s[4] + s[4]
    return (
        t[0] * s[0] + t[1] * xy + t[2] * xz + t[3] * s[3] + t[4] * yz + t[5] * s[5],
        t[1] * s[0] + t[3] * xy + t[4] * xz + t[6] * s[3] + t[7] * yz + t[8] * s[5],
        t[2] * s[0] + t[4] * xy + t[5] * xz + t[7] * s[3] + t[8] * yz + t[9] * s[5],
    )


def outer_self(a):
    """a_i a_j, a symmetric matrix."""
    return a[0] * a[0], a[0] * a[1], a[0] * a[2], a[1] * a[1], a[1] * a[2], a[2] * a[2]


def outer_symmetric(a, b):
    """a_i b_j + b_i a_j."""
    xx, yy, zz = a[0] * b[0], a[1] * b[1], a[2] * b[2]
    return (
        xx + xx,
        a[0] * b[1] + a[1] * b[0],
        a[0] * b[2] + a[2] * b[0],
        yy + yy,
        a[1] * b[2] + a[2] * b[1],
        zz + zz,
    )


def outer_mean(a, b, half):
    """½ (a_i b_j + b_i a_j), with ½ given in the precision of a and b."""
    return (
        a[0] * b[0],
        half * (a[0] * b[1] + a[1] * b[0]),
        half * (a[0] * b[2] + a[2] * b[0]),
        a[1] * b[1],
        half * (a[1] * b[2] + a[2] * b[1]),
        a[2] * b[2],
    )


def square(s):
    """Σ_j s_ij s_jk of a symmetric matrix, itself symmetric."""
    return (
        s[0] * s[0] + s[1] * s[1] + s[2] * s[2],
        s[0] * s[1] + s[1] * s[3] + s[2] * s[4],
        s[0] * s[2] + s[1] * s[4] + s[2] * s[5],
        s[1] * s[1] + s[3] * s[3] + s[4] * s[4],
        s[1] * s[2] + s[3] * s[4] + s[4] * s[5],
        s[2] * s[2] + s[4] * s[4] + s[5] * s[5],
    )


def tensor_square(t):
    """Σ_jk t_ijk t_ljk, a symmetric matrix."""
    oxx = t[1] * t[1] + t[2] * t[2] + t[4] * t[4]
    oxy = t[1] * t[3] + t[2] * t[4] + t[4] * t[7]
    oxz = t[1] * t[4] + t[2] * t[5] + t[4] * t[8]
    oyy = t[3] * t[3] + t[4] * t[4] + t[7] * t[7]
    oyz = t[3] * t[4] + t[4] * t[5] + t[7] * t[8]
    ozz = t[4] * t[4] + t[5] * t[5] + t[8] * t[8]
    return (
        t[0] * t[0] + t[3] * t[3] + t[5] * t[5] + oxx + oxx,
        t[0] * t[1] + t[3] * t[6] + t[5] * t[8] + oxy + oxy,
        t[0] * t[2] + t[3] * t[7] + t[5] * t[9] + oxz + oxz,
        t[1] * t[1] + t[6] * t[6] + t[8] * t[8] + oyy + oyy,
        t[1] * t[2] + t[6] * t[7] + t[8] * t[9] + oyz + oyz,
        t[2] * t[2] + t[7] * t[7] + t[9] * t[9] + ozz + ozz,
    )


def matrix_product(s, t):
    """Σ_j s_ij t_jk of symmetric matrices, a general matrix (nine)."""
    return (
        s[0] * t[0] + s[1] * t[1] + s[2] * t[2],
        s[0] * t[1] + s[1] * t[3] + s[2] * t[4],
        s[0] * t[2] + s[1] * t[4] + s[2] * t[5],
        s[1] * t[0] + s[3] * t[1] + s[4] * t[2],
        s[1] * t[1] + s[3] * t[3] + s[4] * t[4],
        s[1] * t[2] + s[3] * t[4] + s[4] * t[5],
        s[2] * t[0] + s[4] * t[1] + s[5] * t[2],
        s[2] * t[1] + s[4] * t[3] + s[5] * t[4],
        s[2] * t[2] + s[4] * t[4] + s[5] * t[5],
    )


def symmetric_part(m):
    """m_ij + m_ji of a general matrix (twice its symmetric part)."""
    return m[0] + m[0], m[1] + m[3], m[2] + m[6], m[4] + m[4], m[5] + m[7], m[8] + m[8]


def axial_part(m):
    """c_k = Σ_ij ε_kij m_ij of a general matrix, so that m = ½ (m + mᵀ) + ½ ε·c; the cross product for m = a ⊗ b."""
    return m[5] - m[7], m[6] - m[2], m[1] - m[3]


def general_matrix(s, c):
    """The matrix s_ij + Σ_k ε_ijk c_k (nine)."""
    return s[0], s[1] + c[2], s[2] - c[1], s[1] - c[2], s[3], s[4] + c[0], s[2] + c[1], s[4] - c[0], s[5]


def general_symmetric_product(g, t):
    """m + mᵀ for m_ik = Σ_j g_ij t_jk, g general and t symmetric."""
    xx = g[0] * t[0] + g[1] * t[1] + g[2] * t[2]
    yy = g[3] * t[1] + g[4] * t[3] + g[5] * t[4]
    zz = g[6] * t[2] + g[7] * t[4] + g[8] * t[5]
    return (
        xx + xx,
        g[0] * t[1] + g[1] * t[3] + g[2] * t[4] + g[3] * t[0] + g[4] * t[1] + g[5] * t[2],
        g[0] * t[2] + g[1] * t[4] + g[2] * t[5] + g[6] * t[0] + g[7] * t[1] + g[8] * t[2],
        yy + yy,
        g[3] * t[2] + g[4] * t[4] + g[5] * t[5] + g[6] * t[1] + g[7] * t[3] + g[8] * t[4],
        zz + zz,
    )


def transpose(g):
    """Transpose of a general matrix."""
    return g[0], g[3], g[6], g[1], g[4], g[7], g[2], g[5], g[8]


def gradient_matrix(s):
    """Gradient of Σ_ij s_ij t_ij with respect to the six independent components of a symmetric t."""
    return s[0], s[1] + s[1], s[2] + s[2], s[3], s[4] + s[4], s[5]


def gradient_vector_matrix(a, s):
    """Gradient of Σ_ijk t_ijk a_i s_jk with respect to the ten independent components of t."""
    xy, xz, yz = s[1] + s[1], s[2] + s[2], s[4] + s[4]
    return (
        a[0] * s[0],
        a[0] * xy + a[1] * s[0],
        a[0] * xz + a[2] * s[0],
        a[0] * s[3] + a[1] * xy,
        a[0] * yz + a[1] * xz + a[2] * xy,
        a[0] * s[5] + a[2] * xz,
        a[1] * s[3],
        a[1] * yz + a[2] * s[3],
        a[1] * s[5] + a[2] * yz,
        a[2] * s[5],
    )


def gradient_tensor_square(g, t):
    """Gradient of Σ_il g_il Σ_jk t_ijk t_ljk (g symmetric) with respect to the ten independent components of t."""
    xx, xy, xz, yy, yz, zz = g
    # u_i,jk = Σ_l g_il t_ljk; the gradient is twice its sum over the placings of (i, j, k)
    xxx = xx * t[0] + xy * t[1] + xz * t[2]
    yxx = xy * t[0] + yy * t[1] + yz * t[2]
    zxx = xz * t[0] + yz * t[1] + zz * t[2]
    xxy = xx * t[1] + xy * t[3] + xz * t[4]
    yxy = xy * t[1] + yy * t[3] + yz * t[4]
    zxy = xz * t[1] + yz * t[3] + zz * t[4]
    xxz = xx * t[2] + xy * t[4] + xz * t[5]
    yxz = xy * t[2] + yy * t[4] + yz * t[5]
    zxz = xz * t[2] + yz * t[4] + zz * t[5]
    xyy = xx * t[3] + xy * t[6] + xz * t[7]
    yyy = xy * t[3] + yy * t[6] + yz * t[7]
    zyy = xz * t[3] + yz * t[6] + zz * t[7]
    xyz = xx * t[4] + xy * t[7] + xz * t[8]
    yyz = xy * t[4] + yy * t[7] + yz * t[8]
    zyz = xz * t[4] + yz * t[7] + zz * t[8]
    xzz = xx * t[5] + xy * t[8] + xz * t[9]
    yzz = xy * t[5] + yy * t[8] + yz * t[9]
    zzz = xz * t[5] + yz * t[8] + zz * t[9]
    mixed = xyz + yxz + zxy
    return (
        xxx + xxx,
        double(xxy + xxy + yxx),
        double(xxz + xxz + zxx),
        double(xyy + yxy + yxy),
        double(mixed + mixed),
        double(xzz + zxz + zxz),
        yyy + yyy,
        double(yyz + yyz + zyy),
        double(yzz + zyz + zyz),
        zzz + zzz,
    )


def gradient_square_norm(w, t):
    """Gradient of (w/2) Σ_ijk t_ijk² with respect to the ten independent components of t."""
    return (
        w * t[0],
        w * (t[1] + t[1] + t[1]),
        w * (t[2] + t[2] + t[2]),
        w * (t[3] + t[3] + t[3]),
        w * double(t[4] + t[4] + t[4]),
        w * (t[5] + t[5] + t[5]),
        w * t[6],
        w * (t[7] + t[7] + t[7]),
        w * (t[8] + t[8] + t[8]),
        w * t[9],
    )
