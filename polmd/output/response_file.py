"""``response.h5``: polarisation, current and polarisability along a run, a few numbers a frame.

An HDF5 file whose structure is written once, with room for all frames of the run; frames are then written into its
datasets in place, the checksum of a frame last. It opens at any time, killed or not, and holds every frame whose
checksum is right; the rest of its room takes no space on disk.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polmd.errors import OutputError
from polmd.output.files import fsync_directory, write_all, writing

RESPONSE = "response.h5"
GROUP = "response"

_FORMAT = "polmd response"
_VERSION = 1
_CHECKSUM = f"{GROUP}/checksum"
_WRITTEN = 1 << 32  # a checksum of zero is room that was never written


@dataclass(frozen=True)
class Quantity:
    """One dataset: name, shape of a frame, unit, type."""

    name: str
    shape: tuple[int, ...]
    unit: str
    dtype: str = "<f8"

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    @property
    def path(self) -> str:
        return f"{GROUP}/{self.name}"


def quantities(groups: int, periodic: bool) -> list[Quantity]:
    """The datasets of a run: their order is that of the checksum.

    ``polarization_charge`` is Σ q̃ r in open boundaries; in periodic ones real and imaginary part of P_k per lattice
    direction. ``molecular_dipoles`` is Σ over molecules of Σ q̃ (r − r_cm), without u. ``current`` is [group of moving
    atoms, (charges, permanent dipoles, induced dipoles), direction]; ``current_other`` its charge part with the other
    displacement.
    """
    return [
        Quantity("step", (), "1", "<i8"),
        Quantity("time", (), "fs"),
        Quantity("stage", (), "1", "<i8"),
        Quantity("temperature", (), "K"),
        Quantity("cell", (3, 3), "Angstrom"),
        Quantity("polarization_charge", (3, 2) if periodic else (3,), "e" if periodic else "e Angstrom"),
        Quantity("polarization_permanent", (3,), "e Angstrom"),
        Quantity("polarization_induced", (3,), "e Angstrom"),
        Quantity("molecular_dipoles", (3,), "e Angstrom"),
        Quantity("current", (groups, 3, 3), "e Angstrom fs-1"),
        Quantity("current_other", (groups, 3), "e Angstrom fs-1"),
        Quantity("polarizability", (3, 3), "e Angstrom2 V-1"),
    ]


class ResponseWriter:
    """Writes frames into a new or an existing file.

    Parameters
    ----------
    path : the file
    header : attributes of the group ``response``: str, int, float, bool or lists of str (new file only)
    groups, periodic : what fixes the datasets
    capacity : frames there is room for (new file only)
    frames : None for a new file, otherwise the frames of an existing one to keep: later ones are erased
    """

    def __init__(
        self,
        path: Path,
        *,
        groups: int,
        periodic: bool,
        header: Mapping[str, Any] | None = None,
        capacity: int = 0,
        frames: int | None = None,
    ) -> None:
        self.path = path
        self._quantities = quantities(groups, periodic)
        self.frames = 0
        if frames is None:
            with writing(path):
                _create(path, self._quantities, header or {}, capacity)
        self._offsets, self.capacity = _layout(path, self._quantities)
        with writing(path):
            self._fd = os.open(path, os.O_RDWR)
        if frames is not None:
            self._cut(frames)

    def append(self, values: Mapping[str, Any]) -> None:
        """Write a frame: a value for every quantity. When this returns it survives the death of the process."""
        if self.frames == self.capacity:
            raise OutputError(f"{self.path} is full: it was made for {self.capacity} frames")
        record = []
        for q in self._quantities:
            array = np.asarray(values[q.name], dtype=q.dtype)
            if array.shape != q.shape:
                raise OutputError(f"{self.path}: {q.name} has shape {array.shape}, expected {q.shape}")
            record.append(array.tobytes())
        with writing(self.path):
            for q, data in zip(self._quantities, record, strict=True):
                write_all(self._fd, data, self._offsets[q.path] + self.frames * q.nbytes)
            crc = struct.pack("<Q", _checksum(self.frames, record))
            write_all(self._fd, crc, self._offsets[_CHECKSUM] + 8 * self.frames)
        self.frames += 1

    def sync(self) -> None:
        """Make all frames durable."""
        with writing(self.path):
            os.fsync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with writing(self.path):
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)

    def _cut(self, frames: int) -> None:
        whole = read_response(self.path)
        if len(whole) < frames:
            raise OutputError(f"cannot continue {self.path}: it has {len(whole)} whole frames of {frames}")
        with writing(self.path):
            stored = os.pread(self._fd, 8 * self.capacity, self._offsets[_CHECKSUM])
            written = np.flatnonzero(np.frombuffer(stored, "<u8"))
            last = int(written[-1]) + 2 if len(written) else 0  # a frame may lie there without its checksum
            for path, size in [(_CHECKSUM, 8), *((q.path, q.nbytes) for q in self._quantities)]:
                empty = bytes(size * (min(max(last, frames + 1), self.capacity) - frames))
                write_all(self._fd, empty, self._offsets[path] + frames * size)
            os.fsync(self._fd)
        self.frames = frames


@dataclass(frozen=True)
class ResponseData:
    """The frames of one file.

    Attributes
    ----------
    path : where they are from
    header : what was stored with them: conventions, groups, model, constants
    arrays : (frames, ...) of every quantity
    """

    path: Path
    header: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.arrays["step"])

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]


def read_response(path: str | Path) -> ResponseData:
    """Read the whole frames of a ``response.h5`` (or of the run directory that holds it), running or finished."""
    import h5py

    path = Path(path)
    if path.is_dir():
        path = path / RESPONSE
    try:
        with h5py.File(path, "r", locking=False) as file:
            group = file[GROUP]
            if group.attrs.get("format") != _FORMAT:
                raise KeyError(GROUP)
            header = {k: _plain(v) for k, v in group.attrs.items()}
            names = quantities(len(header["groups"]), bool(header["periodic"]))
            stored = file[_CHECKSUM][:]
            count = int(np.argmin(stored)) if (stored == 0).any() else len(stored)
            arrays = {q.name: file[q.path][:count] for q in names}
    except FileNotFoundError:
        raise OutputError(
            f"{path} does not exist: the run had no [response] table, or it is another directory"
        ) from None
    except (OSError, KeyError) as error:
        raise OutputError(f"{path} is not a response file of polmd, or it is damaged: {error}") from error
    rows = [[np.ascontiguousarray(arrays[q.name][i], dtype=q.dtype).tobytes() for q in names] for i in range(count)]
    good = next((i for i, row in enumerate(rows) if _checksum(i, row) != int(stored[i])), count)
    if good < count and good < count - 1:
        raise OutputError(f"{path}: frame {good} of {count} is damaged (checksum)")
    return ResponseData(path, header, {k: v[:good] for k, v in arrays.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value]
    return value.decode() if isinstance(value, bytes) else value.item() if isinstance(value, np.generic) else value


def _checksum(index: int, record: list[bytes]) -> int:
    crc = zlib.crc32(struct.pack("<q", index))
    for data in record:
        crc = zlib.crc32(data, crc)
    return _WRITTEN + crc


def _create(path: Path, names: list[Quantity], header: Mapping[str, Any], capacity: int) -> None:
    import h5py

    if path.exists():
        raise OutputError(f"{path} exists; resume the run or start it with --overwrite")
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        with h5py.File(temporary, "x", locking=False) as file:
            group = file.create_group(GROUP)
            group.attrs["format"], group.attrs["version"] = _FORMAT, _VERSION
            for key, value in header.items():
                group.attrs[key] = value
            for q in [Quantity("checksum", (), "1", "<u8"), *names]:
                creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                creation.set_layout(h5py.h5d.CONTIGUOUS)
                creation.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
                creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
                made = file.create_dataset(q.path, shape=(capacity, *q.shape), dtype=q.dtype, dcpl=creation)
                made.attrs["unit"] = q.unit
    except RuntimeError as error:  # how h5py reports a failure inside close
        raise OSError(None, str(error)) from error
    fd = os.open(temporary, os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(temporary, path)
    fsync_directory(path.parent)


def _layout(path: Path, names: list[Quantity]) -> tuple[dict[str, int], int]:
    """Where each dataset begins in the file, and how many frames they have room for."""
    import h5py

    try:
        with h5py.File(path, "r", locking=False) as file:
            paths = [_CHECKSUM, *(q.path for q in names)]
            return {p: file[p].id.get_offset() for p in paths}, file[_CHECKSUM].shape[0]
    except (OSError, KeyError) as error:
        raise OutputError(f"{path} is not a response file of polmd, or it is damaged: {error}") from error
