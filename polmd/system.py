"""The atoms of a simulation: what a potential needs to know and what an integrator changes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from polmd.errors import InputError
from polmd.units import VELOCITY_FROM_ASE

if TYPE_CHECKING:
    from ase import Atoms

FloatArray = np.ndarray
IntArray = np.ndarray


@dataclass
class System:
    """Atoms, cell and motion.

    Attributes
    ----------
    numbers : (n,) int64, atomic numbers
    positions : (n, 3) float64, Å, never wrapped by polmd
    cell : (3, 3) float64, Å, rows are lattice vectors; any handedness; zeros where there is no lattice vector
    pbc : (3,) bool, periodic axes; a system without a periodic axis has open boundaries whatever its cell
    masses : (n,) float64, amu
    velocities : (n, 3) float64, Å/fs
    fixed : (n,) bool, atoms that dynamics and minimisers leave where they are; None: all atoms move
    """

    numbers: IntArray
    positions: FloatArray
    cell: FloatArray
    pbc: np.ndarray
    masses: FloatArray
    velocities: FloatArray
    fixed: np.ndarray = None  # type: ignore[assignment]  # replaced by an array at once
    _inverse_masses: tuple[tuple[bytes, bytes], FloatArray] | None = field(
        default=None, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        self.numbers = np.ascontiguousarray(self.numbers, dtype=np.int64)
        self.positions = np.array(self.positions, dtype=np.float64, order="C")
        self.cell = np.array(self.cell, dtype=np.float64, order="C")
        self.pbc = np.array(self.pbc, dtype=bool)
        self.masses = np.ascontiguousarray(self.masses, dtype=np.float64)
        self.velocities = np.array(self.velocities, dtype=np.float64, order="C")
        n = len(self.numbers)
        self.fixed = np.zeros(n, dtype=bool) if self.fixed is None else np.array(self.fixed, dtype=bool)
        shapes = {"positions": (n, 3), "cell": (3, 3), "pbc": (3,), "masses": (n,), "velocities": (n, 3), "fixed": (n,)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise InputError(f"System.{name} has shape {getattr(self, name).shape}, expected {shape} for {n} atoms")

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def periodic(self) -> bool:
        """True when at least one axis is periodic."""
        return True in self.pbc.tolist()

    @property
    def inverse_masses(self) -> FloatArray:
        """(n,) float64, 1/amu; zero for fixed atoms, which no force and no noise moves."""
        key = self.masses.tobytes(), self.fixed.tobytes()
        if self._inverse_masses is None or self._inverse_masses[0] != key:
            self._inverse_masses = key, np.where(self.fixed, 0.0, 1.0 / self.masses)
        return self._inverse_masses[1]

    @property
    def volume(self) -> float:
        """|det(cell)| in Å³; zero without a full cell."""
        return float(abs(np.linalg.det(self.cell)))

    def copy(self) -> System:
        return System(
            self.numbers.copy(), self.positions, self.cell, self.pbc, self.masses.copy(), self.velocities, self.fixed
        )  # the constructor copies the rest

    @classmethod
    def from_ase(cls, atoms: Atoms) -> System:
        """Take numbers, positions, cell, pbc, masses, velocities (zero when absent) and ``FixAtoms`` constraints from an
        ``ase.Atoms``; other constraints are an InputError."""
        from ase.constraints import FixAtoms

        velocities = atoms.get_velocities() if atoms.has("momenta") else None
        n = len(atoms)
        fixed = np.zeros(n, dtype=bool)
        for constraint in atoms.constraints:
            if not isinstance(constraint, FixAtoms):
                raise InputError(f"constraint {type(constraint).__name__} is not known: only FixAtoms can be kept")
            fixed[constraint.index] = True
        return cls(
            numbers=atoms.numbers,
            positions=atoms.positions,
            cell=atoms.cell.array,
            pbc=atoms.pbc,
            masses=atoms.get_masses(),
            velocities=np.zeros((n, 3)) if velocities is None else velocities * VELOCITY_FROM_ASE,
            fixed=fixed,
        )

    def to_ase(self) -> Atoms:
        """An ``ase.Atoms`` with the same content (velocities in ASE units)."""
        from ase import Atoms

        atoms = Atoms(numbers=self.numbers, positions=self.positions, cell=self.cell, pbc=self.pbc)
        atoms.set_masses(self.masses)
        if self.velocities.any():
            atoms.set_velocities(self.velocities / VELOCITY_FROM_ASE)
        if self.fixed.any():
            from ase.constraints import FixAtoms

            atoms.set_constraint(FixAtoms(mask=self.fixed))
        return atoms
