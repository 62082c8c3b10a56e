"""Radial functions of the descriptor: numbers or vectors, float64 or float32, without branch."""

from polmd.kernels.scalar.elementary import sincos


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
