"""Faults of files, disks and processes in whole runs: damage, full and lost disks, second writers, stubborn signals."""

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from running import command, digests

import polmd
import polmd.model.network
from polmd.dynamics.simulation import Simulation
from polmd.output import Trajectory, read_checkpoint, verify

INPUT = """
seed = 9
[structure.water]
molecules = 2
periodic = false
[output]
trajectory_every = 1
thermo_every = 1
checkpoint_every = 6
log_every = 5
segment_frames = 7
[[stage]]
kind = "nvt"
steps = 40
temperature_K = 200.0
"""

POLMD = [sys.executable, "-c", "from polmd.cli import main; main()"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The input, its finished run, and one that was killed in step 33 (checkpoint at 30, the one before at 24)."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "in.toml").write_text(INPUT)
    assert command("run", folder / "in.toml", "--out", folder / "whole")[0] == 0
    step = Simulation._step

    class Killed(BaseException):
        pass

    def dying(self, state):
        if state.step == 32:
            raise Killed
        step(self, state)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Simulation, "_step", dying)
        patch.setattr(Simulation, "close", lambda self: None)  # a killed process closes nothing
        command("run", folder / "in.toml", "--out", folder / "killed")
    return folder / "in.toml", folder / "whole", folder / "killed"


def _copy(run: Path, to: Path) -> Path:
    shutil.copytree(run, to)
    return to


def _good_frames(run: Path, whole: Path) -> int:
    """How many frames can be read; each must be a frame of the uninterrupted run."""
    expected = {f.step: f.positions.tobytes() + f.velocities.tobytes() for f in Trajectory(whole)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            trajectory = Trajectory(run, verify=True)
        except polmd.PolmdError:
            return 0
        for k, frame in enumerate(trajectory):
            assert frame.step == k
            assert expected[frame.step] == frame.positions.tobytes() + frame.velocities.tobytes()
        return len(trajectory)


def test_killed_run_is_what_it_should_be(reference) -> None:
    _, whole, killed = reference
    assert _good_frames(killed, whole) == 33
    assert read_checkpoint(killed / "checkpoint.polmd").content["simulation"]["step"] == 30
    (verdict,) = verify(killed)
    assert verdict.ok and verdict.resumable_step == 30


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_damaged_files(reference, tmp_path: Path, seed: int) -> None:
    """Row 27: flipped bits, cut ends, zeroed blocks and lost files, one at a time. Readers give only right frames; resuming
    ends as the uninterrupted run or is refused with the file's name; ``verify`` sees whatever changed what is read."""
    path, whole, killed = reference
    expected = digests(whole)
    chance = random.Random(seed)
    tried = refused = fell_back = 0
    names = [p.name for p in sorted(killed.iterdir()) if p.name not in ("lock", "run.log", "input.toml")]
    for trial in range(18 if seed == 0 else 400):
        run = _copy(killed, tmp_path / f"run{trial}")
        file = run / chance.choice(names)
        data = bytearray(file.read_bytes())
        kind = chance.choice(("flip", "cut", "zero", "lose"))
        if kind == "flip":
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif kind == "cut":
            del data[chance.randrange(len(data)) :]
        elif kind == "zero":
            start = chance.randrange(len(data))
            data[start : start + 512] = bytes(len(data[start : start + 512]))
        if kind == "lose":
            file.unlink()
        else:
            file.write_bytes(data)
        frames = _good_frames(run, whole)
        (verdict,) = verify(run)
        assert verdict.frames == frames
        assert frames == 33 or not verdict.ok
        code, output = command("run", path, "--out", run, "--resume")
        tried += 1
        if code == 0:
            fell_back += "using the" in output
            # What was damaged in a sealed segment stays so, and is seen; unused bytes may differ.
            whole_again = digests_or_none(run) == expected
            assert whole_again or not verify(run)[0].ok or (_good_frames(run, whole) == 41 and _same_hdf5(run, whole))
        else:
            refused += 1
            assert file.name.split(".")[0] in output or str(run) in output, output
        shutil.rmtree(run)
    print(f"{tried} damaged runs: {refused} refused by name, {fell_back} resumed from the checkpoint before")
    assert 0 < refused < tried and fell_back > 0


def _same_hdf5(run: Path, whole: Path) -> bool:
    """Whether another program would read the same from every segment."""
    import h5py

    for path in whole.glob("trajectory.*.h5"):
        with h5py.File(path, "r", locking=False) as a, h5py.File(run / path.name, "r", locking=False) as b:
            names: list[str] = []
            others: list[str] = []
            a.visit(names.append)
            b.visit(others.append)
            if names != others:
                return False
            for name in names:
                if isinstance(a[name], h5py.Dataset) and a[name][...].tobytes() != b[name][...].tobytes():
                    return False
                if a[name].attrs.keys() != b[name].attrs.keys():
                    return False
    return True


def digests_or_none(run: Path) -> dict[str, str] | None:
    try:
        return digests(run)
    except polmd.PolmdError:
        return None


def test_lost_last_segment_falls_back(reference, tmp_path: Path) -> None:
    """Frames 28 to 32 are in the last segment; the checkpoint at 30 counts on them, the one at 24 does not."""
    path, whole, killed = reference
    run = _copy(killed, tmp_path / "run")
    (run / "trajectory.0004.part.h5").unlink()
    (verdict,) = verify(run)
    assert not verdict.ok and verdict.resumable_step == 24 and verdict.frames == 28
    code, output = command("run", path, "--out", run, "--resume")
    assert code == 0 and "using the checkpoint before it" in output and "resumed at step 24" in output
    assert digests(run) == digests(whole)


def test_other_inputs_models_and_atoms_are_refused(reference, tmp_path: Path) -> None:
    """Row 28."""
    _, _, killed = reference
    run = _copy(killed, tmp_path / "run")
    for old, new, message in (
        ("seed = 9", "seed = 8", "seed: 9 → 8"),
        ("molecules = 2", "molecules = 3", "structure.water.molecules: 2 → 3"),
        ("temperature_K = 200.0", "temperature_K = 210.0", "stage[0].temperature_K: 200.0 → 210.0"),
    ):
        (tmp_path / "in.toml").write_text(INPUT.replace(old, new))
        code, output = command("run", tmp_path / "in.toml", "--out", run, "--resume")
        assert code == 1 and message in output


# ---- disks ------------------------------------------------------------------------------------------------------------


def _limited(limit: int):
    """To be called in a child process: no file may become larger. (Python ignores SIGXFSZ, so that writes fail.)"""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


@pytest.mark.parametrize("limit", [900, 9000])
def test_file_size_limit(reference, tmp_path: Path, limit: int) -> None:
    """Row 29: the thermo file, the log or a segment cannot grow. One line says which; what was written stays, and the run
    goes on from its checkpoint once there is room."""
    path, whole, _ = reference
    run = tmp_path / "run"
    result = subprocess.run(
        [*POLMD, "run", str(path), "--out", str(run)], capture_output=True, text=True, preexec_fn=_limited(limit)
    )
    assert result.returncode == 1
    error = result.stderr.strip().splitlines()[-1]
    assert error.startswith("error: cannot write ") and "free some space and resume" in error, result.stderr
    _recovers(path, run, whole)


def _recovers(path: Path, run: Path, whole: Path) -> None:
    """Everything readable is right; --resume, or --overwrite where not even a first checkpoint fitted, ends as ever."""
    rows = (whole / "thermo.csv").read_text()
    if (run / "thermo.csv").exists():
        assert rows.startswith((run / "thermo.csv").read_text())
    if any((run / name).exists() for name in ("checkpoint.polmd", "checkpoint.polmd.prev")):
        _good_frames(run, whole)
        (verdict,) = verify(run)
        assert verdict.ok, "\n".join(verdict.lines())
        code, output = command("run", path, "--out", run, "--resume")
    else:
        code, output = command("run", path, "--out", run, "--overwrite")
    assert code == 0, output
    assert digests(run) == digests(whole)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A function that mounts a tmpfs of so many bytes; skips where that is not allowed."""
    mounted = []

    def mount(size: int) -> Path:
        target = tmp_path / f"disk{len(mounted)}"
        target.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(target)], capture_output=True, text=True
        )
        if done.returncode != 0:
            pytest.skip(f"cannot mount a tmpfs here: {done.stderr.strip()}")
        mounted.append(target)
        return target

    yield mount
    for target in mounted:
        subprocess.run(["umount", str(target)], check=True)


@pytest.mark.parametrize("pages", [9, 26])
def test_full_disk(reference, tmp_path: Path, small_disk, pages: int) -> None:
    """Row 29 with a real full disk, at different moments; then it gets room and the run goes on."""
    path, whole, _ = reference
    disk = small_disk(4096 * pages)
    code, output = command("run", path, "--out", disk / "run")
    assert code == 1 and "No space left on device" in output and "free some space" in output, output
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    _recovers(path, disk / "run", whole)


@pytest.mark.parametrize("at", [150, 200])
def test_quota(reference, tmp_path: Path, monkeypatch, at: int) -> None:
    """Row 29: a write is refused because of a quota; afterwards all goes on as if nothing had been."""
    path, whole, _ = reference
    pwrite, calls = os.pwrite, 0

    def refusing(*arguments):
        nonlocal calls
        calls += 1
        if calls > at:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return pwrite(*arguments)

    monkeypatch.setattr(os, "pwrite", refusing)
    code, output = command("run", path, "--out", tmp_path / "run")
    assert code == 1 and "quota" in output.lower() and "free some space" in output
    monkeypatch.undo()
    _recovers(path, tmp_path / "run", whole)


def test_directory_lost_while_running(reference, tmp_path: Path, monkeypatch) -> None:
    """The folder is deleted under the run: an error at the next file, not a silent run into nothing."""
    path, _, _ = reference
    step = Simulation._step

    def losing(self, state):
        step(self, state)
        if state.step == 8:
            shutil.rmtree(tmp_path / "run")

    monkeypatch.setattr(Simulation, "_step", losing)
    code, output = command("run", path, "--out", tmp_path / "run")
    assert code == 1 and "cannot write" in output and str(tmp_path / "run") in output


def test_read_only_disk(reference, tmp_path: Path, small_disk) -> None:
    """Row 30: refused before anything is computed; a run that is there cannot be resumed there, and stays as it is."""
    path, _, killed = reference
    disk = small_disk(1 << 24)
    shutil.copytree(killed, disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    code, output = command("run", path, "--out", disk / "new")
    assert code == 1 and "read-only" in output.lower()
    code, output = command("run", path, "--out", disk / "run", "--resume")
    assert code == 1 and "read-only" in output.lower()
    (verdict,) = verify(disk / "run")
    assert verdict.ok and verdict.frames == 33


# ---- processes --------------------------------------------------------------------------------------------------------


def _started(arguments: list[str], run: Path, rows: int, **options) -> subprocess.Popen:
    process = subprocess.Popen([*POLMD, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "thermo.csv").exists() and (run / "thermo.csv").read_text().count("\n") > rows:
            return process
        time.sleep(0.005)
    raise AssertionError(f"no rows: {process.communicate()[1]!r}")


def test_second_process_and_double_signals(reference, tmp_path: Path) -> None:
    """Rows 33 to 35 and 44 with real processes, in a folder with spaces and umlauts, HOME unset, another locale and time
    zone: a second writer is refused and disturbs nothing; two quick SIGTERMs end the first with 75 in under 5 s."""
    folder = tmp_path / "Läufe mit Wasser"
    folder.mkdir()
    path = folder / "in.toml"
    path.write_text(INPUT.replace("steps = 40", "steps = 4000"))
    run = folder / "in-run"
    environment = {k: v for k, v in os.environ.items() if k != "HOME"} | {"LC_ALL": "de_DE.UTF-8", "TZ": "Asia/Kolkata"}
    environment.setdefault("POLMD_CACHE_DIR", str(Path.home() / ".cache" / "polmd"))
    process = _started(["run", str(path)], run, 20, env=environment)
    for arguments in (["--resume"], ["--overwrite"]):
        code, output = command("run", path, *arguments)
        assert code == 1 and f"is being written by process {process.pid}" in output
    assert "a run is writing here now" in "\n".join(verify(run)[0].lines())
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert time.monotonic() - begin < 5.0
    assert process.stderr is not None
    process.stderr.close()
    (verdict,) = verify(run)
    assert verdict.ok and verdict.resumable_step is not None and verdict.resumable_step >= 20
    a, b = Trajectory(run), Trajectory(reference[1])
    assert len(a) > 20 and all(np.array_equal(a[k].positions, b[k].positions) for k in range(min(len(a), len(b))))


def test_device_lost(reference, tmp_path: Path, monkeypatch) -> None:
    """Row 37: the potential fails for good in the middle; the checkpoint is the last good step all the same."""
    path, whole, _ = reference
    compute = polmd.MultipolePotential.compute
    calls = 0

    def failing(self, system, **options):
        nonlocal calls
        calls += 1
        if calls > 15:
            raise RuntimeError("the device is gone")
        return compute(self, system, **options)

    def gone(self, state):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(polmd.MultipolePotential, "compute", failing)
    monkeypatch.setattr(polmd.MultipolePotential, "restore", gone)
    code, output = command("run", path, "--out", tmp_path / "run")
    assert code == 1 and "after step 14: RuntimeError: the device is gone; continue with --resume" in output
    monkeypatch.undo()
    assert read_checkpoint(tmp_path / "run" / "checkpoint.polmd").content["simulation"]["step"] == 14
    assert command("run", path, "--out", tmp_path / "run", "--resume")[0] == 0
    assert digests(tmp_path / "run") == digests(whole)


def test_not_a_number_in_the_middle(reference, tmp_path: Path, monkeypatch) -> None:
    """Row 38: caught in its step; the last good and the failed frame are kept, with the guilty atom; resuming works."""
    from ase.io import read

    path, whole, _ = reference
    compute = polmd.MultipolePotential.compute
    calls = 0

    def poisoned(self, system, **options):
        nonlocal calls
        calls += 1
        result = compute(self, system, **options)
        if calls == 20:
            result.forces[4, 1] = np.nan
        return result

    monkeypatch.setattr(polmd.MultipolePotential, "compute", poisoned)
    code, output = command("run", path, "--out", tmp_path / "run")
    assert code == 1 and "step 19: force" in output and "4 (H: inf)" in output
    monkeypatch.undo()
    good, bad = read(tmp_path / "run" / "failed.extxyz", ":")
    frame = Trajectory(tmp_path / "run")[18]
    np.testing.assert_allclose(good.positions, frame.positions, atol=1e-7)
    assert (good.info["step"], bad.info["step"]) == (18, 19)
    assert bad.arrays["guilty"][4] == 1
    assert command("run", path, "--out", tmp_path / "run", "--resume")[0] == 0
    assert digests(tmp_path / "run") == digests(whole)


def test_hydrogen_with_twenty_femtoseconds(tmp_path: Path) -> None:
    """Row 38: too long a step, forced, is caught before anything is not a number; the checkpoint is the last good step."""
    text = INPUT.replace("steps = 40", "steps = 400\ntimestep_fs = 20.0\nforce_timestep = true")
    (tmp_path / "in.toml").write_text(text)
    code, output = command("run", tmp_path / "in.toml")
    assert code == 1 and "shorten the timestep" in output and "on atoms" in output
    (verdict,) = verify(tmp_path / "in-run")
    assert verdict.ok and verdict.frames >= 1
    for frame in Trajectory(tmp_path / "in-run"):
        assert np.isfinite(frame.positions).all()


def test_unbounded_response(tmp_path: Path, monkeypatch) -> None:
    """Row 41: polarisabilities a million times too large are stopped by the limits, with the atoms named."""
    forward = polmd.model.network.LocalNetwork.forward

    def swollen(self, *arguments):
        state = forward(self, *arguments)
        state.predictions.polarizabilities[...] *= 1e6
        return state

    monkeypatch.setattr(polmd.model.network.LocalNetwork, "forward", swollen)
    (tmp_path / "in.toml").write_text(INPUT)
    code, output = command("run", tmp_path / "in.toml")
    assert code == 1 and ("force in eV/Å beyond 200 on atoms" in output or "not finite" in output), output


def test_system_clock_jumps(reference, tmp_path: Path, monkeypatch) -> None:
    """Row 45: the calendar clock goes back by years in the middle; nothing but the log's time stamps notices."""
    path, whole, _ = reference
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert command("run", path, "--out", tmp_path / "run", "--max-hours", 1)[0] == 0
    assert digests(tmp_path / "run") == digests(whole)


def test_number_of_threads(reference, tmp_path: Path) -> None:
    """Row 43: the same trajectory with more threads than there are cores."""
    path, whole, _ = reference
    environment = os.environ | {"NUMBA_NUM_THREADS": "64"}
    subprocess.run(
        [*POLMD, "run", str(path), "--out", str(tmp_path / "run")], check=True, env=environment, capture_output=True
    )
    a, b = Trajectory(tmp_path / "run"), Trajectory(whole)
    assert len(a) == len(b) == 41
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x.positions, y.positions, rtol=0, atol=1e-12)


def test_atom_far_away(tmp_path: Path) -> None:
    """Row 39: an atom at 10⁶ Å with open boundaries costs no memory and stops nothing."""
    (tmp_path / "far.xyz").write_text("4\n\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\nH 1e6 0 0\n")
    (tmp_path / "in.toml").write_text(
        'structure.file = "far.xyz"\n[[stage]]\nkind = "nvt"\nsteps = 3\ntemperature_K = 100\n'
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    code, output = command("run", tmp_path / "in.toml")
    assert code == 0, output
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


def test_large_reciprocal_sum_is_refused(tmp_path: Path) -> None:
    """Row 42: a cell whose wave vectors would not fit in memory."""
    (tmp_path / "big.xyz").write_text(
        '3\nLattice="3000 0 0 0 3000 0 0 0 3000" Properties=species:S:1:pos:R:3 pbc="T T T"\n'
        "O 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"
    )
    (tmp_path / "in.toml").write_text('structure.file = "big.xyz"\n[[stage]]\nkind = "nve"\nsteps = 3\n')
    code, output = command("check", tmp_path / "in.toml")
    assert code == 1 and "GiB" in output
