"""Cost of Born charges and currents, as multiples of energy and forces of the same model on the same atoms, and of a
stream of currents by species in a run, in percent of the run without it (NVE, 0.5 fs).

64 water molecules, one thread by default (NUMBA_NUM_THREADS); the calls take turns, medians are compared. Models: the
bundled one, the same without κ, and without everything but charges.

    NUMBA_NUM_THREADS=1 python benchmarks/response.py
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numba
import numpy as np

import polmd
from polmd.born import Conventions
from polmd.dynamics.integrators import VelocityVerlet
from polmd.dynamics.simulation import Simulation
from polmd.structures import build_water

REPEATS = 301


def without(model: polmd.Model, *names: str) -> polmd.Model:
    """The model with fewer predictions."""
    header = model.header
    kept = [name for name in header.predicts if name not in names]
    arrays, architecture = dict(model.arrays), header.architecture
    if kept == ["charges"]:
        arrays = {k: v for k, v in arrays.items() if not k.startswith("tensor/")}
        architecture = architecture.model_copy(update={"tensor": None})
    return polmd.Model(header.model_copy(update={"predicts": kept, "architecture": architecture}), arrays, "benchmark")


def main() -> None:
    water = polmd.load_model("water")
    models = {
        "charges": without(water, "dipoles", "quadrupoles", "charge_responses", "polarizabilities"),
        "without κ": without(water, "charge_responses"),
        "full": water,
    }
    system = build_water(64)
    velocities = np.random.default_rng(0).normal(size=(len(system), 3))
    groups = (system.numbers == 8).astype(np.int64)
    conventions = Conventions()
    print(f"polmd {polmd.__version__}, {numba.get_num_threads()} threads, median of {REPEATS}, 64 H2O", file=sys.stderr)
    print("model,energy and forces (ms),J (ratio),J by species (ratio),Z* (ratio),J every 2 fs (%),J every 4 fs (%)")
    for name, model in models.items():
        potential = polmd.MultipolePotential(model)
        simulation = Simulation(system.copy(), polmd.MultipolePotential(model), VelocityVerlet(0.5), rng=1)
        simulation.draw_velocities(300)

        def response(potential: polmd.MultipolePotential = potential, **options: object) -> None:
            potential.compute(system)
            potential.response(system, conventions, **options)

        def step(simulation: Simulation = simulation, *, sample: bool) -> None:
            simulation.run(1)
            if sample:
                now = simulation.state.system
                simulation.potential.response(now, conventions, velocities=now.velocities, groups=groups)

        calls: list[Callable[[], object]] = [
            lambda potential=potential: potential.compute(system),
            lambda: response(velocities=velocities),
            lambda: response(velocities=velocities, groups=groups),
            lambda: response(born_charges=True),
            lambda: step(sample=False),
            lambda: step(sample=True),
        ]
        spent: list[list[float]] = [[] for _ in calls]
        for repeat in range(REPEATS + 2):
            for k, call in enumerate(calls):
                start = time.perf_counter()
                call()
                if repeat >= 2:
                    spent[k].append(time.perf_counter() - start)
        medians = [statistics.median(s) for s in spent]
        ratios = ",".join(f"{m / medians[0]:.2f}" for m in medians[1:4])
        sample = 100 * (medians[5] - medians[4]) / medians[4]
        print(f"{name},{1e3 * medians[0]:.2f},{ratios},{sample / 4:.0f},{sample / 8:.0f}")


if __name__ == "__main__":
    main()
