"""Frames to evaluate: the atoms, and every further value the file holds for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polmd.errors import InputError
from polmd.extxyz import is_xyz
from polmd.extxyz import read_frames as read_xyz
from polmd.system import System

if TYPE_CHECKING:
    from ase import Atoms

#: Keys of a frame that may name its kind, in the order in which they are looked for.
KINDS = ("config_type", "kind")


@dataclass
class Frame:
    """One structure and what its file says about it.

    Attributes
    ----------
    system : the atoms
    file, index : where it is from, index counted from 0 within the file
    values : key → value of every per-frame value and per-atom column but numbers, positions, cell
    """

    system: System
    file: str
    index: int
    values: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.file}, frame {self.index}"

    @property
    def composition(self) -> str:
        """Formula in Hill order."""
        from ase.formula import Formula

        symbols = self.symbols
        return str(Formula.from_dict({s: symbols.count(s) for s in dict.fromkeys(symbols)}).format("hill"))

    @property
    def symbols(self) -> list[str]:
        from ase.data import chemical_symbols

        return [chemical_symbols[z] for z in self.system.numbers]


def read_frames(paths: Iterable[str | Path], selection: str = ":") -> list[Frame]:
    """Frames of structure files in any format ASE knows.

    ``selection`` takes frames of each file as ASE and Python do: ``:``, ``0``, ``-1``, ``10:20``, ``::5``.

    Raises InputError naming the file, and the line or frame, of what cannot be read.
    """
    wanted = _selection(selection)
    frames: list[Frame] = []
    for path in map(Path, paths):
        if not path.is_file():
            raise InputError(f"{path}: no such structure file")
        found = [_frame(atoms, path, k) for k, atoms in enumerate(_atoms(path))]
        try:
            frames += found[wanted] if isinstance(wanted, slice) else [found[wanted]]
        except IndexError:
            raise InputError(f"{path}: has no frame {wanted}, it has {len(found)}") from None
    if not frames:
        raise InputError(f"--frames {selection} selects no frame")
    return frames


def _selection(text: str) -> slice | int:
    try:
        numbers = [int(part) if part.strip() else None for part in text.split(":")]
        if len(numbers) == 1 and numbers[0] is not None:
            return numbers[0]
        if 2 <= len(numbers) <= 3 and (len(numbers) < 3 or numbers[2] != 0):
            return slice(*numbers)
    except ValueError:
        pass
    raise InputError(f"--frames {text!r}: write a number or start:stop:step, counted from 0")


def _atoms(path: Path) -> Iterator[Atoms]:
    from ase.io import iread, read

    if is_xyz(path, None):
        for text, _ in read_xyz(path):
            try:
                found = read(StringIO(text), index=0, format="extxyz")
            except Exception as error:  # ASE's readers raise whatever their parsing stumbles over
                raise InputError(f"{path}: cannot be read: {error}") from error
            yield found[0] if isinstance(found, list) else found
        return
    try:
        yield from iread(path, index=":", do_not_split_by_at_sign=True)
    except Exception as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _frame(atoms: Atoms, path: Path, index: int) -> Frame:
    values: dict[str, Any] = dict(atoms.info)
    values |= {k: v for k, v in atoms.arrays.items() if k not in ("numbers", "positions", "masses", "momenta")}
    if atoms.calc is not None:
        values |= {k: v for k, v in atoms.calc.results.items() if v is not None}
    if not len(atoms):
        raise InputError(f"{path}, frame {index}: no atoms")
    bad = np.flatnonzero(~np.isfinite(atoms.positions).all(axis=1))
    if len(bad):
        raise InputError(f"{path}, frame {index}: the position of atom {bad[0]} (counted from 0) is not finite")
    return Frame(System.from_ase(atoms), str(path), index, values)
