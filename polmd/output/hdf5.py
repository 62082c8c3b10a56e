"""Making small HDF5 files without letting HDF5 touch a disk: a failed write inside the library can crash the process."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

_PAGE = 4096


class _Sparse(io.RawIOBase):
    """A file in memory that holds only what was written."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._spans: list[tuple[int, int]] = []
        self._position = 0
        self.size = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def truncate(self, size: int | None = None) -> int:
        self.size = self._position if size is None else size
        return self.size

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        start, done = self._position, 0
        while done < len(view):
            page, within = divmod(start + done, _PAGE)
            part = view[done : done + _PAGE - within]
            self._pages.setdefault(page, bytearray(_PAGE))[within : within + len(part)] = part
            done += len(part)
        self._spans.append((start, start + done))
        self._position += done
        self.size = max(self.size, self._position)
        return done

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self.content(self._position, min(self._position + len(view), self.size))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def content(self, start: int, stop: int) -> bytes:
        """Bytes from start to stop; zeros where nothing was written."""
        out = bytearray()
        while start < stop:
            page, within = divmod(start, _PAGE)
            length = min(_PAGE - within, stop - start)
            out += self._pages.get(page, bytes(_PAGE))[within : within + length]
            start += length
        return bytes(out)

    def chunks(self) -> list[tuple[int, bytes]]:
        """(offset, bytes) of all that was written, joined where it touches."""
        joined: list[list[int]] = []
        for start, stop in sorted(self._spans):
            if joined and start <= joined[-1][1]:
                joined[-1][1] = max(joined[-1][1], stop)
            else:
                joined.append([start, stop])
        return [(start, self.content(start, stop)) for start, stop in joined]


def build(fill: Callable[[Any], None], *, user_block: int = 0) -> tuple[list[tuple[int, bytes]], int]:
    """An HDF5 file made in memory: what has to be written where, and the size of the file.

    ``fill`` gets the open ``h5py.File``. Datasets that are allocated but never written cost no memory.
    """
    import h5py

    store = _Sparse()
    with h5py.File(store, "w", userblock_size=user_block or None) as file:
        fill(file)
    return store.chunks(), store.size
