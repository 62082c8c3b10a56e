"""Writing that survives the death of the process: whole writes, atomic replacement, errors that name the file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polmd.errors import OutputError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` inside into an ``OutputError`` that names ``path``."""
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        hint = "; free some space and resume the run" if error.errno in _FULL else ""
        reason = error.strerror or str(error)
        raise OutputError(f"cannot write {path}: {reason}; everything written before stays readable{hint}") from error


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all bytes of ``data`` at ``offset``, however many calls it takes."""
    count = os.pwrite(fd, data, offset)
    rest = memoryview(data).cast("B")[count:]
    if len(rest):
        write_all(fd, rest, offset + count)


def fsync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable (a file system that cannot is left alone)."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


def fsync_file(path: Path) -> None:
    """Make the content of ``path`` durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target`` (same directory), replacing it, durably."""
    os.replace(source, target)
    fsync_directory(target.parent)


def write_temporary(path: Path, data: bytes) -> Path:
    """Write and fsync ``data`` beside ``path``; returns the temporary file, which never follows a link."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        write_all(fd, data, 0)
        os.fsync(fd)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(fd)
    return temporary


def write_atomically(path: Path, data: bytes) -> None:
    """``path`` has either its old content or ``data``, whenever the process dies."""
    with writing(path):
        replace(write_temporary(path, data), path)
