"""Velocity Verlet with the whole evaluation in one driver: a step goes on without Python.

What is evaluated are the drivers of kernels/cpu/network.py, direct.py and moments.py, called by address, so that a
trajectory is bit for bit the same as with Python between them.
"""

import math

import numba
from polmd.kernels.calls import call, call_number, call_pair
from polmd.kernels.compile import kernel
from polmd.kernels.cpu.integrate import drift, kick, kinetic_energy, largest_norm
from polmd.kernels.cpu.neighbors import largest_displacements

#: Why :func:`verlet` came back: all steps done, a new neighbour list wanted, a step failed.
DONE, STALE, FAILED = range(3)


@numba.njit(error_model="numpy", nogil=True)
def _longest(forces, inverse_masses):
    """The longest force on an atom that moves; NaN when any component is NaN, also on a fixed atom."""
    largest = 0.0
    for i in range(forces.shape[0]):
        square = forces[i, 0] * forces[i, 0] + forces[i, 1] * forces[i, 1] + forces[i, 2] * forces[i, 2]
        if math.isnan(square):
            return math.nan
        if inverse_masses[i] > 0.0 or math.isinf(square):
            largest = max(largest, square)
    return math.sqrt(largest)


@kernel()
def verlet(count, moved, positions, velocities, forces, masses, inverse_masses, timestep, half_kick, reference, strain,
           allowed, most_force, most_displacement, most_kinetic, energies, addresses, forward, structure, derivatives,
           linear_response, interactions, moment_energy, reverse, responds, constant, long_range_strain,
           total_strain):  # fmt: skip
    """Up to ``count`` steps of velocity Verlet.

    name                         shape    dtype    unit   in/out
    count                        ()       int64           in
    moved                        ()       bool            in, the first step has been kicked and moved: its list was stale
    positions                    (n, 3)   float64  Å      in/out, those that the drivers read
    velocities                   (n, 3)   float64  Å/fs   in/out
    forces                       (n, 3)   float64  eV/Å   in/out, those that ``reverse`` writes
    masses, inverse_masses       (n,)     float64  amu, … in
    timestep, half_kick          ()       float64  fs, …  in, as in drift and kick of kernels/cpu/integrate.py
    reference, strain            (n, 3), (3, 3)    Å, 1   in, as in neighbors.largest_displacements
    allowed                      ()       float64  Å      in, of the two largest displacements: beyond, the list is stale
    most_force                   ()       float64  eV/Å   in, a step with a longer force on an atom that moves,
    most_displacement            ()       float64  Å      in, a longer move per step,
    most_kinetic                 ()       float64  …      in, more kinetic energy (amu Å²/fs²), or not finite, has failed
    energies                     (3,)     float64  eV     out, of the last step: whole, network, electrostatics
    addresses                    (7,)     int64           in, of the drivers that take the following tuples, in this order
    forward, structure, derivatives, linear_response,     in, arguments of the drivers of these names; ``derivatives`` is
    interactions, moment_energy, reverse                  called only where the model
    responds                     ()       bool            in, has κ or α
    constant                     ()       float64  eV     in, atomic energies
    long_range_strain            (3, 3)   float64  eV     in, where ``interactions`` writes the strain gradient
    total_strain                 (3, 3)   float64  eV     out, where ``reverse`` adds to it
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
        # the order of MultipolePotential.compute and electrostatics.response.polarize
        local = call_number(addresses[0], forward)
        call(addresses[1], structure)
        if responds:
            call(addresses[2], derivatives)
        else:
            call(addresses[4], interactions)
        energy, cross = call_pair(addresses[3], linear_response)
        if responds:
            call(addresses[4], interactions)
        both, own = call_pair(addresses[5], moment_energy)
        for c in range(3):
            for d in range(3):
                total_strain[c, d] = long_range_strain[c, d]
        call(addresses[6], reverse)
        long_range = 0.5 * (both - cross) + energy + own
        energies[0], energies[1], energies[2] = local + constant + long_range, local, long_range
        kick(velocities, forces, inverse_masses, half_kick)
        if not (
            math.isfinite(energies[0])
            and _longest(forces, inverse_masses) <= most_force
            and timestep * largest_norm(velocities) <= most_displacement
            and kinetic_energy(velocities, masses) <= most_kinetic
        ):
            return step, FAILED
    return count, DONE
