"""The vector type: every operation lane by lane against NumPy, in both precisions, and nothing widens float32."""

import numba
import numpy as np
import pytest
from polmd.kernels.cpu import scalars
from polmd.kernels.cpu.simd import below, bits_below, count_bits, item, lanes, load, store, total, zeros


@numba.njit
def _arithmetic(x, out):
    n = lanes(x)
    a, b, s = load(x, 0), load(x, n), item(x, 2 * n)
    store(out, 0, a + b * s)
    store(out, n, (2.0 * a - b) / (1 + b))
    store(out, 2 * n, -a + zeros(x))
    store(out, 3 * n, below(a, 0.5, a, b))
    store(out, 4 * n, below(a, b, 1.0, 0.0))
    return n, total(a)


@numba.njit
def _functions(x, out):
    n, size = lanes(x), len(x)
    for k in range(0, size, n):
        s, c = scalars.sincos(load(x, k))
        value, slope = scalars.silu(load(x, k))
        store(out[0], k, s)
        store(out[1], k, c)
        store(out[2], k, value)
        store(out[3], k, slope)


@numba.njit
def _bits(x, limit):
    bits = bits_below(load(x, 0), limit)
    return bits, count_bits(bits)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_bits_below(dtype: type) -> None:
    """Lane 0 is the lowest bit, equal is not below, NaN neither."""
    n = 64 // np.dtype(dtype).itemsize
    x = np.random.default_rng(2).uniform(0, 1, n).astype(dtype)
    x[1], x[2], x[n - 1] = 0.5, np.nan, 0.25
    bits, count = _bits(x, 0.5)
    assert bits == sum(2**k for k in range(n) if x[k] < 0.5) and bits >> (n - 1) == 1
    assert count == (x < 0.5).sum()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_operations(dtype: type) -> None:
    n = 64 // np.dtype(dtype).itemsize
    x = np.random.default_rng(1).uniform(0, 1, 2 * n + 1).astype(dtype)
    out = np.full(5 * n + 1, 7.0, dtype)
    count, sum_a = _arithmetic(x, out)
    a, b, s = x[:n], x[n : 2 * n], x[-1]
    assert count == n and sum_a == pytest.approx(a.sum(dtype=np.float64), rel=1e-15)
    want = np.concatenate([a + b * s, (2 * a - b) / (1 + b), -a, np.where(a < 0.5, a, b), np.where(a < b, 1.0, 0.0)])
    np.testing.assert_allclose(out[:-1], want, rtol=4 * np.finfo(dtype).eps)
    assert out[-1] == 7.0  # a store ends where its vector ends


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_functions(dtype: type) -> None:
    x = np.linspace(-40, 40, 4096).astype(dtype)
    out = np.empty((4, len(x)), dtype)
    _functions(x, out)
    y, eps = x.astype(np.float64), np.finfo(dtype).eps
    sigmoid = 1 / (1 + np.exp(-y))
    for got, want in zip(out, (np.sin(y), np.cos(y), y * sigmoid, sigmoid * (1 + y * (1 - sigmoid))), strict=True):
        np.testing.assert_allclose(got, want, atol=4 * eps, rtol=8 * eps)


def test_far_arguments_and_nan() -> None:
    x = np.array([-1e4, -100.0, 100.0, 1e4, np.nan, 0.0, 1.0, -1.0])
    out = np.empty((4, 8))
    _functions(x, out)
    np.testing.assert_allclose(out[2, :4], [0.0, 0.0, 100.0, 1e4], atol=1e-30)
    assert np.isnan(out[2, 4]) and np.isfinite(out[2, 5:]).all()


def test_arrays_of_another_kind_are_refused() -> None:
    with pytest.raises(numba.core.errors.TypingError):
        numba.njit(lambda x: total(load(x, 0)))(np.zeros((8, 2)))
    with pytest.raises(numba.core.errors.TypingError):
        numba.njit(lambda x: total(load(x, 0)))(np.zeros(16)[::2])
