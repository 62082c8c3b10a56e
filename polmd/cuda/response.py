"""Polarisation, Born charges, current and polarisability on a GPU: the formulas of :mod:`polmd.born`, whose docstring has
them, from adjoint passes and fields that the device computes.

The current takes adjoint passes too, three for the permanent dipoles and three for all: J = Σ Z*·v however many groups of
atoms it is split into.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from polmd.born import BornCharges, Conventions, Current, Polarization, Response
from polmd.cuda.engine import Engine
from polmd.electrostatics.fields import symmetric_matrices
from polmd.kernels.cuda import moments, network
from polmd.kernels.cuda.network import ALPHA, CHARGE, DIPOLE, KAPPA, N_PREDICTIONS, QUADRUPOLE
from polmd.system import System


@dataclass
class _ChargeParts:
    """Charge part of Z*, (n, 3, 3), with the true vectors and with the phases."""

    edge: np.ndarray
    phase: np.ndarray

    def chosen(self, conventions: Conventions) -> tuple[np.ndarray, np.ndarray]:
        """What the conventions ask for, and the other."""
        return (self.edge, self.phase) if conventions.displacement == "edge" else (self.phase, self.edge)


class DeviceResponse:
    """The response of the system that an engine has evaluated last."""

    def __init__(self, engine: Engine, system: System) -> None:
        self._engine, self._n = engine, len(system)
        self._positions, self._cell = system.positions.copy(), system.cell.copy() if system.periodic else None
        predictions, results, low = engine.fetch_all([engine.predictions, engine.results, engine.low])
        self._charges, self._kappa = predictions[:, CHARGE].copy(), predictions[:, KAPPA].copy()
        self._dipoles = predictions[:, DIPOLE : DIPOLE + 3].copy()
        self._alpha = predictions[:, ALPHA : ALPHA + 9].reshape(self._n, 3, 3).copy()
        self._potentials, self._fields = results[:, moments.PHI].copy(), results[:, 1:4].copy()
        self._low = low.copy()
        predicts = engine.predicts
        self._has_dipoles, self._has_kappa = "dipoles" in predicts, "charge_responses" in predicts
        self._has_alpha = "polarizabilities" in predicts

    def respond(
        self,
        conventions: Conventions,
        *,
        charges: bool = False,
        velocities: np.ndarray | None = None,
        groups: np.ndarray | None = None,
    ) -> Response:
        """See :func:`polmd.born.respond`."""
        parts = self._charge_parts() if charges or velocities is not None else None
        born = current = None
        if parts is not None and charges:
            born = self._born_charges(parts, conventions)
        if parts is not None and velocities is not None:
            current = self._current(parts, velocities, conventions, groups)
        return Response(self._net_charges, self.polarization(), self._alpha.sum(axis=0), born, current)

    def polarization(self) -> Polarization:
        """See :func:`polmd.born.polarization`."""
        q, induced = self._net_charges, np.einsum("nc,ncd->d", self._fields, self._alpha)
        if self._cell is None:
            return Polarization(q @ self._positions, self._dipoles.sum(axis=0), induced)
        phases = np.exp(2j * np.pi * (self._positions @ np.linalg.inv(self._cell)))
        return Polarization(q @ phases / (2j * np.pi), self._dipoles.sum(axis=0), induced)

    def field_forces(self, field: np.ndarray, conventions: Conventions) -> np.ndarray:
        """See :func:`polmd.born.field_forces`."""
        chosen, _ = self._charge_parts().chosen(conventions)
        forces = np.einsum("a,nab->nb", field, chosen) + self._dipole_gradients(field[None, :])[0]
        if conventions.acoustic_sum_rule:
            forces = forces - forces.mean(axis=0)
        return conventions.scale * forces

    @property
    def _net_charges(self) -> np.ndarray:
        q = self._charges - self._kappa * self._potentials
        return q - q.mean()

    def _born_charges(self, parts: _ChargeParts, conventions: Conventions) -> BornCharges:
        chosen, other = parts.chosen(conventions)
        dipole = self._dipole_gradients(np.eye(3)).transpose(1, 0, 2)
        total = (chosen + dipole).sum(axis=0)
        if conventions.acoustic_sum_rule:
            chosen, other, dipole = (z - z.mean(axis=0) for z in (chosen, other, dipole))
        s = conventions.scale
        return BornCharges(conventions, s * chosen, s * dipole, total, s * other)

    def _current(
        self, parts: _ChargeParts, velocities: np.ndarray, conventions: Conventions, groups: np.ndarray | None
    ) -> Current:
        groups = np.zeros(self._n, np.int64) if groups is None else groups
        count = int(groups.max(initial=0)) + 1
        motions = np.where((groups == np.arange(count)[:, None])[:, :, None], velocities, 0.0)
        chosen, other = parts.chosen(conventions)
        if conventions.acoustic_sum_rule:
            chosen, other = chosen - chosen.mean(axis=0), other - other.mean(axis=0)
        found = np.zeros((count, 3, 3))
        found[:, 0] = np.einsum("nab,gnb->ga", chosen, motions)
        if self._has_dipoles:
            found[:, 1] = np.einsum("anb,gnb->ga", self._dipole_gradients(np.eye(3), induced=False), motions)
        if self._has_alpha:
            found[:, 2] = np.einsum("anb,gnb->ga", self._dipole_gradients(np.eye(3)), motions) - found[:, 1]
        s = conventions.scale
        return Current(conventions, s * found, s * np.einsum("nab,gnb->ga", other, motions))

    def _charge_parts(self) -> _ChargeParts:
        n, cell = self._n, self._cell
        seeds = np.zeros((n, N_PREDICTIONS))
        seeds[:, CHARGE] = 1.0
        seeds[:, KAPPA] = -self._potentials
        gradient = self._engine.gradient(seeds)
        edge, phase = self._engine.edge_charges()
        common = self._net_charges[:, None, None] * np.eye(3)
        if cell is None:
            from_mean = self._positions - self._positions.mean(axis=0)
            common = common + from_mean[:, :, None] * gradient[:, None, :]
            if self._has_kappa:
                for a in range(3):
                    common[:, a] += self._source_gradient(-self._kappa * from_mean[:, a], None)
            return _ChargeParts(common + edge, common + edge)
        theta = 2.0 * np.pi * (self._positions @ np.linalg.inv(cell))
        sine, cosine = np.sin(theta), np.cos(theta)
        mean_sine, mean_cosine = sine.mean(axis=0), cosine.mean(axis=0)
        mean = (mean_sine * cosine - mean_cosine * sine) @ cell / (2.0 * np.pi)
        common = common - mean[:, :, None] * gradient[:, None, :]
        if self._has_kappa:
            for k in range(3):
                along_sine = self._source_gradient(-self._kappa * (sine[:, k] - mean_sine[k]), None)
                along_cosine = self._source_gradient(-self._kappa * (cosine[:, k] - mean_cosine[k]), None)
                g = cosine[:, k, None] * along_sine - sine[:, k, None] * along_cosine
                common += cell[k][None, :, None] * g[:, None, :] / (2.0 * np.pi)
        return _ChargeParts(common + edge, common + phase)

    def _dipole_gradients(self, directions: np.ndarray, induced: bool = True) -> np.ndarray:
        """∂(Σ_j (u_j + u_j^ind)·c)/∂r for each direction c of (m, 3), without the induced part on request: (m, n, 3)."""
        found = np.zeros((len(directions), self._n, 3))
        if not (self._has_dipoles or self._has_alpha):
            return found
        for k, c in enumerate(directions):
            seeds = np.zeros((self._n, N_PREDICTIONS))
            if self._has_dipoles:
                seeds[:, DIPOLE : DIPOLE + 3] = c
            if not (induced and self._has_alpha):
                found[k] = self._engine.gradient(seeds)
                continue
            seeds[:, ALPHA:] = (self._fields[:, :, None] * c).reshape(self._n, 9)
            found[k] = self._source_gradient(None, -self._alpha @ c, seeds)
        return found

    def _source_gradient(
        self, charges: np.ndarray | None, dipoles: np.ndarray | None, own: np.ndarray | None = None
    ) -> np.ndarray:
        """Total ∂/∂r (n, 3) of M̃·T M for fixed sources M̃, plus that of Σ own · predictions where given."""
        n, engine = self._n, self._engine
        q = np.zeros(n) if charges is None else charges
        u = np.zeros((n, 3)) if dipoles is None else dipoles
        out = engine.source_fields(q, u)
        self_charge, self_dipole, _ = engine.self_terms
        seeds = np.zeros((n, N_PREDICTIONS)) if own is None else own.copy()
        seeds[:, CHARGE] += out[:, 0] + 2.0 * self_charge * q
        seeds[:, DIPOLE : DIPOLE + 3] += 2.0 * self_dipole * u - out[:, 1:4]
        seeds[:, QUADRUPOLE : QUADRUPOLE + 9] += 0.5 * symmetric_matrices(out[:, 4:10]).reshape(n, 9)
        for name, column, width in _ABSENT:
            if name not in engine.predicts:
                seeds[:, column : column + width] = 0.0
        hessian = symmetric_matrices(self._low[:, 4:10])
        force = out[:, 10:13] + q[:, None] * self._low[:, 1:4] - np.einsum("nab,nb->na", hessian, u)
        return engine.gradient(seeds) - force


_ABSENT = (("dipoles", network.DIPOLE, 3), ("quadrupoles", network.QUADRUPOLE, 9), ("charges", network.CHARGE, 1))
