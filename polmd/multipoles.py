"""Electrostatics of a structure that carries its own multipoles: ``polmd electrostatics``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polmd.electrostatics import ElectrostaticsResult, compute
from polmd.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

#: Arrays of a structure file that are read, and their shape per atom (polarizabilities may be isotropic, one number).
MOMENTS: dict[str, tuple[int, ...]] = {
    "charges": (),
    "dipoles": (3,),
    "quadrupoles": (3, 3),
    "charge_responses": (),
    "polarizabilities": (3, 3),
}


def read_multipoles(path: Path, index: int) -> tuple[Atoms, dict[str, np.ndarray]]:
    """A frame of any file ASE reads, and the multipoles among its per-atom arrays: charges (e; ``initial_charges`` is taken
    too), dipoles (e Å), quadrupoles (e Å², nine numbers), charge_responses (e/V), polarizabilities (e Å²/V, one or nine).

    Raises InputError for a file that cannot be read, without any charges, or with an array of another shape.
    """
    from ase.io import read

    try:
        atoms = read(path, index=index)
        assert not isinstance(atoms, list)  # one frame was asked for
    except Exception as error:
        raise InputError(f"{path}: frame {index} cannot be read ({type(error).__name__}: {error})") from None
    results = atoms.calc.results if atoms.calc is not None else {}
    found: dict[str, np.ndarray] = {}
    for name, shape in MOMENTS.items():
        value = atoms.arrays.get(name, results.get(name))
        if value is None and name == "charges":
            value = atoms.arrays.get("initial_charges")
        if value is None:
            continue
        array = np.asarray(value, dtype=np.float64)
        n, numbers = len(atoms), int(np.prod(shape))
        if array.size == n and name in ("charges", "charge_responses", "polarizabilities"):
            found[name] = array.reshape(n)
        elif array.size == n * numbers:
            found[name] = array.reshape(n, *shape)
        else:
            raise InputError(
                f"{path}: {name} has shape {array.shape}, expected {numbers} numbers for each of {n} atoms"
            )
    if "charges" not in found:
        known = ", ".join(MOMENTS)
        raise InputError(
            f"{path}: no charges among the per-atom arrays of frame {index}; arrays that are read: {known}"
        )
    return atoms, found


def evaluate(atoms: Atoms, moments: dict[str, np.ndarray], **options: Any) -> ElectrostaticsResult:
    """:func:`polmd.electrostatics.compute` for a structure: periodic in three dimensions with any periodic axis, else open."""
    cell = atoms.cell.array if atoms.pbc.any() else None
    return compute(atoms.positions, cell, **moments, **options)  # type: ignore[arg-type]


def with_results(atoms: Atoms, result: ElectrostaticsResult) -> Atoms:
    """The structure with energy, forces, potentials, fields and induced moments as extended XYZ keeps them."""
    from ase.calculators.singlepoint import SinglePointCalculator

    out = atoms.copy()
    out.arrays["potentials"], out.arrays["fields"] = result.potentials, result.fields
    if result.induced_charges is not None:
        out.arrays["induced_charges"] = result.induced_charges
    if result.induced_dipoles is not None:
        out.arrays["induced_dipoles"] = result.induced_dipoles
    out.calc = SinglePointCalculator(out, energy=result.energy, forces=result.forces)
    return out
