"""Random numbers from a counter: Philox4x32-10 of Salmon, Moraes, Dror, Shaw, Proc. SC'11, doi:10.1145/2063384.2063405.

The same counter and key give the same numbers, on every machine and in any order. Words of 32 bits are kept in integers
of 64, and nothing overflows.
"""

import math

from polmd.kernels.scalar.primitives import square_root

_LOW = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85


def _product(m, x):
    """High and low word of m·x, in parts of 16 bits."""
    low = m * (x & 0xFFFF)
    high = m * (x >> 16) + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def philox(c0, c1, c2, c3, k0, k1):
    """Four random words of 32 bits from a counter (four words) and a key (two words)."""
    for _ in range(10):
        high0, low0 = _product(_M0, c0)
        high1, low1 = _product(_M1, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW
    return c0, c1, c2, c3


def normal_pair(a, b):
    """Two independent standard normal numbers from two words of 32 bits (Box and Muller)."""
    u = (a + 1) * 2.3283064365386963e-10  # in (0, 1]
    r = square_root(-2.0 * math.log(u))
    angle = b * 1.4629180792671596e-09  # 2π/2³²
    return r * math.cos(angle), r * math.sin(angle)
