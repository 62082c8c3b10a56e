"""Many steps of velocity Verlet in a compiled loop, bit for bit those of :class:`polmd.dynamics.integrators.VelocityVerlet`."""

from __future__ import annotations

from polmd.dynamics.state import Compilable, State
from polmd.errors import PolmdError
from polmd.units import ACCELERATION


def verlet_steps(
    state: State,
    potential: Compilable,
    count: int,
    timestep_fs: float,
    *,
    stress: bool,
    max_force_eV_per_A: float,
    max_displacement_A: float,
) -> int:
    """Do ``count`` steps, fewer where one fails, and return how many: the state is then the last good one. Zero, with nothing
    changed, where the potential has no compiled evaluation or the first step fails."""
    found = potential.compiled(state.system)
    if found is None:
        return 0
    from polmd.kernels.cpu.verlet import DONE, STALE, verlet

    system, start = state.system, potential.state()
    velocities = system.velocities.copy()
    found.forces[:] = state.result.forces
    done, moved = 0, False
    while True:
        did, outcome = verlet(
            count - done, moved, found.positions, velocities, found.forces, system.inverse_masses, timestep_fs,
            0.5 * timestep_fs * ACCELERATION, *found.list_tolerance(), max_force_eV_per_A, max_displacement_A,
            found.drivers, found.energies,
        )  # fmt: skip
        done += did
        if outcome != STALE:
            break
        try:
            found.renew_list()
        except PolmdError:  # which step() will meet again
            break
        moved = True
    if outcome != DONE:  # memory holds the failed step: do the good ones again
        potential.restore(start)
        return 0 if done == 0 else verlet_steps(
            state, potential, done, timestep_fs, stress=False, max_force_eV_per_A=max_force_eV_per_A,
            max_displacement_A=max_displacement_A,
        )  # fmt: skip
    found.count_steps(done)
    system.positions[:], system.velocities[:] = found.positions, velocities
    state.result = potential.result_of(system, found, stress=stress)
    return done
