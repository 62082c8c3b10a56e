"""Many steps of velocity Verlet in a compiled loop, bit for bit those of :class:`polmd.dynamics.integrators.VelocityVerlet`."""

from __future__ import annotations

from polmd.dynamics.state import Bounds, Compilable, State
from polmd.errors import PolmdError
from polmd.units import ACCELERATION


def verlet_steps(
    state: State,
    potential: Compilable,
    count: int,
    timestep_fs: float,
    bounds: Bounds,
    *,
    stress: bool,
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
    timestep_fs = float(timestep_fs)  # numbers of another type would compile the loop again
    limits = [float(bound) for bound in bounds]
    done, moved = 0, False
    while True:
        did, outcome = verlet(
            count - done, moved, found.positions, velocities, found.forces, system.masses, system.inverse_masses,
            timestep_fs, 0.5 * timestep_fs * ACCELERATION, *found.list_tolerance(), *limits, found.energies,
            *found.drivers,
        )  # fmt: skip
        done += did
        if outcome != STALE:
            break
        try:
            found.renew_list()
        except PolmdError:  # single steps will meet it again
            break
        moved = True
    if outcome != DONE:
        potential.restore(start)
        if done == 0:
            return 0
        # memory holds the failed step: do the good ones again, which do not fail, being the same bit for bit
        return verlet_steps(state, potential, done, timestep_fs, bounds, stress=False)
    found.count_steps(done)
    system.positions[:], system.velocities[:] = found.positions, velocities
    state.result = potential.result_of(system, found, stress=stress)
    return done
