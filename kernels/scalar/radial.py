"""Radial functions of the descriptor and the sine they are made of. float64 throughout.

No branch and no library call, so that a loop over edges vectorises.
"""

# Cody-Waite split of π/2 (33 leading bits, the next 33, the rest) as in fdlibm, and its minimax polynomials on
# [−π/4, π/4], which are published mathematics (error below 2^-58).
TWO_OVER_PI = 6.36619772367581382433e-01
PIO2_1 = 1.57079632673412561417e00
PIO2_2 = 6.07710050630396597660e-11
PIO2_3 = 2.02226624871116645580e-21
ROUND = 6755399441055744.0  # 1.5 · 2^52: adding and subtracting it rounds to the nearest integer
S1, S2, S3 = -1.66666666666666324348e-01, 8.33333333332248946124e-03, -1.98412698298579493134e-04
S4, S5, S6 = 2.75573137070700676789e-06, -2.50507602534068634195e-08, 1.58969099521155010221e-10
C1, C2, C3 = 4.16666666666666019037e-02, -1.38888888888741095749e-03, 2.48015872894767294178e-05
C4, C5, C6 = -2.75573143513906633035e-07, 2.08757232129817482790e-09, -1.13596475577881948265e-11


def sincos(x):
    """(sin x, cos x) for |x| < 1e5, to 2 units in the last place of 1."""
    n = (x * TWO_OVER_PI + ROUND) - ROUND
    y = ((x - n * PIO2_1) - n * PIO2_2) - n * PIO2_3
    z = y * y
    s = y + y * z * (S1 + z * (S2 + z * (S3 + z * (S4 + z * (S5 + z * S6)))))
    c = 1.0 - 0.5 * z + z * z * (C1 + z * (C2 + z * (C3 + z * (C4 + z * (C5 + z * C6)))))
    # quadrant n mod 4 without integers: half = n/2 rounded down, odd = n − 2 half, sign from half's parity
    half = ((n * 0.5 - 0.25) + ROUND) - ROUND
    odd = n - 2.0 * half
    quarter = ((half * 0.5 - 0.25) + ROUND) - ROUND
    sign = 1.0 - 2.0 * (half - 2.0 * quarter)
    return sign * (s + odd * (c - s)), sign * (c - odd * (c + s))


def cutoff_function(x, p):
    """f(x) = 1 − (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) − p(p+1)/2 x^(p+2) for x < 1 and its derivative, given
    x^(p−1) = ``p[1]`` and p = ``p[0]``."""
    order, power = p
    a, b, c = 0.5 * (order + 1.0) * (order + 2.0), order * (order + 2.0), 0.5 * order * (order + 1.0)
    f = 1.0 - power * x * (a - x * (b - x * c))
    df = -power * (a * order - x * (b * (order + 1.0) - x * c * (order + 2.0)))
    return f, df


def radial_basis(r, inverse_r, frequency, envelope, slope, norm):
    """R = norm · sin(w r)/r · f(r) and dR/dr, with f = ``envelope``, df/dr = ``slope`` and norm = √(2/rc)."""
    s, c = sincos(frequency * r)
    base = norm * s * inverse_r
    change = norm * frequency * c * inverse_r - base * inverse_r
    return base * envelope, change * envelope + base * slope
