"""The kernel of two Gaussian charges, erf(a r)/r with a = 1/(σ√2), and its derivatives. float64 throughout."""

import math

SERIES_BELOW = 6.0  # x = (a r)²: below, the series; above, upward recursion has no cancellation left (1e-15)
TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)


def boys(x):
    """Boys functions F_0 … F_5 of x ≥ 0: F_n(x) = ∫_0^1 t^(2n) e^(−x t²) dt.

    Small x: F_5 by the all-positive series e^(−x) Σ_k (2x)^k/(11·13·…·(2k+11)), then F_{n−1} = (2x F_n + e^(−x))/(2n−1),
    which is stable downwards and exact at x = 0. Large x: F_0 = (√π/2) erf(√x)/√x, then upwards.
    """
    e = math.exp(-x)
    if x < SERIES_BELOW:
        term = 1.0 / 11.0
        total = term
        k = 13.0
        while term > 1e-17 * total:
            term *= 2.0 * x / k
            total += term
            k += 2.0
        f5 = e * total
        f4 = (2.0 * x * f5 + e) / 9.0
        f3 = (2.0 * x * f4 + e) / 7.0
        f2 = (2.0 * x * f3 + e) / 5.0
        f1 = (2.0 * x * f2 + e) / 3.0
        f0 = 2.0 * x * f1 + e
    else:
        s = math.sqrt(x)
        h = 0.5 / x
        f0 = math.erf(s) / (s * TWO_OVER_SQRT_PI)
        f1 = (f0 - e) * h
        f2 = (3.0 * f1 - e) * h
        f3 = (5.0 * f2 - e) * h
        f4 = (7.0 * f3 - e) * h
        f5 = (9.0 * f4 - e) * h
    return f0, f1, f2, f3, f4, f5


def smeared_coulomb(r2, sigma):
    """B_0 … B_5 at r² of erf(a r)/r: B_0 the kernel, B_{n+1} = −(1/r) dB_n/dr = (2a/√π)(2a²)^n F_n(a² r²), Å^−(2n+1)."""
    twice_a2 = 1.0 / (sigma * sigma)
    f = boys(0.5 * twice_a2 * r2)
    c0 = math.sqrt(0.5 * twice_a2) * TWO_OVER_SQRT_PI
    c1 = c0 * twice_a2
    c2 = c1 * twice_a2
    c3 = c2 * twice_a2
    c4 = c3 * twice_a2
    c5 = c4 * twice_a2
    return c0 * f[0], c1 * f[1], c2 * f[2], c3 * f[3], c4 * f[4], c5 * f[5]
