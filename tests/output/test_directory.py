"""Who may write into a run directory, and what may be deleted there."""

import json
import os
import subprocess
import sys

import pytest

from polmd.errors import OutputError
from polmd.output import RunDirectory, directory

HOLD = """
import sys
from polmd.output import RunDirectory
run = RunDirectory.resume(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def names(path):
    return sorted(p.name for p in path.iterdir())


def finished(path):
    """A run directory with a file of every kind, and one of the user's."""
    with RunDirectory.create(path) as run:
        for file in (run.checkpoint, run.thermo, run.log, run.input, run.final, run.failed, run.master):
            file.write_text("polmd")
        for name in ("trajectory.0000.h5", "trajectory.0001.part.h5", "checkpoint.polmd.prev", "trajectory.h5.tmp"):
            (path / name).write_text("polmd")
    (path / "notes.txt").write_text("mine")
    (path / "trajectory.xyz").write_text("mine")
    return path


def test_create_and_resume(tmp_path):
    with RunDirectory.create(tmp_path / "run", details={"polmd": "0.1.0"}) as run:
        assert names(run.path) == ["lock", "polmd-run.json"]
        assert json.loads((run.path / "polmd-run.json").read_text())["polmd"] == "0.1.0"
    assert directory.is_run_directory(tmp_path / "run")
    with RunDirectory.resume(tmp_path / "run") as run:
        assert (run.checkpoint.name, run.thermo.name, run.log.name) == ("checkpoint.polmd", "thermo.csv", "run.log")
    (tmp_path / "empty").mkdir()
    RunDirectory.create(tmp_path / "empty").close()


def test_existing_run_needs_resume_or_overwrite(tmp_path):
    path = finished(tmp_path / "run")
    before = names(path)
    with pytest.raises(OutputError, match=r"already holds a run.*--resume.*--overwrite"):
        RunDirectory.create(path)
    assert names(path) == before
    RunDirectory.create(path, overwrite=True).close()
    assert names(path) == ["lock", "notes.txt", "polmd-run.json", "trajectory.xyz"]
    with pytest.raises(OutputError, match="not both"):
        directory.check_target(path, resume=True, overwrite=True)


def test_links_are_not_followed(tmp_path):
    path = finished(tmp_path / "run")
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (path / "thermo.csv").unlink()
    (path / "thermo.csv").symlink_to(precious)
    RunDirectory.create(path, overwrite=True).close()
    assert precious.read_text() == "mine"
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="link to nothing"):
        RunDirectory.create(tmp_path / "dangling")


@pytest.mark.parametrize("content", [None, "{}", "not json", '{"format": "other"}', "[1]"])
def test_foreign_directories_are_left_alone(tmp_path, content):
    path = tmp_path / "photos"
    path.mkdir()
    (path / "thermo.csv").write_text("mine")
    if content is not None:
        (path / "polmd-run.json").write_text(content)
    before = names(path)
    for overwrite in (False, True):
        with pytest.raises(OutputError, match="was not made by polmd: it is left alone"):
            RunDirectory.create(path, overwrite=overwrite)
    with pytest.raises(OutputError, match="was not made by polmd"):
        RunDirectory.resume(path)
    assert names(path) == before and (path / "thermo.csv").read_text() == "mine"


def test_bad_places_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(OutputError, match=r"parent directory does not exist; create .*/missing first"):
        RunDirectory.create(tmp_path / "missing" / "run")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is a file, not a directory"):
        RunDirectory.create(tmp_path / "file", overwrite=True)
    with pytest.raises(OutputError, match="parent directory does not exist"):
        RunDirectory.create(tmp_path / "file" / "run")
    with pytest.raises(OutputError, match=r"nothing to resume: .* does not exist"):
        RunDirectory.resume(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OutputError, match=r"nothing to resume: .* holds no run"):
        RunDirectory.resume(tmp_path / "empty")
    assert names(tmp_path) == ["empty", "file"]


def test_no_permission(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root
    with pytest.raises(OutputError, match="no permission, or a read-only file system"):
        RunDirectory.create(tmp_path / "run")
    assert names(tmp_path) == []


def test_death_while_creating(tmp_path):
    """A directory with nothing but the lock and an unfinished marker is as good as empty."""
    path = tmp_path / "run"
    path.mkdir()
    (path / "lock").write_text("1 host\n")
    (path / "polmd-run.json.tmp").write_text("{")
    RunDirectory.create(path).close()
    assert names(path) == ["lock", "polmd-run.json"]


def test_second_writer_is_refused(tmp_path):
    path = finished(tmp_path / "run")
    before = names(path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        for attempt in (lambda: RunDirectory.resume(path), lambda: RunDirectory.create(path, overwrite=True)):
            with pytest.raises(OutputError, match=f"is being written by process {holder.pid} on "):
                attempt()
        assert names(path) == before
    finally:
        holder.kill()
        holder.communicate()
    RunDirectory.resume(path).close()  # the lock died with its holder


def test_lock_is_released_after_an_error(tmp_path, monkeypatch):
    def fail(path, data):
        raise OutputError("disk full")

    monkeypatch.setattr(directory, "write_atomically", fail)
    with pytest.raises(OutputError, match="disk full"):
        RunDirectory.create(tmp_path / "run")
    monkeypatch.undo()
    RunDirectory.create(tmp_path / "run").close()
