"""Infrared spectra from the current of a run, with absolute scale.

n(ω)α(ω) = 1/(6 ε0 c V k_B T) ∫ ⟨J(0)·J(t)⟩ e^(−iωt) dt, with classical J: the refractive index times the Napierian
absorption coefficient. ε″ = c n α/ω; ε′ follows from it by Kramers–Kronig with ε∞ added, n and α from both.

Quantum corrections replace the classical correlation function by an estimate of the quantum one; with x = ħω/k_B T the
factor of n·α is

harmonic   1                  exact for harmonic oscillators: the classical n·α as it is (default)
standard   2 tanh(x/2)/x      detailed balance by symmetrising
schofield  2 sinh(x/2)/x      Schofield, Phys. Rev. Lett. 4, 239 (1960), doi:10.1103/PhysRevLett.4.239
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polmd.analysis.series import CARRIERS, Series
from polmd.analysis.spectrum import Estimate, Segments, average, segments, transforms
from polmd.errors import InputError
from polmd.units import ACCELERATION, BOLTZMANN, INVERSE_VACUUM_PERMITTIVITY, LIGHT, PLANCK

QUANTUM_CORRECTIONS = ("harmonic", "standard", "schofield")


@dataclass(frozen=True)
class Infrared:
    """An infrared spectrum; arrays over ``wavenumbers``.

    Attributes
    ----------
    n_alpha : n(ω)α(ω), 1/cm, with error
    alpha : α, 1/cm; n, epsilon_real, epsilon_imaginary : refractive index, ε′, ε″; not a number at zero wavenumber
    epsilon_infinity : what was used
    carriers : contributions to n·α by what carries the current, name → (points,); they add up to n·α
    species : the same by the element of the moving atoms
    other : n·α with the other displacement, when known
    temperature, volume : K, Å³
    area, area_error : ∫ n·α dν̃ up to the Nyquist wavenumber, 1/cm², and its standard error
    quantum_correction : name
    """

    n_alpha: Estimate
    area: float
    area_error: float
    alpha: np.ndarray
    n: np.ndarray
    epsilon_real: np.ndarray
    epsilon_imaginary: np.ndarray
    epsilon_infinity: float
    carriers: dict[str, np.ndarray]
    species: dict[str, np.ndarray]
    other: np.ndarray | None
    temperature: float
    volume: float
    quantum_correction: str

    @property
    def wavenumbers(self) -> np.ndarray:
        """(points,) 1/cm."""
        return self.n_alpha.wavenumbers

    @property
    def cut(self) -> Segments:
        return self.n_alpha.cut


def prefactor(volume: float, temperature: float) -> float:
    """1/(6 ε0 c V k_B T) in 1/cm per (e Å/fs)² fs; V in Å³, T in K."""
    return 1e8 * INVERSE_VACUUM_PERMITTIVITY / (6.0 * LIGHT * volume * BOLTZMANN * temperature)


def quantum_factor(wavenumbers: np.ndarray, temperature: float, name: str) -> np.ndarray:
    """Factor of n·α of a quantum correction, see the module."""
    x = PLANCK * LIGHT * 1e-8 * np.asarray(wavenumbers) / (BOLTZMANN * temperature)  # h c ν̃/kT
    half = np.where(x == 0, 1.0, 0.5 * x)
    match name:
        case "harmonic":
            return np.ones_like(x)
        case "standard":
            return np.where(x == 0, 1.0, np.tanh(half) / half)
        case "schofield":
            return np.where(x == 0, 1.0, np.sinh(half) / half)
    raise InputError(f"quantum correction {name!r} is not known; choose from {', '.join(QUANTUM_CORRECTIONS)}")


def infrared(
    series: Series,
    *,
    resolution: float = 20.0,
    window: str = "hann",
    epsilon_infinity: float | None = None,
    temperature: float | None = None,
    quantum_correction: str = "harmonic",
) -> Infrared:
    """The spectrum of a current.

    Parameters
    ----------
    series : the current with its pieces, see :class:`polmd.analysis.series.Series`
    resolution : full width of a sharp line, 1/cm
    window : "hann", "blackman" or "boxcar"
    epsilon_infinity : ε∞; None takes 1 + χ of the mean Σα of the series (1 without α)
    temperature : K; None takes the mean kinetic temperature
    quantum_correction : see the module

    Raises
    ------
    InputError
        for a series without periodic cell or current, or too short for the resolution
    """
    volume = series.volume
    if volume is None:
        raise InputError(f"{series.name}: n(ω)α(ω) is per volume, and these atoms have no periodic cell")
    temperature = series.temperature if temperature is None else temperature
    cut = segments(series.lengths, series.interval_fs, resolution, window)
    scale = prefactor(volume, temperature)
    parts = transforms(series.cut(series.current), cut)  # (segments, points, groups, carriers, 3)
    total = parts.sum(axis=(2, 3))

    def spectrum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return scale * np.real(a * b.conj()).sum(axis=-1)

    factor = quantum_factor(cut.wavenumber_step * np.arange(total.shape[1]), temperature, quantum_correction)
    values = factor * spectrum(total, total)
    n_alpha = average(values, cut)
    area = average(np.trapezoid(values, dx=cut.wavenumber_step, axis=1)[:, None], cut)
    carriers = {
        name: factor * spectrum(parts[:, :, :, k].sum(axis=2), total).mean(axis=0) for k, name in enumerate(CARRIERS)
    }
    species = {
        name: factor * spectrum(parts[:, :, k].sum(axis=2), total).mean(axis=0) for k, name in enumerate(series.groups)
    }
    other = None
    if series.other_charge is not None:
        changed = series.current[:, :, 1:].sum(axis=(1, 2)) + series.other_charge.sum(axis=1)
        changed = transforms(series.cut(changed), cut)
        other = factor * spectrum(changed, changed).mean(axis=0)
    if epsilon_infinity is None:
        epsilon_infinity = 1.0 + series.susceptibility
    real, imaginary, n, alpha = optical_constants(n_alpha.wavenumbers, n_alpha.mean, epsilon_infinity)
    return Infrared(
        n_alpha, float(area.mean[0]), float(area.error[0]), alpha, n, real, imaginary, epsilon_infinity, carriers,
        species if len(species) > 1 else {}, other, temperature, volume, quantum_correction,
    )  # fmt: skip


def optical_constants(
    wavenumbers: np.ndarray, n_alpha: np.ndarray, epsilon_infinity: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """ε′, ε″, n and α (1/cm) from n·α (1/cm) on an even grid that starts at zero; not a number at zero.

    ε″ = n α/(2π ν̃), ε′ = ε∞ + (1/π²) P∫ n·α/(ν′² − ν̃²) dν′ with n·α linear between the points and zero beyond the
    last: the principal value is exact for that. What lies below the first points (Debye relaxation slower than the
    segments) is missing from ε′.
    """
    x, g = np.asarray(wavenumbers, float), np.asarray(n_alpha, float)
    slope = np.diff(g) / np.diff(x)
    start = g[:-1] - slope * x[:-1]
    real = np.full(len(x), np.nan)
    for k in range(1, len(x)):
        w = x[k]
        below, above = np.abs(x - w), x + w
        logs = np.log(np.where(below == 0, 1.0, below)), np.log(above)  # the two sides of ν′ = ν̃ cancel
        odd = np.diff(logs[0] - logs[1]) / (2 * w)
        even = 0.5 * np.diff(logs[0] + logs[1])
        real[k] = epsilon_infinity + np.sum(start * odd + slope * even) / np.pi**2
    imaginary = np.full(len(x), np.nan)
    imaginary[1:] = g[1:] / (2 * np.pi * x[1:])
    n = np.sqrt(0.5 * (np.hypot(real, imaginary) + real))
    return real, imaginary, n, g / n


def f_sum(born_charges: np.ndarray, masses: np.ndarray, volume: float) -> float:
    """∫_0^∞ n·α dν̃ of classical mechanics, 1/cm², from Born charges (n, 3, 3) and masses (amu): the f-sum rule,
    ⟨J·J⟩ = k_B T Σ_i tr(Z*_iᵀ Z*_i)/m_i, less what the total momentum would carry if it were not zero.

    The integral over one side is ⟨J·J⟩/(2c) times the factor of the spectrum.
    """
    square = np.sum(born_charges**2 / masses[:, None, None])
    mean = born_charges.sum(axis=0)
    square -= np.sum(mean**2) / masses.sum()
    mean_square_per_kT = ACCELERATION * square
    return 1e8 * INVERSE_VACUUM_PERMITTIVITY / (6.0 * LIGHT * volume) * mean_square_per_kT / (2.0 * LIGHT * 1e-8)
