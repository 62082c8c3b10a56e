"""Electrical response: polarisation, Born effective charges, current, polarisability, force in a uniform field.

With s = r·cell⁻¹ and q̃ = q + q^ind less its mean, the polarisation of a periodic cell is, per lattice direction k,
P_k = Σ_j q̃_j e^(2πi s_jk)/(2πi), and Z*_i,ab = Σ_k cell[k,a] Re[e^(−2πi s_ik) ∂P_k/∂r_ib] + ∂(Σ_j (u_j + u_j^ind)_a)/∂r_ib:
the published definition, ``displacement="phase"`` (Kim et al., arXiv 2605.05746). It displaces charge that moves with
atom i by D_ij = Σ_k cell_k sin(2π(s_jk − s_ik))/2π, which depends on the size of the box. ``displacement="edge"``
replaces D_ij by the true vector wherever there is one: for the local charges, whose derivatives live on the edges of
the neighbour list. The non-local part, −κ_j ∂φ_j/∂r_i, and the removal of the mean keep the phase. In open boundaries
P = Σ q̃ r + Σ (u + u^ind) and both are the same.

All derivatives are total, through the network and the response. Adjoint passes, all in one batch: local charges one,
non-local charges six (three in open boundaries), dipoles three; for a current the dipoles take one pass of forward
differentiation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, get_args

import numpy as np

from polmd.electrostatics.fields import FieldSolver, symmetric_matrices
from polmd.errors import InputError
from polmd.kernels.cpu import born as kernels
from polmd.kernels.layout import Multipoles

Displacement = Literal["edge", "phase"]

_NO_CELL = np.empty((0, 3))


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

    def gradients(self, seeds: Multipoles, angles: np.ndarray | None = None) -> np.ndarray:
        """∂L/∂r of every L = Σ seeds · predictions, one for each row of ``seeds`` (m, n), (m, n, 3), …: (m, n, 3).

        ``angles`` (n, 6), the sine and cosine of 2π s of every atom, zeros in open boundaries, ask for six rows more:
        Σ_j d_ij,a ∂L_j/∂r_i of the first L, a = x, y, z, with d along the edge, then the same with the phase (zero in open
        boundaries).
        """
        ...

    def rates(self, velocities: np.ndarray) -> Multipoles:
        """d(predictions)/dt for each of several velocities (g, n, 3): (g, n), (g, n, 3), …"""
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

    @cached_property
    def _state(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Angles, q̃, u^ind and sums, see :func:`polmd.kernels.cpu.born.electrical_state`."""
        m, n = self.moments, len(self.positions)
        out = np.empty((n, 6)), np.empty(n), np.empty((n, 3)), np.empty(21)
        kernels.electrical_state(
            self.positions, self.lattice, m.charges, m.dipoles, m.charge_responses, m.polarizabilities, self.potentials,
            self.fields, *out,
        )  # fmt: skip
        return out

    @property
    def lattice(self) -> np.ndarray:
        """The cell, (3, 3) Å, or (0, 3) in open boundaries."""
        return _NO_CELL if self.cell is None else self.cell

    @property
    def angles(self) -> np.ndarray:
        """Sine and cosine of 2π s, (n, 6); zeros in open boundaries."""
        return self._state[0]

    @property
    def charges(self) -> np.ndarray:
        """q̃ = q + q^ind less its mean, (n,) e."""
        return self._state[1]

    @property
    def induced_dipoles(self) -> np.ndarray:
        """u^ind, (n, 3) e Å."""
        return self._state[2]

    @property
    def polarization(self) -> Polarization:
        """Dipole moment of the cell, its charge part per lattice direction in periodic boundaries (see the module)."""
        sums = self._state[3]
        charge = sums[:3] if self.cell is None else (sums[:3] - 1j * sums[3:6]) / (2.0 * np.pi)
        return Polarization(charge, sums[6:9], sums[9:12])

    @property
    def polarizability(self) -> np.ndarray:
        """Σ_i α_i, (3, 3) e Å²/V."""
        return self._state[3][12:].reshape(3, 3)


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
        polarization=e.polarization,
        polarizability=e.polarizability,
        born=born_charges(e, local, conventions) if charges else None,
        current=None if velocities is None else current(e, local, velocities, conventions, groups),
    )


def born_charges(e: Electrostatics, local: LocalDerivatives, conventions: Conventions) -> BornCharges:
    """Born effective charges of all atoms."""
    (chosen, other), gradients = _gradients(e, local, np.eye(3), conventions)
    dipole = gradients.transpose(1, 0, 2)
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
    motions = velocities[None]
    if groups is not None and len(groups) and groups.max() > 0:
        motions = np.where((groups == np.arange(groups.max() + 1)[:, None])[:, :, None], velocities, 0.0)
    parts = np.zeros((len(motions), 3, 3))
    charge = _charge_sources(e)
    fields = _source_fields(e, charge.weights, np.empty((0, len(velocities), 3)))
    # kernels one after the other, arrays afterwards: in between the threads would fall asleep
    found = local.gradients(_charge_seeds(e, fields, charge), e.angles)
    if e.alpha or e.dipoles:
        rates = local.rates(motions)
        if e.alpha:
            sources = np.ascontiguousarray(-e.moments.polarizabilities.transpose(2, 0, 1))
            parts[:, 2] = e.solver.dipole_rates(sources, motions, rates)
        kernels.dipole_current(
            rates.dipoles, rates.polarizabilities, e.moments.polarizabilities, e.fields, e.self_dipole, parts
        )
    moved = np.empty((2, len(parts), 3))
    for charges, out in zip(_charge_parts(e, charge, fields, found, conventions), moved, strict=True):
        kernels.charge_current(charges, motions, conventions.acoustic_sum_rule, out)
    parts[:, 0] = moved[0]
    s = conventions.scale
    return Current(conventions, s * parts, s * moved[1])


def field_forces(e: Electrostatics, local: LocalDerivatives, field: np.ndarray, conventions: Conventions) -> np.ndarray:
    """Z*ᵀ E, the force on every atom in a uniform field E (3,) V/Å to first order in E: (n, 3) eV/Å."""
    (chosen, _), dipole = _gradients(e, local, field[None, :], conventions, only=field)
    forces = np.einsum("a,nab->nb", field, chosen) + dipole[0]
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
class _ChargeSources:
    """Sources κ_j × displacement, whose potentials the non-local charges come from.

    Attributes
    ----------
    axes : directions that are wanted, of the lattice or, in open boundaries, x, y, z; none without κ
    weights : (m, n) e/V or e Å/V: −κ sine then −κ cosine for all axes, −κ r in open boundaries, all less the mean
    """

    axes: list[int]
    weights: np.ndarray


def _charge_sources(e: Electrostatics, only: np.ndarray | None = None) -> _ChargeSources:
    """For all of Z*, or with ``only`` (3,) for its contraction with that direction."""
    if not e.kappa:
        return _ChargeSources([], np.empty((0, len(e.positions))))
    rows, displaced = (np.eye(3), e.positions) if e.cell is None else (e.cell, e.angles)
    axes = [k for k in range(3) if only is None or np.dot(only, rows[k]) != 0.0]
    columns = axes if e.cell is None else [*axes, *(3 + k for k in axes)]
    weights = (displaced.mean(axis=0) - displaced) * e.moments.charge_responses[:, None]
    return _ChargeSources(axes, np.ascontiguousarray(weights.T[columns]))


def _charge_seeds(e: Electrostatics, fields: _Fields, charge: _ChargeSources, more: int = 0) -> Multipoles:
    """Seeds of the local charges, of the non-local ones, and ``more`` of zeros."""
    n, count = len(e.positions), len(charge.weights)
    seeds = _zeros(1 + count + more, n)
    seeds.charges[0] = 1.0
    if e.kappa:
        seeds.charge_responses[0] = -e.potentials
    for mine, found in zip(seeds[1:4], fields.moments[1:4], strict=True):
        mine[1 : 1 + count] = found[:count]
    return seeds


def _charge_parts(
    e: Electrostatics, charge: _ChargeSources, fields: _Fields, found: np.ndarray, conventions: Conventions
) -> tuple[np.ndarray, np.ndarray]:
    """Charge part of Z* (n, 3, 3), with the displacement that was chosen and with the other, from what the adjoint passes
    found: local charges, non-local ones, …, the six rows of the edges."""
    n = len(e.positions)
    edge, phase = np.empty((n, 3, 3)), np.empty((n, 3, 3))
    kernels.charge_parts(
        e.positions,
        e.lattice,
        e.angles,
        e.charges,
        np.array(charge.axes, np.int64),
        found,
        fields.gradient,
        edge,
        phase,
    )
    return (edge, phase) if conventions.displacement == "edge" else (phase, edge)


def _gradients(
    e: Electrostatics,
    local: LocalDerivatives,
    directions: np.ndarray,
    conventions: Conventions,
    only: np.ndarray | None = None,
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Charge part of Z* as chosen and with the other displacement, with ``only`` (3,) right at least in its contraction
    with that direction, and ∂(Σ_j (u_j + u_j^ind)·c)/∂r for each direction c of (m, 3), (m, n, 3)."""
    charge = _charge_sources(e, only)
    fields = _source_fields(e, charge.weights, _dipole_sources(e, directions))
    count, wanted = len(charge.weights), len(directions) if e.alpha or e.dipoles else 0
    seeds = _charge_seeds(e, fields, charge, wanted)
    if wanted:
        seeds.dipoles[1 + count :] = directions[:, None, :]
        seeds.polarizabilities[1 + count :] = e.fields[None, :, :, None] * directions[:, None, None, :]
    if e.alpha:
        for mine, source in zip(seeds[1:4], fields.moments[1:4], strict=True):
            mine[1 + count :] += source[count:]
    found = local.gradients(seeds, e.angles)
    dipole = np.zeros((len(directions), len(e.positions), 3))
    if wanted:
        dipole[:] = found[1 + count : 1 + count + wanted]
    if e.alpha:
        dipole += fields.gradient[count:]
    return _charge_parts(e, charge, fields, found, conventions), dipole


def _dipole_sources(e: Electrostatics, directions: np.ndarray) -> np.ndarray:
    """−α c for each direction c of (m, 3), (m, n, 3); none without α."""
    if not e.alpha:
        return np.zeros((0, len(e.positions), 3))
    return -np.einsum("ncd,md->mnc", e.moments.polarizabilities, directions)


@dataclass
class _Fields:
    """Derivatives of M̃·T M for several fixed sources M̃: with respect to the moments M, (m, n), (m, n, 3), …, and to the
    positions at fixed M, (m, n, 3)."""

    moments: Multipoles
    gradient: np.ndarray


def _source_fields(e: Electrostatics, charges: np.ndarray, dipoles: np.ndarray) -> _Fields:
    """T M̃ and the gradient of M̃·T M for sources M̃: first ``charges`` (m, n) alone, then ``dipoles`` (d, n, 3) alone."""
    count, n = len(charges), len(e.positions)
    moments = _zeros(count + len(dipoles), n)
    if count + len(dipoles) == 0:
        return _Fields(moments, np.empty((0, n, 3)))
    q, u = np.zeros(moments.charges.shape), np.zeros(moments.dipoles.shape)
    q[:count], u[count:] = charges, dipoles
    out = e.solver.source_fields(q, u)
    moments.charges[:] = out[:, :, 0] + 2.0 * e.self_charge * q
    moments.dipoles[:] = 2.0 * e.self_dipole * u - out[:, :, 1:4]
    moments.quadrupoles[:] = 0.5 * symmetric_matrices(out[:, :, 4:10])
    return _Fields(moments, -out[:, :, 10:13])


def _zeros(m: int, n: int) -> Multipoles:
    scalar, vector, matrix = (m, n), (m, n, 3), (m, n, 3, 3)
    return Multipoles(
        np.zeros(scalar), np.zeros(scalar), np.zeros(vector), np.zeros(matrix), np.zeros(scalar), np.zeros(matrix)
    )
