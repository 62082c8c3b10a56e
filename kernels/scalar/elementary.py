"""Elementary functions without branch or library call, for numbers and vectors in float64 and float32 alike.

The constants of each range reduction are split so that all parts but the last have few bits: a multiple of them is exact
in either precision. The polynomials are those of fdlibm and the Taylor series, published mathematics.
"""

import math

from polmd.kernels.scalar.primitives import below, nearest, times_power_of_two

TWO_OVER_PI = 6.36619772367581382433e-01
HALF_PI_1, HALF_PI_2, HALF_PI_3 = 1.5703125, 4.837512969970703125e-4, 7.549789954891882e-08
S1, S2, S3 = -1.66666666666666324348e-01, 8.33333333332248946124e-03, -1.98412698298579493134e-04
S4, S5, S6 = 2.75573137070700676789e-06, -2.50507602534068634195e-08, 1.58969099521155010221e-10
C1, C2, C3 = 4.16666666666666019037e-02, -1.38888888888741095749e-03, 2.48015872894767294178e-05
C4, C5, C6 = -2.75573143513906633035e-07, 2.08757232129817482790e-09, -1.13596475577881948265e-11
LOG2_E = 1.4426950408889634
LN_2_1, LN_2_2 = 0.693359375, -2.1219444005469057e-4


def sincos(x):
    """(sin x, cos x) for |x| < 1e5, to 2 units in the last place of 1 in float64; in float32 for |x| < 1e4."""
    n = nearest(x * TWO_OVER_PI)
    y = ((x - n * HALF_PI_1) - n * HALF_PI_2) - n * HALF_PI_3
    z = y * y
    s = y + y * z * (S1 + z * (S2 + z * (S3 + z * (S4 + z * (S5 + z * S6)))))
    c = 1.0 - 0.5 * z + z * z * (C1 + z * (C2 + z * (C3 + z * (C4 + z * (C5 + z * C6)))))
    # quadrant n mod 4 without integers: half = n/2 rounded down, odd = n − 2 half, sign from half's parity
    half = nearest(n * 0.5 - 0.25)
    odd = n - 2.0 * half
    sign = 1.0 - 2.0 * (half - 2.0 * nearest(half * 0.5 - 0.25))
    return sign * (s + odd * (c - s)), sign * (c - odd * (c + s))


def exponential(x):
    """e^x to 2 units in the last place for |x| ≤ 87; beyond, its value there (which is 1e-38 or 1e38)."""
    x = below(x, -87.0, -87.0, x)
    x = below(x, 87.0, x, below(x, math.inf, 87.0, x))
    n = nearest(x * LOG2_E)
    y = (x - n * LN_2_1) - n * LN_2_2
    p = 1.0 / 479001600.0 + y * (1.0 / 6227020800.0)
    p = 1.0 / 3628800.0 + y * (1.0 / 39916800.0 + y * p)
    p = 1.0 / 40320.0 + y * (1.0 / 362880.0 + y * p)
    p = 1.0 / 720.0 + y * (1.0 / 5040.0 + y * p)
    p = 1.0 / 24.0 + y * (1.0 / 120.0 + y * p)
    return times_power_of_two(1.0 + y * (1.0 + y * (0.5 + y * (1.0 / 6.0 + y * p))), n)


def sigmoid(x):
    """1/(1 + e^−x)."""
    return 1.0 / (1.0 + exponential(-x))


def silu(x):
    """(x sigmoid(x), its derivative)."""
    s = sigmoid(x)
    return x * s, s * (1.0 + x * (1.0 - s))
