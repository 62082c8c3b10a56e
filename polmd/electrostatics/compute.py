"""Energy, forces, strain gradient and all moment gradients of polarizable Gaussian multipoles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polmd.electrostatics.fields import FieldSolver
from polmd.electrostatics.open import OpenPairs
from polmd.electrostatics.response import NO_MATRICES, NO_NUMBERS, Polarizable, polarize
from polmd.electrostatics.solvers import METHODS, periodic_solver
from polmd.errors import InputError

SMEARINGS = ("gaussian", "point")


@dataclass(slots=True)
class ElectrostaticsResult:
    """What :func:`compute` returns. Quantities that were not asked for by their inputs are None.

    Attributes
    ----------
    energy : eV
    forces : (n, 3) eV/Å at constant moments
    strain_gradient : (3, 3) eV, dE/dε for r → r(1 + ε), cell → cell(1 + ε) at constant moments, not symmetrised
    potentials, fields : (n,) V and (n, 3) V/Å of the permanent moments, self terms included or removed as asked
    induced_charges, induced_dipoles : (n,) e with charge_responses, (n, 3) e Å with polarizabilities
    gradients : dE/d(input) for charges (n,), dipoles (n, 3), quadrupoles (n, 3, 3) with nine independent components,
        charge_responses (n,), polarizabilities (shape of the input), field (3,), as far as given
    """

    energy: float
    forces: np.ndarray
    strain_gradient: np.ndarray
    potentials: np.ndarray
    fields: np.ndarray
    induced_charges: np.ndarray | None
    induced_dipoles: np.ndarray | None
    gradients: dict[str, np.ndarray]


def compute(
    positions: np.ndarray,
    cell: np.ndarray | None,
    charges: np.ndarray,
    dipoles: np.ndarray | None = None,
    quadrupoles: np.ndarray | None = None,
    charge_responses: np.ndarray | None = None,
    polarizabilities: np.ndarray | None = None,
    *,
    sigma: float = 1.0,
    dl: float = 2.0,
    norm_factor: float = 90.4756,
    remove_self_interaction: bool = True,
    field: np.ndarray | None = None,
    method: str = "direct",
    smearing: str = "gaussian",
    tolerance: float = 1e-5,
    splitting: float | None = None,
    solver: FieldSolver | None = None,
) -> ElectrostaticsResult:
    """Long-range energy of multipoles with one linear-response step, and all its gradients.

    Parameters
    ----------
    positions : (n, 3) Å, anywhere
    cell : (3, 3) Å, rows are lattice vectors, any handedness; None for open boundaries
    charges : (n,) e
    dipoles : (n, 3) e Å
    quadrupoles : (n, 3, 3) e Å², primitive second moments Σ q x x, symmetric or not, with or without trace
    charge_responses : κ (n,) e/V
    polarizabilities : α (n,) or (n, 3, 3) e Å²/V; α_cd takes field component c to dipole component d
    sigma : smearing, Å; two charges interact as erf(r/(σ√2))/r
    dl : the reciprocal sum runs over |k| ≤ 2π/dl, Å
    norm_factor : 1/(2 ε0), eV Å/e²
    remove_self_interaction : remove the self terms of periodic boundaries; when false, add them in open boundaries
    field : external field (3,) V/Å as published: it enters the induced dipoles only, so the energy is not an enthalpy
    method : periodic boundaries: "direct", the sum over the wave vectors, exact; "mesh", the same with a particle mesh;
        "auto", the faster of the two by measured costs
    smearing : "gaussian", or "point": multipoles without width by a converged Ewald sum (or the bare pair sum in open
        boundaries); sigma and dl have no meaning then, and no self interaction exists
    tolerance : of the mesh, root mean square force error relative to the direct sum (of point multipoles: to the exact one)
    splitting : of point multipoles, width in Å of the Gaussians that divide the sum; None: the fastest. No result depends
        on it
    solver : what :func:`polmd.electrostatics.solvers.periodic_solver` made for this cell, used again: a run keeps it, and
        with it the integer set of the sum and the mesh while its cell changes. dl, method, tolerance and splitting are
        not read then; sigma, norm_factor and smearing must be those of the solver

    Returns
    -------
    ElectrostaticsResult

    Raises
    ------
    InputError
        for arrays of the wrong shape, values that are not finite, a singular cell, or a sum that would not fit in memory

    Notes
    -----
    Kim et al., arXiv 2605.05746. Periodic: E0 = (NF/V) Σ_k e^(−σ²k²/2)/k² |S(k)|², k = 0 omitted. Gradients take two
    passes over the fields, whatever their number; with the mesh they are exact derivatives of the energy of the mesh.
    """
    n = len(np.asarray(positions))
    r = _array("positions", positions, (n, 3))
    q = _array("charges", charges, (n,))
    u = _array("dipoles", dipoles, (n, 3)) if dipoles is not None else np.zeros((n, 3))
    m = _array("quadrupoles", quadrupoles, (n, 3, 3)) if quadrupoles is not None else np.zeros((n, 3, 3))
    kappa = _array("charge_responses", charge_responses, (n,)) if charge_responses is not None else None
    external = _array("field", field, (3,)) if field is not None else np.zeros(3)
    alpha = None
    isotropic = polarizabilities is not None and np.ndim(polarizabilities) == 1
    if polarizabilities is not None:
        alpha = _array("polarizabilities", polarizabilities, (n,) if isotropic else (n, 3, 3))
        if isotropic:
            alpha = alpha[:, None, None] * np.eye(3)
    for name, value in (("sigma", sigma), ("dl", dl), ("norm_factor", norm_factor)):
        if not (np.isfinite(value) and value > 0):
            raise InputError(f"{name} must be a positive number, not {value!r}")
    for name, choice, known in (("method", method, METHODS), ("smearing", smearing, SMEARINGS)):
        if choice not in known:
            raise InputError(f"{name} {choice!r} is not known; choose from {', '.join(map(repr, known))}")
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance must lie between 0 and 1, not {tolerance!r}")
    point = smearing == "point"
    if point and not remove_self_interaction:
        raise InputError("a point multipole's interaction with itself is infinite: it cannot be kept")

    if cell is None:
        c = None
        if method == "mesh":
            raise InputError("method 'mesh' needs a cell: in open boundaries all pairs are summed")
        if solver is None:
            solver = OpenPairs(None if point else sigma, norm_factor)
    else:
        c = _array("cell", cell, (3, 3))
        if abs(np.linalg.det(c)) < 1e-9 * np.prod(np.linalg.norm(c, axis=1)) or not c.any():
            raise InputError(
                "the cell is singular: its three vectors lie in a plane; use cell=None for open boundaries"
            )
        if solver is None:
            rank = 2 if quadrupoles is not None else 1 if dipoles is not None or alpha is not None else 0
            solver = periodic_solver(
                c, n, sigma=None if point else sigma, dl=dl, norm_factor=norm_factor, method=method,
                tolerance=tolerance, rank=rank, splitting=splitting,
            )  # fmt: skip
    scales = np.zeros(3) if point else self_terms(sigma, norm_factor, c is not None, remove_self_interaction)
    solver.set_atoms(r, c)
    given = Polarizable(
        q, u, m, NO_NUMBERS if kappa is None else kappa, NO_MATRICES if alpha is None else alpha, external, scales
    )
    energy, strain, found = polarize(solver, given)
    gradients = {"charges": found.charge_gradient}
    for name, asked, gradient in (
        ("dipoles", dipoles, found.dipole_gradient),
        ("quadrupoles", quadrupoles, found.quadrupole_gradient),
        ("field", field, found.field_gradient),
        ("charge_responses", charge_responses, found.kappa_gradient),
        ("polarizabilities", polarizabilities, found.alpha_gradient),
    ):
        if asked is not None:
            gradients[name] = gradient
    if isotropic:
        gradients["polarizabilities"] = np.einsum("ncc->n", found.alpha_gradient)
    return ElectrostaticsResult(
        energy=energy,
        forces=found.forces,
        strain_gradient=strain,
        potentials=found.potentials,
        fields=found.fields,
        induced_charges=None if kappa is None else found.induced_charges,
        induced_dipoles=None if alpha is None else found.induced_dipoles,
        gradients=gradients,
    )


def self_terms(sigma: float, norm_factor: float, periodic: bool, removed: bool) -> np.ndarray:
    """Factors (3,) of the self terms, E_self = s_q q² + s_u u² + s_Q Q:Q, that are added to what a solver gives: periodic
    sums have them and lose them where they are ``removed``; pair sums do not have them and get them where they are not."""
    sign = (-1.0 if removed else 0.0) if periodic else (0.0 if removed else 1.0)
    scale = sign * norm_factor / (2 * np.pi) ** 1.5
    return np.array([scale / sigma, scale / (3 * sigma**3), scale / (10 * sigma**5)])


def _array(name: str, value: object, shape: tuple[int, ...]) -> np.ndarray:
    array = np.ascontiguousarray(value, dtype=np.float64)
    if array.shape != shape:
        raise InputError(f"{name} has shape {array.shape}, expected {shape}")
    finite = np.isfinite(array)
    if not finite.all():
        raise InputError(f"{name}{tuple(np.argwhere(~finite)[0].tolist())} is not finite")
    return array
