"""The run directory: its file names, who may write there, and what may be deleted."""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from polmd.errors import OutputError
from polmd.output.files import write_atomically, writing
from polmd.output.response_file import RESPONSE
from polmd.output.trajectory import MASTER

MARKER = "polmd-run.json"
LOCK = "lock"
CHECKPOINT = "checkpoint.polmd"
THERMO = "thermo.csv"
LOG = "run.log"
INPUT = "input.toml"
FINAL = "final.extxyz"
FAILED = "failed.extxyz"

_FORMAT = "polmd run directory"
_VERSION = 1
_OURS = re.compile(
    "|".join(
        [
            *(re.escape(name) + r"(\.tmp)?" for name in (MARKER, THERMO, LOG, INPUT, FINAL, FAILED, MASTER, RESPONSE)),
            re.escape(CHECKPOINT) + r"(\.prev|\.tmp)?",
            r"trajectory\.\d{4,}(\.part)?\.h5(\.tmp)?",
        ]
    )
)


def run_files(directory: str | Path) -> list[Path]:
    """Files in ``directory`` with names that polmd gives, the lock excepted; links and folders are never among them."""
    found = (p for p in Path(directory).iterdir() if _OURS.fullmatch(p.name))
    return sorted(p for p in found if p.is_file() and not p.is_symlink())


def is_run_directory(path: str | Path) -> bool:
    """True when polmd made this directory."""
    try:
        content = json.loads((Path(path) / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("format") == _FORMAT


def check_target(path: str | Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Raise an ``OutputError`` unless a run may be written to ``path``; creates nothing.

    A new directory needs an existing parent that can be written to. An existing one must be empty or a run directory of
    polmd, and then needs ``resume`` or ``overwrite``; other directories are refused whatever is asked for.
    """
    path = Path(path)
    if resume and overwrite:
        raise OutputError("a run is either resumed or overwritten, not both")
    if not path.exists():
        if path.is_symlink():
            raise OutputError(f"output {path} is a link to nothing: remove it or name another directory")
        if resume:
            raise OutputError(f"nothing to resume: {path} does not exist")
        if not path.parent.is_dir():
            raise OutputError(f"output {path}: its parent directory does not exist; create {path.parent} first")
        _check_writable(path.parent)
        return
    if not path.is_dir():
        raise OutputError(f"output {path} is a file, not a directory; it is left alone")
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror}") from error
    ours = is_run_directory(path)
    if not ours and names - {LOCK, MARKER + ".tmp"}:
        raise OutputError(f"{path} is not empty and was not made by polmd: it is left alone, name another directory")
    if resume and not ours:
        raise OutputError(f"nothing to resume: {path} holds no run of polmd")
    if ours and not (resume or overwrite):
        raise OutputError(f"{path} already holds a run: continue it with --resume, or start over with --overwrite")
    _check_writable(path)


def _check_writable(path: Path) -> None:
    if not os.access(path, os.W_OK | os.X_OK):
        raise OutputError(f"cannot write to {path}: no permission, or a read-only file system")


class RunDirectory:
    """A run directory; made by ``create`` or ``resume``, which lock it against a second writer until ``close``."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def create(
        cls, path: str | Path, *, overwrite: bool = False, details: Mapping[str, Any] | None = None
    ) -> RunDirectory:
        """Make and lock the directory of a new run.

        ``overwrite`` deletes the files polmd wrote there before, and no others. ``details`` (JSON values) are kept in
        the marker file.
        """
        path = Path(path)
        check_target(path, overwrite=overwrite)
        with writing(path):
            path.mkdir(exist_ok=True)
        run = cls(path, _take_lock(path))
        try:
            check_target(path, overwrite=overwrite)  # another process may have been here before the lock
            stale = [p for p in run_files(path) if p.name != MARKER]
            for file in stale:
                with writing(file):
                    file.unlink()
            marker = {"format": _FORMAT, "version": _VERSION, **(details or {})}
            write_atomically(path / MARKER, json.dumps(marker, indent=1).encode() + b"\n")
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def resume(cls, path: str | Path) -> RunDirectory:
        """Lock the directory of an earlier run to continue it."""
        path = Path(path)
        check_target(path, resume=True)
        return cls(path, _take_lock(path))

    @property
    def checkpoint(self) -> Path:
        return self.path / CHECKPOINT

    @property
    def thermo(self) -> Path:
        return self.path / THERMO

    @property
    def response(self) -> Path:
        return self.path / RESPONSE

    @property
    def log(self) -> Path:
        return self.path / LOG

    @property
    def input(self) -> Path:
        return self.path / INPUT

    @property
    def final(self) -> Path:
        return self.path / FINAL

    @property
    def failed(self) -> Path:
        """The atoms of a step that went wrong."""
        return self.path / FAILED

    @property
    def master(self) -> Path:
        return self.path / MASTER

    def close(self) -> None:
        """Release the lock. The lock file stays: removing it would let two writers hold different files."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _take_lock(directory: Path) -> int:
    path = directory / LOCK
    with writing(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
    except BlockingIOError as error:
        pid, _, host = os.pread(fd, 300, 0).decode(errors="replace").strip().partition(" ")
        os.close(fd)
        holder = f"process {pid} on {host}" if pid else "another process"
        raise OutputError(
            f"{directory} is being written by {holder}: wait for it, or name another directory"
        ) from error
    except OSError as error:
        os.close(fd)
        raise OutputError(f"cannot lock {path}: {error.strerror}") from error
    return fd
