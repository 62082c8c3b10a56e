"""The seam between the response and the solvers: a solver gives the fields of smeared multipoles, without self terms."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from polmd.kernels.layout import Multipoles


class Sources(NamedTuple):
    """The second set of sources, M̃: charges (n,) e, dipoles (n, 3) e Å."""

    charges: np.ndarray
    dipoles: np.ndarray


class FieldSolver(Protocol):
    """What every electrostatics method provides; T is its interaction matrix without self terms.

    ``derivatives`` returns per atom (n, 10 or more): potential (V), field (V/Å) and more of M.
    ``interactions`` returns per atom (n, 13): potential (V), field (3, V/Å), second derivatives of the potential (xx,
    xy, xz, yy, yz, zz, V/Å²) of M + M̃, and the force (3, eV/Å) on M in the field of M + M̃ plus on M̃ in that of M;
    and the strain gradient (3, 3) eV of ½ M·T·M + M̃·T·M at constant moments.

    ``source_fields`` returns for each of several M̃, charges (m, n) e and dipoles (m, n, 3) e Å, what M̃ adds to that,
    (m, n, 13): potential, field, second derivatives of M̃ alone, and the force −∂(M̃·T·M)/∂r at constant moments.
    ``dipole_rates`` returns d(M̃·T·M)/dt, (g, m) eV/fs, for several M̃ of constant dipoles (m, n, 3) and several motions, g
    velocities (g, n, 3) Å/fs and rates of M.
    """

    def set_atoms(self, positions: np.ndarray, cell: np.ndarray | None) -> None: ...

    def set_moments(self, charges: np.ndarray, dipoles: np.ndarray, quadrupoles: np.ndarray) -> None: ...

    def derivatives(self) -> np.ndarray: ...

    def interactions(self, response: Sources | None) -> tuple[np.ndarray, np.ndarray]: ...

    def source_fields(self, charges: np.ndarray, dipoles: np.ndarray) -> np.ndarray: ...

    def dipole_rates(self, dipoles: np.ndarray, velocities: np.ndarray, rates: Multipoles) -> np.ndarray: ...


def source_fields(solver: FieldSolver, charges: np.ndarray, dipoles: np.ndarray) -> np.ndarray:
    """``FieldSolver.source_fields`` by one pass of ``interactions`` for every M̃."""
    without, _ = solver.interactions(None)
    found = [solver.interactions(Sources(q, u))[0] - without for q, u in zip(charges, dipoles, strict=True)]
    return np.stack(found)[:, :, :13]


def dipole_rates(solver: FieldSolver, dipoles: np.ndarray, velocities: np.ndarray, rates: Multipoles) -> np.ndarray:
    """``FieldSolver.dipole_rates`` from the fields of every M̃."""
    fields = solver.source_fields(np.zeros(dipoles.shape[:2]), dipoles)
    return (
        np.einsum("mn,gn->gm", fields[:, :, 0], rates.charges)
        - np.einsum("mnc,gnc->gm", fields[:, :, 1:4], rates.dipoles)
        + 0.5 * np.einsum("mncd,gncd->gm", symmetric_matrices(fields[:, :, 4:10]), rates.quadrupoles)
        - np.einsum("mnc,gnc->gm", fields[:, :, 10:13], velocities)
    )


def symmetric_matrices(six: np.ndarray) -> np.ndarray:
    """(…, 6) xx, xy, xz, yy, yz, zz → (…, 3, 3)."""
    return six[..., [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(*six.shape[:-1], 3, 3)


def six_components(matrices: np.ndarray) -> np.ndarray:
    """Symmetric part of (…, 3, 3): (…, 6) xx, xy, xz, yy, yz, zz."""
    m = 0.5 * (matrices + np.swapaxes(matrices, -1, -2))
    return m.reshape(*m.shape[:-2], 9)[..., [0, 1, 2, 4, 5, 8]]
