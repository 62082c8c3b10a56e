"""One trajectory segment: an H5MD file whose structure is complete before its first frame is written.

HDF5 keeps metadata in memory, so a process killed inside ``flush`` can leave a file that no longer opens. A segment is
therefore created with all its datasets contiguous, uncompressed and allocated (sparse on disk), and closed; frames are
then written at their known offsets with plain ``pwrite``. The metadata never changes again, no library holds anything
back, and a frame counts only when its checksum, written last, is there.

The first 4096 bytes (an HDF5 user block, skipped by HDF5) repeat the offsets, so that frames can be read and checked
without trusting HDF5 metadata::

    "polmd segment 1\\n"   16 bytes
    length, CRC-32        2 x uint32, little-endian, of the text that follows
    JSON                  n_atoms, pbc, forces, precision, segment_frames, index, frames, size, datasets, static_crc, and
                          structure, structure_crc: where HDF5's own data lie, and their CRC-32

A frame's checksum is 2³² + CRC-32 of its index in the trajectory (int64) and its stored bytes in the order of
``fields``; zero means no frame.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from polmd.errors import OutputError
from polmd.output import hdf5
from polmd.output.files import write_all, writing

Precision = Literal["double", "single"]

MAGIC = b"polmd segment 1\n"
USER_BLOCK = 4096
#: 1 eV in kJ/mol (exact in the SI of 2019). H5MD forces are in kJ mol-1 Angstrom-1, the unit readers know.
KJ_PER_MOL = 96.48533212331002
GROUP = "particles/trajectory"
CHECKSUM = "parameters/polmd/checksum"
_SPECIES, _MASS = f"{GROUP}/species", f"{GROUP}/mass"
_WRITTEN = 1 << 32


@dataclass(frozen=True, eq=False)
class Layout:
    """What the segments of one trajectory have in common.

    Attributes
    ----------
    numbers : (n,) int64, atomic numbers
    masses : (n,) float64, amu
    pbc : periodic axes; the cell is stored when any is periodic
    forces : whether forces are stored
    precision : of stored positions, velocities and forces; all else is float64
    segment_frames : frames of a full segment
    author : name in the H5MD header
    """

    numbers: np.ndarray
    masses: np.ndarray
    pbc: tuple[bool, bool, bool]
    forces: bool = False
    precision: Precision = "double"
    segment_frames: int = 1000
    author: str = "unknown"

    @property
    def n_atoms(self) -> int:
        return len(self.numbers)

    @property
    def periodic(self) -> bool:
        return any(self.pbc)

    def differences(self, other: Layout) -> list[str]:
        """What differs from ``other``, one line each; frames of differing layouts cannot follow each other."""
        names = ("n_atoms", "pbc", "forces", "precision", "segment_frames")
        lines = [
            f"{k}: {getattr(self, k)} and {getattr(other, k)}" for k in names if getattr(self, k) != getattr(other, k)
        ]
        if self.n_atoms == other.n_atoms:
            if not np.array_equal(self.numbers, other.numbers):
                lines.append("atomic numbers")
            if not np.array_equal(self.masses, other.masses):
                lines.append("masses")
        return lines


@dataclass(frozen=True)
class Field:
    """One per-frame dataset: HDF5 path, shape of a frame, dtype, unit attribute."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype
    unit: str | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Frame:
    """One stored frame.

    Attributes
    ----------
    step : steps since the start of the run
    time_fs : simulated time, fs
    cell : (3, 3) float64, Å; zeros for open boundaries
    potential_energy, kinetic_energy : eV
    positions : (n, 3), Å, unwrapped; float64, or float32 at single precision, as are the next two
    velocities : (n, 3), Å/fs
    forces : (n, 3), eV/Å, or None
    """

    step: int
    time_fs: float
    cell: np.ndarray
    potential_energy: float
    kinetic_energy: float
    positions: np.ndarray
    velocities: np.ndarray
    forces: np.ndarray | None = None


def fields(layout: Layout) -> list[Field]:
    """The per-frame datasets, in the order of their checksum and of their place in the file."""
    n, f8 = layout.n_atoms, np.dtype("<f8")
    real = np.dtype("<f8" if layout.precision == "double" else "<f4")
    result = [
        Field(f"{GROUP}/position/step", (), np.dtype("<i8")),
        Field(f"{GROUP}/position/time", (), f8, "fs"),
        Field("observables/potential_energy/value", (), f8, "eV"),
        Field("observables/kinetic_energy/value", (), f8, "eV"),
    ]
    if layout.periodic:
        result.append(Field(f"{GROUP}/box/edges/value", (3, 3), f8, "Angstrom"))
    result.append(Field(f"{GROUP}/position/value", (n, 3), real, "Angstrom"))
    result.append(Field(f"{GROUP}/velocity/value", (n, 3), real, "Angstrom fs-1"))
    if layout.forces:
        result.append(Field(f"{GROUP}/force/value", (n, 3), real, "kJ mol-1 Angstrom-1"))
    return result


def encode(frame: Frame, layout: Layout) -> list[bytes]:
    """The stored bytes of a frame, one item per field."""
    values: list[Any] = [frame.step, frame.time_fs, frame.potential_energy, frame.kinetic_energy]
    if layout.periodic:
        values.append(frame.cell)
    values += [frame.positions, frame.velocities]
    if layout.forces:
        if frame.forces is None:
            raise OutputError("this trajectory stores forces, the frame has none")
        values.append(frame.forces * KJ_PER_MOL)
    record = []
    for field, value in zip(fields(layout), values, strict=True):
        array = np.ascontiguousarray(value, dtype=field.dtype).reshape(np.shape(value))
        if array.shape != field.shape:
            raise OutputError(f"{field.path}: frame of shape {array.shape}, this trajectory has {field.shape}")
        record.append(array.tobytes())
    return record


def decode(record: Sequence[bytes], layout: Layout) -> Frame:
    """The frame of stored bytes (arrays are writable copies)."""
    arrays = [
        np.frombuffer(data, dtype=field.dtype).reshape(field.shape).copy()
        for field, data in zip(fields(layout), record, strict=True)
    ]
    cell = arrays.pop(4) if layout.periodic else np.zeros((3, 3))
    step, time_fs, potential, kinetic, positions, velocities, *rest = arrays
    forces = rest[0] / rest[0].dtype.type(KJ_PER_MOL) if rest else None
    return Frame(int(step), float(time_fs), cell, float(potential), float(kinetic), positions, velocities, forces)


def checksum(index: int, record: Sequence[bytes]) -> int:
    """Checksum of the ``index``-th frame of a trajectory."""
    crc = zlib.crc32(struct.pack("<q", index))
    for data in record:
        crc = zlib.crc32(data, crc)
    return _WRITTEN + crc


def write_structure(file: Any, layout: Layout, dataset: Callable[[Field], Any]) -> None:
    """Everything of an H5MD file but its frames; ``dataset(field)`` creates the dataset of a field."""
    h5md = file.create_group("h5md")
    h5md.attrs["version"] = np.array([1, 1], dtype=np.int32)
    h5md.create_group("author").attrs["name"] = layout.author
    creator = h5md.create_group("creator")
    creator.attrs["name"], creator.attrs["version"] = "polmd", version("polmd")
    box = file.create_group(f"{GROUP}/box")
    box.attrs["dimension"] = 3
    box.attrs["boundary"] = np.array(["periodic" if p else "none" for p in layout.pbc], dtype="S8")
    file.create_dataset(_SPECIES, data=layout.numbers.astype("<i8"))
    file.create_dataset(_MASS, data=layout.masses.astype("<f8")).attrs["unit"] = "amu"
    dataset(Field(CHECKSUM, (), np.dtype("<u8")))
    for field in fields(layout):
        created = dataset(field)
        if field.unit is not None:
            created.attrs["unit"] = field.unit
    first = file[f"{GROUP}/position"]
    elements = [f"{GROUP}/velocity", "observables/potential_energy", "observables/kinetic_energy"]
    elements += [f"{GROUP}/box/edges"] if layout.periodic else []
    elements += [f"{GROUP}/force"] if layout.forces else []
    for element in elements:  # every element has step and time: hard links to those of the positions
        file[f"{element}/step"], file[f"{element}/time"] = first["step"], first["time"]


def create_segment(path: Path, layout: Layout, index: int, frames: int) -> None:
    """Create the ``index``-th segment with room for ``frames`` frames, none of them written, and fsync it.

    Equal arguments give equal bytes. Nothing stays behind when it fails.
    """
    chunks, size, offsets = _structure(layout, frames)
    header = {
        "n_atoms": layout.n_atoms,
        "pbc": list(layout.pbc),
        "forces": layout.forces,
        "precision": layout.precision,
        "segment_frames": layout.segment_frames,
        "author": layout.author,
        "index": index,
        "frames": frames,
        "size": size,
        "static_crc": zlib.crc32(_static(layout)),
        "structure": [[offset, len(data)] for offset, data in chunks],
        "structure_crc": zlib.crc32(b"".join(data for _, data in chunks)),
        "datasets": offsets,
    }
    text = json.dumps(header).encode()
    block = MAGIC + struct.pack("<II", len(text), zlib.crc32(text)) + text
    if len(block) > USER_BLOCK:
        raise OutputError(f"{path}: the author name is too long")
    with writing(path):
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            os.ftruncate(fd, size)
            for offset, data in chunks:
                write_all(fd, data, offset)
            write_all(fd, b"\0" * (8 * frames), offsets[CHECKSUM])
            write_all(fd, block, 0)
            os.fsync(fd)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)


def _static(layout: Layout) -> bytes:
    """What does not change from frame to frame, as stored."""
    return layout.numbers.astype("<i8").tobytes() + layout.masses.astype("<f8").tobytes()


def _structure(layout: Layout, frames: int) -> tuple[list[tuple[int, bytes]], int, dict[str, int]]:
    """What HDF5 has in the file: (offset, bytes) of it, the size of the file, and where each dataset begins."""
    import h5py

    offsets: dict[str, int] = {}

    def fill(file: Any) -> None:
        def dataset(field: Field) -> Any:
            creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            creation.set_layout(h5py.h5d.CONTIGUOUS)
            creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            created = file.create_dataset(field.path, shape=(frames, *field.shape), dtype=field.dtype, dcpl=creation)
            offsets[field.path] = created.id.get_offset()
            return created

        write_structure(file, layout, dataset)
        for name in (_SPECIES, _MASS):
            offsets[name] = file[name].id.get_offset()

    chunks, size = hdf5.build(fill, user_block=USER_BLOCK)
    return chunks, size, offsets


class Segment:
    """A segment opened by its header, for reading or, with ``writable``, for adding frames.

    Attributes
    ----------
    path, layout : where it lies; the layout in its header
    index, first_frame : its number; the trajectory index of its first frame
    capacity : frames there is room for
    cut_short : the file ends before its last dataset does
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.path = path
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDWR if writable else os.O_RDONLY)
        except OSError as error:
            raise OutputError(f"cannot open {path}: {error.strerror}") from error
        try:
            self._read_header()
        except OSError as error:
            self.close()
            if isinstance(error, OutputError):
                raise
            raise OutputError(f"cannot read {path}: {error.strerror}") from error

    def _read_header(self) -> None:
        block = os.pread(self._fd, USER_BLOCK, 0)
        start = len(MAGIC) + 8
        if not block.startswith(MAGIC) or len(block) < start:
            raise OutputError(f"{self.path} is not a trajectory segment of polmd, or its first bytes are damaged")
        length, crc = struct.unpack_from("<II", block, len(MAGIC))
        text = block[start : start + length]
        if len(text) != length or zlib.crc32(text) != crc:
            raise OutputError(f"{self.path}: the header is damaged (checksum)")
        header = json.loads(text)
        self._offsets: dict[str, int] = header["datasets"]
        self.index: int = header["index"]
        self.capacity: int = header["frames"]
        n = header["n_atoms"]
        static = os.pread(self._fd, 8 * n, self._offsets[_SPECIES]) + os.pread(self._fd, 8 * n, self._offsets[_MASS])
        if zlib.crc32(static) != header["static_crc"]:
            raise OutputError(f"{self.path}: species or masses are damaged (checksum)")
        self.layout = Layout(
            numbers=np.frombuffer(static, "<i8", n).astype(np.int64),
            masses=np.frombuffer(static, "<f8", n, offset=8 * n).astype(np.float64),
            pbc=(header["pbc"][0], header["pbc"][1], header["pbc"][2]),
            forces=header["forces"],
            precision=header["precision"],
            segment_frames=header["segment_frames"],
            author=header["author"],
        )
        self._structure: list[list[int]] = header["structure"]
        self._structure_crc: int = header["structure_crc"]
        self._fields = fields(self.layout)
        self.first_frame = self.index * self.layout.segment_frames
        self.cut_short = os.fstat(self._fd).st_size < header["size"]

    def written(self) -> int:
        """Frames whose checksum is present, counted from the first; their content is not looked at."""
        data = os.pread(self._fd, 8 * self.capacity, self._offsets[CHECKSUM])
        empty = np.flatnonzero(np.frombuffer(data[: len(data) // 8 * 8], "<u8") < _WRITTEN)
        return int(empty[0]) if len(empty) else len(data) // 8

    def verified(self) -> int:
        """Frames that are whole, counted from the first: all are read and their checksums compared."""
        written = self.written()
        for slot in range(written):
            if self.try_read(slot) is None:
                return slot
        return written

    def structure_is_whole(self) -> bool:
        """Whether HDF5's own data are as they were made: what other programs need to find the frames."""
        try:
            data = b"".join(os.pread(self._fd, length, offset) for offset, length in self._structure)
        except OSError:
            return False
        return zlib.crc32(data) == self._structure_crc

    def try_read(self, slot: int) -> list[bytes] | None:
        """Stored bytes of the frame in ``slot``, or None when they are not there or their checksum differs."""
        try:
            record = [os.pread(self._fd, f.nbytes, self._offsets[f.path] + slot * f.nbytes) for f in self._fields]
            stored = os.pread(self._fd, 8, self._offsets[CHECKSUM] + 8 * slot)
        except OSError:
            return None
        return record if stored == struct.pack("<Q", checksum(self.first_frame + slot, record)) else None

    def write(self, slot: int, record: Sequence[bytes]) -> None:
        """Put a frame into ``slot``; the checksum goes last and makes it count."""
        with writing(self.path):
            for field, data in zip(self._fields, record, strict=True):
                write_all(self._fd, data, self._offsets[field.path] + slot * field.nbytes)
            crc = struct.pack("<Q", checksum(self.first_frame + slot, record))
            write_all(self._fd, crc, self._offsets[CHECKSUM] + 8 * slot)

    def sync(self) -> None:
        """fsync the file."""
        with writing(self.path):
            os.fsync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()


def copy_frames(source: Segment, path: Path, frames: int, capacity: int) -> None:
    """A new segment at ``path`` with the first ``frames`` frames of ``source`` and room for ``capacity``, fsynced."""
    create_segment(path, source.layout, source.index, capacity)
    target = Segment(path, writable=True)
    try:
        for slot in range(frames):
            record = source.try_read(slot)
            if record is None:
                raise OutputError(f"{source.path}: frame {source.first_frame + slot} is damaged (checksum)")
            target.write(slot, record)
        target.sync()
    finally:
        target.close()
