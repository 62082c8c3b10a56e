"""Periodic boundaries: the truncated reciprocal sum over Gaussian multipoles, taken directly.

E0 = (NF/V) Σ_k G |S|², G = e^(−σ²k²/2)/k², over all k = 2π n·cell⁻ᵀ with 0 < |k| ≤ 2π/dl. The truncation is part of the
model: weights are trained with exactly this sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polmd.electrostatics.fields import Sources, symmetric_matrices
from polmd.errors import InputError
from polmd.kernels.cpu import kspace as kernels
from polmd.kernels.cpu import moments as between
from polmd.kernels.cpu.simd import BYTES
from polmd.kernels.layout import Multipoles

_LANES = BYTES // 8
#: Bytes per wave vector of the half sphere that a calculation needs (partial structure factors, tables).
_BYTES_PER_VECTOR = 8 * (2 * _LANES * kernels.GROUPS + 20)
#: Refuse sums that would need more memory than this, bytes.
MEMORY_LIMIT = 4 << 30

_NO_VECTORS = np.empty((0, 3))
_NO_MATRICES = np.empty((0, 3, 3))
_NO_STRUCTURE = np.empty((2, 0))
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


def strain_gradient(
    k: np.ndarray,
    sigma: float,
    energies: np.ndarray,
    moments: tuple[np.ndarray, np.ndarray, np.ndarray],
    out: np.ndarray,
    response: Sources | None,
) -> np.ndarray:
    """Strain gradient (3, 3) eV of a reciprocal sum at constant moments, which stay while lattice and positions are strained.

    k (3, nk) 1/Å and their ``energies`` (nk,) eV over half the sphere, sigma Å; ``out`` (n, 10 or more): what
    ``FieldSolver.interactions`` returns for M with M̃.
    """
    _, dipoles, quadrupoles = moments
    strain = np.zeros((3, 3))
    kernels.add_strain(k, sigma, energies, strain)
    extra = (response.dipoles, response.fields) if response is not None else (_NO_VECTORS, _NO_VECTORS)
    between.moment_strain(dipoles, quadrupoles, out, *extra, strain)
    return strain


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
        self._atoms = np.zeros((-(-len(positions) // _LANES), kernels.ROWS, _LANES))
        between.pack_fractions(positions, self._inverse, self._atoms)

    def set_moments(self, charges: np.ndarray, dipoles: np.ndarray, quadrupoles: np.ndarray) -> None:
        """Take q (n,), u (n, 3), Q (n, 3, 3) as sources M."""
        self._moments = charges, dipoles, quadrupoles
        between.pack_sources(charges, dipoles, quadrupoles, self._lattice, self._atoms)
        self._structure = self._structures(self._atoms[None])[0]
        self._low: np.ndarray | None = None

    def potentials_and_fields(self) -> tuple[np.ndarray, np.ndarray]:
        """φ (n,) V and F (n, 3) V/Å of M."""
        low = self._low_derivatives()
        return low[:, 0], low[:, 1:4]

    def interactions(self, response: Sources | None) -> tuple[np.ndarray, np.ndarray]:
        """Second pass, with M̃ or without: see :class:`polmd.electrostatics.fields.FieldSolver`."""
        induced = _NO_STRUCTURE
        if response is not None:
            low = self._low_derivatives()
            induced = self._sums(response.charges[None], response.dipoles[None])[0]
        spectrum, energies = np.empty_like(self._structure), np.empty_like(self._weight)
        between.weigh(self._weight, self._structure, induced, spectrum, energies)
        out = self._fields(spectrum[None], 13)[0]
        if response is not None:
            between.add_response_forces(response.charges, response.dipoles, low, out)
        return out, strain_gradient(self._k, self._sigma, energies, self._moments, out, response)

    def source_fields(self, charges: np.ndarray, dipoles: np.ndarray) -> np.ndarray:
        """Fields of several M̃: see :class:`polmd.electrostatics.fields.FieldSolver`."""
        out, low = self._fields(self._weight * self._sums(charges, dipoles), 13), self._low_derivatives()
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
        low = self._low_derivatives()
        out = self._fields(self._weight * self._structures(self._atoms[None], moving), 10)
        hessian = symmetric_matrices(low[:, 4:10])
        field_rates = out[:, :, 1:4] - np.einsum("nab,gnb->gna", hessian, velocities)
        return -np.einsum("dnc,gnc->gd", dipoles, field_rates)

    def _sums(self, charges: np.ndarray, dipoles: np.ndarray) -> np.ndarray:
        """S(k) of several sets of charges (m, n) and dipoles (m, n, 3): (m, 2, nk)."""
        atoms = np.repeat(self._atoms[None], len(charges), axis=0)
        for q, u, own in zip(charges, dipoles, atoms, strict=True):
            between.pack_sources(q, u, _NO_MATRICES, self._lattice, own)
        return self._structures(atoms)

    def _structures(self, atoms: np.ndarray, moving: np.ndarray = _NO_MOTION) -> np.ndarray:
        """S(k) of sets of packed atoms (m, blocks, rows, lanes), or dS/dt of one set in the motions ``moving``, packed
        likewise: (m, 2, nk)."""
        sets, blocks = max(len(atoms), len(moving)), len(self._atoms)
        structures = np.empty((sets, *self._k[:2].shape))
        groups = max(1, min(kernels.GROUPS, blocks // 4) // sets)
        size = groups * structures.size * _LANES
        if len(self._partial) < size:
            self._partial = np.empty(size)
        kernels.structure_factors(
            atoms.reshape(-1),
            moving.reshape(-1),
            self.numbers.rows,
            self.numbers.limits,
            groups,
            self._partial,
            structures,
        )
        return structures

    def _low_derivatives(self) -> np.ndarray:
        """φ, F, ∇∇φ (n, 10) of M."""
        if self._low is None:
            self._low = self._fields((self._weight * self._structure)[None], 10)[0]
        return self._low

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
