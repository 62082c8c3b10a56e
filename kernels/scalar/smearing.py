"""The kernel of two Gaussian charges, erf(a r)/r with a = 1/(σ√2), that of two point charges, and their derivatives.

Neither branch nor library call, for numbers and vectors alike. float64 throughout.
"""

import math

from polmd.kernels.scalar.elementary import exponential
from polmd.kernels.scalar.primitives import below, square_root

SERIES_BELOW = 1.5  # of x = (a r)²: below, the series; above, upward recursion loses less than 1e-14
HALF_SQRT_PI = 0.5 * math.sqrt(math.pi)
TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)

# erfc(s) = e^(−s²) y P(t) for s² ≥ SERIES_BELOW with y = 2/(s + 2) and t = y SCALE − 1 in [−1, 1]: the interpolant of
# degree 18 in the Chebyshev points, found in 40 digits; relative error 3e-15, of erf 3e-16.
SCALE = 2.0 / 0.6202041028867288
P0, P1, P2, P3 = 0.3992647877470138, 0.15336474958022128, 0.04301523941966987, 0.006830316349770409
P4, P5, P6 = -0.0003668830499804974, -0.0004289313740239906, -2.8133324853234278e-05
P7, P8, P9 = 2.9986862938246563e-05, 3.7122270132167962e-06, -2.780790274489991e-06
P10, P11, P12 = -3.176815675103735e-07, 3.2416389908030616e-07, 1.139703688721639e-08
P13, P14, P15 = -4.166925074327561e-08, 3.76586250861422e-09, 4.950227946232568e-09
P16, P17, P18 = -1.1849893628527876e-09, -3.8359325363333265e-10, 1.4858721218834726e-10


def boys(x):
    """Boys functions F_0 … F_5 of x ≥ 0: F_n(x) = ∫_0^1 t^(2n) e^(−x t²) dt.

    Small x: F_5 by the all-positive series e^(−x) Σ_k (2x)^k/(11·13·…·(2k+11)), then F_{n−1} = (2x F_n + e^(−x))/(2n−1),
    which is stable downwards and exact at x = 0. Large x: F_0 = (√π/2) erf(√x)/√x, then upwards.
    """
    e = exponential(-x)
    z = 2.0 * x
    series = 1.0 + z * (1.0 / 37.0) * (1.0 + z * (1.0 / 39.0) * (1.0 + z * (1.0 / 41.0)))
    series = 1.0 + z * (1.0 / 31.0) * (1.0 + z * (1.0 / 33.0) * (1.0 + z * (1.0 / 35.0) * series))
    series = 1.0 + z * (1.0 / 25.0) * (1.0 + z * (1.0 / 27.0) * (1.0 + z * (1.0 / 29.0) * series))
    series = 1.0 + z * (1.0 / 19.0) * (1.0 + z * (1.0 / 21.0) * (1.0 + z * (1.0 / 23.0) * series))
    series = 1.0 + z * (1.0 / 13.0) * (1.0 + z * (1.0 / 15.0) * (1.0 + z * (1.0 / 17.0) * series))
    low5 = e * (1.0 / 11.0) * series
    low4 = (z * low5 + e) * (1.0 / 9.0)
    low3 = (z * low4 + e) * (1.0 / 7.0)
    low2 = (z * low3 + e) * (1.0 / 5.0)
    low1 = (z * low2 + e) * (1.0 / 3.0)
    low0 = z * low1 + e

    x = below(x, SERIES_BELOW, SERIES_BELOW, x)  # keeps the other branch finite
    s = square_root(x)
    y = 2.0 / (s + 2.0)
    t = y * SCALE - 1.0
    p = P12 + t * (P13 + t * (P14 + t * (P15 + t * (P16 + t * (P17 + t * P18)))))
    p = P6 + t * (P7 + t * (P8 + t * (P9 + t * (P10 + t * (P11 + t * p)))))
    p = P0 + t * (P1 + t * (P2 + t * (P3 + t * (P4 + t * (P5 + t * p)))))
    h = 0.5 / x
    high0 = HALF_SQRT_PI * (1.0 - e * y * p) / s
    high1 = (high0 - e) * h
    high2 = (3.0 * high1 - e) * h
    high3 = (5.0 * high2 - e) * h
    high4 = (7.0 * high3 - e) * h
    high5 = (9.0 * high4 - e) * h
    half = 0.5 * z
    return (
        below(half, SERIES_BELOW, low0, high0),
        below(half, SERIES_BELOW, low1, high1),
        below(half, SERIES_BELOW, low2, high2),
        below(half, SERIES_BELOW, low3, high3),
        below(half, SERIES_BELOW, low4, high4),
        below(half, SERIES_BELOW, low5, high5),
    )


def smeared_coulomb(r2, sigma):
    """B_0 … B_5 at r² of erf(a r)/r: B_0 the kernel, B_{n+1} = −(1/r) dB_n/dr = (2a/√π)(2a²)^n F_n(a² r²), Å^−(2n+1)."""
    twice_a2 = 1.0 / (sigma * sigma)
    f = boys(r2 * (0.5 * twice_a2))
    c0 = math.sqrt(0.5 * twice_a2) * TWO_OVER_SQRT_PI
    c1 = c0 * twice_a2
    c2 = c1 * twice_a2
    c3 = c2 * twice_a2
    c4 = c3 * twice_a2
    c5 = c4 * twice_a2
    return f[0] * c0, f[1] * c1, f[2] * c2, f[3] * c3, f[4] * c4, f[5] * c5


def point_coulomb(r2):
    """B_0 … B_5 at r² of 1/r, B_n = (2n−1)!!/r^(2n+1); zero where r² is zero."""
    inverse2 = below(r2, 1e-200, 0.0, 1.0 / below(r2, 1e-200, 1.0, r2))
    b0 = square_root(inverse2)
    b1 = b0 * inverse2
    b2 = 3.0 * b1 * inverse2
    b3 = 5.0 * b2 * inverse2
    b4 = 7.0 * b3 * inverse2
    return b0, b1, b2, b3, b4, 9.0 * b4 * inverse2
