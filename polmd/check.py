"""``polmd check``: everything a run does before its first step, and how fast it will be."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Iterator

import numpy as np

from polmd.config import Dynamics, RunConfig
from polmd.electrostatics.mesh import MeshSum
from polmd.output.directory import is_run_directory
from polmd.output.progress import duration
from polmd.run import describe, prepare

#: Evaluations whose median gives the expected speed.
_REPEATS = 7
#: Products of atoms and wave vectors up to which the mesh is compared with the direct sum.
_MOST_SUMS = 5e9


def check_run(config: RunConfig) -> Iterator[str]:
    """Lines of the report; raises what the run itself would raise. Nothing is written."""
    for number, (name, stage) in enumerate(zip(config.stage_names, config.stage, strict=True)):
        yield f"stage {number}: {name}, {stage.length} steps"
    if config.replicas > 1:
        yield f"replicas: {config.replicas}, one after another; --replica runs one of them"
    directory = config.output_directory
    if is_run_directory(directory):
        yield f"output: {directory} already holds a run (--resume continues it, --overwrite replaces it)"
    else:
        yield f"output: {directory}"
    prepared = prepare(config)
    yield from describe(prepared)
    for warning in prepared.warnings:
        yield f"warning: {warning}"

    system, potential = prepared.system, prepared.potential
    start = time.perf_counter()
    result = potential.compute(system, stress=True)
    first = time.perf_counter() - start
    yield f"energy: {result.energy:.8f} eV (long-range part {result.long_range_energy:.6f} eV)"
    norms = np.linalg.norm(result.forces, axis=1)
    worst = int(np.argmax(norms))
    yield f"largest force: {norms[worst]:.4f} eV/Å on atom {worst} (counted from 0)"
    limit = config.limits.max_force_eV_A
    if norms[worst] > limit and isinstance(config.stage[0], Dynamics):
        yield f"warning: beyond limits.max_force_eV_A = {limit:g}: the run would stop at once; minimise first"

    solver = potential.electrostatics_solver(system)
    if isinstance(solver, MeshSum):
        sums = len(system) * len(solver.numbers.n)
        if sums > _MOST_SUMS:
            yield f"force error of the mesh: not measured, the direct sum would take about {6e-9 * sums:.0f} s"
        else:
            error, tolerance = potential.mesh_error(system), config.electrostatics.tolerance
            yield f"force error of the mesh: {error:.2g} of the direct sum's forces (tolerance {tolerance:g})"
            if error > tolerance:
                yield "warning: beyond electrostatics.tolerance: lower it, and please report the system"

    spent = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        potential.compute(system)
        spent.append(time.perf_counter() - start)
    step = statistics.median(spent)
    timesteps = [stage.timestep_fs for stage in config.stage if isinstance(stage, Dynamics)]
    yield f"one energy and force evaluation: {1e3 * step:.2f} ms (the first, with compilation, {first:.1f} s)"
    if timesteps:
        yield f"expected speed: {min(timesteps) * 1e-6 * 86400 / step:.3g} ns/day at {min(timesteps):g} fs"
    total = config.replicas * sum(stage.length for stage in config.stage)
    yield f"expected duration: {duration(total * step)} for {total} steps"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    yield f"memory: {peak:.2f} GiB used so far"
    yield "ok"
