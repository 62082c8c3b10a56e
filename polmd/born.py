"""Electrical response: polarisation, Born effective charges, current, polarisability, force in a uniform field.

With s = r·cell⁻¹ and q̃ = q + q^ind less its mean, the polarisation of a periodic cell is, per lattice direction k,
P_k = Σ_j q̃_j e^(2πi s_jk)/(2πi), and Z*_i,ab = Σ_k cell[k,a] Re[e^(−2πi s_ik) ∂P_k/∂r_ib] + ∂(Σ_j (u_j + u_j^ind)_a)/∂r_ib:
the published definition, ``displacement="phase"`` (Kim et al., arXiv 2605.05746). It displaces charge that moves with
atom i by D_ij = Σ_k cell_k sin(2π(s_jk − s_ik))/2π, which depends on the size of the box. ``displacement="edge"``
replaces D_ij by the true vector wherever there is one: for the local charges, whose derivatives live on the edges of
the neighbour list. The non-local part, −κ_j ∂φ_j/∂r_i, and the removal of the mean keep the phase. In open boundaries
P = Σ q̃ r + Σ (u + u^ind) and both are the same.

All derivatives are total, through the network and the response. Adjoint passes: local charges one, non-local charges
six (three in open boundaries), dipoles three; for a current the dipoles take one pass of forward differentiation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np

from polmd.electrostatics.fields import FieldSolver, Sources, symmetric_matrices
from polmd.errors import InputError
from polmd.kernels.layout import Multipoles

Displacement = Literal["edge", "phase"]


@dataclass(frozen=True)
class Conventions:
    """What Born charges and currents are computed with; printed on every result.

    Attributes
    ----------
    displacement : "edge" (true vectors along the edges of the neighbour list) or "phase" (as published)
    acoustic_sum_rule : subtract the mean of Z* over the atoms, so that they sum to zero
    scale : factor of Z*, and so of currents and forces in a field
    """

    displacement: Displacement = "edge"
    acoustic_sum_rule: bool = True
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.displacement not in get_args(Displacement):
            raise InputError(f"displacement = {self.displacement!r} is not known; choose 'edge' or 'phase'")
        if not (np.isfinite(self.scale) and self.scale > 0):
            raise InputError(f"born_charge_scale = {self.scale!r}: it must be a positive number")

    def __str__(self) -> str:
        rule = "subtracted" if self.acoustic_sum_rule else "kept"
        return f"displacement {self.displacement}, mean of Z* {rule}, scale {self.scale:.6g}"


@dataclass(frozen=True)
class BornCharges:
    """Born effective charges Z*_i,ab = ∂P_a/∂r_ib, e.

    Attributes
    ----------
    conventions : what they were computed with
    charge_part, dipole_part : (n, 3, 3) e, of the charges q̃ and of the dipoles u + u^ind
    sum : (3, 3) e, Σ_i Z*_i before the acoustic sum rule and the scale: how far it is broken
    other_charge_part : (n, 3, 3) e, charge part with the other displacement, the rest alike
    """

    conventions: Conventions
    charge_part: np.ndarray
    dipole_part: np.ndarray
    sum: np.ndarray
    other_charge_part: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """Z*, (n, 3, 3) e."""
        return self.charge_part + self.dipole_part

    def __str__(self) -> str:
        largest = np.abs(self.sum).max()
        return f"Born charges: {self.conventions}; largest component of their sum before that {largest:.3g} e"


@dataclass(frozen=True)
class Current:
    """J_a = Σ_i Z*_i,ab v_b, e Å/fs, by group of moving atoms and by what carries it.

    Attributes
    ----------
    conventions : what it was computed with
    parts : (groups, 3, 3), per group the part of the charges q̃, of the permanent and of the induced dipoles
    other_charge : (groups, 3), the charges' part with the other displacement
    """

    conventions: Conventions
    parts: np.ndarray
    other_charge: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """J, (3,) e Å/fs."""
        return self.parts.sum(axis=(0, 1))

    def __str__(self) -> str:
        return f"current: {self.conventions}"


@dataclass(frozen=True)
class Polarization:
    """Dipole moment of the cell.

    Attributes
    ----------
    charge : open boundaries (3,) e Å, Σ q̃ r; periodic (3,) complex, P_k in e per lattice direction
    permanent, induced : (3,) e Å, Σ u and Σ u^ind
    """

    charge: np.ndarray
    permanent: np.ndarray
    induced: np.ndarray


@dataclass(frozen=True)
class Response:
    """The electrical response of one configuration, as far as it was asked for.

    Attributes
    ----------
    charges : q̃ = q + q^ind less its mean, (n,) e
    polarization : dipole moment of the cell
    polarizability : Σ_i α_i, (3, 3) e Å²/V, not screened; zero when the model has none
    born : Born charges, or None
    current : J of the given velocities, or None
    """

    charges: np.ndarray
    polarization: Polarization
    polarizability: np.ndarray
    born: BornCharges | None = None
    current: Current | None = None


class LocalDerivatives(Protocol):
    """Derivatives of the local network at one configuration."""

    def gradients(self, seeds: Sequence[Multipoles]) -> np.ndarray:
        """∂L/∂r, (len(seeds), n, 3), of each L = Σ seeds · predictions."""
        ...

    def edge_charges(self, seeds: Multipoles) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Σ_j d_ij,a ∂L_j/∂r_ib with d along the edge and with the phase, (n, 3, 3) each (the latter zero in open
        boundaries), and ∂L/∂r (n, 3)."""
        ...

    def rates(self, velocities: np.ndarray) -> Multipoles:
        """d(predictions)/dt for velocities (n, 3)."""
        ...


@dataclass
class Electrostatics:
    """Charges, response and solver of one configuration: what the electrical response is made from.

    Attributes
    ----------
    positions : (n, 3) Å
    cell : (3, 3) Å, or None in open boundaries
    solver : with the permanent moments set
    self_charge, self_dipole : factors of the self terms: φ += 2 self_charge q, F −= 2 self_dipole u
    moments : predictions of the local network, absent ones zero
    dipoles, kappa, alpha : whether the model predicts them
    potentials, fields : (n,) V, (n, 3) V/Å of the permanent moments, self terms included
    """

    positions: np.ndarray
    cell: np.ndarray | None
    solver: FieldSolver
    self_charge: float
    self_dipole: float
    moments: Multipoles
    dipoles: bool
    kappa: bool
    alpha: bool
    potentials: np.ndarray
    fields: np.ndarray

    @property
    def charges(self) -> np.ndarray:
        """q̃ = q + q^ind less its mean, (n,) e."""
        q = self.moments.charges - self.moments.charge_responses * self.potentials
        return q - q.mean()

    @property
    def induced_dipoles(self) -> np.ndarray:
        """u^ind, (n, 3) e Å."""
        return np.einsum("nc,ncd->nd", self.fields, self.moments.polarizabilities)


def respond(
    e: Electrostatics,
    local: LocalDerivatives,
    conventions: Conventions,
    *,
    charges: bool = False,
    velocities: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> Response:
    """The response that is cheap, and on request Born ``charges`` and the current of ``velocities``."""
    return Response(
        charges=e.charges,
        polarization=polarization(e),
        polarizability=e.moments.polarizabilities.sum(axis=0),
        born=born_charges(e, local, conventions) if charges else None,
        current=None if velocities is None else current(e, local, velocities, conventions, groups),
    )


def polarization(e: Electrostatics) -> Polarization:
    """Dipole moment of the cell, its charge part per lattice direction in periodic boundaries (see the module)."""
    if e.cell is None:
        charge = e.charges @ e.positions
    else:
        charge = e.charges @ np.exp(2j * np.pi * (e.positions @ np.linalg.inv(e.cell))) / (2j * np.pi)
    return Polarization(charge, e.moments.dipoles.sum(axis=0), e.induced_dipoles.sum(axis=0))


def born_charges(e: Electrostatics, local: LocalDerivatives, conventions: Conventions) -> BornCharges:
    """Born effective charges of all atoms."""
    parts = _charge_parts(e, local)
    chosen, other = _both(parts, conventions)
    dipole = _dipole_gradients(e, local, np.eye(3)).transpose(1, 0, 2)
    total = (chosen + dipole).sum(axis=0)
    if conventions.acoustic_sum_rule:
        chosen, other, dipole = (z - z.mean(axis=0) for z in (chosen, other, dipole))
    s = conventions.scale
    return BornCharges(conventions, s * chosen, s * dipole, total, s * other)


def current(
    e: Electrostatics,
    local: LocalDerivatives,
    velocities: np.ndarray,
    conventions: Conventions,
    groups: np.ndarray | None = None,
) -> Current:
    """Current of atoms that move with ``velocities`` (n, 3) Å/fs; ``groups`` (n,) numbers the groups of atoms, from 0,
    that it is split into.

    The acoustic sum rule needs no more: the dipoles are unchanged when all atoms move together, so that only the
    charge part has a mean.
    """
    n = len(velocities)
    groups = np.zeros(n, dtype=np.int64) if groups is None else groups
    parts = np.zeros((int(groups.max(initial=0)) + 1, 3, 3))
    other_charge = np.zeros((len(parts), 3))
    chosen, other = _both(_charge_parts(e, local), conventions)
    if conventions.acoustic_sum_rule:
        chosen, other = chosen - chosen.mean(axis=0), other - other.mean(axis=0)
    fields = _dipole_sources(e, np.eye(3)) if e.alpha else []
    for group in range(len(parts)):
        v = np.where((groups == group)[:, None], velocities, 0.0)
        parts[group, 0] = np.einsum("nab,nb->a", chosen, v)
        other_charge[group] = np.einsum("nab,nb->a", other, v)
        if not (e.alpha or e.dipoles):
            continue
        rates = local.rates(v)
        parts[group, 1] = rates.dipoles.sum(axis=0)
        if e.alpha:
            parts[group, 2] = np.einsum("nc,nca->a", e.fields, rates.polarizabilities)
            parts[group, 2] += [_rate(f, rates, v) for f in fields]
    s = conventions.scale
    return Current(conventions, s * parts, s * other_charge)


def field_forces(e: Electrostatics, local: LocalDerivatives, field: np.ndarray, conventions: Conventions) -> np.ndarray:
    """Z*ᵀ E, the force on every atom in a uniform field E (3,) V/Å to first order in E: (n, 3) eV/Å."""
    chosen, _ = _both(_charge_parts(e, local, field), conventions)
    forces = np.einsum("a,nab->nb", field, chosen) + _dipole_gradients(e, local, field[None, :])[0]
    if conventions.acoustic_sum_rule:
        forces = forces - forces.mean(axis=0)
    return conventions.scale * forces


def susceptibility(polarizabilities: np.ndarray, volume: float, norm_factor: float) -> float:
    """χ = Σ_i tr α_i/(3 V ε0) of a cell, α (n, 3, 3) e Å²/V."""
    return float(np.einsum("ncc->", polarizabilities)) * 2.0 * norm_factor / (3.0 * volume)


def screening_scale(epsilon_infinity: float, chi: float = 0.0) -> float:
    """The factor of Z* that the authors use on request: √ε∞, or √(ε∞/(1 + χ)) for a model with its own α."""
    return float(np.sqrt(epsilon_infinity / (1.0 + chi)))


# ------------------------------------------------------------------------------------------------------------- inside


@dataclass
class _ChargeParts:
    """Charge part of Z*, (n, 3, 3): what both displacements share, and the local charges with each."""

    common: np.ndarray
    edge: np.ndarray
    phase: np.ndarray


def _both(parts: _ChargeParts, conventions: Conventions) -> tuple[np.ndarray, np.ndarray]:
    edge, phase = parts.common + parts.edge, parts.common + parts.phase
    return (edge, phase) if conventions.displacement == "edge" else (phase, edge)


def _charge_parts(e: Electrostatics, local: LocalDerivatives, only: np.ndarray | None = None) -> _ChargeParts:
    """Charge part of Z*; with ``only`` (3,) right at least in its contraction with that direction."""
    n = len(e.positions)
    seeds = _zeros(n)
    seeds.charges[:] = 1.0
    if e.kappa:
        seeds.charge_responses[:] = -e.potentials
    edge, phase, gradient = local.edge_charges(seeds)
    common = e.charges[:, None, None] * np.eye(3)
    if e.cell is None:
        from_mean = e.positions - e.positions.mean(axis=0)
        common += from_mean[:, :, None] * gradient[:, None, :]
        if e.kappa:
            rows = [a for a in range(3) if only is None or only[a] != 0.0]
            weights = [(-e.moments.charge_responses * from_mean[:, a], None) for a in rows]
            common[:, rows] += _source_gradients(e, local, weights).transpose(1, 0, 2)
        return _ChargeParts(common, edge, edge)

    theta = 2.0 * np.pi * (e.positions @ np.linalg.inv(e.cell))
    sine, cosine = np.sin(theta), np.cos(theta)
    mean_sine, mean_cosine = sine.mean(axis=0), cosine.mean(axis=0)
    mean = (mean_sine * cosine - mean_cosine * sine) @ e.cell / (2.0 * np.pi)  # ⟨D_i⟩
    common -= mean[:, :, None] * gradient[:, None, :]
    if e.kappa:
        axes = [k for k in range(3) if only is None or only @ e.cell[k] != 0.0]
        kappa = -e.moments.charge_responses
        weights = [(kappa * (sine[:, k] - mean_sine[k]), None) for k in axes]
        weights += [(kappa * (cosine[:, k] - mean_cosine[k]), None) for k in axes]
        gradients = _source_gradients(e, local, weights)
        for m, k in enumerate(axes):
            g = cosine[:, k, None] * gradients[m] - sine[:, k, None] * gradients[len(axes) + m]
            common += e.cell[k][None, :, None] * g[:, None, :] / (2.0 * np.pi)
    return _ChargeParts(common, edge, phase)


def _dipole_gradients(e: Electrostatics, local: LocalDerivatives, directions: np.ndarray) -> np.ndarray:
    """∂(Σ_j (u_j + u_j^ind)·c)/∂r for each direction c of (m, 3): (m, n, 3)."""
    n = len(e.positions)
    if not (e.alpha or e.dipoles):
        return np.zeros((len(directions), n, 3))
    own = []
    for c in directions:
        seeds = _zeros(n)
        seeds.dipoles[:] = c
        seeds.polarizabilities[:] = e.fields[:, :, None] * c
        own.append(seeds)
    if not e.alpha:
        return local.gradients(own)
    sources = [(None, -e.moments.polarizabilities @ c) for c in directions]
    return _source_gradients(e, local, sources, own)


def _dipole_sources(e: Electrostatics, directions: np.ndarray) -> list[_Field]:
    return _source_fields(e, [(None, -e.moments.polarizabilities @ c) for c in directions])


@dataclass
class _Field:
    """Derivatives of M̃·T M for fixed sources M̃: with respect to the moments M, and to the positions at fixed M."""

    moments: Multipoles
    gradient: np.ndarray


_Source = tuple[np.ndarray | None, np.ndarray | None]


def _source_fields(e: Electrostatics, sources: Sequence[_Source]) -> list[_Field]:
    """T M̃ and the gradient of M̃·T M for sources M̃ = (charges (n,) or None, dipoles (n, 3) or None)."""
    n = len(e.positions)
    bare = e.fields + 2.0 * e.self_dipole * e.moments.dipoles
    without, _ = e.solver.interactions(None)
    found = []
    for charges, dipoles in sources:
        q = np.zeros(n) if charges is None else charges
        u = np.zeros((n, 3)) if dipoles is None else dipoles
        out = e.solver.interactions(Sources(q, u, bare))[0] - without
        moments = _zeros(n)
        moments.charges[:] = out[:, 0] + 2.0 * e.self_charge * q
        moments.dipoles[:] = -out[:, 1:4] + 2.0 * e.self_dipole * u
        moments.quadrupoles[:] = 0.5 * symmetric_matrices(out[:, 4:10])
        found.append(_Field(moments, -out[:, 10:13]))
    return found


def _source_gradients(
    e: Electrostatics, local: LocalDerivatives, sources: Sequence[_Source], own: Sequence[Multipoles] = ()
) -> np.ndarray:
    """Total ∂/∂r of M̃·T M for fixed sources, plus that of Σ own · predictions where given: (len(sources), n, 3)."""
    fields = _source_fields(e, sources)
    seeds = [f.moments for f in fields]
    for seed, extra in zip(seeds, own, strict=False):
        seed.dipoles[:] += extra.dipoles
        seed.polarizabilities[:] = extra.polarizabilities
    return local.gradients(seeds) + np.stack([f.gradient for f in fields])


def _rate(field: _Field, rates: Multipoles, velocities: np.ndarray) -> float:
    """d(M̃·T M)/dt for fixed sources."""
    return float(
        np.sum(field.moments.charges * rates.charges)
        + np.sum(field.moments.dipoles * rates.dipoles)
        + np.sum(field.moments.quadrupoles * rates.quadrupoles)
        + np.sum(field.gradient * velocities)
    )


def _zeros(n: int) -> Multipoles:
    return Multipoles(np.zeros(n), np.zeros(n), np.zeros((n, 3)), np.zeros((n, 3, 3)), np.zeros(n), np.zeros((n, 3, 3)))
