"""Which atoms: ``"0-23, 30"`` by index, ``"Mg, O"`` by element, or both."""

from __future__ import annotations

import re

import numpy as np

from polmd.errors import InputError

_RANGE = re.compile(r"(\d+)(?:\s*-\s*(\d+))?")


def select(selection: str, numbers: np.ndarray, what: str) -> np.ndarray:
    """(n,) bool of the atoms named in ``selection``, for atoms of these atomic numbers.

    Entries are separated by commas: an index counted from 0, a range with both ends included, or the symbol of an
    element. Raises InputError, naming ``what`` asked for it, for an entry that is none of these or finds no atom.
    """
    from ase.data import atomic_numbers

    chosen = np.zeros(len(numbers), dtype=bool)
    for entry in (part.strip() for part in selection.split(",")):
        match = _RANGE.fullmatch(entry)
        if match:
            first, last = int(match[1]), int(match[2] or match[1])
            if not first <= last < len(numbers):
                raise InputError(f"{what}: there is no atom {entry}; atoms are 0 to {len(numbers) - 1}")
            chosen[first : last + 1] = True
        elif entry in atomic_numbers and atomic_numbers[entry] > 0:
            found = numbers == atomic_numbers[entry]
            if not found.any():
                raise InputError(f"{what}: the structure has no {entry}")
            chosen |= found
        else:
            raise InputError(f'{what}: "{entry}" is neither an atom such as 7, a range such as 0-23, nor an element')
    return chosen
