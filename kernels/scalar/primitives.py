"""What ``elementary`` is made of: on the CPU kernels.cpu.simd takes the place of these, for numbers and vectors."""

import numpy as np

__all__ = ["below", "nearest", "square_root", "times_power_of_two"]


def square_root(x):
    """√x."""
    return np.sqrt(x)


def nearest(x):
    """The nearest whole number, halves to the even one."""
    return np.rint(x)


def below(x, limit, value, otherwise):
    """``value`` where x < limit, else ``otherwise`` (NaN included)."""
    return np.where(x < limit, value, otherwise)


def times_power_of_two(x, n):
    """x 2^n for a whole number n."""
    return x * 2.0**n
