"""Power spectra of sampled signals with an absolute scale and a standard error (Welch's method).

S(ω) = ∫ ⟨x(0) x(t)⟩ e^(−iωt) dt is estimated by Δt |Σ_n w_n x_n e^(−iωnΔt)|²/Σ w², averaged over overlapping segments of
all pieces (Welch, IEEE Trans. Audio Electroacoust. 15, 70 (1967), doi:10.1109/TAU.1967.1161901). Segments are padded with
zeros to twice their length, so that the correlation function behind the estimate is the linear one; nothing wraps
around. The area under S is the mean square of the signal, whatever the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from polmd.errors import InputError

#: Speed of light, cm/fs.
LIGHT_CM_PER_FS = 2.99792458e-5
#: Windows by name, and the full width at half maximum of the spectrum of each, in units of 1/(segment length).
WINDOWS = {"hann": 1.441, "blackman": 1.644, "boxcar": 0.886}


def wavenumbers(frequencies_per_fs: np.ndarray) -> np.ndarray:
    """1/cm of frequencies (not angular) in 1/fs."""
    return frequencies_per_fs / LIGHT_CM_PER_FS


@dataclass(frozen=True)
class Segments:
    """How pieces of a signal were cut.

    Attributes
    ----------
    interval_fs : Δt between samples
    length : samples per segment
    step : samples between the starts of neighbouring segments
    window : name
    counts : segments of each piece
    """

    interval_fs: float
    length: int
    step: int
    window: str
    counts: tuple[int, ...]

    @property
    def number(self) -> int:
        return sum(self.counts)

    @property
    def wavenumber_step(self) -> float:
        """1/cm between the points of the spectrum (half the independent ones: zero padding)."""
        return 1.0 / (2 * self.length * self.interval_fs * LIGHT_CM_PER_FS)

    @property
    def resolution(self) -> float:
        """Full width at half maximum of a sharp line, 1/cm."""
        return WINDOWS[self.window] / (self.length * self.interval_fs * LIGHT_CM_PER_FS)

    @property
    def nyquist(self) -> float:
        """Largest wavenumber that the interval resolves, 1/cm."""
        return 1.0 / (2 * self.interval_fs * LIGHT_CM_PER_FS)

    def taper(self) -> np.ndarray:
        """The window, (length,)."""
        from scipy.signal import get_window

        return get_window(self.window, self.length, fftbins=False)

    @property
    def variance_factor(self) -> float:
        """Variance of the mean over that of one segment times the number of segments: 1 for disjoint segments, a little
        more where they overlap (Welch 1967)."""
        w, total = self.taper(), 1.0
        energy = float(w @ w)
        for shift in range(self.step, self.length, self.step):
            overlap = float(w[shift:] @ w[:-shift]) / energy
            pairs = sum(max(0, n - shift // self.step) for n in self.counts)
            total += 2.0 * overlap**2 * pairs / max(1, self.number)
        return total

    def __str__(self) -> str:
        return (
            f"{self.number} segments of {self.length * self.interval_fs / 1000:.4g} ps in {len(self.counts)} pieces, "
            f"window {self.window}, resolution {self.resolution:.3g} cm⁻¹, Nyquist wavenumber {self.nyquist:.5g} cm⁻¹"
        )


def segments(
    lengths: Sequence[int], interval_fs: float, resolution: float, window: str = "hann", overlap: float = 0.5
) -> Segments:
    """Cut pieces of ``lengths`` samples so that a sharp line is ``resolution`` 1/cm wide (or as the shortest piece
    allows); pieces shorter than a segment are left out.

    Raises InputError for an unknown window, or when there are fewer than two segments: no error can be given then.
    """
    if window not in WINDOWS:
        raise InputError(f"window {window!r} is not known; choose from {', '.join(WINDOWS)}")
    if not resolution > 0:
        raise InputError(f"resolution {resolution!r}: it must be a positive number of 1/cm")
    length = max(8, round(WINDOWS[window] / (resolution * interval_fs * LIGHT_CM_PER_FS)))
    step = max(1, round(length * (1.0 - overlap)))
    counts = tuple(0 if n < length else 1 + (n - length) // step for n in lengths)
    if sum(counts) < 2:
        longest = max(lengths, default=0) * interval_fs
        possible = WINDOWS[window] * 1.5 / (max(longest, interval_fs) * LIGHT_CM_PER_FS)
        raise InputError(
            f"a resolution of {resolution:g} cm⁻¹ needs pieces of {length * interval_fs / 1000:.3g} ps, at least two of "
            f"them (half of each may overlap); the longest here has {longest / 1000:.3g} ps: take a longer run, or a "
            f"resolution of {possible:.3g} cm⁻¹"
        )
    return Segments(interval_fs, length, step, window, counts)


def transforms(pieces: Sequence[np.ndarray], cut: Segments) -> np.ndarray:
    """√(Δt/Σw²) Σ_n w_n x_n e^(−iωnΔt) of every segment: (segments, points, …) complex for pieces (samples, …) real."""
    w = cut.taper()
    norm = np.sqrt(cut.interval_fs / np.sum(w * w))
    found = []
    for piece, count in zip(pieces, cut.counts, strict=True):
        for k in range(count):
            x = np.asarray(piece[k * cut.step : k * cut.step + cut.length], dtype=np.float64)
            shape = (-1,) + (1,) * (x.ndim - 1)
            found.append(norm * np.fft.rfft(w.reshape(shape) * x, 2 * cut.length, axis=0))
    return np.stack(found)


@dataclass(frozen=True)
class Estimate:
    """A mean over segments with its standard error.

    Attributes
    ----------
    wavenumbers : (points,) 1/cm
    mean, error : (points,) and the standard error of the mean, from the scatter of the segments and their overlap
    pieces : (pieces with segments, points), mean of each piece
    cut : the segments
    """

    wavenumbers: np.ndarray
    mean: np.ndarray
    error: np.ndarray
    pieces: np.ndarray
    cut: Segments

    @property
    def piece_error(self) -> np.ndarray | None:
        """Standard error from the scatter of the pieces alone, which sees slow drifts too; needs three pieces."""
        weights = np.array([c for c in self.cut.counts if c], dtype=float)
        if len(weights) < 3:
            return None
        weights /= weights.sum()
        spread = (weights[:, None] ** 2 * (self.pieces - self.mean) ** 2).sum(axis=0)
        return np.sqrt(spread * len(weights) / (len(weights) - 1))


def average(values: np.ndarray, cut: Segments) -> Estimate:
    """Mean and error of ``values`` (segments, points), one row per segment in the order of :func:`transforms`."""
    mean = values.mean(axis=0)
    error = values.std(axis=0, ddof=1) * np.sqrt(cut.variance_factor / len(values))
    ends = np.cumsum([0, *cut.counts])
    pieces = np.stack([values[a:b].mean(axis=0) for a, b in pairwise(ends) if b > a])
    points = np.arange(values.shape[1]) * cut.wavenumber_step
    return Estimate(points, mean, error, pieces, cut)


def correlation(piece: np.ndarray, lags: int) -> np.ndarray:
    """⟨x(0)·x(mΔt)⟩ for m < lags, (lags,): linear (zero padded), every lag divided by its own number of products.

    ``piece`` (samples, …); the product is summed over all trailing axes.
    """
    x = np.asarray(piece, dtype=np.float64).reshape(len(piece), -1)
    n = len(x)
    if not 0 < lags <= n:
        raise InputError(f"a correlation function of {n} samples has at most {n} lags, not {lags}")
    size = 1 << (2 * n - 1).bit_length()
    f = np.fft.rfft(x, size, axis=0)
    products = np.fft.irfft((f * f.conj()).sum(axis=1), size)[:lags]
    return products / (n - np.arange(lags))


@dataclass(frozen=True)
class Band:
    """A maximum of a spectrum.

    Attributes
    ----------
    low, high : range it was looked for in, 1/cm
    position, error : of the maximum of the smoothed spectrum, 1/cm, and its jackknife standard error
    height : of the smoothed spectrum
    area : of the spectrum between low and high
    """

    low: float
    high: float
    position: float
    error: float
    height: float
    area: float


def find_band(estimate: Estimate, low: float, high: float, smoothing: float) -> Band:
    """The highest point between ``low`` and ``high``, after Gaussian smoothing of standard deviation ``smoothing``
    (1/cm) and by the parabola through it and its neighbours; the error by leaving out one piece at a time (or, with
    fewer than three pieces, unknown: NaN)."""
    from scipy.ndimage import gaussian_filter1d

    x, step = estimate.wavenumbers, estimate.cut.wavenumber_step
    inside = np.flatnonzero((x >= low) & (x <= high))
    if len(inside) < 3:
        raise InputError(f"the spectrum has no three points between {low:g} and {high:g} cm⁻¹ (it ends at {x[-1]:.0f})")

    def maximum(spectrum: np.ndarray) -> tuple[float, float]:
        smooth = gaussian_filter1d(spectrum, smoothing / step) if smoothing > 0 else spectrum
        k = inside[np.argmax(smooth[inside])]
        if k == 0 or k == len(x) - 1:
            return float(x[k]), float(smooth[k])
        a, b, c = smooth[k - 1 : k + 2]
        curve = a - 2 * b + c
        shift = 0.5 * (a - c) / curve if curve < 0 else 0.0
        return float(x[k] + np.clip(shift, -0.5, 0.5) * step), float(b)

    position, height = maximum(estimate.mean)
    weights = np.array([c for c in estimate.cut.counts if c], dtype=float)
    error = float("nan")
    if len(weights) >= 3:
        left_out = []
        for k in range(len(weights)):
            others = np.arange(len(weights)) != k
            left_out.append(maximum(np.average(estimate.pieces[others], axis=0, weights=weights[others]))[0])
        error = float(np.sqrt((len(weights) - 1) * np.var(left_out)))
    area = float(np.trapezoid(estimate.mean[inside], x[inside]))
    return Band(low, high, position, error, height, area)
