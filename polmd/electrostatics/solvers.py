"""Which solver a periodic system gets, and what it costs."""

from __future__ import annotations

import math

import numpy as np

from polmd.electrostatics.ewald import DirectSum, wave_numbers
from polmd.electrostatics.mesh import MeshSum, choose_shape
from polmd.electrostatics.point import PointSum

METHODS = ("direct", "mesh", "auto")

# Measured on two cores (benchmarks/README.md), in units of the direct sum's time for one atom and one wave vector: what
# the mesh takes whatever the system, for an atom, and for a point of the mesh.
_MESH_START, _MESH_ATOM, _MESH_POINT = 150_000.0, 800.0, 6.0


def periodic_solver(
    cell: np.ndarray,
    n_atoms: int,
    *,
    sigma: float | None = 1.0,
    dl: float = 2.0,
    norm_factor: float = 90.4756,
    method: str = "auto",
    tolerance: float = 1e-5,
    rank: int = 2,
    splitting: float | None = None,
) -> DirectSum | MeshSum | PointSum:
    """The solver for a cell. It keeps the integer set of the sum, and the mesh, of this cell for every later one.

    Parameters
    ----------
    cell (3, 3) Å; n_atoms; sigma Å, or None for point multipoles; dl Å, norm_factor eV Å/e², method, tolerance and
    splitting as in :func:`polmd.electrostatics.compute`; rank of the highest moments (0 charges, 1 dipoles, 2
    quadrupoles), which the error of a mesh depends on

    Raises
    ------
    InputError
        when the sum or the mesh would not fit in memory
    """
    if sigma is None:
        mesh = method == "mesh" or (method == "auto" and n_atoms > 2000)
        return PointSum(cell, n_atoms, norm_factor, mesh=mesh, tolerance=tolerance, splitting=splitting)
    if method == "direct":
        return DirectSum(sigma, norm_factor, wave_numbers(cell, dl))
    half_sphere = 2 * math.pi / 3 * abs(np.linalg.det(cell)) / dl**3
    direct_cost = n_atoms * half_sphere
    if method == "auto" and direct_cost < _MESH_START + _MESH_ATOM * n_atoms:
        return DirectSum(sigma, norm_factor, wave_numbers(cell, dl))
    numbers = wave_numbers(cell, dl)
    shape = choose_shape(cell, numbers, sigma, tolerance, rank)
    if method == "auto" and direct_cost < _MESH_START + _MESH_ATOM * n_atoms + _MESH_POINT * math.prod(shape):
        return DirectSum(sigma, norm_factor, numbers)
    return MeshSum(sigma, norm_factor, numbers, shape)
