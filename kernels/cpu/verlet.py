"""Velocity Verlet with the whole evaluation in one driver: a step goes on without Python.

What is evaluated are the drivers of kernels/cpu/network.py, direct.py and moments.py, called by address, so that a
trajectory is bit for bit the same as with Python between them.
"""

import math
from typing import NamedTuple

import numba
import numpy as np
from polmd.kernels.calls import call, call_number, call_pair
from polmd.kernels.compile import kernel
from polmd.kernels.cpu.integrate import drift, kick, largest_norm
from polmd.kernels.cpu.neighbors import largest_displacements

#: Why :func:`verlet` came back: all steps done, a new neighbour list wanted, a step failed.
DONE, STALE, FAILED = range(3)

_helper = numba.njit(error_model="numpy", nogil=True)


class Evaluation(NamedTuple):
    """Drivers and their arguments: energy and forces of the network and the direct sum at positions that the loop moves."""

    addresses: np.ndarray  # (7,) int64, of the drivers that take the following, in this order
    forward: tuple  # kernels/cpu/network.py
    structure: tuple  # kernels/cpu/direct.py
    derivatives: tuple  # called where the model responds
    linear_response: tuple  # kernels/cpu/moments.py
    interactions: tuple
    moment_energy: tuple
    reverse: tuple
    responds: bool
    constant: float  # eV, atomic energies
    strain: np.ndarray  # (3, 3) eV, of the electrostatics, from interactions
    total_strain: np.ndarray  # (3, 3) eV, from reverse


@_helper
def _evaluate(e):
    """Energies of the network and of the electrostatics; the order of polmd.electrostatics.response.polarize."""
    at = e.addresses
    local = call_number(at[0], e.forward)
    call(at[1], e.structure)
    if e.responds:
        call(at[2], e.derivatives)
    else:
        call(at[4], e.interactions)
    energy, cross = call_pair(at[3], e.linear_response)
    if e.responds:
        call(at[4], e.interactions)
    both, own = call_pair(at[5], e.moment_energy)
    e.total_strain[:] = e.strain
    call(at[6], e.reverse)
    return local, 0.5 * (both - cross) + energy + own


@kernel()
def verlet(count, moved, positions, velocities, forces, inverse_masses, timestep, half_kick, reference, strain, allowed,
           most_force, most_displacement, evaluation, energies):  # fmt: skip
    """Up to ``count`` steps of velocity Verlet.

    name                         shape    dtype    unit   in/out
    count                        ()       int64           in
    moved                        ()       bool            in, the first step has been kicked and moved: its list was stale
    positions                    (n, 3)   float64  Å      in/out, those that the evaluation reads
    velocities                   (n, 3)   float64  Å/fs   in/out
    forces                       (n, 3)   float64  eV/Å   in/out, those that the evaluation writes
    inverse_masses               (n,)     float64  1/amu  in
    timestep, half_kick          ()       float64  fs, …  in, as in drift and kick of kernels/cpu/integrate.py
    reference, strain            (n, 3), (3, 3)    Å, 1   in, as in neighbors.largest_displacements
    allowed                      ()       float64  Å      in, of the two largest displacements: beyond, the list is stale
    most_force                   ()       float64  eV/Å   in, a step with a longer force, or
    most_displacement            ()       float64  Å      in, a longer move per step, or not finite, has failed
    evaluation                   Evaluation               in
    energies                     (3,)     float64  eV     out, of the last step: whole, network, electrostatics
    returned                     two      int64           steps done; DONE, STALE or FAILED, which say how the next one went
    """
    for step in range(count):
        if step > 0 or not moved:
            kick(velocities, forces, inverse_masses, half_kick)
            drift(positions, velocities, timestep)
            largest, second, bad = largest_displacements(positions, reference, strain)
            if bad >= 0:
                return step, FAILED
            if not largest + second <= allowed:
                return step, STALE
        local, long_range = _evaluate(evaluation)
        energies[0], energies[1], energies[2] = local + evaluation.constant + long_range, local, long_range
        kick(velocities, forces, inverse_masses, half_kick)
        if not (
            math.isfinite(energies[0])
            and largest_norm(forces) <= most_force
            and timestep * largest_norm(velocities) <= most_displacement
        ):
            return step, FAILED
    return count, DONE
