"""Periodic boundaries: point multipoles by a converged Ewald sum.

1/r = erfc(r/(s√2))/r + erf(r/(s√2))/r: the first part over the pairs of a neighbour list, all interactions to
quadrupole–quadrupole (Smith, CCP5 Newsletter 46, 18 (1998)), the second as the reciprocal sum of Gaussian multipoles of
width s, directly or with the mesh, what each Gaussian does to its own point subtracted with all traces. The result does
not depend on s. k = 0 is left out (conducting surroundings); a net charge has a uniform neutralising background, whose
share of the short-ranged part is the constant −2π s² Q/V of the potential.
"""

from __future__ import annotations

import math

import numpy as np

from polmd.electrostatics.ewald import DirectSum, wave_numbers
from polmd.electrostatics.fields import Sources, dipole_rates, source_fields
from polmd.electrostatics.mesh import MeshSum, choose_shape
from polmd.electrostatics.open import pair_interactions, particles
from polmd.errors import InputError
from polmd.kernels.cpu import pairs as kernels
from polmd.kernels.layout import Multipoles
from polmd.kernels.scalar.multipole import force_on, potential_derivatives
from polmd.kernels.scalar.smearing import smeared_coulomb
from polmd.neighbors import build_pairs, closest_pair

#: Decay e^(−x²) at which a sum that has to be exact is cut; x² = 43.6 leaves fourth derivatives below 1e-15.
_EXACT = 6.6
#: Time of a wave vector and an atom over that of a pair, measured, which decides how the work is divided.
_COST_RATIO = 0.1


class PointSum:
    """Fields of point multipoles in a periodic cell, without self terms.

    Parameters
    ----------
    cell (3, 3) Å and number of atoms, for the division of the work; norm_factor eV Å/e²
    mesh : take the reciprocal sum with the mesh
    tolerance : of the forces, with the mesh; the direct sum is converged to rounding
    splitting : s, Å; None chooses it
    """

    def __init__(
        self,
        cell: np.ndarray,
        n_atoms: int,
        norm_factor: float,
        *,
        mesh: bool = False,
        tolerance: float = 1e-5,
        splitting: float | None = None,
    ) -> None:
        volume = abs(np.linalg.det(cell))
        cut = math.sqrt(max(math.log(1 / tolerance), 1.0)) + 1.0 if mesh else _EXACT
        reach = cut * math.sqrt(2.0)  # in units of s: of the pairs s·reach Å, of the wave vectors reach/s 1/Å
        if splitting is None:
            if mesh:
                splitting = 7.0 / reach
            else:
                splitting = (_COST_RATIO * volume**2 / (16 * math.pi**3 * max(n_atoms, 1))) ** (1 / 6)
        if not (math.isfinite(splitting) and splitting > 0):
            raise InputError(f"splitting must be a positive length, not {splitting!r}")
        self._splitting, self._cutoff = splitting, splitting * reach
        self._prefactor = norm_factor / (2 * np.pi)
        numbers = wave_numbers(cell, 2 * math.pi * splitting / reach)
        self._reciprocal: DirectSum | MeshSum
        if mesh:
            shape = choose_shape(cell, numbers, splitting, tolerance, 2)
            self._reciprocal = MeshSum(splitting, norm_factor, numbers, shape)
        else:
            self._reciprocal = DirectSum(splitting, norm_factor, numbers)

    def __str__(self) -> str:
        return f"pairs up to {self._cutoff:.3g} Å and {self._reciprocal}"

    def set_atoms(self, positions: np.ndarray, cell: np.ndarray | None) -> None:
        """Take positions (n, 3) Å and the cell (3, 3) Å. Point multipoles in the same place are an InputError."""
        assert cell is not None
        everywhere = np.ones(3, bool)
        close = closest_pair(positions, cell, everywhere, 1e-3)
        if close is not None and close[2] < 1e-9:
            raise InputError(f"point multipoles {close[0]} and {close[1]} are in the same place (counted from 0)")
        self._positions, self._cell, self._volume = positions, cell, abs(np.linalg.det(cell))
        self._pairs = build_pairs(positions, cell, everywhere, self._cutoff)
        self._reciprocal.set_atoms(positions, cell)

    def set_moments(self, charges: np.ndarray, dipoles: np.ndarray, quadrupoles: np.ndarray) -> None:
        """Take q (n,), u (n, 3), Q (n, 3, 3) as sources M."""
        self._moments = charges, dipoles, quadrupoles
        self._reciprocal.set_moments(charges, dipoles, quadrupoles)
        self._low: np.ndarray | None = None

    def derivatives(self) -> np.ndarray:
        """φ, F, ∇∇φ of M, (n, 10)."""
        return self._reciprocal.derivatives() + self._near_derivatives()[:, :10]

    def interactions(self, response: Sources | None) -> tuple[np.ndarray, np.ndarray]:
        """Second pass, with M̃ or without: see :class:`polmd.electrostatics.fields.FieldSolver`."""
        charges = self._moments[0]
        low = self._near_derivatives()
        out, strain = pair_interactions(self._near, self._moments, low, response)
        far_out, far_strain = self._reciprocal.interactions(response)
        # the background's energy, −½ (Q + 2 Q̃) Q c/V, through the volume; Q̃ the charge of M̃
        seen = charges + 2 * response.charges if response is not None else charges
        background = 0.5 * charges.sum() * self._background(seen)
        return out + far_out, strain + far_strain - background * np.eye(3)

    def source_fields(self, charges: np.ndarray, dipoles: np.ndarray) -> np.ndarray:
        """Fields of several M̃: see :class:`polmd.electrostatics.fields.FieldSolver`."""
        return source_fields(self, charges, dipoles)

    def dipole_rates(self, dipoles: np.ndarray, velocities: np.ndarray, rates: Multipoles) -> np.ndarray:
        """Rates of M̃·T·M: see :class:`polmd.electrostatics.fields.FieldSolver`."""
        return dipole_rates(self, dipoles, velocities, rates)

    def _near_derivatives(self) -> np.ndarray:
        if self._low is None:
            self._low = self._near(*self._moments)
        return self._low

    def _background(self, charges: np.ndarray) -> float:
        """Potential of the uniform background of charges, V, as far as the short-ranged part of the kernel sees it."""
        return -self._prefactor * 2 * math.pi * self._splitting**2 / self._volume * float(charges.sum())

    def _near(self, charges: np.ndarray, dipoles: np.ndarray, quadrupoles: np.ndarray) -> np.ndarray:
        """What M feels of the short-ranged part of the given sources, (n, 22); of each multipole's own centre the part
        that the reciprocal sum has too much."""
        targets = particles(self._positions, *self._moments)
        sources = particles(self._positions, charges, dipoles, quadrupoles)
        out = np.empty((len(targets), 22))
        kernels.listed_pairs(
            targets, sources, self._cell, self._pairs.first, self._pairs.neighbors, self._pairs.shifts, self._splitting,
            1.0, -1.0, out,
        )  # fmt: skip
        out[:, :13] -= _own_interactions(targets, sources, self._splitting)
        out *= self._prefactor
        out[:, 0] += self._background(charges)
        return out


def _own_interactions(targets: np.ndarray, sources: np.ndarray, sigma: float) -> np.ndarray:
    """What smeared multipoles feel of sources at their own centres, (n, 13) as the kernels give it, traces included.

    targets, sources : (n, 14) from :func:`polmd.electrostatics.open.particles`
    """
    zero = np.zeros(len(targets))
    value, *derivatives = potential_derivatives(
        sources[:, 3], tuple(sources[:, 4:7].T), tuple(sources[:, 7:13].T), (zero, zero, zero),
        smeared_coulomb(zero, sigma),
    )  # fmt: skip
    forces = force_on(targets[:, 3], tuple(targets[:, 4:7].T), tuple(targets[:, 7:13].T), *derivatives)
    gradient, hessian, _ = derivatives
    return np.column_stack([value, *(-g for g in gradient), *hessian, *forces])
