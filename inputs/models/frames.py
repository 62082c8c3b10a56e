"""Frames of an extended XYZ file, compressed or not."""

from __future__ import annotations

import io
import lzma
from pathlib import Path

from ase import Atoms
from ase.io import read


def read_frames(path: Path) -> list[Atoms]:
    """All of them. ASE jumps about in the file, which costs minutes where each jump unpacks it again: it is unpacked first."""
    opened = lzma.open if path.suffix == ".xz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        return read(io.StringIO(file.read()), ":", format="extxyz")
