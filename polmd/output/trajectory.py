"""Reading the trajectory of a run: all sealed segments and the one being written, as far as their frames are whole."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import overload

import numpy as np

from polmd.errors import OutputError
from polmd.output.segment import Frame, Layout, Segment, decode

MASTER = "trajectory.h5"
_NAME = re.compile(r"trajectory\.(\d{4,})(\.part)?\.h5")


def sealed_name(index: int) -> str:
    """``trajectory.0007.h5``"""
    return f"trajectory.{index:04d}.h5"


def part_name(index: int) -> str:
    """``trajectory.0007.part.h5``, the segment being written."""
    return f"trajectory.{index:04d}.part.h5"


@dataclass(frozen=True)
class Piece:
    """A segment file: its layout, first frame, number of good frames, room for frames, and what is wrong with it."""

    path: Path
    index: int
    layout: Layout
    first_frame: int
    frames: int
    capacity: int
    problem: str | None


def segment_files(directory: Path) -> dict[int, list[Path]]:
    """Files of each segment number, the sealed one first. (Both exist only when a process died while renaming.)"""
    found: dict[int, list[Path]] = {}
    for path in sorted(directory.iterdir(), key=lambda p: (".part." in p.name, p.name)):
        match = _NAME.fullmatch(path.name)
        if match:
            found.setdefault(int(match[1]), []).append(path)
    return dict(sorted(found.items()))


def _inspect(path: Path, verify: bool) -> Piece:
    """One segment file; segments still being written or cut short are read in full, others when ``verify``."""
    segment = Segment(path)
    try:
        sealed = ".part." not in path.name
        written = segment.written()
        good = segment.verified() if verify or segment.cut_short or not sealed else written
        problem = None
        if segment.cut_short:
            problem = "is cut short"
        elif good < written:
            problem = "is damaged (checksum)"
        elif sealed and written < segment.capacity:
            problem = "lacks frames"
        if problem is not None:
            problem = f"{path.name} {problem}: {good} of its {segment.capacity} frames are whole"
        return Piece(path, segment.index, segment.layout, segment.first_frame, good, segment.capacity, problem)
    finally:
        segment.close()


def scan(directory: Path, *, verify: bool = False) -> tuple[list[Piece], list[str]]:
    """The unbroken sequence of good segments from frame 0, and what is wrong beyond it."""
    pieces: list[Piece] = []
    problems: list[str] = []
    files = segment_files(directory)
    for expected, (index, candidates) in enumerate(files.items()):
        if index != expected:
            problems.append(
                f"{sealed_name(expected)} is missing: the frames of {candidates[0].name} and later are left out"
            )
            break
        found: list[Piece] = []
        complaints: list[str] = []
        for path in candidates:
            try:
                piece = _inspect(path, verify)
            except OutputError as error:
                complaints.append(str(error))
                continue
            if piece.index != index:
                complaints.append(f"{path.name} was renamed: it is segment {piece.index}")
                continue
            found.append(piece)
            if piece.problem is None:
                break
            complaints.append(piece.problem)
        else:
            problems += complaints
        if not found:
            break
        best = max(found, key=lambda p: p.frames)
        differences = best.layout.differences(pieces[0].layout) if pieces else []
        if differences:
            problems.append(f"{best.path.name} does not belong to {pieces[0].path.name}: {'; '.join(differences)}")
            break
        pieces.append(best)
        if best.frames < best.layout.segment_frames:
            if index != max(files):
                problems.append(f"frames of segments after {best.path.name} are left out")
            break
    return pieces, problems


class Trajectory:
    """Frames of a run directory (or of its ``trajectory.h5``, of one segment file, or of what ``export_h5md`` wrote).

    Works on finished, running and broken runs. When frames are missing or damaged, the trajectory ends at the last good
    frame before them, ``problems`` says why and a warning is given; no damage is passed over in silence.

    Attributes
    ----------
    numbers : (n,) int64, atomic numbers
    masses : (n,) float64, amu
    pbc : (3,) bool
    layout : what all its segments have in common
    precision : ``double`` or ``single``
    has_forces : whether frames carry forces
    problems : what is wrong with the files, empty when all is well
    """

    def __init__(self, path: str | Path, *, verify: bool = False) -> None:
        """Open ``path``; ``verify`` reads every frame and compares its checksum now instead of when it is asked for."""
        path = Path(path)
        self._open: Segment | None = None
        self._piece = -1
        if path.name == MASTER:
            path = path.parent
        if path.is_dir():
            try:
                self._pieces, problems = scan(path, verify=verify)
            except OSError as error:
                raise OutputError(f"cannot read {path}: {error.strerror or error}") from error
        elif path.is_file():
            self._pieces = [_inspect(path, verify)]
            problems = [piece.problem for piece in self._pieces if piece.problem is not None]
        else:
            raise OutputError(f"{path} is neither a run directory nor a trajectory of polmd")
        if not self._pieces:
            raise OutputError(f"{path} holds no readable trajectory: {'; '.join(problems) or 'it has no segments'}")
        self.path = path
        self._starts = np.cumsum([0] + [piece.frames for piece in self._pieces])
        self.problems: tuple[str, ...] = tuple(problems)
        layout = self._pieces[0].layout
        self.layout = layout
        self.numbers, self.masses, self.pbc = layout.numbers, layout.masses, np.array(layout.pbc)
        self.precision, self.has_forces = layout.precision, layout.forces
        if problems:
            warnings.warn(f"{path}: {'; '.join(problems)}; {self._last()}", stacklevel=2)

    def _last(self) -> str:
        return f"last good frame: {len(self) - 1}" if len(self) else "no good frame"

    @property
    def n_atoms(self) -> int:
        return len(self.numbers)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, key: int) -> Frame: ...

    @overload
    def __getitem__(self, key: slice) -> Iterator[Frame]: ...

    def __getitem__(self, key: int | slice) -> Frame | Iterator[Frame]:
        """A frame, or an iterator over the frames of a slice (read one at a time)."""
        if isinstance(key, slice):
            return (self._read(k) for k in range(*key.indices(len(self))))
        index = key + len(self) if key < 0 else key
        if not 0 <= index < len(self):
            raise IndexError(f"frame {key} of a trajectory of {len(self)} frames")
        return self._read(index)

    def __iter__(self) -> Iterator[Frame]:
        return (self._read(k) for k in range(len(self)))

    def _read(self, index: int) -> Frame:
        return decode(self.record(index), self.layout)

    def record(self, index: int) -> list[bytes]:
        """The stored bytes of a frame, see ``segment.fields``; raises OutputError when its checksum differs."""
        which = int(np.searchsorted(self._starts, index, side="right")) - 1
        path = self._pieces[which].path
        if self._open is None or self._piece != which:
            self.close()
            number = self._pieces[which].index
            names = (path, path.with_name(sealed_name(number)), path.with_name(part_name(number)))
            # a run that is going on may have renamed it since the trajectory was opened
            self._open = Segment(next((p for p in names if p.exists()), path))
            self._piece = which
        record = self._open.try_read(index - int(self._starts[which]))
        if record is None:
            raise OutputError(
                f"{self._open.path}: frame {index} is damaged (checksum); last good frame before it: {index - 1}"
            )
        return record

    def close(self) -> None:
        """Close the file that is open; reading opens it again."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def __enter__(self) -> Trajectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
