"""Checkpoints: one file, exact to the bit, checked as a whole, replaced so that one valid file always remains.

Layout, little-endian: magic (8 bytes), format version (uint32), header length (uint64), payload length (uint64), JSON
header, raw arrays, SHA-256 of everything before it (32 bytes). The header is the content itself, with arrays, NumPy
scalars and bytes replaced by references into the payload; no part of it is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polmd.errors import OutputError
from polmd.output.files import fsync_directory, replace, write_temporary, writing

MAGIC = b"polmdckp"
VERSION = 1
_HEAD = struct.Struct("<8sIQQ")
_DIGEST = 32


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes
    ----------
    content : what was given to ``write_checkpoint``
    path : the file it came from, the checkpoint or its ``.prev``
    message : why the previous one was used, or None
    """

    content: dict[str, Any]
    path: Path
    message: str | None = None


def previous(path: str | Path) -> Path:
    """Where the checkpoint before this one is kept."""
    path = Path(path)
    return path.with_name(path.name + ".prev")


def write_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` durably; the checkpoint before it becomes ``.prev``.

    ``content`` is a nested dict with string keys of arrays, NumPy scalars, str, bytes, bool, int of any size, float,
    None and lists. Floats, arrays and integers come back exactly. Killed anywhere, the current checkpoint or ``.prev``
    is whole: a damaged current one is never moved over a good ``.prev``.
    """
    path = Path(path)
    data = encode(content)
    with writing(path):
        temporary = write_temporary(path, data)
        if _is_valid(path):
            os.replace(path, previous(path))
            fsync_directory(path.parent)
        replace(temporary, path)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read and check the checkpoint, or its ``.prev`` when it is missing or damaged (then ``message`` is set)."""
    path = Path(path)
    try:
        return Checkpoint(_read(path), path)
    except OutputError as error:
        reason = str(error)
    try:
        content = _read(previous(path))
    except OutputError as error:
        raise OutputError(f"no usable checkpoint: {reason}; {error}") from error
    return Checkpoint(content, previous(path), f"{reason}; using the one before it, {previous(path).name}")


def check_compatible(stored: Mapping[str, str], current: Mapping[str, str]) -> None:
    """Refuse to go on from a checkpoint of another run: an ``OutputError`` lists every item that differs."""
    lines = [
        f"  {key}: {stored.get(key, '(absent)')} in the checkpoint, {current.get(key, '(absent)')} now"
        for key in sorted(stored.keys() | current.keys())
        if stored.get(key) != current.get(key)
    ]
    if lines:
        raise OutputError(
            "the checkpoint does not belong to this run:\n"
            + "\n".join(lines)
            + "\nrestore what it was written with, or start over in another directory"
        )


def encode(content: Mapping[str, Any]) -> bytes:
    """The bytes of a checkpoint file."""
    payload: list[bytes] = []
    header = json.dumps(_pack(content, payload, "checkpoint")).encode()
    body = b"".join(payload)
    data = _HEAD.pack(MAGIC, VERSION, len(header), len(body)) + header + body
    return data + hashlib.sha256(data).digest()


def decode(data: bytes, name: str) -> dict[str, Any]:
    """The content of a checkpoint file; ``name`` is for errors."""
    if len(data) < _HEAD.size or data[:8] != MAGIC:
        raise OutputError(f"{name} is not a checkpoint of polmd, or it is damaged ({len(data)} bytes)")
    _, version, header_length, payload_length = _HEAD.unpack_from(data)
    expected = _HEAD.size + header_length + payload_length + _DIGEST
    if len(data) != expected:
        raise OutputError(f"{name} is damaged ({len(data)} bytes, its header says {expected})")
    if hashlib.sha256(data[:-_DIGEST]).digest() != data[-_DIGEST:]:
        raise OutputError(f"{name} is damaged (checksum)")
    if version != VERSION:
        raise OutputError(f"{name} has checkpoint format {version}, this polmd reads format {VERSION}")
    start = _HEAD.size + header_length
    content: dict[str, Any] = _unpack(json.loads(data[_HEAD.size : start]), memoryview(data)[start:-_DIGEST])
    return content


def _read(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise OutputError(f"cannot read checkpoint {path}: {error.strerror or error}") from error
    return decode(data, str(path))


def _is_valid(path: Path) -> bool:
    try:
        _read(path)
    except OutputError:
        return False
    return True


def _pack(value: Any, payload: list[bytes], where: str) -> Any:
    """JSON form of ``value``. A dict with one key that starts with ``$`` is a reference or an escaped dict."""
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.kind not in "biufcSU":
            raise TypeError(f"{where}: an array of {array.dtype} cannot be kept in a checkpoint")
        array = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        tag = "$array" if isinstance(value, np.ndarray) else "$scalar"
        return {tag: [array.dtype.str, list(array.shape), _append(array.tobytes(), payload)]}
    if isinstance(value, bytes):
        return {"$bytes": [len(value), _append(value, payload)]}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_pack(item, payload, f"{where}[{k}]") for k, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where}: key {key!r} is not a string")
        packed = {key: _pack(item, payload, f"{where}.{key}") for key, item in value.items()}
        return {"$dict": packed} if any(key.startswith("$") for key in packed) else packed
    raise TypeError(f"{where}: {type(value).__name__} cannot be kept in a checkpoint")


def _append(data: bytes, payload: list[bytes]) -> int:
    """Add ``data`` to the payload; returns its offset there."""
    offset = sum(map(len, payload))
    payload.append(data)
    return offset


def _unpack(value: Any, payload: memoryview) -> Any:
    if isinstance(value, list):
        return [_unpack(item, payload) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"$array": [dtype, shape, offset]} | {"$scalar": [dtype, shape, offset]}:
            count = int(np.prod(shape, dtype=np.int64))
            kind = np.dtype(dtype)
            data = payload[offset : offset + count * kind.itemsize]
            array = np.frombuffer(data, kind, count).reshape(shape).copy() if kind.itemsize else np.zeros(shape, kind)
            return array if "$array" in value else array[()]
        case {"$bytes": [length, offset]}:
            return bytes(payload[offset : offset + length])
        case {"$dict": content}:
            return {key: _unpack(item, payload) for key, item in content.items()}
    return {key: _unpack(item, payload) for key, item in value.items()}
