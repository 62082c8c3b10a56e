"""Weights trained elsewhere. An importer is a function from a file to a :class:`polmd.model.file.Model`."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

from pydantic import ValidationError

from polmd.errors import InputError
from polmd.model.architecture import Header
from polmd.model.file import Model, load_model

_HDF5 = b"\x89HDF\r\n\x1a\n"


def read_weights(
    source: str | os.PathLike, *, name: str | None = None, atomic_energies: dict[str, float] | None = None
) -> Model:
    """Read a model from whatever holds it: a PyTorch checkpoint, a weight archive (.npz), a model file, a bundled name.

    Parameters
    ----------
    source : file or bundled name; its content says what it is, not its suffix
    name : of the model
    atomic_energies : atomic number (text) → eV, in place of what the file says

    Raises
    ------
    InputError
        when the file is damaged, refused, or not one of these
    """
    from polmd.model.importers.cace import read_checkpoint
    from polmd.model.importers.checkpoint import is_checkpoint
    from polmd.model.importers.npz import read_npz

    path = Path(source)
    if not path.is_file() or _starts(path, _HDF5):
        model = load_model(source)
    elif is_checkpoint(path) or path.suffix.lower() in (".pth", ".pt", ".ckpt"):
        model = read_checkpoint(path)
    else:
        model = read_npz(path)
    changes: dict[str, object] = {} if name is None else {"name": name}
    if atomic_energies is not None:
        changes["atomic_energies_eV"] = atomic_energies
    if not changes:
        return model
    try:
        header = Header.model_validate({**model.header.model_dump(), **changes})
    except ValidationError as error:
        raise InputError(f"{source}: " + "; ".join(e["msg"] for e in error.errors())) from error
    return Model(header, model.arrays, model.source)


def parse_atomic_energies(text: str) -> dict[str, float]:
    """Atomic energies from the command line: ``H=-13.6,O=-432.1`` or the name of a JSON file of such pairs.

    Returns atomic number (text) → eV. Raises InputError naming what cannot be understood.
    """
    from ase.data import atomic_numbers

    path = Path(text)
    pairs: list[tuple[str, object]]
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: atomic energies cannot be read ({error})") from error
        if not isinstance(content, dict):
            raise InputError(f'{path}: atomic energies are an object, such as {{"H": -13.6, "O": -432.1}}')
        pairs = list(content.items())
    else:
        pairs = [(key.strip(), value) for key, _, value in (part.partition("=") for part in text.split(","))]
    energies: dict[str, float] = {}
    for key, value in pairs:
        number = atomic_numbers.get(key, int(key) if key.isascii() and key.isdigit() else 0)
        try:
            energy = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            energy = math.nan
        if not 1 <= number <= 118 or not math.isfinite(energy) or str(number) in energies:
            raise InputError(
                f"atomic energy {key!r} = {value!r}: write an element once and a number in eV, as in H=-13.6"
            )
        energies[str(number)] = energy
    return energies


def _starts(path: Path, magic: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(magic)) == magic
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
