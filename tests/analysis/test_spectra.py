"""Spectra of signals with known answers: positions, widths, absolute areas, error bands, Kramers–Kronig, Raman."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import expm

import polmd
from polmd.analysis import checks, infrared, plots, raman, spectrum, tables
from polmd.analysis.series import Series, continuous, join
from polmd.units import ACCELERATION, BOLTZMANN, INVERSE_VACUUM_PERMITTIVITY

CELL = np.diag([10.0, 11.0, 12.0])
VOLUME = 1320.0
OMEGA = 2 * np.pi * spectrum.LIGHT_CM_PER_FS  # angular frequency in 1/fs of 1 cm⁻¹


def _series(current: list[np.ndarray], interval: float, **options: object) -> Series:
    """One group whose current (pieces of (samples, 3)) is carried by charges."""
    samples = np.concatenate(current)
    parts = np.zeros((len(samples), 1, 3, 3))
    parts[:, 0, 0] = samples
    ends = np.cumsum([0, *map(len, current)])
    return Series(**{
        "name": "signal", "interval_fs": interval, "groups": ("all",), "current": parts,
        "pieces": tuple(slice(a, b) for a, b in pairwise(ends)),
        "other_charge": None, "polarization": None, "molecular": None, "polarizability": None, "temperature": 300.0,
        "cells": np.tile(CELL, (len(samples), 1, 1)), "conventions": "none", "scale": 1.0, "frictions_per_ps": (),
        **options,
    })  # fmt: skip


@pytest.mark.parametrize("position", [612.3, 1650.0, 3391.7])
@pytest.mark.parametrize("window", ["hann", "blackman"])
def test_harmonic_oscillators(position: float, window: str) -> None:
    """Two atoms ± q on a spring at temperature T: the line where it belongs to half a bin, as wide as said, and an area
    that is that of the f-sum rule, to 0.5 %."""
    temperature, charge, masses = 300.0, 0.8, np.array([16.0, 1.0])
    rng, interval = np.random.default_rng(1), 2.0
    times = np.arange(4000) * interval
    reduced = masses.prod() / masses.sum()
    speed = np.sqrt(2 * BOLTZMANN * temperature * ACCELERATION / reduced)  # amplitude of v1 − v2 along each axis
    phases = rng.uniform(0, 2 * np.pi, (6, 3))
    pieces = [charge * speed * np.cos(OMEGA * position * times[:, None] + phase) for phase in phases]
    ir = infrared.infrared(_series(pieces, interval), resolution=15.0, window=window)
    band = spectrum.find_band(ir.n_alpha, position - 200, position + 200, 0.0)
    assert abs(band.position - position) < 0.5 * ir.cut.wavenumber_step
    assert ir.cut.resolution == pytest.approx(15.0, rel=0.01)
    fine = np.linspace(position - 30, position + 30, 6001)
    curve = np.interp(fine, ir.wavenumbers, ir.n_alpha.mean)
    width = np.ptp(fine[curve > 0.5 * curve.max()])
    assert width == pytest.approx(ir.cut.resolution, rel=0.08)  # between points 0.3 of it apart
    z = np.array([charge, -charge])[:, None, None] * np.eye(3)
    area = np.trapezoid(ir.n_alpha.mean, ir.wavenumbers)
    assert area == pytest.approx(infrared.f_sum(z, masses, VOLUME), rel=0.005)
    # the same in closed form: π/(c 2 ε0 V) Σ q²/m · 1/π, in 1/cm²
    exact = INVERSE_VACUUM_PERMITTIVITY * charge**2 / reduced * ACCELERATION / (4 * 2997.92458**2 * VOLUME) * 1e16
    assert area == pytest.approx(exact, rel=0.005)


def _langevin(rng: np.random.Generator, samples: int, interval: float, omega: float, friction: float) -> np.ndarray:
    """Velocities (samples, 3) of damped oscillators with ⟨v²⟩ = 1, sampled exactly."""
    drift = np.array([[0.0, 1.0], [-(omega**2), -friction]])
    move = expm(drift * interval)
    stationary = np.diag([1 / omega**2, 1.0])
    noise = np.linalg.cholesky(stationary - move @ stationary @ move.T)
    x = np.linalg.cholesky(stationary) @ rng.normal(size=(2, 3))
    out = np.empty((samples, 3))
    for k, kick in enumerate(rng.normal(size=(samples, 2, 3))):
        out[k] = x[1]
        x = move @ x + noise @ kick
    return out


def test_langevin_oscillator_within_its_error_band() -> None:
    """n·α of damped oscillators is known in closed form: deviations over errors are a standard normal, width as set."""
    rng, interval, position, width = np.random.default_rng(5), 2.0, 1000.0, 200.0
    omega, friction, amplitude = OMEGA * position, OMEGA * width, 0.03
    pieces = [amplitude * _langevin(rng, 20000, interval, omega, friction) for _ in range(6)]
    ir = infrared.infrared(_series(pieces, interval), resolution=20.0)
    w = OMEGA * ir.wavenumbers
    exact = infrared.prefactor(VOLUME, 300.0) * 3 * amplitude**2 * 2 * friction * w**2
    exact /= (omega**2 - w**2) ** 2 + (friction * w) ** 2
    inside = (ir.wavenumbers > 500) & (ir.wavenumbers < 1500)
    scores = ((ir.n_alpha.mean - exact) / ir.n_alpha.error)[inside][::4]  # neighbours are correlated
    assert 0.75 < np.sqrt(np.mean(scores**2)) < 1.25
    assert np.abs(scores).max() < 4
    assert np.median(ir.n_alpha.error[inside] / ir.n_alpha.mean[inside]) < 0.06
    half = ir.wavenumbers[ir.n_alpha.mean > 0.5 * exact.max()]
    assert np.ptp(half) == pytest.approx(width, rel=0.1)
    ratio = np.mean(ir.n_alpha.piece_error[inside] ** 2) / np.mean(ir.n_alpha.error[inside] ** 2)
    assert 0.5 < ratio < 2.0
    area = np.trapezoid(ir.n_alpha.mean, ir.wavenumbers)
    known = infrared.prefactor(VOLUME, 300.0) * 3 * amplitude**2 / (2 * spectrum.LIGHT_CM_PER_FS)
    assert area == pytest.approx(known, rel=0.02)


def test_contributions_add_up() -> None:
    rng = np.random.default_rng(2)
    samples = rng.normal(size=(600, 2, 3, 3))
    base = _series([np.zeros((600, 3))], 2.0)
    series = Series(**{**vars(base), "current": samples, "groups": ("H", "O"), "other_charge": samples[:, :, 0]})
    ir = infrared.infrared(series, resolution=100.0)
    np.testing.assert_allclose(sum(ir.carriers.values()), ir.n_alpha.mean, rtol=1e-10)
    np.testing.assert_allclose(sum(ir.species.values()), ir.n_alpha.mean, rtol=1e-10)
    np.testing.assert_allclose(ir.other, ir.n_alpha.mean, rtol=1e-10)


def test_kramers_kronig() -> None:
    """A Lorentz oscillator: ε′ from its n·α, to 0.05 % of it or 0.2 % of the oscillator's strength."""
    x = np.arange(0.0, 16000.0, 1.0)
    position, width, strength, infinity = 1500.0, 80.0, 0.6, 1.8
    epsilon = infinity + strength * position**2 / (position**2 - x**2 - 1j * width * x)
    real, imaginary, n, alpha = infrared.optical_constants(x, 2 * np.pi * x * epsilon.imag, infinity)
    assert np.isnan(real[0])
    keep = slice(1, 5000)
    np.testing.assert_allclose(real[keep], epsilon.real[keep], rtol=5e-4, atol=2e-3 * strength)
    np.testing.assert_allclose(imaginary[keep], epsilon.imag[keep], rtol=1e-10)
    np.testing.assert_allclose(n[keep], np.sqrt(epsilon[keep]).real, atol=2e-3)
    np.testing.assert_allclose(alpha[keep], 4 * np.pi * x[keep] * np.sqrt(epsilon[keep]).imag, rtol=2e-3)


def test_quantum_factors() -> None:
    x = np.array([0.0, 3400.0])
    r = 3400.0 * 1.438776877 / 300.0  # second radiation constant
    for name, value in (("harmonic", 1.0), ("standard", 2 / r * np.tanh(r / 2)), ("schofield", 2 / r * np.sinh(r / 2))):
        np.testing.assert_allclose(infrared.quantum_factor(x, 300.0, name), [1.0, value], rtol=1e-7)
    with pytest.raises(polmd.InputError, match="harmonic, standard, schofield"):
        infrared.quantum_factor(x, 300.0, "none")


def test_correlation_is_linear() -> None:
    x = np.random.default_rng(3).normal(size=(200, 2))
    direct = [np.mean(np.sum(x[: 200 - m] * x[m:], axis=1)) for m in range(150)]
    np.testing.assert_allclose(spectrum.correlation(x, 150), direct, atol=1e-12)
    ramp = np.arange(50.0)  # wrapped around, the last lags would be far off
    assert spectrum.correlation(ramp, 50)[-1] == pytest.approx(0.0, abs=1e-9)
    with pytest.raises(polmd.InputError, match="at most 50 lags"):
        spectrum.correlation(ramp, 51)


def test_too_short_a_run_says_what_is_possible() -> None:
    with pytest.raises(polmd.InputError, match="take a longer run, or a resolution of 108 cm"):
        infrared.infrared(_series([np.zeros((334, 3))], 2.0), resolution=20.0)
    with pytest.raises(polmd.InputError, match="window 'square' is not known; choose from hann"):
        infrared.infrared(_series([np.zeros((334, 3))], 2.0), window="square")
    with pytest.raises(polmd.InputError, match="no periodic cell"):
        infrared.infrared(_series([np.zeros((334, 3))], 2.0, cells=np.zeros((334, 3, 3))))


def test_pieces_of_time() -> None:
    interval, pieces = continuous(np.array([0.0, 2.0, 4.0, 10.0, 12.0, 14.0]))
    assert interval == 2.0 and pieces == (slice(0, 3), slice(3, 6))
    assert continuous(np.arange(4.0), np.array([1, 1, 2, 2]))[1] == (slice(0, 2), slice(2, 4))
    with pytest.raises(polmd.InputError, match="do not increase"):
        continuous(np.zeros(3))
    one = _series([np.ones((30, 3)), np.ones((20, 3))], 2.0)
    both = join([one, one])
    assert both.lengths == [30, 20, 30, 20] and len(both.current) == 100
    with pytest.raises(polmd.InputError, match="every 4 fs"):
        join([one, _series([np.ones((30, 3))], 4.0)])


def test_routes_agree_on_smooth_signals() -> None:
    """J and dP/dt of the same motion, to 1e-6; with another P they do not."""
    times = np.arange(4000) * 0.5
    waves = OMEGA * np.array([400.0, 1700.0, 3700.0])
    p = np.sin(times[:, None, None] * waves + np.arange(3)[:, None]) / waves
    j = np.cos(times[:, None, None] * waves + np.arange(3)[:, None])
    series = _series([j.sum(axis=2)], 0.5)
    off, ratio = checks.routes(series, p.sum(axis=2), 60.0)
    assert off < 1e-6 and ratio == pytest.approx(1.0, abs=1e-6)
    off, _ = checks.routes(series, 1.01 * p.sum(axis=2), 60.0)
    assert off == pytest.approx(0.01, rel=1e-3)


def test_checks_warn() -> None:
    """A thermostat, a coarse interval and a broken f-sum rule are all said."""
    rng = np.random.default_rng(4)
    pieces = [_langevin(rng, 2000, 4.0, OMEGA * 3400, OMEGA * 100) for _ in range(3)]
    series = _series(pieces, 4.0, frictions_per_ps=(5.0,))
    ir = infrared.infrared(series, resolution=50.0)
    area = np.trapezoid(ir.n_alpha.mean, ir.wavenumbers)
    lines = "\n".join(checks.check_lines(series, ir, 50.0, area / 0.9))
    assert "f-sum rule: the area under n·α is 0.9000 ± " in lines
    assert "broadens every line by 26.5 cm⁻¹" in lines
    assert "above a half: shorten the interval" in lines
    assert "from the scatter of 3 pieces" in lines
    assert "not made" in "\n".join(checks.check_lines(series, ir, 50.0, None))


# -------------------------------------------------------------------------------------------------------------- Raman


def test_raman_of_two_oscillators() -> None:
    """ᾱ oscillates at one wavenumber, a traceless part at another: positions and areas of both spectra."""
    interval, times = 2.0, np.arange(6000) * 2.0
    symmetric = np.array([[1.0, 0.5, 0.0], [0.5, -2.0, 0.3], [0.0, 0.3, 1.0]])
    volume = INVERSE_VACUUM_PERMITTIVITY / (4 * np.pi)
    a = 30.0 * np.eye(3) + 2.0 * np.cos(OMEGA * 900.0 * times)[:, None, None] * np.eye(3)
    a = (a + np.cos(OMEGA * 3200.0 * times)[:, None, None] * symmetric) / volume
    series = _series([np.zeros((6000, 3))], interval, polarizability=a)
    found = raman.raman(series, resolution=15.0)
    x, step = found.wavenumbers, found.isotropic.cut.wavenumber_step
    assert found.polarizability == pytest.approx(30.0, rel=1e-3)
    for estimate, position, area in (
        (found.isotropic, 900.0, 2.0**2 / 2),
        (found.anisotropic, 3200.0, np.sum(symmetric**2) / 2 / 10),
    ):
        band = spectrum.find_band(estimate, 200, 4000, 0.0)
        assert abs(band.position - position) < 0.5 * step
        assert np.trapezoid(estimate.mean, x) == pytest.approx(area, rel=0.005)
    stokes = raman.raman(series, resolution=15.0, prefactor="harmonic", laser_nm=532.0)
    r = 900.0 * 1.438776877 / 300.0
    k = np.argmax(found.isotropic.mean)
    factor = (1 - x[k] * 532e-7) ** 4 * (r * x[k] / 900) / (1 - np.exp(-r * x[k] / 900))
    assert stokes.isotropic.mean[k] / found.isotropic.mean[k] == pytest.approx(factor, rel=1e-6)
    screened = raman.raman(series, resolution=15.0, screening="clausius-mossotti")
    assert screened.polarizability == pytest.approx(30 / (1 - 4 * np.pi * 30 / (3 * VOLUME)), rel=2e-3)
    with pytest.raises(polmd.InputError, match="choose from none, clausius-mossotti"):
        raman.raman(series, screening="lorentz")
    with pytest.raises(polmd.InputError, match="no polarisabilities"):
        raman.raman(_series([np.zeros((6000, 3))], 2.0))


# ------------------------------------------------------------------------------------------------------------- output


def test_tables_and_plots(tmp_path: Path) -> None:
    import h5py

    columns = {"x": np.arange(3.0), "y": np.array([1.0, np.nan, 3.0])}
    tables.write_table(tmp_path / "t.csv", columns, ["made by a test"])
    assert (tmp_path / "t.csv").read_text() == "# made by a test\nx,y\n0,1\n1,\n2,3\n"
    tables.write_table(tmp_path / "t.h5", columns, ["made by a test"])
    with h5py.File(tmp_path / "t.h5") as file:
        assert np.array_equal(file["x"][()], columns["x"]) and list(file.attrs["notes"]) == ["made by a test"]
    with pytest.raises(polmd.OutputError, match="--overwrite"):
        tables.check_free([tmp_path / "t.csv"], False)
    x = np.linspace(0, 4000, 200)
    (tmp_path / "measured.csv").write_text("# wavenumber, n alpha\n600, 1\n3400, 2\n")
    for name, reference in (("a.png", "water"), ("a.svg", str(tmp_path / "measured.csv"))):
        plots.plot_curves(tmp_path / name, x, {"one": (x, 0.1 * x)}, ylabel="y", reference=reference)
        assert (tmp_path / name).stat().st_size > 5000
    assert "Hale" not in (tmp_path / "a.svg").read_text() and (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(polmd.InputError, match="neither a file nor one of water"):
        plots.plot_curves(tmp_path / "b.png", x, {"one": (x, None)}, ylabel="y", reference="ice")
