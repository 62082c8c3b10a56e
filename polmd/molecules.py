"""Which atoms form molecules, from the distances of a structure."""

from __future__ import annotations

import numpy as np

from polmd.neighbors import build_pairs
from polmd.system import System

#: Two atoms are bonded when closer than this times the sum of their covalent radii.
BOND_FACTOR = 1.25


def molecules(system: System) -> tuple[np.ndarray, np.ndarray]:
    """Molecule of every atom, (n,) numbered from 0, and the lattice vectors (n, 3) that make molecules whole.

    Atoms are bonded when closer than 1.25 times the sum of their covalent radii (ASE's table). ``positions + shifts @
    cell`` has every molecule in one piece, as long as atoms are not wrapped afterwards and no bond breaks. A network of
    bonds without end (a crystal) counts as one molecule, with images taken along the first path found.
    """
    from ase.data import covalent_radii

    radii = BOND_FACTOR * covalent_radii[system.numbers]
    pairs = build_pairs(system.positions, system.cell, system.pbc, 2.0 * float(radii.max(initial=0.1)))
    vectors = system.positions[pairs.centers] - system.positions[pairs.neighbors] - pairs.shifts @ system.cell
    bonded = np.linalg.norm(vectors, axis=1) < radii[pairs.centers] + radii[pairs.neighbors]
    neighbors: list[list[tuple[int, np.ndarray]]] = [[] for _ in range(len(system))]
    for i, j, shift in zip(pairs.centers[bonded], pairs.neighbors[bonded], pairs.shifts[bonded], strict=True):
        neighbors[i].append((int(j), shift))
    found = np.full(len(system), -1, dtype=np.int64)
    shifts = np.zeros((len(system), 3), dtype=np.int64)
    count = 0
    for start in range(len(system)):
        if found[start] >= 0:
            continue
        found[start] = count
        stack = [start]
        while stack:
            i = stack.pop()
            for j, shift in neighbors[i]:
                if found[j] < 0:
                    found[j], shifts[j] = count, shifts[i] + shift
                    stack.append(j)
        count += 1
    return found, shifts


def molecular_dipole(
    charges: np.ndarray, positions: np.ndarray, masses: np.ndarray, molecule: np.ndarray
) -> np.ndarray:
    """Σ over molecules of Σ q (r − r_cm), (3,) e Å, r_cm the centre of mass; whole molecules' positions (n, 3)."""
    total = np.bincount(molecule, masses)
    centers = np.stack([np.bincount(molecule, masses * positions[:, a]) / total for a in range(3)], axis=1)
    return charges @ (positions - centers[molecule])
