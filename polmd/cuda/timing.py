"""What ``polmd bench --device cuda`` measures: evaluations, steps, and every kernel beside its floor."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from polmd.bench.cases import Case
from polmd.bench.roofline import Sizes, counts, mesh_counts
from polmd.bench.timing import Timing, measure
from polmd.cuda.dynamics import _Resident, resident
from polmd.cuda.engine import Engine
from polmd.cuda.potential import CudaPotential
from polmd.dynamics.integrators import VelocityVerlet
from polmd.dynamics.simulation import Simulation
from polmd.kernels.cuda.compile import SIMULATED
from polmd.model.file import Model
from polmd.system import System

#: Steps of a measurement without the host, and repeats of a kernel on its own.
_STEPS, _REPEATS = (2, 1) if SIMULATED else (100, 50)
#: Whose speeds the floors are for.
_DEVICE = "H100"


def measure_on_device(case: Case, model: Model, system: System, precision: str) -> Iterator[tuple[str, Timing, str]]:
    """(stage, time, note) of an evaluation with results on the host, or of a step of constant-energy dynamics without,
    and of every kernel of it."""
    potential = CudaPotential(model, precision=precision, method=case.method, tolerance=case.tolerance)
    engine = potential.engine
    least, warm = (1, 1) if SIMULATED else (5, 3)
    if case.measure == "energy_forces":

        def call() -> None:
            potential.compute(system)

        yield "", measure(call, case.seconds, warm_up=warm, least=least), ""
    else:
        simulation = Simulation(system, potential, resident(VelocityVerlet(0.5)), rng=1)
        if not system.velocities.any():
            simulation.draw_velocities(300)
        spent = measure(lambda: simulation.run(_STEPS), case.seconds, warm_up=1, least=least)
        integrator = simulation.integrator
        assert isinstance(integrator, _Resident)
        note = f"{integrator.launches_per_step} launches a step, state fetched every {_STEPS} steps"
        yield "", Timing(spent.median / _STEPS, spent.fastest / _STEPS, spent.repeats * _STEPS), note
    floors = _floors(engine)
    total = 0.0
    for kernel, seconds in engine.queue.profile(engine.launch_forces, _REPEATS):
        total += seconds
        known = floors.get(kernel.name)
        note = ""
        if known:  # launches of one kernel come in the order of the counts
            floor = known.pop(0)
            note = f"floor {1e6 * floor:.3g} µs ({_DEVICE}), measured/floor {seconds / floor:.1f}"
        yield kernel.name, Timing(seconds, float("nan"), _REPEATS), note
    note = "" if engine.mesh is None else "without the transforms of the mesh"
    yield "all kernels of the forces", Timing(total, float("nan"), _REPEATS), note


def _floors(engine: Engine) -> dict[str, list[float]]:
    """Floors of the launches of every kernel for this model and system, s, on the device whose speeds are known."""
    s, number = engine.spec, engine.dtype.itemsize
    pairs, starts = engine.fetch_all([engine._counts, engine._starts])
    waves = len(engine.numbers.n) if engine.numbers is not None and engine.periodic else 0
    sizes = Sizes(
        engine.n, float(np.mean(starts[:, -1])), float(np.mean(pairs)), waves, s.nz, s.nr, s.nl, s.nc, s.nb, s.n_first,
        s.readouts, s.h0, s.h1, s.nh,
    )  # fmt: skip
    kernels = counts(sizes, number)
    if engine.mesh is not None:
        kernels = [c for c in kernels if not c.kernel.startswith("kspace")]
        kernels += mesh_counts(sizes, number, math.prod(engine.mesh))
    if not engine.responds:  # one sum, with the forces
        kernels = [c for c in kernels if not c.kernel.endswith((", induced", ", 10"))]
    found: dict[str, list[float]] = {}
    for count in kernels:
        found.setdefault(count.kernel.partition(",")[0], []).append(count.floor(_DEVICE, number == 8))
    return found
