"""Frames of an extended XYZ file, compressed or not; as a script, several files into one compressed file.

python frames.py first.xyz second.xyz nacl_cluster.xyz.xz   # the last is written; positions, forces with five decimals
"""

from __future__ import annotations

import io
import lzma
import sys
from pathlib import Path

from ase import Atoms
from ase.io import read, write


def read_frames(path: Path) -> list[Atoms]:
    """All of them. ASE jumps about in the file, which costs minutes where each jump unpacks it again: it is unpacked first."""
    opened = lzma.open if path.suffix == ".xz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        return read(io.StringIO(file.read()), ":", format="extxyz")


def write_frames(path: Path, frames: list[Atoms]) -> None:
    """Frames with energies and forces (eV, eV/Å; stress is left out), compressed."""
    lines = []
    for a in frames:
        text = io.StringIO()
        write(text, a, format="extxyz", columns=["symbols", "positions", "forces"])
        head = text.getvalue().splitlines()[:2]
        rows = zip(a.symbols, a.positions, a.get_forces(), strict=True)
        lines += [*head, *(" ".join([s, *(f"{v:.5f}" for v in (*r, *f))]) for s, r, f in rows)]
    with lzma.open(path, "wt", encoding="utf-8", preset=9 | lzma.PRESET_EXTREME) as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    *sources, target = map(Path, sys.argv[1:])
    write_frames(target, [a for source in sources for a in read_frames(source)])
