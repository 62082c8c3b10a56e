"""The seam between the response and the solvers: a solver gives the fields of smeared multipoles, without self terms."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np


class Sources(NamedTuple):
    """The second set of sources, M̃, and the field of the first at the atoms.

    charges (n,) e, dipoles (n, 3) e Å, fields (n, 3) V/Å: field of M without self terms.
    """

    charges: np.ndarray
    dipoles: np.ndarray
    fields: np.ndarray


class FieldSolver(Protocol):
    """What every electrostatics method provides; T is its interaction matrix without self terms.

    ``interactions`` returns per atom (n, 13): potential (V), field (3, V/Å), second derivatives of the potential (xx,
    xy, xz, yy, yz, zz, V/Å²) of M + M̃, and the force (3, eV/Å) on M in the field of M + M̃ plus on M̃ in that of M;
    and the strain gradient (3, 3) eV of ½ M·T·M + M̃·T·M at constant moments.
    """

    def set_atoms(self, positions: np.ndarray, cell: np.ndarray | None) -> None: ...

    def set_moments(self, charges: np.ndarray, dipoles: np.ndarray, quadrupoles: np.ndarray) -> None: ...

    def potentials_and_fields(self) -> tuple[np.ndarray, np.ndarray]: ...

    def interactions(self, response: Sources | None) -> tuple[np.ndarray, np.ndarray]: ...


def symmetric_matrices(six: np.ndarray) -> np.ndarray:
    """(…, 6) xx, xy, xz, yy, yz, zz → (…, 3, 3)."""
    return six[..., [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(*six.shape[:-1], 3, 3)


def six_components(matrices: np.ndarray) -> np.ndarray:
    """Symmetric part of (…, 3, 3): (…, 6) xx, xy, xz, yy, yz, zz."""
    m = 0.5 * (matrices + np.swapaxes(matrices, -1, -2))
    return m.reshape(*m.shape[:-2], 9)[..., [0, 1, 2, 4, 5, 8]]
