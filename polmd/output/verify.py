"""``polmd verify``: reads every file of a run and says which are whole and what can be used."""

from __future__ import annotations

import fcntl
import itertools
import os
import tomllib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polmd.errors import OutputError
from polmd.output.checkpoint import decode, previous
from polmd.output.directory import (
    CHECKPOINT,
    FAILED,
    FINAL,
    INPUT,
    LOCK,
    LOG,
    THERMO,
    is_run_directory,
    run_files,
)
from polmd.output.segment import Segment
from polmd.output.thermo import COLUMNS
from polmd.output.trajectory import MASTER, Trajectory, segment_files


@dataclass(frozen=True)
class Finding:
    """What was found out about a file: ``ok``, ``note`` (nothing is lost) or ``damaged``, and how it stands."""

    file: str
    status: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.status}: {self.text}"


@dataclass(frozen=True)
class Verdict:
    """The findings on a run directory.

    Attributes
    ----------
    path : the run directory
    findings : one or more per file, in the order of reading
    frames : whole frames of the trajectory, from the first
    rows : whole rows of thermo.csv, from the first
    resumable_step : step that --resume goes on from, or None
    """

    path: Path
    findings: list[Finding]
    frames: int
    rows: int
    resumable_step: int | None

    @property
    def ok(self) -> bool:
        """True when nothing is damaged."""
        return all(finding.status != "damaged" for finding in self.findings)

    def lines(self) -> Iterator[str]:
        """The report."""
        yield f"{self.path}"
        for finding in self.findings:
            yield f"  {finding}"
        step = self.resumable_step
        resume = f"--resume goes on from step {step}" if step is not None else "--resume is not possible"
        yield f"  usable: {self.frames} frames, {self.rows} rows of {THERMO}; {resume}"


def verify(path: str | Path) -> list[Verdict]:
    """Check a run directory, or each ``replica.NNNN`` in it. Changes nothing; OutputError when there is no run."""
    path = Path(path)
    replicas = sorted(p for p in path.glob("replica.*") if is_run_directory(p)) if path.is_dir() else []
    if not is_run_directory(path) and not replicas:
        known = (CHECKPOINT, CHECKPOINT + ".prev", "trajectory.0000.h5", "trajectory.0000.part.h5")
        if not any((path / name).is_file() for name in known):
            raise OutputError(f"{path} holds no run of polmd")
    return [_verify(p) for p in replicas or [path]]


def _verify(directory: Path) -> Verdict:
    findings: list[Finding] = []
    if _is_locked(directory):
        findings.append(Finding(LOCK, "note", "a run is writing here now: what follows is a moment of it"))
    if not is_run_directory(directory):
        findings.append(Finding("polmd-run.json", "damaged", "missing or unreadable: --resume will refuse this folder"))
    frames, found = _trajectory(directory)
    findings += found
    rows, found = _thermo(directory)
    findings += found
    resumable = None
    for file in (directory / CHECKPOINT, previous(directory / CHECKPOINT)):
        finding, step = _checkpoint(file, frames)
        if finding is not None:
            findings.append(finding)
        if resumable is None and is_run_directory(directory):
            resumable = step
    findings += _others(directory)
    return Verdict(directory, findings, frames, rows, resumable)


def _is_locked(directory: Path) -> bool:
    try:
        fd = os.open(directory / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _trajectory(directory: Path) -> tuple[int, list[Finding]]:
    import warnings

    findings: list[Finding] = []
    for paths in segment_files(directory).values():
        for path in paths:
            findings.append(_segment(path))
    if not findings:
        if (directory / MASTER).exists():
            return 0, [Finding(MASTER, "damaged", "its segments are gone: it holds no frame itself")]
        return 0, [Finding("trajectory", "note", "no segments")]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trajectory = Trajectory(directory, verify=True)
    except OutputError as error:
        return 0, [*findings, Finding("trajectory", "damaged", str(error))]
    known = " ".join(finding.text for finding in findings)
    findings += [
        Finding("trajectory", "damaged", p) for p in trajectory.problems if p not in known and "whole" not in p
    ]
    with trajectory:
        steps = [frame.step for frame in trajectory]
    if any(b <= a for a, b in itertools.pairwise(steps)):
        findings.append(Finding("trajectory", "damaged", "the steps of its frames do not increase"))
    findings.append(_master(directory, len(trajectory)))
    return len(trajectory), findings


def _segment(path: Path) -> Finding:
    try:
        segment = Segment(path)
    except OutputError as error:
        return Finding(path.name, "damaged", str(error))
    try:
        good, written = segment.verified(), segment.written()
        first, last = segment.first_frame, segment.first_frame + good - 1
        whole = f"frames {first} to {last} are whole" if good else "no frame is whole"
        if segment.cut_short:
            return Finding(path.name, "damaged", f"cut short: {whole}, of {segment.capacity}")
        if good < written:
            return Finding(path.name, "damaged", f"frame {last + 1} has a wrong checksum: {whole}, of {written}")
        if ".part." in path.name:
            return Finding(
                path.name, "ok", f"{whole}, room for {segment.capacity}; being written, or its run was killed"
            )
        if written < segment.capacity and ".part." not in path.name:
            return Finding(path.name, "damaged", f"{whole}, of {segment.capacity}")
        if not segment.structure_is_whole():
            return Finding(
                path.name, "damaged", f"{whole}, but other programs cannot find them; polmd export writes them anew"
            )
        return Finding(path.name, "ok", f"{whole}")
    finally:
        segment.close()


def _master(directory: Path, frames: int) -> Finding:
    import h5py

    path = directory / MASTER
    if not path.exists():
        return Finding(MASTER, "note", "not there; it is made when a segment is full, and on --resume")
    try:
        with h5py.File(path, "r", locking=False) as file:
            joined = len(file["particles/trajectory/position/step"])
            file["particles/trajectory/position/value"][-1:]
    except (OSError, KeyError, RuntimeError) as error:
        return Finding(MASTER, "damaged", f"{error}; the segments are what counts, --resume makes it anew")
    if joined > frames:
        return Finding(MASTER, "note", f"joins {joined} frames, {frames} are whole; --resume makes it anew")
    return Finding(MASTER, "ok", f"joins {joined} frames")


def _thermo(directory: Path) -> tuple[int, list[Finding]]:
    path = directory / THERMO
    if not path.exists():
        return 0, [Finding(THERMO, "note", "not there")]
    try:
        data = path.read_bytes()
    except OSError as error:
        return 0, [Finding(THERMO, "damaged", f"cannot be read: {error.strerror}")]
    if (",".join(COLUMNS) + "\n").encode().startswith(data):
        return 0, [Finding(THERMO, "note", "no rows yet")]
    lines = data.decode("utf-8", errors="replace").split("\n")
    tail = lines.pop()
    if not lines or lines[0] != ",".join(COLUMNS):
        return 0, [Finding(THERMO, "damaged", "its first line is not the header of polmd")]
    step = -1
    for number, line in enumerate(lines[1:], start=2):
        values = line.split(",")
        try:
            numbers = [float(value) if value else 0.0 for value in values]
            good = len(numbers) == len(COLUMNS) and int(values[0]) > step
        except ValueError:
            good = False
        if not good:
            return number - 2, [
                Finding(THERMO, "damaged", f"line {number} is no row: {number - 2} rows before it are whole")
            ]
        step = int(values[0])
    rows = len(lines) - 1
    if tail:
        return rows, [Finding(THERMO, "note", f"{rows} rows; the last line is not complete, --resume cuts it off")]
    return rows, [Finding(THERMO, "ok", f"{rows} rows, to step {step}")]


def _checkpoint(path: Path, frames: int) -> tuple[Finding | None, int | None]:
    """What is to say about a checkpoint, and the step it allows to resume from."""
    if not path.exists():
        if previous(path).exists():
            return Finding(
                path.name, "note", "not there: its run was killed while replacing it; the one before serves"
            ), None
        status = "note" if path.name.endswith(".prev") or not frames else "damaged"
        return Finding(path.name, status, "not there"), None
    try:
        simulation = decode(path.read_bytes(), path.name)["simulation"]
    except OSError as error:
        return Finding(path.name, "damaged", f"cannot be read: {error.strerror}"), None
    except OutputError as error:
        return Finding(path.name, "damaged", str(error)), None
    step = int(simulation["step"])
    where = f"step {step}, stage {simulation['stage']['name']}"
    for position in simulation["reporters"].values():
        problem = _problem_with(position, path.parent, frames)
        if problem:
            return Finding(path.name, "damaged", f"whole ({where}), but {problem}"), None
    return Finding(path.name, "ok", where), step


def _problem_with(position: Mapping[str, Any], directory: Path, frames: int) -> str:
    """Why an output cannot be taken back to ``position``, or nothing."""
    if "frames" in position and int(position["frames"]) > frames:
        return f"it counts on {position['frames']} frames of the trajectory, {frames} are whole"
    if "crc32" in position and "rows" in position:
        try:
            with open(directory / THERMO, "rb") as file:
                head = file.read(int(position["bytes"]))
        except OSError:
            head = b""
        if len(head) < int(position["bytes"]) or zlib.crc32(head) != int(position["crc32"]):
            return f"the {position['rows']} rows of {THERMO} that it counts on are not those that were written"
    return ""


def _others(directory: Path) -> Iterator[Finding]:
    for path in run_files(directory):
        name = path.name
        if name.endswith(".tmp"):
            yield Finding(name, "note", "left by a process that died; nothing needs it")
        elif name in (FINAL, FAILED):
            from ase.io import read

            try:
                count = len(read(path, ":", format="extxyz"))
                yield Finding(name, "ok", f"{count} frame{'s' if count != 1 else ''}")
            except Exception as error:  # ASE raises whatever its parser stumbles over
                yield Finding(name, "damaged", f"cannot be read: {error}")
        elif name == INPUT:
            try:
                tomllib.loads(path.read_text(encoding="utf-8"))
                yield Finding(name, "ok", "readable")
            except ValueError as error:
                yield Finding(name, "damaged", str(error))
        elif name == LOG:
            count = path.read_bytes().count(b"\n")
            yield Finding(name, "ok", f"{count} lines")
