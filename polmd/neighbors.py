"""Neighbour lists: validated input, the pairs, and the Verlet list that is rebuilt only when atoms have moved.

An edge of the list is v = r_i - r_j - S @ cell for positions as they are, inside the cell or not. The list is full: with
(i, j, S) it contains (j, i, -S). Boxes may be smaller than the cutoff; an atom can neighbour its own images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from polmd.errors import InputError, PolmdError, SimulationError
from polmd.kernels.cpu import neighbors as kernels
from polmd.kernels.cpu.integrate import largest_norm

#: A cell flatter than this (volume over the product of its edges) counts as singular.
FLATTEST_CELL = 1e-6
#: More images of atoms than this within the cutoff of the box mean a mistaken unit or cell.
MOST_IMAGES = 2**27
#: Coordinates beyond this, in Å, are refused: their last bit is 1e-8 Å.
FARTHEST = 1e8
#: A cell thinner than this, in Å, is a mistake; together with FARTHEST it keeps shifts within 32 bits.
THINNEST = 0.1

_IDENTITY = np.eye(3)


@dataclass(frozen=True)
class PairList:
    """Neighbours of each atom.

    Attributes
    ----------
    first : (n + 1,) int64; the pairs of atom i are first[i] to first[i + 1]
    neighbors : (m,) int32, atom j of each pair
    shifts : (m, 3) int32, S of each pair: the edge is r_i - r_j - S @ cell
    """

    first: np.ndarray
    neighbors: np.ndarray
    shifts: np.ndarray

    def __len__(self) -> int:
        return len(self.neighbors)

    @property
    def centers(self) -> np.ndarray:
        """(m,) int32, atom i of each pair."""
        return np.repeat(np.arange(len(self.first) - 1, dtype=np.int32), np.diff(self.first))

    def edges(self, positions: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """(m, 3) float64, Å: r_i - r_j - S @ cell."""
        return positions[self.centers] - positions[self.neighbors] - self.shifts @ np.asarray(cell, dtype=np.float64)


def build_pairs(positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float) -> PairList:
    """The list of all pairs with |r_i - r_j - S @ cell| < cutoff.

    positions : (n, 3), Å; cell : (3, 3), Å, rows are lattice vectors, read along periodic axes only; pbc : (3,) bool;
    cutoff : Å.
    """
    cutoff = _positive(cutoff, "cutoff")
    positions, cell, pbc = _validated(positions, cell, pbc)
    require_finite(positions, InputError)
    basis = complete_basis(cell, pbc)
    return _build(positions, basis, _inverse(basis), pbc, cutoff)


def closest_pair(
    positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, cutoff: float
) -> tuple[int, int, float] | None:
    """The pair (i, j, distance in Å) with the smallest distance below the cutoff, images included, or None.

    i ≤ j; i = j when an atom is closest to its own image.
    """
    pairs = build_pairs(positions, cell, pbc, cutoff)
    if not len(pairs):
        return None
    edges = pairs.edges(np.asarray(positions, dtype=np.float64), np.where(np.asarray(pbc)[:, None], cell, 0.0))
    squares = np.einsum("pk,pk->p", edges, edges)
    pair = int(np.argmin(squares))
    i, j = sorted((int(pairs.centers[pair]), int(pairs.neighbors[pair])))
    return i, j, math.sqrt(squares[pair])


class VerletList:
    """A neighbour list that stays valid while atoms move, by holding pairs up to cutoff + skin.

    Attributes
    ----------
    cutoff, skin : Å
    builds, updates : how often the list was built and asked for
    """

    def __init__(self, cutoff: float, skin: float) -> None:
        self.cutoff = _positive(cutoff, "cutoff")
        self.skin = float(skin)
        if not 0.0 <= self.skin < math.inf:
            raise InputError(f"skin = {skin} Å: it must be a finite length, zero or more")
        self.builds = 0
        self.updates = 0
        self._pairs: PairList | None = None
        self._cell = self._basis = self._inverse = _IDENTITY
        self._pbc = np.zeros(3, bool)

    def update(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> PairList:
        """All pairs closer than the cutoff, and more up to cutoff + skin; the same object until a rebuild is due."""
        positions, cell, pbc = _validated(positions, cell, pbc)
        if not self._valid(positions, cell, pbc):
            require_finite(positions, SimulationError)
            self._rebuild(positions, cell, pbc)
            self.builds += 1
        self.updates += 1
        assert self._pairs is not None
        return self._pairs

    @property
    def pairs(self) -> PairList:
        """The list as it is, for atoms that it :meth:`belongs_to`."""
        assert self._pairs is not None
        return self._pairs

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs for the same pairs in the same order after a restart."""
        state: dict[str, Any] = {"builds": self.builds, "updates": self.updates}
        if self._pairs is not None:
            state |= {"positions": self._positions, "cell": self._cell, "pbc": self._pbc}  # new arrays at every build
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from `state()`: the list is built again from the positions it was last built from."""
        self._pairs = None
        if "positions" in state:
            positions, cell, pbc = _validated(state["positions"], state["cell"], state["pbc"])
            require_finite(positions, InputError)
            self._rebuild(positions, cell, pbc)
        self.builds, self.updates = int(state["builds"]), int(state["updates"])

    def _rebuild(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> None:
        before = (self._cell.tobytes(), self._pbc.tobytes()) if self._pairs is not None else None
        same = before == (cell.tobytes(), pbc.tobytes())
        basis = self._basis if same else complete_basis(cell, pbc)
        inverse = self._inverse if same else _inverse(basis)
        self._pairs = _build(positions, basis, inverse, pbc, self.cutoff + self.skin)
        self._basis, self._inverse = basis, inverse
        self._positions, self._cell, self._pbc = positions.copy(), cell.copy(), pbc.copy()

    def _valid(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> bool:
        """Whether no pair can have come closer than the cutoff without being in the list."""
        if not self.belongs_to(len(positions), pbc):
            return False
        reference, strain, allowed = self.tolerance(cell, pbc)
        largest, second, bad = kernels.largest_displacements(positions, reference, strain)
        if bad >= 0:
            require_finite(positions, SimulationError)
        return bool(largest + second <= allowed)

    def belongs_to(self, n: int, pbc: np.ndarray) -> bool:
        """Whether there is a list of so many atoms with these boundaries."""
        return self._pairs is not None and n == len(self._positions) and pbc.tobytes() == self._pbc.tobytes()

    def tolerance(self, cell: np.ndarray, pbc: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Reference positions R (n, 3) Å, strain F (3, 3) and a length in Å: the list is good for atoms in ``cell`` as long as
        the two largest |r_i − R_i F| together do not exceed it.

        F carries the cell of the build into the present one; let d_i = r_i − R_i F. An edge v now was
        v0 = (v − d_i + d_j) F⁻¹ at the time of the build, so that |v| < cutoff implies
        |v0| < (cutoff + |d_i| + |d_j|) ‖F⁻¹‖, the 2-norm. Every such pair is in the list as long as the right side, with
        the two largest displacements, does not exceed cutoff + skin.
        """
        if cell.tobytes() == self._cell.tobytes():
            return self._positions, _IDENTITY, self.skin
        strain = self._inverse @ complete_basis(cell, pbc)
        stretch = float(np.linalg.svd(strain, compute_uv=False)[-1])  # 1 / ‖F⁻¹‖
        return self._positions, strain, (self.cutoff + self.skin) * stretch - self.cutoff


def _build(positions: np.ndarray, basis: np.ndarray, inverse: np.ndarray, pbc: np.ndarray, cutoff: float) -> PairList:
    n = len(positions)
    if n == 0:
        return PairList(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros((0, 3), np.int32))
    heights = [1.0 / math.hypot(*column) for column in inverse.T.tolist()]
    images = n * math.prod(1.0 + 2.0 * cutoff / heights[axis] for axis in range(3) if pbc[axis])
    if images > MOST_IMAGES or min(heights) < THINNEST:
        raise InputError(
            f"cell {basis[pbc].tolist()} Å is far too small (heights {min(heights):g} Å and up, {images:.1e} images of "
            f"{n} atoms within the cutoff of {cutoff:g} Å): check the units of the cell"
        )
    return PairList(*kernels.find_pairs(positions, basis, inverse, pbc, cutoff))


def complete_basis(cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Lattice vectors along periodic axes, unit normals along the others; refuses a singular cell."""
    rows, flags = cell.tolist(), pbc.tolist()
    periodic = [axis for axis in range(3) if flags[axis]]
    open_axes = [axis for axis in range(3) if not flags[axis]]
    lengths = [math.hypot(*row) for row in rows]
    for axis in periodic:
        if not lengths[axis] < math.inf:
            raise InputError(f"cell {rows}: lattice vectors along periodic axes must be finite")
        if lengths[axis] == 0.0:
            raise InputError(
                f"axis {'abc'[axis]} is periodic but its lattice vector has no length: give the cell or set pbc to false"
            )
    if len(open_axes) == 0:
        basis, volume = cell.copy(), abs(_dot(rows[0], _cross(rows[1], rows[2])))
    elif len(open_axes) == 1:
        normal = _cross(rows[periodic[0]], rows[periodic[1]])
        basis, volume = cell.copy(), math.hypot(*normal)
        basis[open_axes[0]] = [v / volume if volume else 0.0 for v in normal]
    elif len(open_axes) == 2:
        basis, volume = cell.copy(), lengths[periodic[0]]
        along = [v / volume for v in rows[periodic[0]]]
        normal = _cross(along, _IDENTITY[int(np.argmin(np.abs(along)))].tolist())
        length = math.hypot(*normal)
        basis[open_axes[0]] = normal = [v / length for v in normal]
        basis[open_axes[1]] = _cross(along, normal)
    else:
        return _IDENTITY
    scale = math.prod(lengths[axis] for axis in periodic)
    if volume < FLATTEST_CELL * scale:
        names = ", ".join("abc"[axis] for axis in periodic)
        raise InputError(f"the lattice vectors {names} are linearly dependent: cell {rows}")
    return basis


def _cross(a: list[float], b: list[float]) -> list[float]:
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]


def _inverse(basis: np.ndarray) -> np.ndarray:
    """Inverse of a basis that is not singular; LAPACK takes ten times as long for three rows."""
    a, b, c = basis.tolist()
    columns = _cross(b, c), _cross(c, a), _cross(a, b)
    volume = _dot(a, columns[0])
    return np.array([[column[d] / volume for column in columns] for d in range(3)])


def _dot(a: list[float], b: list[float]) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _validated(positions: Any, cell: Any, pbc: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    positions = np.ascontiguousarray(positions, dtype=np.float64)
    cell = np.ascontiguousarray(cell, dtype=np.float64)
    pbc = np.ascontiguousarray(pbc, dtype=bool)
    if positions.ndim == 2 and positions.shape[1] == 3 and cell.shape == (3, 3) and pbc.shape == (3,):
        return positions, cell, pbc
    for name, array, shape in (
        ("positions", positions, (len(positions), 3)),
        ("cell", cell, (3, 3)),
        ("pbc", pbc, (3,)),
    ):
        if array.shape != shape:
            raise InputError(f"{name} has shape {array.shape}, expected {shape}")
    return positions, cell, pbc


def require_finite(positions: np.ndarray, error: type[PolmdError]) -> None:
    if largest_norm(positions) < FARTHEST:  # false for NaN
        return
    far = np.flatnonzero(~(np.abs(positions) < FARTHEST).all(axis=1))
    if not len(far):
        return
    atom = int(far[0])
    kind = f"lies beyond {FARTHEST:g} Å" if np.isfinite(positions[atom]).all() else "is not finite"
    raise error(f"the position of atom {atom} {kind}: {positions[atom].tolist()}")


def _positive(value: float, name: str) -> float:
    if not 0.0 < value < math.inf:
        raise InputError(f"{name} = {value} Å: it must be a finite positive length")
    return float(value)
