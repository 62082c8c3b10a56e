"""Segments, master file, reading, cutting back, damage."""

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

from polmd.errors import OutputError
from polmd.output import Reporter, Trajectory, TrajectoryReporter, rebuild_master, truncate_to
from polmd.output import segment as segment_module

SEGMENT = 4


def write(run, directory, frames, **options):
    directory.mkdir(exist_ok=True)
    reporter = TrajectoryReporter(directory, run.system, every=20, segment_frames=SEGMENT, **options)
    run.report(reporter, 0, frames)
    reporter.close()
    return directory


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def check_frames(run, path, frames):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Trajectory(path, verify=True) as trajectory:
            assert len(trajectory) == frames
            assert trajectory.problems == ()
            for k, frame in enumerate(trajectory):
                run.check(frame, k)


def test_segments_and_reading(run, tmp_path):
    write(run, tmp_path, 10)
    assert sorted(contents(tmp_path)) == [
        "trajectory.0000.h5",
        "trajectory.0001.h5",
        "trajectory.0002.h5",
        "trajectory.h5",
    ]
    for path in (tmp_path, tmp_path / "trajectory.h5", str(tmp_path)):
        check_frames(run, path, 10)
    trajectory = Trajectory(tmp_path)
    np.testing.assert_array_equal(trajectory.numbers, run.system.numbers)
    np.testing.assert_array_equal(trajectory.masses, run.system.masses)
    assert trajectory.pbc.all() and trajectory.precision == "double" and not trajectory.has_forces
    run.check(trajectory[-1], 9)
    assert [frame.step for frame in trajectory[1:9:3]] == [20, 80, 140]
    with pytest.raises(IndexError):
        trajectory[10]
    one = Trajectory(tmp_path / "trajectory.0001.h5")
    assert [frame.step // 20 for frame in one] == [4, 5, 6, 7]


def test_running_trajectory_is_readable(run, tmp_path):
    reporter = TrajectoryReporter(tmp_path, run.system, every=20, segment_frames=SEGMENT)
    assert isinstance(reporter, Reporter)
    run.report(reporter, 0, 6)
    early = Trajectory(tmp_path)
    check_frames(run, tmp_path, 6)
    assert (tmp_path / "trajectory.0001.part.h5").exists()
    with h5py.File(tmp_path / "trajectory.h5") as master:
        assert master["particles/trajectory/position/value"].shape == (4, 6, 3)
    assert rebuild_master(tmp_path) == 6
    with h5py.File(tmp_path / "trajectory.h5") as master:
        np.testing.assert_array_equal(master["particles/trajectory/position/value"][5], run.state(5).system.positions)
    run.report(reporter, 6, 9)
    run.check(early[5], 5)  # the segment was renamed since it was opened
    reporter.close()
    check_frames(run, tmp_path, 9)


def test_h5md_structure(run, tmp_path):
    write(run, tmp_path, 5, forces=True, author="Ångström")
    for name, frames in (("trajectory.0000.h5", 4), ("trajectory.h5", 5)):
        with h5py.File(tmp_path / name) as file:
            assert list(file["h5md"].attrs["version"]) == [1, 1]
            assert file["h5md/author"].attrs["name"] == "Ångström"
            assert file["h5md/creator"].attrs["name"] == "polmd"
            group = file["particles/trajectory"]
            assert list(file["particles"]) == ["trajectory"]
            assert list(group["species"]) == [8, 1, 1, 8, 1, 1]
            assert group["mass"].attrs["unit"] == "amu"
            assert group["box"].attrs["dimension"] == 3
            assert list(group["box"].attrs["boundary"]) == [b"periodic"] * 3
            elements = [group[k] for k in ("position", "velocity", "force", "box/edges")]
            elements += [file[f"observables/{k}_energy"] for k in ("potential", "kinetic")]
            for element in elements:
                assert list(element["step"]) == [20 * k for k in range(frames)]
                assert list(element["time"]) == [10.0 * k for k in range(frames)]
                assert element["time"].attrs["unit"] == "fs"
                assert len(element["value"]) == frames and element["value"].attrs["unit"]


def test_mdanalysis_opens_the_master(run, tmp_path):
    mda = pytest.importorskip("MDAnalysis")
    from MDAnalysis.lib.mdamath import triclinic_box

    write(run, tmp_path, 10, forces=True)
    universe = mda.Universe.empty(6, trajectory=True, velocities=True, forces=True)
    universe.load_new(str(tmp_path / "trajectory.h5"), format="H5MD")
    assert len(universe.trajectory) == 10
    for k, step in enumerate(universe.trajectory):
        state = run.state(k)
        assert step.time == pytest.approx(state.time_fs / 1000)  # ps
        assert step.data["step"] == state.step
        assert step.data["potential_energy"] == state.result.energy
        np.testing.assert_allclose(step.positions, state.system.positions, rtol=1e-6)
        np.testing.assert_allclose(step.velocities, state.system.velocities * 1000, rtol=1e-5)  # Å/ps
        np.testing.assert_allclose(step.forces, state.result.forces * 96.48533212, rtol=1e-5)  # kJ/(mol Å)
        np.testing.assert_allclose(step.dimensions, triclinic_box(*state.system.cell), rtol=1e-6)


@pytest.mark.parametrize("pbc", [(False, False, False), (True, True, False)])
def test_boundaries(make_run, tmp_path, pbc):
    mda = pytest.importorskip("MDAnalysis")
    run = make_run(pbc=pbc)
    write(run, tmp_path, 6)
    check_frames(run, tmp_path, 6)
    assert Trajectory(tmp_path).pbc.tolist() == list(pbc)
    universe = mda.Universe.empty(6, trajectory=True).load_new(str(tmp_path / "trajectory.h5"), format="H5MD")
    assert (universe.dimensions is None) == (not any(pbc))


def test_forces_and_single_precision(run, tmp_path):
    write(run, tmp_path / "a", 3, forces=True)
    for k, frame in enumerate(Trajectory(tmp_path / "a")):
        run.check(frame, k, forces=True)
    write(run, tmp_path / "b", 3, forces=True, precision="single")
    trajectory = Trajectory(tmp_path / "b")
    assert trajectory.precision == "single"
    for k, frame in enumerate(trajectory):
        state = run.state(k)
        assert frame.positions.dtype == frame.velocities.dtype == frame.forces.dtype == np.float32
        np.testing.assert_array_equal(frame.positions, state.system.positions.astype(np.float32))
        np.testing.assert_allclose(frame.forces, state.result.forces, rtol=2e-7)
        assert frame.time_fs == state.time_fs and frame.potential_energy == state.result.energy


def test_master_is_rebuilt_from_segments(run, tmp_path):
    write(run, tmp_path, 10)
    before = contents(tmp_path)
    (tmp_path / "trajectory.h5").write_bytes(b"nonsense")
    assert rebuild_master(tmp_path) == 10
    assert contents(tmp_path) == before
    (tmp_path / "trajectory.h5").unlink()
    assert rebuild_master(tmp_path) == 10
    assert contents(tmp_path) == before


@pytest.mark.parametrize("stop", range(11))
def test_cut_and_continued_equals_uninterrupted(run, tmp_path, stop):
    """Whole files, byte for byte, wherever the run is cut, from sealed files and from a file being written."""
    whole = contents(write(run, tmp_path / "whole", 10))
    cut = write(run, tmp_path / "cut", 10)
    truncate_to(cut, stop)
    assert contents(cut) == (contents(write(run, tmp_path / "short", stop)) if stop else {})
    reporter = TrajectoryReporter(cut, run.system, every=20, segment_frames=SEGMENT)
    reporter.rewind({"frames": stop, "segment_frames": SEGMENT})
    run.report(reporter, stop, 10)
    reporter.close()
    assert contents(cut) == whole


@pytest.mark.parametrize("checkpoint", [1, 3, 4, 5, 8, 9])
def test_resume_after_death_equals_uninterrupted(run, tmp_path, checkpoint):
    whole = contents(write(run, tmp_path / "whole", 10))
    live = tmp_path / "live"
    live.mkdir()
    dead = TrajectoryReporter(live, run.system, every=20, segment_frames=SEGMENT)
    run.report(dead, 0, checkpoint)
    position = dead.position()
    run.report(dead, checkpoint, 10)  # never closed
    reporter = TrajectoryReporter(live, run.system, every=20)  # the segment length comes from the checkpoint
    reporter.rewind(position)
    check_frames(run, live, checkpoint)
    run.report(reporter, checkpoint, 10)
    reporter.close()
    assert contents(live) == whole


def test_cutting_beyond_what_is_there_changes_nothing(run, tmp_path):
    before = contents(write(run, tmp_path, 6))
    with pytest.raises(OutputError, match=r"should have 7 frames, 6 are whole"):
        truncate_to(tmp_path, 7)
    assert contents(tmp_path) == before


def test_existing_trajectory_is_not_appended_to_blindly(run, tmp_path, make_run):
    write(run, tmp_path, 6)
    with pytest.raises(OutputError, match="expected a trajectory of 0 frames, found 6"):
        write(run, tmp_path, 1)
    reporter = TrajectoryReporter(tmp_path, make_run(n=9).system, every=20, forces=True)
    with pytest.raises(OutputError, match=r"n_atoms: 9 and 6; forces: True and False"):
        reporter.rewind({"frames": 6, "segment_frames": SEGMENT})


def test_death_while_renaming(run, tmp_path, tmp_path_factory):
    """A sealed segment beside the file it was made from, and unfinished temporary files, are understood."""
    write(run, tmp_path, 6)
    whole = contents(tmp_path)
    for name in ("trajectory.0001.part.h5", "trajectory.0001.part.h5.tmp", "trajectory.h5.tmp"):
        (tmp_path / name).write_bytes(whole["trajectory.0001.h5"])
    check_frames(run, tmp_path, 6)
    reporter = TrajectoryReporter(tmp_path, run.system, every=20)
    reporter.rewind({"frames": 6, "segment_frames": SEGMENT})
    run.report(reporter, 6, 10)
    reporter.close()
    assert contents(tmp_path) == contents(write(run, tmp_path_factory.mktemp("whole"), 10))


def expect_damage(run, directory, match):
    with pytest.warns(UserWarning, match=match):
        trajectory = Trajectory(directory, verify=True)
    assert trajectory.problems
    for k, frame in enumerate(trajectory):
        run.check(frame, k)
    return len(trajectory)


@pytest.mark.parametrize("name", ["trajectory.0001.part.h5", "trajectory.0001.h5"])
def test_truncated_segment(run, tmp_path, name):
    write(run, tmp_path, 8)
    data = (tmp_path / "trajectory.0001.h5").read_bytes()
    (tmp_path / "trajectory.0001.h5").unlink()
    counts = []
    for length in [0, 10, 4095, 4096, *range(5000, len(data), 97), len(data) - 1]:
        (tmp_path / name).write_bytes(data[:length])
        counts.append(expect_damage(run, tmp_path, "last good frame: "))
        if counts[-1] < 8:
            with pytest.raises(OutputError, match=f"should have 8 frames, {counts[-1]} are whole"):
                truncate_to(tmp_path, 8)
    assert counts == sorted(counts) and {4, 5, 6, 7} <= set(counts)
    truncate_to(tmp_path, counts[-1])  # leaves sound files
    check_frames(run, tmp_path, counts[-1])


def test_flipped_bits(make_run, tmp_path):
    """Every damaged byte of stored data is noticed, and no flip anywhere causes more than an OutputError."""
    run = make_run(n=60)
    write(run, tmp_path, 8)
    path = tmp_path / "trajectory.0001.h5"
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    noticed = 0
    for _ in range(300):
        changed = bytearray(data)
        changed[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trajectory = Trajectory(tmp_path, verify=True)
        for k, frame in enumerate(trajectory):
            run.check(frame, k)  # what is handed out is right
        noticed += len(trajectory) < 8
    assert noticed > 100
    segment = segment_module.Segment(tmp_path / "trajectory.0000.h5")
    offset = segment._offsets["particles/trajectory/velocity/value"] + 2 * 60 * 3 * 8
    segment.close()
    path.write_bytes(data)
    first = bytearray((tmp_path / "trajectory.0000.h5").read_bytes())
    first[offset] ^= 4
    (tmp_path / "trajectory.0000.h5").write_bytes(first)
    with pytest.raises(OutputError, match=r"trajectory.0000.h5: frame 2 is damaged.*last good frame before it: 1"):
        list(Trajectory(tmp_path))
    assert expect_damage(run, tmp_path, "last good frame: 1") == 2


def test_lost_and_foreign_segments(run, tmp_path, make_run):
    write(run, tmp_path, 10)
    data = (tmp_path / "trajectory.0001.h5").read_bytes()
    (tmp_path / "trajectory.0001.h5").unlink()
    assert expect_damage(run, tmp_path, "trajectory.0001.h5 is missing") == 4
    (tmp_path / "trajectory.0001.h5").write_bytes((tmp_path / "trajectory.0002.h5").read_bytes())
    assert expect_damage(run, tmp_path, "was renamed: it is segment 2") == 4
    other = write(make_run(n=3), tmp_path / "other", 8)
    (tmp_path / "trajectory.0001.h5").write_bytes((other / "trajectory.0001.h5").read_bytes())
    assert expect_damage(run, tmp_path, r"does not belong to trajectory.0000.h5: n_atoms: 3 and 6") == 4
    (tmp_path / "trajectory.0001.h5").write_bytes(data)
    check_frames(run, tmp_path, 10)
    for path in (tmp_path / "nothing", tmp_path / "other" / "x.h5"):
        with pytest.raises(OutputError, match="neither a run directory nor a trajectory"):
            Trajectory(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(OutputError, match="no readable trajectory: it has no segments"):
        Trajectory(tmp_path / "empty")


def test_full_disk(run, tmp_path, monkeypatch):
    """A write that fails half-way leaves every earlier frame, and the run can be continued."""
    reporter = TrajectoryReporter(tmp_path, run.system, every=20, segment_frames=SEGMENT)
    run.report(reporter, 0, 6)
    position = reporter.position()
    calls = []

    def full(fd, data, offset):
        calls.append(offset)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        return real(fd, data, offset)

    real = segment_module.write_all
    monkeypatch.setattr(segment_module, "write_all", full)
    with pytest.raises(OutputError, match=r"trajectory.0001.part.h5: No space left on device.*free some space"):
        run.report(reporter, 6, 7)
    check_frames(run, tmp_path, 6)
    with pytest.raises(OutputError, match="No space left"):
        reporter.close()
    check_frames(run, tmp_path, 6)
    monkeypatch.undo()
    again = TrajectoryReporter(tmp_path, run.system, every=20)
    again.rewind(position)
    run.report(again, 6, 9)
    again.close()
    check_frames(run, tmp_path, 9)


HELPERS = """
import sys
sys.path.insert(0, {here!r})
from conftest import FakeRun
from polmd.errors import OutputError
from polmd.output import TrajectoryReporter
run = FakeRun(n={n})
"""


def script(text, n=6):
    return [sys.executable, "-c", HELPERS.format(here=str(Path(__file__).parent), n=n) + text]


def test_file_size_limit(run, tmp_path):
    """RLIMIT_FSIZE below the size of a segment: an error that names the file, nothing left behind."""
    text = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    run.report(TrajectoryReporter(sys.argv[1], run.system, every=20, segment_frames=1000), 0, 1)
except OutputError as error:
    print(error)
"""
    done = subprocess.run([*script(text), str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "cannot write" in done.stdout and "trajectory.0000.part.h5" in done.stdout
    assert list(tmp_path.iterdir()) == [], done.stdout


def writer_process(run, directory, start):
    """Fork a process that resumes at ``start``, writes frames for ever and says so; returns its id and its words."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            reporter = TrajectoryReporter(directory, run.system, every=20)
            reporter.rewind({"frames": start, "segment_frames": 16})
            for k in range(start, 10**6):
                run.report(reporter, k, k + 1)
                os.write(tell, f"reported {k}\n".encode())
        finally:
            os._exit(1)
    os.close(tell)
    return pid, open(told)


def test_killed_at_random_times(make_run, tmp_path):
    """SIGKILL: every frame reported before it is whole, and the run goes on from any of them to the same files."""
    run = make_run(n=300)
    rng = np.random.default_rng(1)
    start = last = 0
    for _ in range(12):
        pid, words = writer_process(run, tmp_path, start)
        assert words.readline() == f"reported {start}\n"
        time.sleep(rng.uniform(0.0, 0.15))
        os.kill(pid, signal.SIGKILL)
        last = max([start] + [int(line.split()[1]) for line in words])
        os.waitpid(pid, 0)
        trajectory = Trajectory(tmp_path)
        assert trajectory.problems == ()
        assert last + 1 <= len(trajectory) <= last + 2
        for k in range(start, len(trajectory)):
            run.check(trajectory[k], k)
        start = int(rng.integers(max(0, last - 40), last + 1))
    reporter = TrajectoryReporter(tmp_path / "live", run.system, every=20)
    (tmp_path / "live").mkdir()
    for path in tmp_path.glob("trajectory.*"):
        path.rename(tmp_path / "live" / path.name)
    reporter.rewind({"frames": start, "segment_frames": 16})
    end = start + 20
    run.report(reporter, start, end)
    reporter.close()
    whole = TrajectoryReporter(tmp_path, run.system, every=20, segment_frames=16)
    run.report(whole, 0, end)
    whole.close()
    assert contents(tmp_path / "live") == {k.name: k.read_bytes() for k in tmp_path.glob("trajectory.*")}
