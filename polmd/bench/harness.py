"""The harness: runs cases one after the other and makes rows of them."""

from __future__ import annotations

import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from polmd.bench.cases import Case, Cases, Structures, model_path
from polmd.bench.peers import measure_peer
from polmd.bench.timing import NotHere, Timing, kernel_clock, measure
from polmd.device import choose, describe
from polmd.device import cpu_name as device
from polmd.model.file import Model, load_model
from polmd.system import System


@dataclass
class Row:
    """One line of the table.

    Attributes
    ----------
    case, measure, atoms : what was measured; the measures are explained in benchmarks/README.md
    program, version, settings, threads, device : who did it and how
    stage : part of the whole, or empty
    median_ms, fastest_ms, repeats : per call; NaN where nothing could be measured
    ratio : median over that of polmd in double precision on the largest number of threads of this row's kind
    memory_MiB : largest resident memory, where that was measured
    note : why a row has no numbers
    """

    case: str
    measure: str
    atoms: int
    program: str
    version: str
    settings: str
    threads: int
    device: str
    stage: str = ""
    median_ms: float = float("nan")
    fastest_ms: float = float("nan")
    repeats: int = 0
    ratio: float = float("nan")
    memory_MiB: float = float("nan")
    note: str = ""


def run_cases(cases: Cases, folder: Path, only: str | None = None, on: str = "cpu") -> Iterator[Row]:
    """Rows of every case (of those whose name contains ``only``), each case's as soon as it is done.

    folder : what paths of structures are relative to; on : the device, one of :data:`polmd.device.DEVICES`
    """
    structures, name = Structures(cases, folder), choose(on)
    for case in cases.case:
        if only is None or only in case.name:
            yield from _with_ratios(list(_run(case, structures) if name == "cpu" else _run_on(name, case, structures)))


def write_csv(rows: list[Row], path: Path) -> None:
    """Write rows with a header line."""
    names = [field.name for field in fields(Row)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        for row in rows:
            values = (getattr(row, name) for name in names)
            writer.writerow(["" if v != v else f"{v:.5g}" if isinstance(v, float) else v for v in values])


def _with_ratios(rows: list[Row]) -> list[Row]:
    """Peers that ran on one thread are compared with polmd on one thread, others with polmd on as many as they had."""
    for row in rows:
        same = [
            r for r in rows if r.program == "polmd" and r.settings.startswith("double") and r.stage == ""
            and r.threads == row.threads
        ]  # fmt: skip
        if same and row.stage == "":
            row.ratio = row.median_ms / same[0].median_ms
    return rows


def _run(case: Case, structures: Structures) -> Iterator[Row]:
    import numba

    file = model_path(case.model)
    if file is None:
        yield Row(
            case.name, case.measure, 0, "polmd", version("polmd"), "", 0, device(), note=f"{case.model} is not set"
        )
        return
    system, model = structures[case.structure], load_model_or_weights(file)
    if case.cutoff_A is None:
        case = case.model_copy(update={"cutoff_A": model.cutoff})

    def row(precision: str, threads: int, timing: Timing, stage: str = "") -> Row:
        settings = f"{precision}, {case.method}" if case.measure not in ("neighbors", "local") else precision
        if case.method in ("mesh", "auto") and case.measure not in ("neighbors", "local"):
            settings += f", tolerance {case.tolerance:g}"
        return Row(
            case.name, case.measure, len(system), "polmd", f"{version('polmd')} (numba {numba.__version__})", settings,
            threads, device(), stage, 1e3 * timing.median, 1e3 * timing.fastest, timing.repeats,
        )  # fmt: skip

    if case.measure in ("start", "memory"):
        for precision in case.precision:
            yield from _subprocess_rows(case, precision, system, row)
    else:
        most = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
        before = numba.get_num_threads()
        try:
            for precision in case.precision:
                for threads in [t for t in case.threads if t <= most]:
                    numba.set_num_threads(threads)
                    for stage, timing in _STAGES[case.measure](case, model, system, precision):
                        yield row(precision, threads, timing, stage)
        finally:
            numba.set_num_threads(before)
    for name in case.peers:
        try:
            number, found = measure_peer(name, case, system)
        except NotHere as reason:
            yield Row(case.name, case.measure, len(system), name, "", "", 0, device(), note=f"left out: {reason}")
            continue
        for m in found:
            if m.timing is None:
                note = f"left out: {m.settings}"
                yield Row(case.name, case.measure, len(system), name, number, "", 0, device(), note=note)
                continue
            yield Row(
                case.name, case.measure, len(system), name, number, m.settings, m.threads, device(), "",
                1e3 * m.timing.median, 1e3 * m.timing.fastest, m.timing.repeats,
            )  # fmt: skip


def _run_on(name: str, case: Case, structures: Structures) -> Iterator[Row]:
    """What is measured on a GPU: evaluations and steps, and every kernel beside the floor of benchmarks/README.md."""
    from polmd.cuda.timing import measure_on_device

    file = model_path(case.model)
    reason = f"{case.model} is not set" if file is None else ""
    if case.measure not in ("energy_forces", "nve"):
        reason = f"{case.measure} is not measured on a GPU"
    if case.method == "none":
        reason = "no electrostatics is not measured on a GPU"
    if reason or file is None:
        yield Row(case.name, case.measure, 0, "polmd", version("polmd"), "", 0, describe(name), note=reason)
        return
    system, model = structures[case.structure], load_model_or_weights(file)
    for precision in case.precision:
        for stage, timing, note in measure_on_device(case, model, system, precision):
            yield Row(
                case.name, case.measure, len(system), "polmd", version("polmd"), f"{precision}, {case.method}, {name}", 0,
                describe(name), stage, 1e3 * timing.median, 1e3 * timing.fastest, timing.repeats, note=note,
            )  # fmt: skip


def load_model_or_weights(file: str) -> Model:
    """A bundled model, a model file, or trained weights as .npz."""
    if file.endswith(".npz"):
        from polmd.model.importers.npz import read_npz

        return read_npz(Path(file))
    return load_model(file)


def _neighbors(case: Case, model: Model, system: System, precision: str) -> Iterator[tuple[str, Timing]]:
    from polmd.neighbors import build_pairs

    assert case.cutoff_A is not None
    cutoff = case.cutoff_A
    yield "", measure(lambda: build_pairs(system.positions, system.cell, system.pbc, cutoff), case.seconds)


def _local(case: Case, model: Model, system: System, precision: str) -> Iterator[tuple[str, Timing]]:
    from polmd.model.network import LocalNetwork, empty_multipoles
    from polmd.neighbors import build_pairs

    network = LocalNetwork(model, precision)
    types = np.array([model.elements.index(z) for z in system.numbers])
    pairs = build_pairs(system.positions, system.cell, system.pbc, model.cutoff + 1.0)
    seeds = empty_multipoles(len(system))
    for array in seeds:
        array[...] = 0.1

    def both() -> None:
        network.reverse(network.forward(system.positions, system.cell, types, pairs), seeds)

    yield "", measure(both, case.seconds)
    yield "forward", measure(lambda: network.forward(system.positions, system.cell, types, pairs), case.seconds)
    state = network.forward(system.positions, system.cell, types, pairs)
    yield "reverse", measure(lambda: network.reverse(state, seeds), case.seconds)


def _electrostatics(case: Case, model: Model, system: System, precision: str) -> Iterator[tuple[str, Timing]]:
    """The model's own moments and responses: energy, forces, strain and all gradients. A stage that takes no time says
    what force error the mesh had against the direct sum."""
    from polmd.electrostatics import compute
    from polmd.electrostatics.mesh import MeshSum
    from polmd.electrostatics.solvers import periodic_solver
    from polmd.potential import MultipolePotential

    result = MultipolePotential(model).compute(system)
    moments = {name: getattr(result, name) for name in model.header.predicts}
    settings = model.header.electrostatics
    options: dict[str, Any] = {"sigma": settings.sigma_A, "norm_factor": settings.norm_factor}

    def forces(method: str) -> np.ndarray:
        solver = periodic_solver(
            system.cell, len(system), dl=settings.dl_A, method=method, tolerance=case.tolerance, **options
        )
        if isinstance(solver, MeshSum):
            described.append(str(solver))
        call[:] = [lambda: compute(system.positions, system.cell, **moments, **options, solver=solver)]
        return call[0]().forces

    call: list[Callable] = []
    described: list[str] = []
    found = forces(case.method)
    yield "", measure(call[0], case.seconds)
    if described and len(system) < _MOST_DIRECT:
        exact = forces("direct")
        error = float(np.sqrt(np.sum((found - exact) ** 2) / np.sum(exact**2)))
        yield f"force error {error:.2g}, {described[0]}", Timing(np.nan, np.nan, 0)


#: Atoms up to which a mesh is compared with the direct sum.
_MOST_DIRECT = 20_000


def _energy_forces(case: Case, model: Model, system: System, precision: str) -> Iterator[tuple[str, Timing]]:
    from polmd.neighbors import VerletList
    from polmd.potential import MultipolePotential

    potential = MultipolePotential(model, precision=precision, method=case.method, tolerance=case.tolerance)

    def call() -> None:  # like the peers', without a list from before
        potential.neighbors = VerletList(model.cutoff, 0.0)
        potential.compute(system)

    yield "", measure(call, case.seconds)
    potential.neighbors = VerletList(model.cutoff, 1.0)
    yield "with the list of the step before", measure(lambda: potential.compute(system), case.seconds)


#: Steps of dynamics that are timed as one.
_BLOCK = 100


def _nve(case: Case, model: Model, system: System, precision: str) -> Iterator[tuple[str, Timing]]:
    """A step, then how it is made up. Steps are done a hundred at a time, since a run does thousands; a call of ``run`` has
    its own cost. What of these is outside kernels is a median, clocks around the kernels included. The time of every kernel,
    rebuilds of the list included, is that in steps done one by one."""
    from polmd.dynamics.integrators import VelocityVerlet
    from polmd.dynamics.simulation import Simulation
    from polmd.potential import MultipolePotential

    potential = MultipolePotential(model, precision=precision, method=case.method, tolerance=case.tolerance)
    simulation = Simulation(system, potential, VelocityVerlet(0.5), rng=1)
    if not system.velocities.any():
        simulation.draw_velocities(300)
    block = measure(lambda: simulation.run(_BLOCK), case.seconds)
    yield "", Timing(block.median / _BLOCK, block.fastest / _BLOCK, block.repeats)
    outside: list[float] = []
    end = time.perf_counter() + case.seconds
    while time.perf_counter() < end:
        with kernel_clock() as times:
            start = time.perf_counter()
            simulation.run(_BLOCK)
            whole = time.perf_counter() - start
        outside.append((whole - sum(times.seconds.values())) / _BLOCK)
    yield "outside kernels", Timing(statistics.median(outside), np.nan, len(outside) * _BLOCK)
    spent: dict[str, float] = defaultdict(float)
    end, steps = time.perf_counter() + case.seconds, 0
    while time.perf_counter() < end:
        with kernel_clock() as times:
            simulation.run(_BLOCK, on_step=lambda _: None)
        steps += _BLOCK
        for name, seconds in times.seconds.items():
            spent[name] += seconds
    for name, seconds in sorted(spent.items(), key=lambda item: -item[1]):
        yield name, Timing(seconds / steps, np.nan, steps)
    listed = sum(seconds for name, seconds in spent.items() if name.startswith("neighbors."))
    yield "neighbour list, all of it", Timing(listed / steps, np.nan, steps)


_STAGES: dict[str, Callable[[Case, Model, System, str], Iterator[tuple[str, Timing]]]] = {
    "neighbors": _neighbors,
    "local": _local,
    "electrostatics": _electrostatics,
    "energy_forces": _energy_forces,
    "nve": _nve,
}

_START = """
import sys, time
start = time.perf_counter()
from ase.io import read
import polmd
from polmd.dynamics.integrators import VelocityVerlet
from polmd.dynamics.simulation import Simulation
file, model, precision, method = sys.argv[1:]
potential = polmd.MultipolePotential(model, precision=precision, method=method)
simulation = Simulation(polmd.System.from_ase(read(file)), potential, VelocityVerlet(0.5), rng=1)
simulation.run(2)  # as many as take the compiled loop
print(time.perf_counter() - start)
"""

_LOCAL = """
import sys
from ase.io import read
import numpy as np
import polmd
from polmd.bench.harness import load_model_or_weights
from polmd.model.network import LocalNetwork, empty_multipoles
from polmd.neighbors import build_pairs
file, name, precision, _ = sys.argv[1:]
system, model = polmd.System.from_ase(read(file)), load_model_or_weights(name)
pairs = build_pairs(system.positions, system.cell, system.pbc, model.cutoff + 1.0)
network = LocalNetwork(model, precision)
types = np.array([model.elements.index(z) for z in system.numbers])
for _ in range(2):
    network.reverse(network.forward(system.positions, system.cell, types, pairs), empty_multipoles(len(types)))
"""

#: What both end with: the largest memory of the process itself, in KiB. What getrusage says is that of the parent where that
#: was larger.
_PEAK = """
from pathlib import Path
import resource
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
peak = [line.split()[1] for line in lines if line.startswith("VmHWM")]
print(peak[0] if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _subprocess_rows(case: Case, precision: str, system: System, row: Callable[..., Row]) -> Iterator[Row]:
    """What needs a process of its own: the first and a later start, the largest memory."""
    from ase.io import write

    with tempfile.TemporaryDirectory() as folder:
        file, cache = Path(folder) / "atoms.traj", Path(folder) / "cache"
        write(file, system.to_ase())
        whole = case.method != "none"
        script = (_START if whole else _LOCAL) + _PEAK
        command = [sys.executable, "-c", script, str(file), case.model, precision, case.method]

        def run(environment: dict[str, str]) -> tuple[float, float]:
            start = time.perf_counter()
            done = subprocess.run(
                command, env={**os.environ, **environment}, check=True, stdout=subprocess.PIPE, text=True
            )
            return time.perf_counter() - start, int(done.stdout.split()[-1]) / 1024

        threads = max(case.threads)
        environment = {"NUMBA_NUM_THREADS": str(threads)}
        if case.measure == "memory":
            run(environment)  # compiles what is not in the cache
            seconds, memory = run(environment)
            found = row(precision, threads, Timing(seconds, np.nan, 1), "whole" if whole else "local part and list")
            found.memory_MiB = memory
            yield found
            return
        environment["POLMD_CACHE_DIR"] = str(cache)
        for stage in ("first start, nothing compiled", "later start"):
            times = [run(environment)[0] for _ in range(1 if stage.startswith("first") else 3)]
            yield row(precision, threads, Timing(float(np.median(times)), min(times), len(times)), stage)
