"""What an infrared spectrum is checked against; every check is printed, none is silent."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from polmd.analysis.infrared import Infrared
from polmd.analysis.series import Series
from polmd.analysis.spectrum import LIGHT_CM_PER_FS, segments, transforms
from polmd.errors import InputError

#: Central differences of order 8.
_STENCIL = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}


def derivative(samples: np.ndarray, interval_fs: float) -> np.ndarray:
    """d/dt of samples (N, …) by central differences of order 8: (N − 8, …), for the samples 4 … N − 5."""
    n = len(samples)
    total = np.zeros((n - 8, *samples.shape[1:]))
    for k, weight in _STENCIL.items():
        total += weight * (samples[4 + k : n - 4 + k] - samples[4 - k : n - 4 - k])
    return total / interval_fs


def derivative_response(wavenumbers: np.ndarray, interval_fs: float) -> np.ndarray:
    """What :func:`derivative` makes of e^(iωt), divided by iω."""
    phase = 2 * np.pi * LIGHT_CM_PER_FS * np.asarray(wavenumbers, float) * interval_fs
    total = sum(2 * weight * np.sin(k * phase) for k, weight in _STENCIL.items())
    return np.where(phase == 0, 1.0, total / np.where(phase == 0, 1.0, phase))


def routes(series: Series, dipole: np.ndarray, resolution: float, window: str = "hann") -> tuple[float, float]:
    """How much dP/dt, P given by ``dipole`` (N, 3), differs from J: root mean square difference of their transforms over
    that of J, and the ratio of their power. Central differences of the samples, with what they do to every frequency
    taken out; up to three quarters of the Nyquist wavenumber."""
    pieces = [(j, p) for j, p in zip(series.cut(series.current.sum(axis=(1, 2))), series.cut(dipole), strict=True)]
    pieces = [(j[4:-4], derivative(p, series.interval_fs)) for j, p in pieces if len(p) > 8]
    cut = segments([len(j) for j, _ in pieces], series.interval_fs, resolution, window)
    current, rate = transforms([j for j, _ in pieces], cut), transforms([p for _, p in pieces], cut)
    points = np.arange(current.shape[1]) * cut.wavenumber_step
    inside = points < 0.75 * cut.nyquist
    current, rate = current[:, inside], rate[:, inside]
    rate = rate / derivative_response(points[inside], series.interval_fs)[:, None]
    power = np.sum(np.abs(current) ** 2)
    return float(np.sqrt(np.sum(np.abs(current - rate) ** 2) / power)), float(np.sum(np.abs(rate) ** 2) / power)


def highest_mode(ir: Infrared, fraction: float = 0.01) -> float:
    """The largest wavenumber at which n·α exceeds ``fraction`` of its maximum, 1/cm."""
    return float(ir.wavenumbers[np.flatnonzero(ir.n_alpha.mean > fraction * ir.n_alpha.mean.max())[-1]])


def check_lines(series: Series, ir: Infrared, resolution: float, f_sum: float | None) -> Iterator[str]:
    """Lines to print. ``f_sum`` is ∫ n·α dν̃ from Born charges, or None when it is not known."""
    step = ir.cut.wavenumber_step
    dipole = series.polarization if series.polarization is not None else series.molecular
    compared = None
    if dipole is not None:
        try:
            compared = routes(series, dipole, 2 * resolution, ir.cut.window)
        except InputError as reason:
            yield f"check, current against derivative of a dipole: not made ({reason})"
    if compared is not None and series.polarization is not None:
        off, _ = compared
        yield (
            f"check, current against derivative of the dipole (open boundaries): rms difference {off:.2e} of the current, "
            "of which velocity Verlet itself makes up to (ωΔt)²/6: its velocities are central differences of its positions"
        )
    elif compared is not None:
        _, ratio = compared
        yield (
            "check, derivative of the sum of molecular dipoles instead of the current (another observable in periodic "
            f"boundaries: latent charges, not Born charges): {ratio:.3g} of the area under n·α"
        )
    if ir.other is not None:
        ratio = float(np.trapezoid(ir.other, dx=step)) / ir.area
        yield f"check, the other displacement (edge and phase exchanged): {ratio:.4g} of the area under n·α"
    if f_sum is None:
        yield "check, f-sum rule: not made, it needs Born charges of some frames (a trajectory and the model)"
    else:
        yield (
            f"check, f-sum rule: the area under n·α is {ir.area / f_sum:.4f} ± {ir.area_error / f_sum:.4f} of that from Born "
            "charges and masses"
        )
    highest = highest_mode(ir)
    share = highest / ir.cut.nyquist
    verdict = "" if share <= 0.5 else "; above a half: shorten the interval, or make sure that nothing lies beyond"
    yield (
        f"check, sampling interval: the spectrum ends (1 % of its maximum) at {highest:.0f} cm⁻¹, {share:.2f} of the Nyquist "
        f"wavenumber {ir.cut.nyquist:.0f} cm⁻¹{verdict}"
    )
    if series.frictions_per_ps:
        friction = max(series.frictions_per_ps)
        width = 1e-3 * friction / (2 * np.pi * LIGHT_CM_PER_FS)
        yield (
            f"warning: a thermostat of friction {friction:g}/ps acted: it broadens every line by {width:.3g} cm⁻¹; take "
            "spectra from stages at constant energy"
        )
    errors = ir.n_alpha.piece_error
    if errors is not None:
        inside = ir.wavenumbers < highest
        rms = np.sqrt(np.mean(errors[inside] ** 2) / np.mean(ir.n_alpha.error[inside] ** 2))
        yield (
            f"check, error band: from the scatter of {len(ir.n_alpha.pieces)} pieces {rms:.2f} times that from the "
            f"{ir.cut.number} segments"
        )
