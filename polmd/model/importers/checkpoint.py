"""PyTorch checkpoints (``torch.save`` of a whole module) as data, without PyTorch and without running code in them.

The file is a zip archive of uncompressed members: ``PREFIX/data.pkl``, a pickle whose tensors refer to storages, and
``PREFIX/data/KEY``, the numbers of each. Everything is checked against the size of the file before it is read.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np

from polmd.errors import InputError
from polmd.model.file import MAX_WEIGHTS
from polmd.model.importers.inert_pickle import InertUnpickler, Refused, Tensor

#: More members, a larger pickle or a larger file than this is refused before anything is read.
MAX_MEMBERS = 10_000
MAX_PICKLE = 64 << 20
MAX_FILE = 1 << 30
_LEGACY = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # first number of files of torch before 1.6, in a pickle

#: Storage class → NumPy type of what weights and index tables are made of.
STORAGES = {
    "torch.FloatStorage": "f4",
    "torch.DoubleStorage": "f8",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.BoolStorage": "?",
}
#: Known, so that the refusal can say what is wrong.
_OTHER_STORAGES = [
    f"torch.{kind}Storage" for kind in ("Half", "BFloat16", "Short", "Char", "Byte", "ComplexFloat", "ComplexDouble")
]


class Checkpoint:
    """A checkpoint as inert data.

    Parameters
    ----------
    path : the file
    classes : "module.name" of classes whose objects are read as records
    constants : "module.name" of further names that may appear (activation functions)

    Attributes
    ----------
    root : the object that was saved; of a whole module, its ``Record``

    Raises
    ------
    InputError
        naming the file and the reason: not such an archive, damaged, larger than it says, or with anything in it that is
        not data of the kinds expected
    """

    def __init__(self, path: str | os.PathLike, classes: Collection[str], constants: Collection[str]) -> None:
        self.path = Path(path)
        try:
            size = os.path.getsize(self.path)
            if size > MAX_FILE:
                raise Refused(f"{size} bytes, more than {MAX_FILE}")
            self._content = self.path.read_bytes()
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from error
        except Refused as reason:
            raise self.refusal(reason) from None
        try:
            self._read(classes, constants)
        except Refused as reason:
            raise self.refusal(reason) from None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self._content).hexdigest()

    def refusal(self, reason: object) -> InputError:
        return InputError(f"{self.path}: checkpoint refused: {reason}")

    def array(self, tensor: Tensor, where: str) -> np.ndarray:
        """A copy of a tensor's numbers, contiguous and in native byte order; ``where`` names it in errors."""
        storage = tensor.storage
        if storage.kind not in STORAGES:
            raise self.refusal(f"{where} is of type {storage.kind}; polmd reads float32 and float64 weights")
        kind = np.dtype(STORAGES[storage.kind]).newbyteorder(self._byte_order)
        count = 1
        last = tensor.offset
        for n, step in zip(tensor.shape, tensor.strides, strict=True):
            count *= n
            last += (n - 1) * step
            if count > MAX_WEIGHTS or count > storage.size:
                raise self.refusal(f"{where} has shape {tensor.shape}, more numbers than its storage ({storage.size})")
        if count and last >= storage.size:
            raise self.refusal(f"{where} reaches beyond its storage of {storage.size} numbers")
        data = self._member(f"data/{storage.key}", storage.size * kind.itemsize, where)
        flat = np.frombuffer(data, dtype=kind)
        strides = [step * kind.itemsize for step in tensor.strides]
        view = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides, writeable=False)
        return np.ascontiguousarray(view, dtype=kind.newbyteorder("=")).reshape(tensor.shape)

    def _read(self, classes: Collection[str], constants: Collection[str]) -> None:
        self._members, prefix = self._directory()
        self._prefix = prefix
        order = self._member("byteorder", None, "byteorder") if f"{prefix}byteorder" in self._members else b"little"
        if order.strip() not in (b"little", b"big"):
            raise Refused(f"byte order {order[:20]!r}")
        self._byte_order: Literal["<", ">"] = "<" if order.strip() == b"little" else ">"
        known = {*constants, *STORAGES, *_OTHER_STORAGES}
        self.root: Any = InertUnpickler(self._member("data.pkl", None, "data.pkl"), classes, known, _explain).load()

    def _directory(self) -> tuple[dict[str, tuple[int, int, int]], str]:
        """Name → (offset of the data, size, CRC-32) of every member, and the prefix of all names."""
        content = self._content
        if not content:
            raise Refused("the file is empty")
        if content[:2] == b"\x80\x02" and content[2:14] == _LEGACY:
            raise Refused("the format of PyTorch before 1.6; load and save it again with a newer PyTorch")
        try:
            with zipfile.ZipFile(self.path) as archive:
                infos = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error, EOFError) as error:
            raise Refused(f"not a whole zip archive ({error}); is the file cut off?") from None
        except Exception as error:  # zipfile raises what its parsing stumbles over
            raise Refused(f"not a readable zip archive ({type(error).__name__})") from None
        if len(infos) > MAX_MEMBERS:
            raise Refused(f"{len(infos)} members")
        members: dict[str, tuple[int, int, int]] = {}
        used: list[tuple[int, int]] = []
        for info in infos:
            name = info.filename
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 0x1:
                raise Refused(f"member {name[:80]!r} is compressed or encrypted, which PyTorch never does")
            if name in members:
                raise Refused(f"two members are called {name[:80]!r}")
            if (
                info.header_offset < 0
                or info.header_offset + 30 > len(content)
                or content[info.header_offset :][:4] != b"PK\x03\x04"
            ):
                raise Refused(f"member {name[:80]!r} is not where the directory says")
            name_size, extra_size = struct.unpack("<HH", content[info.header_offset + 26 : info.header_offset + 30])
            start = info.header_offset + 30 + name_size + extra_size
            if content[info.header_offset + 30 :][:name_size] != name.encode():
                raise Refused(f"member {name[:80]!r} has another name in its own header")
            if start + info.file_size > len(content):
                raise Refused(f"member {name[:80]!r} claims {info.file_size} bytes that the file does not have")
            members[name] = start, info.file_size, info.CRC
            used.append((info.header_offset, start + info.file_size))
        used.sort()
        for before, after in itertools.pairwise(used):
            if after[0] < before[1]:
                raise Refused("members overlap")
        pickles = [name for name in members if re.fullmatch(r"[^/]+/data\.pkl", name)]
        if len(pickles) != 1:
            raise Refused("it is not a checkpoint of PyTorch: there is no member NAME/data.pkl, or more than one")
        prefix = pickles[0].removesuffix("data.pkl")
        if prefix + "constants.pkl" in members or any(name.startswith(prefix + "code/") for name in members):
            raise Refused("a TorchScript archive; save the module itself with torch.save")
        other = [name for name in members if not name.startswith(prefix)]
        if other:
            raise Refused(f"member {other[0][:80]!r} does not belong to a checkpoint")
        return members, prefix

    def _member(self, name: str, expected: int | None, where: str) -> bytes:
        """The content of a member, of the size expected, checksum verified."""
        if self._prefix + name not in self._members:
            raise self.refusal(f"the numbers of {where} are missing (member {name[:80]!r})")
        start, size, crc = self._members[self._prefix + name]
        if expected is not None and size != expected:
            raise self.refusal(f"{where} has {size} bytes of numbers, {expected} are needed")
        if name == "data.pkl" and size > MAX_PICKLE:
            raise self.refusal(f"a pickle of {size} bytes")
        data = self._content[start : start + size]
        if zlib.crc32(data) != crc:
            raise self.refusal(f"the checksum of {where} does not match, the file is damaged")
        return data


def _explain(name: str) -> str:
    """Why a name that is in no list is refused."""
    shown = name[:120]
    if name.startswith(("cace.", "les.", "torch.nn.")):
        return f"it uses {shown}, which polmd does not know how to evaluate"
    return f"it names {shown}, which is no part of a CACE model; nothing of it was executed"


def is_checkpoint(path: Path) -> bool:
    """True for files that look like an archive of ``torch.save``, whatever they are called."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rpartition("/")[2] == "data.pkl" for name in archive.namelist())
    except Exception:
        return False
