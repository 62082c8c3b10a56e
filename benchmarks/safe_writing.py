"""What safe writing costs: the share of a run that goes into frames, rows, log lines, checkpoints and the snapshot of the
last good step.

    python benchmarks/safe_writing.py [directory]

64 molecules of water, 0.5 fs, NVE; trajectory, thermo and log every 20 steps, a checkpoint every 500. Time inside the
writers is counted on the run itself, so that both sides of the ratio come from the same steps; a run without any output
alternates with it as a check. The files are made with the first report, once: 6 000 steps, so that this does not count as a
cost of every step (over 1 000 steps the same run reads 2.4 to 2.7 %, on a busy disk more, instead of 2.1 %).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import polmd
from polmd.dynamics.integrators import Langevin, VelocityVerlet
from polmd.dynamics.simulation import Simulation, _Snapshot
from polmd.output import LogReporter, RunDirectory, RunLog, ThermoReporter, TrajectoryReporter, write_checkpoint
from polmd.structures import build_water

EVERY, CHECKPOINT, BLOCK, BLOCKS = 20, 500, 100, 60


def main() -> None:
    parent = Path(sys.argv[1]) if len(sys.argv) > 1 else Path.cwd()
    start = Simulation(build_water(64), polmd.MultipolePotential("water"), Langevin(0.5, 300.0, 20.0), rng=1)
    start.minimize(0.5, 100)
    start.draw_velocities(300.0)
    start.run(50)
    with tempfile.TemporaryDirectory(dir=parent) as name:
        with RunDirectory.create(Path(name) / "run") as directory:
            spent = measure(start.state.system, directory)
    written, bare, inside = spent["written"], spent["bare"], spent["inside"]
    total = sum(written)
    print(
        f"bare {1e3 * statistics.median(bare) / BLOCK:.3f} ms/step, "
        f"written {1e3 * statistics.median(written) / BLOCK:.3f} ms/step"
    )
    for what, seconds in inside.items():
        print(f"{what}: {100 * seconds / (total - sum(inside.values())):.2f} % of the steps")
    print(f"safe writing: {100 * sum(inside.values()) / (total - sum(inside.values())):.2f} %")


def measure(system: polmd.System, directory: RunDirectory) -> dict:
    inside = {"reports": 0.0, "checkpoints": 0.0, "snapshots": 0.0}

    def timed(what, function):
        def call(*arguments):
            begin = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                inside[what] += time.perf_counter() - begin

        return call

    log = RunLog(directory.log)
    reporters = [
        TrajectoryReporter(directory.path, system, every=EVERY),
        ThermoReporter(directory.thermo, every=EVERY),
        LogReporter(log, every=EVERY, total_steps=BLOCK * BLOCKS),
    ]
    bare = Simulation(system, polmd.MultipolePotential("water"), VelocityVerlet(0.5))
    written = Simulation(
        system,
        polmd.MultipolePotential("water"),
        VelocityVerlet(0.5),
        reporters=reporters,
        pressure=True,
        pause_every=CHECKPOINT,
    )
    written._report = timed("reports", written._report)

    def save(current: Simulation) -> None:
        if current.state.step % CHECKPOINT == 0:
            write_checkpoint(directory.checkpoint, current.checkpoint_content())

    spent: dict = {"bare": [], "written": [], "inside": inside}
    bare.run(10)
    with written:
        written.run(0)
        written._good.take = timed("snapshots", written._good.take)
        assert isinstance(written._good, _Snapshot)
        for _ in range(BLOCKS):
            for kind, simulation, hook in (("bare", bare, None), ("written", written, timed("checkpoints", save))):
                begin = time.perf_counter()
                simulation.run(BLOCK, on_step=hook)
                spent[kind].append(time.perf_counter() - begin)
    return spent


if __name__ == "__main__":
    main()
