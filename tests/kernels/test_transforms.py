"""Transforms between mesh and kept modes against whole transforms of NumPy."""

import numpy as np
import pytest
from polmd.kernels.cpu import transforms
from polmd.kernels.cpu.mesh import LANES

LIMITS = (3, 4, 5)


def _kept(shape: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
    a, b, c = LIMITS
    n = np.r_[: a + 1, -a:0] % shape[0], np.r_[: b + 1, -b:0] % shape[1], np.arange(c + 1)
    return np.ix_(*n)


@pytest.mark.parametrize("shape", [(12, 14, 15), (13, 18, 16)])
def test_both_ways(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(1)
    mesh = np.full((*shape[:2], shape[2] + LANES), np.nan)
    values = rng.normal(size=shape)
    mesh[:, :, : shape[2]] = values
    spectrum = np.empty((*(2 * m + 1 for m in LIMITS[:2]), LIMITS[2] + 1), complex)
    planes = np.full((shape[0], *spectrum.shape[1:]), np.nan, complex)
    transforms.to_modes(mesh, planes, spectrum)
    np.testing.assert_allclose(spectrum, np.fft.rfftn(values)[_kept(shape)], atol=1e-12)

    influence = rng.random(spectrum.shape)
    influence[:, :, 0] = 0.0  # of whose modes n and −n are both kept, one could contradict the other
    more = rng.normal(size=spectrum.shape) + 1j * rng.normal(size=spectrum.shape)
    for induced, total in ((np.empty((0, 0, 0), complex), spectrum), (more, spectrum + more)):
        transforms.to_mesh(spectrum, induced, influence, planes, mesh)
        full = np.zeros((*shape[:2], shape[2] // 2 + 1), complex)
        full[_kept(shape)] = influence * total
        want = np.fft.irfftn(full, shape, axes=(0, 1, 2))
        np.testing.assert_allclose(mesh, np.concatenate([want, want[:, :, :LANES]], axis=2), atol=1e-14)


def test_mode_energies() -> None:
    rng = np.random.default_rng(2)
    s, more = (rng.normal(size=9) + 1j * rng.normal(size=9) for _ in range(2))
    place, weight, energies = np.array([7, 2, 3]), rng.random(3), np.empty(3)
    transforms.mode_energies(s, more, place, weight, energies)
    np.testing.assert_allclose(energies, weight * (np.conj(s) * (s + 2 * more)).real[place], rtol=1e-12)
    transforms.mode_energies(s, more[:0], place, weight, energies)
    np.testing.assert_allclose(energies, weight * np.abs(s[place]) ** 2, rtol=1e-12)
