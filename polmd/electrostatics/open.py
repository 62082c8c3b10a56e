"""Open boundaries: all pairs of multipoles, kernel erf(r/(σ√2))/r · NF/(2π), or 1/r · NF/(2π) of point multipoles."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from polmd.electrostatics.fields import Sources, dipole_rates, six_components, source_fields
from polmd.errors import InputError
from polmd.kernels.cpu import pairs as kernels
from polmd.kernels.cpu.moments import add_response_forces
from polmd.kernels.cpu.simd import BYTES
from polmd.kernels.layout import Multipoles

_LANES = BYTES // 8


def particles(
    positions: np.ndarray, charges: np.ndarray, dipoles: np.ndarray, quadrupoles: np.ndarray | None
) -> np.ndarray:
    """Positions, moments and numbers of particles as the kernels take them, (n, 14)."""
    out = np.zeros((len(positions), kernels.ROWS))
    out[:, 13] = np.arange(len(positions))
    out[:, :3], out[:, 3], out[:, 4:7] = positions, charges, dipoles
    if quadrupoles is not None:
        out[:, 7:13] = six_components(quadrupoles)
    return out


class OpenPairs:
    """Fields of multipoles in open boundaries, without self terms.

    Parameters
    ----------
    sigma Å, or None for point multipoles; norm_factor eV Å/e²
    """

    def __init__(self, sigma: float | None, norm_factor: float) -> None:
        self._sigma, self._prefactor = sigma, norm_factor / (2 * np.pi)

    def __str__(self) -> str:
        return "all pairs"

    def set_atoms(self, positions: np.ndarray, cell: np.ndarray | None) -> None:
        """Take positions (n, 3) Å; there is no cell. Point multipoles in the same place are an InputError."""
        self._positions = positions
        if self._sigma is None:
            _, where = np.unique(positions, axis=0, return_inverse=True)
            if where.max(initial=-1) + 1 < len(positions):
                where = where.reshape(-1)
                pair = np.flatnonzero(where == np.flatnonzero(np.bincount(where) > 1)[0])[:2]
                raise InputError(f"point multipoles {pair[0]} and {pair[1]} are in the same place (counted from 0)")

    def set_moments(self, charges: np.ndarray, dipoles: np.ndarray, quadrupoles: np.ndarray) -> None:
        """Take q (n,), u (n, 3), Q (n, 3, 3) as sources M."""
        self._moments = charges, dipoles, quadrupoles
        self._low: np.ndarray | None = None

    def derivatives(self) -> np.ndarray:
        """φ, F, ∇∇φ and more of M, (n, 22)."""
        if self._low is None:
            self._low = self._gather(*self._moments)
        return self._low

    def interactions(self, response: Sources | None) -> tuple[np.ndarray, np.ndarray]:
        """Second pass, with M̃ or without: see :class:`polmd.electrostatics.fields.FieldSolver`."""
        return pair_interactions(self._gather, self._moments, self.derivatives() if response else None, response)

    def source_fields(self, charges: np.ndarray, dipoles: np.ndarray) -> np.ndarray:
        """Fields of several M̃: see :class:`polmd.electrostatics.fields.FieldSolver`."""
        return source_fields(self, charges, dipoles)

    def dipole_rates(self, dipoles: np.ndarray, velocities: np.ndarray, rates: Multipoles) -> np.ndarray:
        """Rates of M̃·T·M: see :class:`polmd.electrostatics.fields.FieldSolver`."""
        return dipole_rates(self, dipoles, velocities, rates)

    def _gather(self, charges: np.ndarray, dipoles: np.ndarray, quadrupoles: np.ndarray) -> np.ndarray:
        """What M feels of the given sources, (n, 22)."""
        n = len(self._positions)
        width = -(-n // _LANES) * _LANES
        targets = particles(self._positions, *self._moments)
        rows = np.zeros((kernels.ROWS, width))
        rows[:3, n:] = self._positions.max(axis=0, initial=0.0)[:, None] + kernels.NOWHERE
        rows[:, :n] = particles(self._positions, charges, dipoles, quadrupoles).T
        out = np.empty((n, 22))
        if self._sigma is None:
            kernels.all_pairs(targets, rows.reshape(-1), 1.0, 1.0, 0.0, out)
        else:
            kernels.all_pairs(targets, rows.reshape(-1), self._sigma, 0.0, 1.0, out)
        out *= self._prefactor
        return out


def pair_interactions(
    gather: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    moments: tuple[np.ndarray, np.ndarray, np.ndarray],
    low: np.ndarray | None,
    response: Sources | None,
) -> tuple[np.ndarray, np.ndarray]:
    """``FieldSolver.interactions`` from pairs: ``gather`` gives what M feels of sources, (n, 22), ``low`` is that of M.

    The strain gradient is −½ Σ_ij r_ij ⊗ f_ij of the forces on M in the field of M + M̃ and on M̃ in that of M; the latter
    are, by Newton's third law, those on M in the field of M̃, so that all is −½ Σ r ⊗ f[M in M + 2M̃].
    """
    charges, dipoles, quadrupoles = moments
    if response is None or low is None:
        out = gather(charges, dipoles, quadrupoles)
        virial = out[:, 13:].sum(axis=0)
    else:
        out = gather(charges + response.charges, dipoles + response.dipoles, quadrupoles)
        virial = (2 * out[:, 13:] - low[:, 13:]).sum(axis=0)
        add_response_forces(response.charges, response.dipoles, low, out)
    return np.ascontiguousarray(out[:, :13]), -0.5 * virial.reshape(3, 3)
