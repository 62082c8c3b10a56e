"""Periodic boundaries: the truncated reciprocal sum over Gaussian multipoles, taken directly.

E0 = (NF/V) Σ_k G |S|², G = e^(−σ²k²/2)/k², over all k = 2π n·cell⁻ᵀ with 0 < |k| ≤ 2π/dl. The truncation is part of the
model: weights are trained with exactly this sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polmd.electrostatics.fields import Sources
from polmd.errors import InputError
from polmd.kernels.cpu import direct
from polmd.kernels.cpu import kspace as kernels
from polmd.kernels.cpu import moments as between
from polmd.kernels.cpu.born import dipole_field_rates
from polmd.kernels.cpu.simd import BYTES
from polmd.kernels.layout import Multipoles

_LANES = BYTES // 8
#: Bytes per wave vector of the half sphere that a calculation needs (partial structure factors, tables).
_BYTES_PER_VECTOR = 8 * (2 * _LANES * kernels.GROUPS + 20)
#: Refuse sums that would need more memory than this, bytes.
MEMORY_LIMIT = 4 << 30

#: No M̃, and its field.
NO_SOURCES = Sources(np.empty(0), np.empty((0, 3)))
NO_FIELDS = np.empty((0, 10))
_NO_MATRICES = np.empty((0, 3, 3))
_NO_MOTION = np.empty((0, 0, 0, 0))


@dataclass(frozen=True)
class WaveNumbers:
    """The integer vectors n of half the sphere: of n and −n the one whose first nonzero component is positive.

    Attributes
    ----------
    n : (nk, 3) int64
    rows : (r, 5) int64, runs of consecutive n2: n0, n1, first n2, first index, count
    limits : (3,) int64, largest |n| of each axis
    """

    n: np.ndarray
    rows: np.ndarray
    limits: np.ndarray

    def vectors(self, cell: np.ndarray) -> np.ndarray:
        """k = 2π n·cell⁻ᵀ, (3, nk) 1/Å, of a cell that may have changed since the set was made."""
        return np.ascontiguousarray((self.n @ (2 * np.pi * np.linalg.inv(cell).T)).T)


def wave_numbers(cell: np.ndarray, dl: float) -> WaveNumbers:
    """The integer set of a cell: 0 < |k|² ≤ (2π/dl)²(1 + 1e-9), a vector on the sphere included.

    Raises InputError when the set would not fit in memory.
    """
    volume = abs(np.linalg.det(cell))
    estimate = 2 * np.pi / 3 * volume / dl**3 * _BYTES_PER_VECTOR
    if estimate > MEMORY_LIMIT:
        raise InputError(
            f"the reciprocal sum of this cell ({volume:.4g} Å³) with dl = {dl:g} Å needs about {estimate / 2**30:.3g} GiB, "
            f"more than the limit of {MEMORY_LIMIT / 2**30:.3g} GiB: take a smaller cell or a model with a larger dl"
        )
    reciprocal = 2 * np.pi * np.linalg.inv(cell).T
    limits = np.floor(np.linalg.norm(cell, axis=1) / dl * (1 + 1e-9)).astype(np.int64)
    n1, n2 = np.meshgrid(np.arange(-limits[1], limits[1] + 1), np.arange(-limits[2], limits[2] + 1), indexing="ij")
    kept = []
    for n0 in range(limits[0] + 1):
        plane = np.stack([np.full(n1.size, n0), n1.ravel(), n2.ravel()], 1)
        k2 = ((plane @ reciprocal) ** 2).sum(1)
        inside = (k2 > 0) & (k2 <= (2 * np.pi / dl) ** 2 * (1 + 1e-9))
        if n0 == 0:
            inside &= (plane[:, 1] > 0) | ((plane[:, 1] == 0) & (plane[:, 2] > 0))
        kept.append(plane[inside])
    n = np.ascontiguousarray(np.concatenate(kept))
    if len(n) == 0:
        return WaveNumbers(n, np.empty((0, 5), np.int64), limits)
    new_row = np.ones(len(n), dtype=bool)
    new_row[1:] = (np.diff(n[:, 0]) != 0) | (np.diff(n[:, 1]) != 0) | (np.diff(n[:, 2]) != 1)
    start = np.flatnonzero(new_row)
    count = np.diff(np.append(start, len(n)))
    rows = np.ascontiguousarray(np.column_stack([n[start], start, count]))
    return WaveNumbers(n, rows, limits)


class DirectSum:
    """Fields of Gaussian multipoles in a periodic cell, without self terms.

    Parameters
    ----------
    sigma Å, norm_factor eV Å/e², numbers the integer set of the sum
    """

    def __init__(self, sigma: float, norm_factor: float, numbers: WaveNumbers) -> None:
        self._sigma, self._norm_factor, self.numbers = sigma, norm_factor, numbers
        self._cell: np.ndarray | None = None
        self._partial = np.empty(0)
        self._atoms, self._structure = np.empty((0, kernels.ROWS, _LANES)), np.empty((2, len(numbers.n)))

    def __str__(self) -> str:
        return f"direct sum over {2 * len(self.numbers.n)} wave vectors"

    def set_atoms(self, positions: np.ndarray, cell: np.ndarray | None) -> None:
        """Take positions (n, 3) Å and the cell (3, 3) Å; the integer set stays."""
        assert cell is not None
        if self._cell is None or cell.tobytes() != self._cell.tobytes():
            self._cell = cell.copy()
            self._inverse = np.linalg.inv(cell)
            self._k = self.numbers.vectors(cell)
            k2 = (self._k**2).sum(0)
            # 4 NF/V G: half sphere, and the factor 2 of a potential
            self._weight = 4 * self._norm_factor / abs(np.linalg.det(cell)) * np.exp(-0.5 * self._sigma**2 * k2) / k2
            self._lattice = 2 * np.pi * self._inverse  # k_c = Σ_d lattice[c, d] n_d
        self._positions = positions

    def set_moments(self, charges: np.ndarray, dipoles: np.ndarray, quadrupoles: np.ndarray) -> None:
        """Take q (n,), u (n, 3), Q (n, 3, 3) as sources M."""
        direct.structure(*self.structure_arguments(charges, dipoles, quadrupoles))

    def structure_arguments(self, charges: np.ndarray, dipoles: np.ndarray, quadrupoles: np.ndarray) -> tuple:
        """What the driver of :meth:`set_moments` takes; M are these arrays from now on."""
        self._moments = charges, dipoles, quadrupoles
        blocks = -(-len(charges) // _LANES)
        if self._atoms.shape[0] != blocks:
            self._atoms = np.empty((blocks, kernels.ROWS, _LANES))
        self._low: np.ndarray | None = None
        groups, partial = self._division(1)
        return (
            self._positions, self._inverse, self._lattice, charges, dipoles, quadrupoles, self.numbers.rows,
            self.numbers.limits, groups, partial, self._atoms, self._structure,
        )  # fmt: skip

    def derivatives(self) -> np.ndarray:
        """φ, F, ∇∇φ of M, (n, 10)."""
        if self._low is None:
            self._low = np.empty((len(self._positions), 10))
            direct.derivatives(*self.derivatives_arguments(self._low))
        return self._low

    def derivatives_arguments(self, out: np.ndarray) -> tuple:
        """What the driver of :meth:`derivatives` takes: it writes ``out``."""
        return (
            self._atoms, self._lattice, self.numbers.rows, self.numbers.limits, self._weight, self._structure, out,
        )  # fmt: skip

    def take_derivatives(self, low: np.ndarray) -> None:
        """Return ``low`` from :meth:`derivatives` for the present M: the driver was called elsewhere."""
        self._low = low

    def interactions(self, response: Sources | None) -> tuple[np.ndarray, np.ndarray]:
        """Second pass, with M̃ or without: see :class:`polmd.electrostatics.fields.FieldSolver`."""
        low = NO_FIELDS if response is None else self.derivatives()
        arguments = self.interactions_arguments(response or NO_SOURCES, low)
        direct.interactions(*arguments)
        return arguments[-2:]

    def interactions_arguments(self, response: Sources, low: np.ndarray) -> tuple:
        """What the driver of :meth:`interactions` takes, of length 0 without M̃; the last two are what it writes."""
        groups, partial = self._division(1)
        return (
            self._atoms, self._lattice, self.numbers.rows, self.numbers.limits, groups, self._k, self._sigma, self._weight,
            self._structure, *self._moments[1:], low, *response, partial, np.empty((len(self._positions), 13)),
            np.empty((3, 3)),
        )  # fmt: skip

    def source_fields(self, charges: np.ndarray, dipoles: np.ndarray) -> np.ndarray:
        """Fields of several M̃: see :class:`polmd.electrostatics.fields.FieldSolver`."""
        out, low = self._fields(self._weight * self._sums(charges, dipoles), 13), self.derivatives()
        for q, u, found in zip(charges, dipoles, out, strict=True):
            between.add_response_forces(q, u, low, found)
        return out

    def dipole_rates(self, dipoles: np.ndarray, velocities: np.ndarray, rates: Multipoles) -> np.ndarray:
        """Rates of M̃·T·M: see :class:`polmd.electrostatics.fields.FieldSolver`. They take the rate of the field of M, one pass
        for each motion, whatever the number of M̃."""
        moving = np.zeros((len(velocities), *self._atoms.shape))
        for own, v, *moments in zip(moving, velocities, rates.charges, rates.dipoles, rates.quadrupoles, strict=True):
            between.pack_velocities(v, self._lattice, own)
            between.pack_sources(*moments, self._lattice, own)
        low = self.derivatives()
        out = self._fields(self._weight * self._structures(self._atoms[None], moving), 10)
        products = np.empty((len(velocities), len(dipoles)))
        dipole_field_rates(dipoles, velocities, low, out, products)
        return products

    def _sums(self, charges: np.ndarray, dipoles: np.ndarray) -> np.ndarray:
        """S(k) of several sets of charges (m, n) and dipoles (m, n, 3): (m, 2, nk)."""
        atoms = np.repeat(self._atoms[None], len(charges), axis=0)
        for q, u, own in zip(charges, dipoles, atoms, strict=True):
            between.pack_sources(q, u, _NO_MATRICES, self._lattice, own)
        return self._structures(atoms)

    def _structures(self, atoms: np.ndarray, moving: np.ndarray = _NO_MOTION) -> np.ndarray:
        """S(k) of sets of packed atoms (m, blocks, rows, lanes), or dS/dt of one set in the motions ``moving``, packed
        likewise: (m, 2, nk)."""
        sets = max(len(atoms), len(moving))
        structures = np.empty((sets, *self._structure.shape))
        groups, partial = self._division(sets)
        kernels.structure_factors(
            atoms.reshape(-1), moving.reshape(-1), self.numbers.rows, self.numbers.limits, groups, partial, structures
        )
        return structures

    def _division(self, sets: int) -> tuple[int, np.ndarray]:
        """Into how many groups of blocks the sum over atoms is divided, and memory for their sums."""
        groups = max(1, min(kernels.GROUPS, len(self._atoms) // 4) // sets)
        size = sets * groups * self._structure.size * _LANES
        if len(self._partial) < size:
            self._partial = np.empty(size)
        return groups, self._partial

    def _fields(self, spectra: np.ndarray, columns: int) -> np.ndarray:
        """φ, F, ∇∇φ and with 13 columns the force on M, of sources with the ``spectra`` w S (m, 2, nk): (m, n, columns)."""
        sets, n = len(spectra), len(self._moments[0])
        blocks = np.empty((sets, len(self._atoms), columns, _LANES))
        kernels.fields(
            self._atoms.reshape(-1), self.numbers.rows, self.numbers.limits, spectra, columns, blocks.reshape(-1),
        )  # fmt: skip
        out = np.empty((sets, n, columns))
        for own, found in zip(blocks, out, strict=True):
            between.unpack_fields(own, self._lattice, found)
        return out
