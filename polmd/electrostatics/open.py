"""Open boundaries: all pairs of Gaussian multipoles, kernel erf(r/(σ√2))/r · NF/(2π)."""

from __future__ import annotations

import numpy as np

from polmd.electrostatics.fields import Sources
from polmd.kernels.cpu import pairs as kernels


class OpenPairs:
    """Fields of Gaussian multipoles in open boundaries, without self terms.

    Parameters
    ----------
    sigma Å, norm_factor eV Å/e²
    """

    def __init__(self, sigma: float, norm_factor: float) -> None:
        self._sigma, self._prefactor = sigma, norm_factor / (2 * np.pi)

    def set_atoms(self, positions: np.ndarray, cell: np.ndarray | None) -> None:
        """Take positions (n, 3) Å; there is no cell."""
        self._positions = positions

    def set_moments(self, charges: np.ndarray, dipoles: np.ndarray, quadrupoles: np.ndarray) -> None:
        """Take q (n,), u (n, 3), Q (n, 3, 3) as sources M."""
        self._moments = charges, dipoles, quadrupoles

    def potentials_and_fields(self) -> tuple[np.ndarray, np.ndarray]:
        """φ (n,) V and F (n, 3) V/Å of M."""
        n = len(self._positions)
        potentials, fields = np.empty(n), np.empty((n, 3))
        kernels.potential_and_field(self._positions, self._sigma, *self._moments, potentials, fields)
        return self._prefactor * potentials, self._prefactor * fields

    def interactions(self, response: Sources | None) -> tuple[np.ndarray, np.ndarray]:
        """Second pass, with M̃ or without: see :class:`polmd.electrostatics.fields.FieldSolver`."""
        n = len(self._positions)
        extra = (np.zeros(n), np.zeros((n, 3))) if response is None else (response.charges, response.dipoles)
        out = np.empty((n, 13))
        kernels.interactions(self._positions, self._sigma, *self._moments, *extra, out)
        out *= self._prefactor
        return out, -self._positions.T @ out[:, 10:13]
