"""One frame out of an (extended) XYZ file, checked line by line before ASE parses it.

ASE drops surplus columns, stops at blank lines and answers a short row with an error of NumPy; here every fault gets
its line.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from polmd.errors import InputError

#: What a file without ``Properties`` holds; further columns are ignored, as everywhere.
PLAIN = "species:S:1:pos:R:3"

_FORTRAN = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[dD][-+]?\d+")
_LATTICE = re.compile(r"""Lattice\s*=\s*(["'{\[]).*?["'}\]]""")


class Frame(NamedTuple):
    """Lines of a frame (header, comment, atoms, ``VEC`` rows) and the number, from 1, of the first."""

    line: int
    atoms: int
    rows: list[str]


def is_xyz(path: Path, format: str | None) -> bool:
    """True for files that ``read_frame`` reads: named so, or .xyz and .extxyz without a format."""
    return format in ("xyz", "extxyz") if format is not None else path.suffix.lower() in (".xyz", ".extxyz")


def read_frame(path: Path, index: int) -> tuple[str, list[str]]:
    """The text of frame ``index`` (negative: from the end) and notes; InputError with the line of what is wrong."""
    count = 0
    wanted: Frame | None = None
    latest: deque[Frame] = deque(maxlen=-index if index < 0 else 1)
    try:
        for frame in _frames(path):
            latest.append(frame)
            if count == index:
                wanted = frame  # and on to the next header: it shows whether the count of this frame is right
            count += 1
            if wanted is not None and frame is not wanted:
                break
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if count == 0:
        raise InputError(f"{path}: the file is empty")
    if index < 0 and count >= -index:
        wanted = latest[0]
    if wanted is None:
        raise InputError(f"{path}: has no frame {index}, it has {count}: give structure.index between {-count} and -1")
    notes = _check(path, wanted)
    return "".join(row + "\n" for row in wanted.rows), notes


def read_frames(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The text of every frame and notes; InputError with the line of what is wrong."""
    count = 0
    try:
        for frame in _frames(path):
            yield "".join(row + "\n" for row in frame.rows), _check(path, frame)
            count += 1
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if count == 0:
        raise InputError(f"{path}: the file is empty")


def _frames(path: Path) -> Iterator[Frame]:
    """Frames of the file; blank lines between them are skipped."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = enumerate((line.rstrip("\n") for line in file), 1)
        number, line = next(lines, (0, None))
        before: Frame | None = None
        while line is not None:
            if not line.strip():
                number, line = next(lines, (0, None))
                continue
            header = number
            if not line.strip().isascii() or not line.strip().isdigit():
                hint = f"; line {before.line} promises {before.atoms} atoms, more follow" if before is not None else ""
                raise InputError(f"{path}: line {number}: {_short(line)} is not a number of atoms{hint}")
            atoms = int(line)
            rows = [line.strip()]
            for _, line in lines:
                rows.append(line)
                if len(rows) == atoms + 2:
                    break
            found = sum(bool(row.strip()) for row in rows[2:])
            if len(rows) < atoms + 2 and not (atoms == 0 and len(rows) == 1):
                raise InputError(
                    f"{path}: line {header} promises {atoms} atoms, the file has {found}: the file is cut off, or "
                    "the number is wrong"
                )
            number, line = next(lines, (0, None))
            while line is not None and line.lstrip().startswith("VEC"):
                rows.append(line)
                number, line = next(lines, (0, None))
            before = Frame(header, atoms, rows)
            yield before


def _check(path: Path, frame: Frame) -> list[str]:
    """Refuse rows that do not hold what Properties names."""
    from ase.data import atomic_numbers
    from ase.io.extxyz import key_val_str_to_dict

    if frame.atoms == 0:
        raise InputError(f"{path}: line {frame.line}: the structure has no atoms")
    comment = frame.rows[1].strip()
    lattice = _LATTICE.search(comment)
    found = _FORTRAN.search(lattice.group()) if lattice else None
    if found:
        raise InputError(f"{path}: line {frame.line + 1}: {found.group()} {_EXPONENT}")
    try:
        info = key_val_str_to_dict(comment) if "=" in comment else {}
    except Exception as error:  # whatever the parser stumbles over
        raise InputError(f"{path}: line {frame.line + 1}: the comment line cannot be parsed: {error}") from None
    declared = "Properties" in info
    properties = str(info.get("Properties", PLAIN))
    kinds = _column_kinds(properties)
    names = [name for name, _, _ in kinds]
    if not kinds or ("pos", "R", 3) not in kinds or not {"species", "Z"} & set(names):
        raise InputError(
            f"{path}: line {frame.line + 1}: Properties={properties} must name pos:R:3 and species:S:1 (or Z:I:1)"
        )
    columns = [(name, kind) for name, kind, width in kinds for _ in range(width)]
    surplus = 0
    for atom, row in enumerate(frame.rows[2 : frame.atoms + 2]):
        where = f"{path}: line {frame.line + 2 + atom}"
        values = row.split()
        if len(values) < len(columns) or (declared and len(values) > len(columns)):
            raise InputError(
                f"{where}: atom {atom} (counted from 0) has {len(values)} columns, {properties} needs {len(columns)}"
            )
        surplus = max(surplus, len(values) - len(columns))
        for (name, kind), value in zip(columns, values, strict=False):
            if kind in "RI" and not _is_number(value, kind):
                if _FORTRAN.fullmatch(value):
                    raise InputError(f"{where}: {value} {_EXPONENT}")
                raise InputError(f"{where}: {name} of atom {atom} (counted from 0) is {value}, not a number")
            if name == "species" and "Z" not in names and value.capitalize() not in atomic_numbers:
                raise InputError(f"{where}: {unknown_symbol(value)}")
    return [f"not used: {surplus} further columns, the file does not say what they are"] if surplus else []


_EXPONENT = "has a Fortran exponent; write E instead of D"


def unknown_symbol(symbol: str) -> str:
    """What to do about an atom that is no element."""
    if symbol.upper() in ("D", "T"):
        return f"{symbol} is no element symbol; write H, and its mass in a column masses (extxyz: masses:R:1)"
    if symbol.isdigit():
        return f"{symbol!r} is no element symbol; write the symbol, or name the column Z:I:1 in Properties"
    return f"{symbol!r} is no element symbol"


def _column_kinds(properties: str) -> list[tuple[str, str, int]]:
    """(name, type, width) triplets; empty when the text is not a list of them."""
    fields = properties.split(":")
    if len(fields) % 3:
        return []
    kinds = list(zip(fields[::3], fields[1::3], fields[2::3], strict=True))
    if not all(kind in ("R", "I", "S", "L") and width.isdigit() and int(width) for _, kind, width in kinds):
        return []
    return [(name, kind, int(width)) for name, kind, width in kinds]


def _is_number(text: str, kind: str) -> bool:
    try:
        if kind == "I":
            int(text)
        else:
            float(text)
    except ValueError:
        return False
    return "_" not in text


def _short(line: str) -> str:
    text = line.strip()
    return repr(text if len(text) <= 40 else text[:37] + "...")
