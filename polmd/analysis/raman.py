"""Raman spectra from the polarisability Σα(t) of a run.

With A the polarisability of the cell, ᾱ = tr A/3 and β = A − ᾱ 1 (McQuarrie, Statistical Mechanics, chapter 21), S_x the
spectral density of x per wavenumber, one-sided: its integral over ν̃ > 0 is the mean square of x.

isotropic    S of δᾱ·1, that is ⟨δᾱ(0) δᾱ(t)⟩
anisotropic  ⟨tr β(0)β(t)⟩/10, the depolarised (VH) spectrum; the polarised one is isotropic + 4/3 anisotropic

Screening of A by the dipoles around, by name:

none                 Σα as it is (the model's own response has no second step)
clausius-mossotti    A (1 − A/(3 V ε0))⁻¹ in every frame

Prefactors, by name, with x = hcν̃/k_B T:

none        the classical spectral density
harmonic    (ν̃_L − ν̃)⁴ x/(1 − e^(−x))/ν̃_L⁴: Stokes scattering of laser light ν̃_L, harmonic quantum correction
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polmd.analysis.series import Series
from polmd.analysis.spectrum import LIGHT_CM_PER_FS, Estimate, average, segments, transforms
from polmd.errors import InputError
from polmd.units import BOLTZMANN, INVERSE_VACUUM_PERMITTIVITY, LIGHT, PLANCK

SCREENINGS = ("none", "clausius-mossotti")
PREFACTORS = ("none", "harmonic")


@dataclass(frozen=True)
class Raman:
    """Raman spectra, Å⁶ cm, of the whole cell.

    Attributes
    ----------
    isotropic, anisotropic : with errors
    polarizability : mean of tr A/3, Å³, screened as asked
    screening, prefactor : names
    laser_nm : wavelength that the prefactor was made with
    """

    isotropic: Estimate
    anisotropic: Estimate
    polarizability: float
    screening: str
    prefactor: str
    laser_nm: float

    @property
    def wavenumbers(self) -> np.ndarray:
        """(points,) 1/cm."""
        return self.isotropic.wavenumbers


def screened(polarizability: np.ndarray, cells: np.ndarray, name: str) -> np.ndarray:
    """Polarisability volumes (N, 3, 3) Å³ from Σα (N, 3, 3) e Å²/V, screened."""
    if name not in SCREENINGS:
        raise InputError(f"screening {name!r} is not known; choose from {', '.join(SCREENINGS)}")
    bare = polarizability * INVERSE_VACUUM_PERMITTIVITY / (4 * np.pi)
    if name == "none":
        return bare
    volumes = np.abs(np.linalg.det(cells))
    if not volumes.all():
        raise InputError("screening 'clausius-mossotti' needs a periodic cell")
    factor = np.eye(3) - bare * (4 * np.pi / (3 * volumes))[:, None, None]
    return bare @ np.linalg.inv(factor)


def raman(
    series: Series,
    *,
    resolution: float = 20.0,
    window: str = "hann",
    screening: str = "none",
    prefactor: str = "none",
    laser_nm: float = 532.0,
    temperature: float | None = None,
) -> Raman:
    """Isotropic and anisotropic spectrum of a series; arguments as in :func:`polmd.analysis.infrared.infrared`.

    Raises InputError for a series without polarisability or too short for the resolution.
    """
    if series.polarizability is None:
        raise InputError(f"{series.name}: the model has no polarisabilities, there is no Raman spectrum")
    if prefactor not in PREFACTORS:
        raise InputError(f"prefactor {prefactor!r} is not known; choose from {', '.join(PREFACTORS)}")
    temperature = series.temperature if temperature is None else temperature
    a = screened(series.polarizability, series.cells, screening)
    trace = np.trace(a, axis1=1, axis2=2) / 3
    beta = a - trace[:, None, None] * np.eye(3)
    beta = 0.5 * (beta + beta.transpose(0, 2, 1))
    mean = float(np.concatenate(series.cut(trace)).mean())
    cut = segments(series.lengths, series.interval_fs, resolution, window)
    per_wavenumber = 2 * LIGHT_CM_PER_FS  # two-sided in time → one-sided in 1/cm
    iso = np.abs(transforms(series.cut(trace - mean), cut)) ** 2 * per_wavenumber
    aniso = np.sum(np.abs(transforms(series.cut(beta.reshape(-1, 9)), cut)) ** 2, axis=-1) * per_wavenumber / 10
    points = np.arange(iso.shape[1]) * cut.wavenumber_step
    factor = np.ones(len(points))
    if prefactor == "harmonic":
        x = PLANCK * LIGHT * 1e-8 * points / (BOLTZMANN * temperature)
        detailed = np.where(x == 0, 1.0, x / -np.expm1(-np.where(x == 0, 1.0, x)))
        factor = (1 - np.minimum(points * laser_nm * 1e-7, 1.0)) ** 4 * detailed
    return Raman(average(factor * iso, cut), average(factor * aniso, cut), mean, screening, prefactor, laser_nm)
