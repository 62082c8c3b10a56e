"""An evaluation of the potential that a compiled loop calls: network, direct sum and response, their arguments made once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polmd.electrostatics.ewald import NO_FIELDS, NO_SOURCES, DirectSum
from polmd.electrostatics.fields import Sources
from polmd.electrostatics.response import Polarizable, Polarized
from polmd.kernels.calls import NOTHING, NUMBER, PAIR, address
from polmd.kernels.cpu import direct, moments, network
from polmd.kernels.layout import Multipoles
from polmd.model.network import Forward, LocalNetwork
from polmd.neighbors import VerletList

#: What the loop calls, in the order of :class:`Drivers`, and what it returns.
_DRIVERS = (
    (network.forward, NUMBER),
    (direct.structure, NOTHING),
    (direct.derivatives, NOTHING),
    (moments.linear_response, PAIR),
    (direct.interactions, NOTHING),
    (moments.moment_energy, PAIR),
    (network.reverse, NOTHING),
)


class Drivers(NamedTuple):
    """The last arguments of :func:`polmd.kernels.cpu.verlet.verlet`, which says what they are."""

    addresses: np.ndarray
    forward: tuple
    structure: tuple
    derivatives: tuple
    linear_response: tuple
    interactions: tuple
    moment_energy: tuple
    reverse: tuple
    responds: bool
    constant: float
    long_range_strain: np.ndarray
    total_strain: np.ndarray


class CompiledEvaluation:
    """Energy and forces of atoms that :func:`polmd.kernels.cpu.verlet.verlet` moves.

    Attributes
    ----------
    positions : (n, 3) Å, where the next evaluation is; the loop writes them
    forces : (n, 3) eV/Å, of the last evaluation
    energies : (3,) eV, of the last evaluation: whole, network, electrostatics
    strain : (3, 3) eV, strain gradient of the last evaluation
    local, long_range, solver : what else the last evaluation left, of the network and of the electrostatics
    drivers : what the loop takes

    Parameters
    ----------
    network, local : the network, and its memory for these atoms and their list
    solver, moments, long_range : the direct sum with these atoms, the moments that the network writes, memory for what follows
    seeds : of the network's reverse pass
    constant : eV, that is added
    neighbors, pbc : the list, asked again when it is stale, and the boundaries (3,) it is for
    addresses : of the drivers, from an earlier evaluation of the same potential, whose arguments have the same types;
        None: they are looked up
    """

    def __init__(
        self,
        network: LocalNetwork,
        local: Forward,
        solver: DirectSum,
        moments: Polarizable,
        long_range: Polarized,
        seeds: Multipoles,
        constant: float,
        neighbors: VerletList,
        pbc: np.ndarray,
        addresses: np.ndarray | None = None,
    ) -> None:
        self.local, self.long_range, self.solver = local, long_range, solver
        self.positions, self.forces = local.positions, np.empty_like(local.positions)
        self.energies, self.strain = np.empty(3), np.empty((3, 3))
        self._network, self._seeds = network, seeds
        self._neighbors, self._pbc, self._renewals = neighbors, pbc, 0
        self.drivers = self._prepare(moments, constant, addresses)

    def _prepare(self, given: Polarizable, constant: float, addresses: np.ndarray | None) -> Drivers:
        """The arguments that the drivers have in :meth:`polmd.potential.MultipolePotential.compute` and
        :func:`polmd.electrostatics.response.polarize`."""
        q, u, m, kappa, alpha, external, scales = given
        found, solver = self.long_range, self.solver
        responds = len(kappa) > 0 or len(alpha) > 0
        structure = solver.structure_arguments(q, u, m)
        low = np.empty((len(q), 10))
        derivatives = solver.derivatives_arguments(low)
        if responds:
            solver.take_derivatives(low)
            sources = Sources(found.induced_charges, found.source_dipoles)
            interactions = solver.interactions_arguments(sources, low)
        else:
            interactions = solver.interactions_arguments(NO_SOURCES, NO_FIELDS)
            low = interactions[-2]
        fields, strain = interactions[-2:]
        forward, reverse = self._passes()
        linear_response = (low, q, u, kappa, alpha, external, scales, *found[:8])
        moment_energy = (q, u, m, fields, found.induced_charges, found.source_dipoles, scales, *found[8:])
        tuples = forward, structure, derivatives, linear_response, interactions, moment_energy, reverse
        if addresses is None:
            pairs = zip(_DRIVERS, tuples, strict=True)
            addresses = np.array([address(driver, arguments, returns) for (driver, returns), arguments in pairs])
        return Drivers(addresses, *tuples, responds, constant, strain, self.strain)

    def _passes(self) -> tuple[tuple, tuple]:
        """Arguments of the network's two passes over the present list."""
        added = self.long_range.forces
        return (
            self._network.forward_arguments(self.local),
            self._network.reverse_arguments(self.local, self._seeds, added, self.forces, self.strain),
        )

    def list_tolerance(self) -> tuple[np.ndarray, np.ndarray, float]:
        """How far the atoms may move: see :meth:`polmd.neighbors.VerletList.tolerance`."""
        return self._neighbors.tolerance(self.local.cell, self._pbc)

    def renew_list(self) -> None:
        """Ask for the list of the present positions."""
        self.local.pairs = self._neighbors.update(self.positions, self.local.cell, self._pbc)
        forward, reverse = self._passes()
        self.drivers = self.drivers._replace(forward=forward, reverse=reverse)  # types are those of before
        self._renewals += 1

    def count_steps(self, steps: int) -> None:
        """Count the steps that asked for the list and found it good."""
        self._neighbors.updates += steps - self._renewals
