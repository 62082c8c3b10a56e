"""SIGKILL at random times over all writers, and at every single call that writes.

    python tests/faults/kills.py random 500
    python tests/faults/kills.py calls 1
    python tests/faults/kills.py export

A program of its own: it forks runs, so that none has to start Python again, which needs a threading layer that survives
a fork. Each run tells through a pipe what it has reported, after the reporters have returned; what was told must be on
disk. Raises AssertionError, or prints what was survived.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["NUMBA_THREADING_LAYER"] = "workqueue"
os.environ["NUMBA_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import h5py
from ase.io import read
from running import command, digests

from polmd.config import load_config
from polmd.dynamics.simulation import Simulation
from polmd.output import Trajectory, read_checkpoint, verify
from polmd.output.export import export
from polmd.run import Runner

#: Everything is written at every step or so: most of the time goes into writing.
INPUT = """
seed = 9
[structure.water]
molecules = 2
periodic = false
[output]
trajectory_every = 1
thermo_every = 1
checkpoint_every = 3
log_every = 1
segment_frames = 5
store_forces = true
[[stage]]
kind = "minimize"
max_steps = 10
max_force_eV_A = 0.01
[[stage]]
kind = "nvt"
steps = 60
temperature_K = 200.0
thermostat = "bussi"
[[stage]]
kind = "nve"
steps = 60
"""


def _reference(folder: Path, steps: int) -> tuple[Path, Path]:
    """The input, with so many steps in its stages of dynamics, and its uninterrupted run."""
    (folder / "in.toml").write_text(INPUT.replace("steps = 60", f"steps = {steps}"))
    code, output = command("run", folder / "in.toml", "--out", folder / "whole")
    assert code == 0, output
    return folder / "in.toml", folder / "whole"


def _forked(action: Callable[[], None]) -> int:
    """Run ``action`` in a child process that never comes back here; its process number."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for fd in (0, 1, 2):
                os.dup2(null, fd)
            action()
            code = 0
        finally:
            os._exit(code)
    return pid


def _run(path: Path, out: Path, told: int) -> None:
    """Start or resume; one number per step is told once all its reports have returned."""
    config, _ = load_config(path, out)
    report = Simulation._report

    def telling(self: Simulation, state) -> None:
        report(self, state)
        os.write(told, struct.pack("<q", state.step))

    Simulation._report = telling
    runner = Runner(config)
    if (out / "checkpoint.polmd").exists() or (out / "checkpoint.polmd.prev").exists():
        runner.resume()
    else:
        runner.start(overwrite=True)


def _steps_told(fd: int) -> list[int]:
    data = b""
    while chunk := os.read(fd, 65536):
        data += chunk
    return [step for (step,) in struct.iter_unpack("<q", data[: len(data) // 8 * 8])]


def _frames(run: Path) -> dict[int, bytes]:
    return {f.step: f.positions.tobytes() + f.velocities.tobytes() + f.forces.tobytes() for f in Trajectory(run)}


def _check(run: Path, whole: dict[int, bytes], rows: list[str], told: list[int]) -> None:
    """What was reported is there and is what the uninterrupted run has; every file opens; nothing is damaged."""
    if told:
        frames = _frames(run)
        assert set(told) <= set(frames), f"reported {max(told)}, on disk {max(frames, default=None)}"
        assert all(whole[step] == frames[step] for step in frames)
        lines = (run / "thermo.csv").read_text().splitlines()
        on_disk = [line for line in lines[1:] if line.count(",") == rows[0].count(",")]
        assert len(on_disk) > max(told) and on_disk[: max(told) + 1] == rows[1 : max(told) + 2]
    for path in run.glob("trajectory*.h5"):
        with h5py.File(path, "r", locking=False) as file:
            assert file["particles/trajectory/position/value"].shape[1:] == (6, 3)
    if (run / "polmd-run.json").exists():
        (verdict,) = verify(run)
        assert verdict.ok, "\n".join(verdict.lines())


def kill_at_random(folder: Path, kills: int, seed: int = 1) -> str:
    """Kill ``kills`` times at random, resuming in between; every finished run must be the uninterrupted one."""
    path, whole_run = _reference(folder, 60)
    whole, rows, expected = _frames(whole_run), (whole_run / "thermo.csv").read_text().splitlines(), digests(whole_run)
    chance = random.Random(seed)
    begin = time.monotonic()
    get, put = os.pipe()
    _, status = os.waitpid(_forked(lambda: _run(path, folder / "timed", put)), 0)
    duration = time.monotonic() - begin
    assert status == 0 and digests(folder / "timed") == expected
    os.close(put)
    os.close(get)
    done = finished = early = number = 0
    out = folder / "run0"
    while done < kills:
        get, put = os.pipe()
        pid = _forked(lambda out=out, put=put: _run(path, out, put))
        os.close(put)
        time.sleep(chance.uniform(0.0, 0.7 * duration))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        told = _steps_told(get)
        os.close(get)
        if os.WIFSIGNALED(status):
            done += 1
            early += not told
            if out.exists():
                _check(out, whole, rows, told)
            continue
        assert os.WEXITSTATUS(status) == 0
        assert digests(out) == expected
        finished += 1
        number += 1
        out = folder / f"run{number}"
    if any((out / name).exists() for name in ("checkpoint.polmd", "checkpoint.polmd.prev")):
        assert command("run", path, "--out", out, "--resume")[0] == 0
        assert digests(out) == expected
        finished += 1
    assert early < 0.8 * kills, "hardly any run lived to its first report"
    return f"{done} kills at random times ({early} before the first report), {finished} runs resumed to their end, bit for bit"


# ---- every call that writes ---------------------------------------------------------------------------------------------

_CALLS = ("open", "write", "pwrite", "fsync", "replace", "unlink", "ftruncate")


class _Bomb:
    """Counts calls of the functions of ``os`` that change files; at the ``at``-th the process dies, before or after it
    (``half``: a write puts only half of its bytes first)."""

    def __init__(self, at: int, moment: str) -> None:
        self.at, self.moment, self.count = at, moment, 0

    def __enter__(self) -> _Bomb:
        self.originals = {name: getattr(os, name) for name in _CALLS}
        for name, original in self.originals.items():
            setattr(os, name, self._wrapped(name, original))
        return self

    def __exit__(self, *_: object) -> None:
        for name, original in self.originals.items():
            setattr(os, name, original)

    def _wrapped(self, name: str, original: Callable) -> Callable:
        def call(*arguments, **options):
            if name == "open" and not arguments[1] & (os.O_CREAT | os.O_TRUNC):
                return original(*arguments, **options)
            self.count += 1
            if self.count == self.at:
                if self.moment == "half" and name in ("write", "pwrite"):
                    fd, data, *rest = arguments
                    original(fd, bytes(data)[: len(data) // 2], *rest)
                elif self.moment == "after":
                    original(*arguments, **options)
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return call


def _points(count: int, parts: int) -> Iterator[tuple[int, str]]:
    for at in range(1, count + 1, parts):
        yield from ((at, moment) for moment in ("before", "half", "after"))


def kill_at_calls(folder: Path, every: int) -> str:
    """From step 11 on, with two checkpoints and the end of a segment, killed at each ``every``-th call that writes,
    before, in the middle and after; the checkpoint or the one before it is always whole."""
    path, whole_run = _reference(folder, 8)
    whole, rows, expected = _frames(whole_run), (whole_run / "thermo.csv").read_text().splitlines(), digests(whole_run)
    step = Simulation._step

    def bombed(out: Path, at: int, moment: str, count: int | None) -> None:
        bomb = _Bomb(at, moment)

        def counting(self: Simulation, state) -> None:
            step(self, state)
            if state.step == 11:
                bomb.__enter__()
            if state.step == 18:
                bomb.__exit__()
                if count is not None:
                    os.write(count, struct.pack("<q", bomb.count))
                os.kill(os.getpid(), signal.SIGKILL)

        Simulation._step = counting
        config, _ = load_config(path, out)
        Runner(config).start(overwrite=True)

    get, put = os.pipe()
    os.waitpid(_forked(lambda: bombed(folder / "count", -1, "before", put)), 0)
    os.close(put)
    (calls,) = _steps_told(get)
    assert calls > 50
    tried = 0
    for at, moment in _points(calls, every):
        out = folder / f"run{at}-{moment}"
        _, status = os.waitpid(_forked(lambda out=out, at=at, moment=moment: bombed(out, at, moment, None)), 0)
        assert os.WIFSIGNALED(status)
        step_of_checkpoint = read_checkpoint(out / "checkpoint.polmd").content["simulation"]["step"]
        assert 9 <= step_of_checkpoint <= 18
        _check(out, whole, rows, list(range(11)))
        assert command("run", path, "--out", out, "--resume")[0] == 0
        assert digests(out) == expected, (at, moment)
        tried += 1
    return f"{tried} kills before, within and after {len(range(0, calls, every))} of {calls} calls that write"


def kill_exports(folder: Path) -> str:
    """The file that was there stays until the new one is whole; what is left behind does not matter."""
    _, whole_run = _reference(folder, 60)
    for suffix in (".h5", ".extxyz"):
        _kill_exports(whole_run, folder / f"all{suffix}", suffix)
    return "export: 12 kills, the old file or the new one, whole"


def _kill_exports(whole_run: Path, target: Path, suffix: str) -> None:
    export(whole_run, target, every=40)
    old = target.read_bytes()
    outcomes = set()
    for at in (1, 2, 5, 40, 200, 10**6):

        def action(at: int = at) -> None:
            with _Bomb(at, "half"):
                export(whole_run, target, overwrite=True)

        pid = _forked(action)
        os.waitpid(pid, 0)
        frames = len(Trajectory(target)) if suffix == ".h5" else len(read(target, ":"))
        assert target.read_bytes() == old or frames == len(_frames(whole_run))
        outcomes.add(frames)
    assert outcomes == {len(_frames(whole_run)), len(range(0, len(_frames(whole_run)), 40))}


def main() -> None:
    what, *arguments = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        match what:
            case "random":
                print(kill_at_random(folder, int(arguments[0]), *map(int, arguments[1:])))
            case "calls":
                print(kill_at_calls(folder, int(arguments[0])))
            case "export":
                print(kill_exports(folder))
            case _:
                sys.exit(__doc__)


if __name__ == "__main__":
    main()
