"""Periodic boundaries: the truncated reciprocal sum over Gaussian multipoles, taken with a particle mesh.

Moments are spread to a mesh with B-splines (Essmann et al., J. Chem. Phys. 103, 8577 (1995)), charges, dipoles and
quadrupoles alike as derivatives of the splines (Toukmaji et al., J. Chem. Phys. 113, 10913 (2000)). The influence function
is that of the direct sum on the same integer set {n} and zero outside it, so that the mesh approximates the truncated
sum the weights were trained with; its only error is aliasing. Everything is a derivative of one energy,
½ M·T·M with the symmetric T = Pᵀ A P (P spreads, A convolves), so forces, stress and moment gradients are exact
derivatives of the mesh energy.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import numba
import numpy as np
from scipy import fft

from polmd.electrostatics.ewald import MEMORY_LIMIT, WaveNumbers
from polmd.electrostatics.fields import Sources, dipole_rates, source_fields
from polmd.errors import InputError
from polmd.kernels.cpu import mesh as kernels
from polmd.kernels.cpu import transforms
from polmd.kernels.cpu.kspace import add_strain
from polmd.kernels.cpu.moments import add_response_forces, moment_strain
from polmd.kernels.layout import Multipoles
from polmd.memory import keep_freed_memory

#: Order of the B-splines: at every tolerance from 1e-3 to 1e-8 the cheapest, since a coarser mesh saves more in the
#: transforms than the longer splines cost (benchmarks/README.md).
ORDER = 12
#: Wave vectors that the error estimate looks at.
_SAMPLE = 4096
#: Arrays of the size of the mesh that a calculation needs at a time.
_ARRAYS = 4

_NO_FIELDS = np.empty((0, 10))
_NO_VECTORS = np.empty((0, 3))
_NO_MATRICES = np.empty((0, 3, 3))
_NO_MODES = np.empty((0, 0, 0), complex)


@functools.cache
def spline_table(order: int) -> np.ndarray:
    """Polynomials in t − ½ of the weights M(j + 1 − t), j = 0 … order − 1, of an atom at t between two mesh points, and
    of their first three derivatives with respect to t: (4, 12, LANES), zero beyond the order."""
    table = np.zeros((4, kernels.LANES, kernels.LANES))
    for j in range(order):
        for power in range(order):
            # M(y) = Σ_k (−1)^k C(p, k) (y − k)^(p−1)/(p−1)! over k ≤ y; y = j + ½ − (t − ½)
            terms = (
                (-1) ** k * math.comb(order, k) * Fraction(2 * (j - k) + 1, 2) ** (order - 1 - power)
                for k in range(j + 1)
            )
            c = (-1) ** power * math.comb(order - 1, power) * sum(terms, Fraction(0)) / math.factorial(order - 1)
            for derivative in range(min(4, power + 1)):
                table[derivative, power - derivative, j] = float(
                    c * math.factorial(power) / math.factorial(power - derivative)
                )
    table.setflags(write=False)
    return table


class MeshSum:
    """Fields of Gaussian multipoles in a periodic cell, without self terms, from a particle mesh.

    Parameters
    ----------
    sigma Å, norm_factor eV Å/e², numbers the integer set of the sum, shape the mesh points along each lattice vector,
    order of the splines (even, at most 12)
    """

    def __init__(
        self, sigma: float, norm_factor: float, numbers: WaveNumbers, shape: tuple[int, int, int], order: int = ORDER
    ) -> None:
        keep_freed_memory()
        self._sigma, self._norm_factor, self.numbers, self.shape = sigma, norm_factor, numbers, shape
        self._points, self._order, self._table = np.array(shape), order, spline_table(order)
        self._cell: np.ndarray | None = None
        # The box of modes that the transforms keep: n0, n1 from −limit to limit (negative ones last), n2 from 0.
        self._modes = tuple(int(m) for m in numbers.limits)
        a, b, c = self._modes
        n = np.where(numbers.n[:, 2:] < 0, -numbers.n, numbers.n)  # of n and −n the one with n2 ≥ 0
        box = (2 * a + 1, 2 * b + 1, c + 1)
        self._place = np.ravel_multi_index((n[:, 0] % box[0], n[:, 1] % box[1], n[:, 2]), box)
        flat = n[:, 2] == 0
        m = -n[flat]
        self._mirror = np.ravel_multi_index((m[:, 0] % box[0], m[:, 1] % box[1], m[:, 2]), box)
        self._flat = flat
        self._box = box
        # Transform of the splines at the modes, to the power of −2, times the number of mesh points (of the transforms)
        decay = np.ones(len(n))
        for axis in range(3):
            decay *= np.sinc(n[:, axis] / shape[axis]) ** (2 * order)
        self._sharpen = math.prod(shape) / decay

        self._planes = np.empty((shape[0], *self._box[1:]), complex)
        self._mesh = np.empty((shape[0], shape[1], shape[2] + kernels.LANES))

    def __str__(self) -> str:
        points = " × ".join(map(str, self.shape))
        return f"mesh of {points} points, splines of order {self._order}, {2 * len(self.numbers.n)} wave vectors"

    def set_atoms(self, positions: np.ndarray, cell: np.ndarray | None) -> None:
        """Take positions (n, 3) Å and the cell (3, 3) Å; the integer set and the mesh stay."""
        assert cell is not None
        if self._cell is None or not np.array_equal(cell, self._cell):
            self._cell = cell.copy()
            self._inverse = np.linalg.inv(cell)
            self._k = self.numbers.vectors(cell)
            k2 = (self._k**2).sum(0)
            green = np.exp(-0.5 * self._sigma**2 * k2) / k2
            # 4 NF/V G is the weight of the half sphere, see DirectSum; the mesh's sum runs over the full one
            self._weight = 2 * self._norm_factor / abs(np.linalg.det(cell)) * green * self._sharpen
            influence = np.zeros(math.prod(self._box))
            influence[self._place] = self._weight
            influence[self._mirror] = self._weight[self._flat]
            self._influence = influence.reshape(self._box)
        n = len(positions)
        self._members, self._corners = np.empty(n, np.int64), np.empty((n, 3), np.int64)
        self._splines = np.empty(n * kernels.SPLINES)
        self._slabs = np.empty(min(numba.get_num_threads(), self.shape[0]) + 1, np.int64)  # one for every thread
        kernels.place(
            positions, self._inverse, self._points, self._order, self._table, self._members, self._slabs, self._corners,
            self._splines,
        )  # fmt: skip

    def set_moments(self, charges: np.ndarray, dipoles: np.ndarray, quadrupoles: np.ndarray) -> None:
        """Take q (n,), u (n, 3), Q (n, 3, 3) as sources M."""
        self._moments = charges, dipoles, quadrupoles
        self._structure = self._spectrum(charges, dipoles, quadrupoles)
        self._low: np.ndarray | None = None

    def derivatives(self) -> np.ndarray:
        """φ, F, ∇∇φ of M, (n, 10)."""
        if self._low is None:
            self._low = self._interpolate(_NO_MODES, 10)
        return self._low

    def interactions(self, response: Sources | None) -> tuple[np.ndarray, np.ndarray]:
        """Second pass, with M̃ or without: see :class:`polmd.electrostatics.fields.FieldSolver`."""
        induced, low = _NO_MODES, _NO_FIELDS
        if response is not None:
            low = self.derivatives()
            induced = self._spectrum(response.charges, response.dipoles, _NO_MATRICES)
        out = self._interpolate(induced, 13)
        if response is not None:
            add_response_forces(response.charges, response.dipoles, low, out)
        energies = np.empty_like(self._weight)
        # half the full-sphere weight twice (n and −n), and numpy's transforms carry no factor
        weight = self._weight / math.prod(self.shape)
        transforms.mode_energies(self._structure.reshape(-1), induced.reshape(-1), self._place, weight, energies)
        strain = np.zeros((3, 3))
        add_strain(self._k, self._sigma, energies, strain)
        moment_strain(*self._moments[1:], out, _NO_VECTORS if response is None else response.dipoles, low, strain)
        return out, strain

    def source_fields(self, charges: np.ndarray, dipoles: np.ndarray) -> np.ndarray:
        """Fields of several M̃: see :class:`polmd.electrostatics.fields.FieldSolver`."""
        return source_fields(self, charges, dipoles)

    def dipole_rates(self, dipoles: np.ndarray, velocities: np.ndarray, rates: Multipoles) -> np.ndarray:
        """Rates of M̃·T·M: see :class:`polmd.electrostatics.fields.FieldSolver`."""
        return dipole_rates(self, dipoles, velocities, rates)

    def _spectrum(self, charges: np.ndarray, dipoles: np.ndarray, quadrupoles: np.ndarray) -> np.ndarray:
        """Transform of the spread moments at the modes of the box, complex. After each axis only those are kept."""
        kernels.spread(
            self._inverse, self._points, self._order, self._members, self._slabs, self._corners, self._splines, charges,
            dipoles, quadrupoles, self._mesh,
        )  # fmt: skip
        spectrum = np.empty(self._box, complex)
        transforms.to_modes(self._mesh, self._planes, spectrum)
        return spectrum

    def _interpolate(self, induced: np.ndarray, columns: int) -> np.ndarray:
        """Potential of M, with the spectrum ``induced`` of M̃ or without, and its derivatives at the atoms, (n, columns)."""
        transforms.to_mesh(self._structure, induced, self._influence, self._planes, self._mesh)
        out = np.empty((len(self._members), columns))
        kernels.interpolate(
            self._inverse, self._points, self._order, self._members, self._corners, self._splines, self._mesh,
            *self._moments, out,
        )  # fmt: skip
        return out


def estimated_error(
    cell: np.ndarray, numbers: WaveNumbers, sigma: float, shape: tuple[int, ...], rank: int, order: int = ORDER
) -> float:
    """Root mean square force error of the mesh over the root mean square force, for multipoles of one rank at random.

    Of the aliases of each wave vector k, those one mesh period away along one axis, k', are counted: they carry
    ρ = (n/(n ± N))^order of its amplitude, where it is spread and where it is interpolated. With A = e^(−σ²k²/2)/k² and
    moments that see the potential times k^rank, the mean squares are Σ_k A² ρ² (k'² + k²) (k k')^(2 rank) and
    Σ_k A² k² k^(4 rank). Measured errors lie within a factor 2 (tests/test_mesh.py).

    cell (3, 3) Å, sigma Å; rank : 0 charges, 1 dipoles, 2 quadrupoles, the highest present.
    """
    n = numbers.n[:: max(1, len(numbers.n) // _SAMPLE)].astype(np.float64)
    if not len(n):
        return 0.0
    reciprocal = 2 * np.pi * np.linalg.inv(cell).T
    k = n @ reciprocal
    k2 = (k * k).sum(1)
    weight = (np.exp(-0.5 * sigma**2 * k2) / k2) ** 2
    error = 0.0
    for axis, points in enumerate(shape):
        for shift in (points, -points):
            alias = k + shift * reciprocal[axis]
            alias2 = (alias * alias).sum(1)
            amplitude = (n[:, axis] / (n[:, axis] + shift)) ** (2 * order)
            error += float((weight * amplitude * (alias2 + k2) * (alias2 * k2) ** rank).sum())
    return math.sqrt(error / float((weight * k2 * k2 ** (2 * rank)).sum()))


def choose_shape(
    cell: np.ndarray, numbers: WaveNumbers, sigma: float, tolerance: float, rank: int
) -> tuple[int, int, int]:
    """The coarsest mesh whose estimated force error, with a margin of two, is below the tolerance.

    Raises InputError when no mesh that fits in memory reaches it.
    """
    oversampling = 1.05
    while True:
        smallest = [max(ORDER, math.ceil(2 * int(limit) * oversampling) + 1) for limit in numbers.limits]
        shape = tuple(fft.next_fast_len(n, real=axis == 2) for axis, n in enumerate(smallest))
        needed = 8 * _ARRAYS * math.prod(shape)
        if needed > MEMORY_LIMIT:
            raise InputError(
                f"a mesh of {' x '.join(map(str, shape))} points for a force error of {tolerance:g} would need about "
                f"{needed / 2**30:.3g} GiB, more than the limit of {MEMORY_LIMIT / 2**30:.3g} GiB: take a larger "
                "electrostatics.tolerance, a smaller cell or a model with a larger dl"
            )
        if 2 * estimated_error(cell, numbers, sigma, shape, rank) <= tolerance:
            return shape[0], shape[1], shape[2]
        oversampling *= 1.02
