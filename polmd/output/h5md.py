"""Writing a trajectory in sealed segments, the master file over them, and cutting it back.

``trajectory.NNNN.part.h5`` is being written; with its last frame (or at the end of the run) it becomes
``trajectory.NNNN.h5``, synced and renamed. ``trajectory.h5`` joins the segments by virtual datasets and holds no frame
itself. Frame k is always in segment k // segment_frames, so a run that was stopped and resumed leaves the same files.
MDAnalysis opens it with ``Universe.load_new("trajectory.h5", format="H5MD")``; polmd reads the segments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

import numpy as np

from polmd.dynamics.state import State
from polmd.errors import OutputError
from polmd.output import files, hdf5
from polmd.output.files import writing
from polmd.output.reporter import StepInfo
from polmd.output.segment import (
    Field,
    Frame,
    Layout,
    Precision,
    Segment,
    copy_frames,
    create_segment,
    encode,
    fields,
    write_structure,
)
from polmd.output.trajectory import MASTER, Piece, part_name, scan, sealed_name, segment_files
from polmd.system import System

SEGMENT_BYTES = 256 * 2**20


def default_segment_frames(layout: Layout) -> int:
    """1000 frames, fewer (at least 10) when a segment would exceed 256 MiB."""
    frame = sum(field.nbytes for field in fields(layout))
    return max(10, min(1000, SEGMENT_BYTES // frame))


def rebuild_master(directory: str | Path) -> int:
    """Write ``trajectory.h5`` over the good frames of all segments, atomically; returns how many frames it joins.

    Reads only the segments, so it works at any time and after any loss. Without a frame there is no master.
    """
    directory = Path(directory)
    pieces, _ = scan(directory)
    _write_master(directory, pieces)
    return sum(piece.frames for piece in pieces)


def _write_master(directory: Path, pieces: list[Piece]) -> None:
    import h5py

    path = directory / MASTER
    total = sum(piece.frames for piece in pieces)
    if total == 0:
        with writing(path):
            path.unlink(missing_ok=True)
        return

    def fill(file: Any) -> None:
        def dataset(field: Field) -> Any:
            creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            joined = h5py.h5s.create_simple((total, *field.shape))
            origin = (0,) * len(field.shape)
            start = 0
            for piece in pieces:
                if piece.frames:
                    block = (piece.frames, *field.shape)
                    source = h5py.h5s.create_simple((piece.capacity, *field.shape))
                    source.select_hyperslab((0, *origin), block)
                    joined.select_hyperslab((start, *origin), block)
                    creation.set_virtual(joined, piece.path.name.encode(), field.path.encode(), source)
                    start += piece.frames
            missing = np.nan if field.dtype.kind == "f" else 0
            shape = (total, *field.shape)
            return file.create_dataset(field.path, shape=shape, dtype=field.dtype, fillvalue=missing, dcpl=creation)

        write_structure(file, pieces[0].layout, dataset)

    chunks, size = hdf5.build(fill)
    content = bytearray(size)
    for offset, data in chunks:
        content[offset : offset + len(data)] = data
    files.write_atomically(path, bytes(content))


def _cut(source: Path, target: Path, frames: int, capacity: int) -> None:
    """``target``: the first ``frames`` frames of ``source`` with room for ``capacity``; ``source`` is gone then."""
    temporary = target.with_name(target.name + ".tmp")
    segment = Segment(source)
    try:
        copy_frames(segment, temporary, frames, capacity)
    except OutputError:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        segment.close()
    with writing(target):
        files.replace(temporary, target)
        if source != target:
            source.unlink()
            files.fsync_directory(target.parent)


def truncate_to(directory: str | Path, n_frames: int) -> None:
    """Cut the trajectory back to its first ``n_frames`` frames, as if the run had ended there.

    Later segments are removed, the one that holds the cut is rewritten beside itself and replaced. Nothing is changed
    when fewer than ``n_frames`` frames are whole: then an ``OutputError`` says what is missing.
    """
    directory = Path(directory)
    if n_frames < 0:
        raise OutputError(f"a trajectory cannot be cut to {n_frames} frames")
    pieces, problems = scan(directory)
    available = sum(piece.frames for piece in pieces)
    if n_frames > available:
        reason = "; ".join(problems) or "the segments hold no more"
        raise OutputError(
            f"{directory}: the trajectory should have {n_frames} frames, {available} are whole ({reason})"
        )
    with writing(directory / MASTER):
        for path in directory.glob("trajectory.*.tmp"):  # left by a process that died
            path.unlink()
        kept = [piece for piece in pieces if piece.first_frame < n_frames]
        for index, paths in reversed(segment_files(directory).items()):
            if index >= len(kept):
                for path in paths:
                    path.unlink()
        for piece in kept:
            frames = min(n_frames - piece.first_frame, piece.frames)
            sealed = directory / sealed_name(piece.index)
            if piece.problem is not None or piece.path != sealed or frames != piece.capacity:
                _cut(piece.path, sealed, frames, frames)
            (directory / part_name(piece.index)).unlink(missing_ok=True)
        files.fsync_directory(directory)
    rebuild_master(directory)


class TrajectoryWriter:
    """Appends frames to the trajectory of a directory.

    ``frames`` is the number of frames that are already there (see ``truncate_to``); anything else found is refused.
    """

    def __init__(self, directory: str | Path, layout: Layout, *, frames: int = 0) -> None:
        self.directory = Path(directory)
        self.layout = layout
        self.frames = frames
        self._segment: Segment | None = None
        self._closed = False
        self._check()
        slot = frames % layout.segment_frames
        if slot:
            index = frames // layout.segment_frames
            part = self.directory / part_name(index)
            _cut(self.directory / sealed_name(index), part, slot, layout.segment_frames)
            self._segment = Segment(part, writable=True)
            rebuild_master(self.directory)

    def _check(self) -> None:
        pieces, problems = scan(self.directory)
        found = sum(piece.frames for piece in pieces)
        if found != self.frames or problems:
            raise OutputError(
                f"{self.directory}: expected a trajectory of {self.frames} frames, found {found}"
                f"{''.join(f'; {p}' for p in problems)}; resume the run or start it with --overwrite"
            )
        differences = self.layout.differences(pieces[0].layout) if pieces else []
        if differences:
            raise OutputError(f"{self.directory}: the run does not fit its trajectory: {'; '.join(differences)}")

    def append(self, frame: Frame) -> None:
        """Write a frame; afterwards it survives the death of the process (``sync`` makes it survive a power cut)."""
        if self._closed:
            raise OutputError(f"{self.directory}: the trajectory is closed")
        record = encode(frame, self.layout)
        index, slot = divmod(self.frames, self.layout.segment_frames)
        if self._segment is None:
            part = self.directory / part_name(index)
            temporary = part.with_name(part.name + ".tmp")
            create_segment(temporary, self.layout, index, self.layout.segment_frames)
            with writing(part):
                files.replace(temporary, part)
            self._segment = Segment(part, writable=True)
        self._segment.write(slot, record)
        self.frames += 1
        if slot + 1 == self.layout.segment_frames:
            self._seal_full()

    def _seal_full(self) -> None:
        assert self._segment is not None
        segment, self._segment = self._segment, None
        sealed = self.directory / sealed_name(segment.index)
        with writing(sealed):
            segment.sync()
            segment.close()
            files.replace(segment.path, sealed)
        rebuild_master(self.directory)

    def sync(self) -> None:
        """Make every frame durable."""
        if self._segment is not None:
            self._segment.sync()

    def close(self) -> None:
        """Seal what is there; the trajectory can be continued later from its number of frames."""
        if self._closed:
            return
        self._closed = True
        if self._segment is not None:
            segment, self._segment = self._segment, None
            segment.close()
            frames = self.frames - segment.first_frame
            _cut(segment.path, self.directory / sealed_name(segment.index), frames, frames)
            rebuild_master(self.directory)


class TrajectoryReporter:
    """Writes positions, velocities, cell, energies and, with ``forces``, forces of every ``every``-th step.

    Parameters
    ----------
    directory : the run directory
    system : gives atomic numbers, masses and periodic axes, which stay as they are
    every : steps between frames
    forces : also store forces
    precision : ``double`` (exact) or ``single`` (half the size) for positions, velocities and forces
    segment_frames : frames per segment file; None for ``default_segment_frames``
    author : name in the H5MD header
    """

    def __init__(
        self,
        directory: str | Path,
        system: System,
        *,
        every: int,
        forces: bool = False,
        precision: Precision = "double",
        segment_frames: int | None = None,
        author: str = "unknown",
    ) -> None:
        if every < 1 or (segment_frames is not None and segment_frames < 1):
            raise OutputError("every and segment_frames of a trajectory are at least 1")
        self.every = every
        self.directory = Path(directory)
        pbc = (bool(system.pbc[0]), bool(system.pbc[1]), bool(system.pbc[2]))
        layout = Layout(system.numbers.copy(), system.masses.copy(), pbc, forces, precision, 1, author)
        self._layout = replaced(layout, segment_frames=segment_frames or default_segment_frames(layout))
        self._writer: TrajectoryWriter | None = None

    def _open(self) -> TrajectoryWriter:
        if self._writer is None:
            self._writer = TrajectoryWriter(self.directory, self._layout)
        return self._writer

    def report(self, state: State, info: StepInfo) -> None:
        system, result = state.system, state.result
        self._open().append(
            Frame(
                step=state.step,
                time_fs=state.time_fs,
                cell=system.cell,
                potential_energy=result.energy,
                kinetic_energy=state.kinetic_energy,
                positions=system.positions,
                velocities=system.velocities,
                forces=result.forces if self._layout.forces else None,
            )
        )

    def position(self) -> dict[str, Any]:
        """Frames written (durable) and frames per segment."""
        writer = self._open()
        writer.sync()
        return {"frames": writer.frames, "segment_frames": self._layout.segment_frames}

    def rewind(self, position: Mapping[str, Any]) -> None:
        """Cut the trajectory to the frames of ``position`` and go on from there, with its segment length."""
        self._layout = replaced(self._layout, segment_frames=position["segment_frames"])
        if self._writer is not None:
            self._writer.close()
        truncate_to(self.directory, position["frames"])
        self._writer = TrajectoryWriter(self.directory, self._layout, frames=position["frames"])

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
