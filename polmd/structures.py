"""Start structures: files that ASE reads, checks of what was read, and water of our own making."""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from polmd.errors import InputError
from polmd.extxyz import is_xyz, read_frame, unknown_symbol
from polmd.neighbors import build_pairs, closest_pair
from polmd.system import System
from polmd.units import DENSITY

if TYPE_CHECKING:
    from ase import Atoms

#: A mass density outside this range (g/cm³), or atoms farther apart than this (Å), suggest another unit of length.
PLAUSIBLE_DENSITY = (0.02, 25.0)
PLAUSIBLE_DISTANCE = (0.6, 4.0)
#: The closest pair of a structure is bonded, hence nearer than this many sums of covalent radii (a Bohr is 1.89 of it).
LOOSEST_BOND = 1.6
NOBLE_GASES = {2, 10, 18, 36, 54, 86}

_FORTRAN = re.compile(r"(?<![A-Za-z_])[-+]?\d+\.?\d*[dD][-+]?\d+\b")


def read_structure(path: str | Path, index: int = -1, format: str | None = None) -> tuple[System, list[str]]:
    """Read one frame of a structure file in any format ASE knows.

    Returns the system and notes on what was taken. Positions, cell, pbc, masses and velocities (from a momenta or
    velocities column) and fixed atoms (a move_mask column, selective dynamics) are used; forces, energies and charges
    in the file are not, and the notes say so.

    Raises InputError naming the file, and the line where it can be found.
    """
    from ase.io import read
    from ase.io.formats import UnknownFileTypeError

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such structure file")
    notes: list[str] = []
    try:
        if is_xyz(path, format):
            text, notes = read_frame(path, index)
            found = read(StringIO(text), index=0, format="extxyz")
        else:
            found = read(path, index=index, format=format, do_not_split_by_at_sign=True)
    except InputError:
        raise
    except UnknownFileTypeError as error:
        raise InputError(
            f"{path}: ASE does not recognise the format ({error}); name it with structure.format"
        ) from error
    except IndexError as error:
        raise InputError(f"{path}: has no frame {index}") from error
    except Exception as error:  # ASE's readers raise whatever their parsing stumbles over
        raise InputError(f"{path}: cannot be read: {_reason(path, error)}") from error
    atoms = (
        found[-1] if isinstance(found, list) else found
    )  # an integer index gives one frame, its type does not say so
    notes.insert(0, f"structure: {path}, frame {index}, {len(atoms)} atoms")
    return _taken(atoms, notes)


def _taken(atoms: Atoms, notes: list[str]) -> tuple[System, list[str]]:
    """The system of what ASE read, and notes on which columns were used and which were not."""
    from ase.constraints import FixAtoms

    used = {"numbers", "positions", "masses", "momenta"}
    if atoms.has("momenta"):
        notes.append("velocities taken from the column momenta")
    elif "velocities" in atoms.arrays:
        atoms.set_velocities(atoms.arrays["velocities"])
        used.add("velocities")
        notes.append("velocities taken from the column velocities (ASE units)")
    if not atoms.has("masses") and "mass" in atoms.arrays:
        atoms.set_masses(atoms.arrays["mass"])
        used.add("mass")
    if atoms.has("masses"):
        notes.append("masses taken from the file")
    results = set(atoms.calc.results) if atoms.calc is not None else set()
    unused = sorted((set(atoms.arrays) | results) - used)
    known = [c for c in atoms.constraints if isinstance(c, FixAtoms)]
    for constraint in atoms.constraints:
        if constraint not in known:
            unused.append(f"constraint {type(constraint).__name__} (only whole atoms can be fixed)")
    atoms.set_constraint(known)
    if known:
        notes.append(f"fixed atoms taken from the file: {len({int(k) for c in known for k in c.index})}")
    if unused:
        notes.append(f"not used: {', '.join(unused)}")
    return System.from_ase(atoms), notes


def _reason(path: Path, error: Exception) -> str:
    """The first place in a text file that explains a failed read, or ASE's own words."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    for number, line in enumerate(lines, 1):
        found = _FORTRAN.search(line)
        if found:
            return f"line {number}: {found.group()} has a Fortran exponent; write E instead of D"
    if isinstance(error, KeyError):
        symbol = str(error.args[0]) if error.args else "?"
        for number, line in enumerate(lines, 1):
            if re.match(rf"\s*{re.escape(symbol)}\s", line):
                return f"line {number}: {unknown_symbol(symbol)}"
        return unknown_symbol(symbol)
    text = str(error) or type(error).__name__
    return text.splitlines()[0]


def check_system(system: System, *, elements: Sequence[int], min_distance_A: float) -> list[str]:
    """Refuse what no simulation can start from; returns warnings about what is probably a mistake.

    Parameters
    ----------
    system : what was read or built
    elements : atomic numbers that the model knows
    min_distance_A : refuse atoms closer than this, images included

    Raises
    ------
    InputError
        naming the atom (counted from 0) or the axis: no atoms, unknown element, values that are not finite, singular or
        missing cell, coincident or too close atoms
    """
    from ase.data import chemical_symbols

    symbols = [chemical_symbols[z] for z in system.numbers]
    if len(system) == 0:
        raise InputError("the structure has no atoms")
    for k, z in enumerate(system.numbers):
        if z == 0:
            raise InputError(f"atom {k} (counted from 0) has no element (symbol X): give it one, or leave it out")
        if int(z) not in elements:
            known = ", ".join(chemical_symbols[e] for e in elements)
            raise InputError(
                f"element {symbols[k]} (atom {k}, counted from 0) is not in the model, which knows {known}"
            )
    for name in ("positions", "velocities", "masses"):
        rows = getattr(system, name).reshape(len(system), -1)
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise InputError(
                f"{name} of atom {bad[0]} ({symbols[bad[0]]}, counted from 0) are not finite: {rows[bad[0]]}"
            )
    if (system.masses <= 0).any():
        k = int(np.flatnonzero(system.masses <= 0)[0])
        raise InputError(f"mass of atom {k} ({symbols[k]}, counted from 0) is {system.masses[k]}: it must be positive")
    if system.periodic:
        _check_cell(system)
    pair = closest_pair(system.positions, system.cell, system.pbc, max(min_distance_A, 1e-3))
    if pair is not None:
        i, j, distance = pair
        where = "have identical positions" if distance < 1e-6 else f"are {distance:.3f} Å apart"
        raise InputError(
            f"atoms {i} ({symbols[i]}) and {j} ({symbols[j]}), counted from 0, {where}; closer than "
            f"structure.min_distance_A = {min_distance_A:g}: mend the structure"
        )
    return _plausibility(system)


def _check_cell(system: System) -> None:
    lengths = np.linalg.norm(system.cell, axis=1)
    if not np.isfinite(system.cell).all():
        raise InputError(f"the cell is not finite: {system.cell.tolist()}")
    for axis in range(3):
        if lengths[axis] == 0 and system.pbc[axis]:
            raise InputError(
                f"axis {'abc'[axis]} is periodic but its lattice vector is zero: give the cell, or pbc = F"
            )
        if lengths[axis] == 0:
            raise InputError(
                f"lattice vector {'abc'[axis]} is zero: with any periodic axis the electrostatics is periodic in three "
                "dimensions and needs a full cell (a slab needs one with vacuum)"
            )
    if system.volume < 1e-6 * lengths.prod():
        raise InputError(f"the cell is singular, its vectors lie in a plane: {system.cell.tolist()}")


def _plausibility(system: System) -> list[str]:
    warnings = []
    if system.pbc.all():
        density = system.masses.sum() / system.volume * DENSITY
        if not PLAUSIBLE_DENSITY[0] <= density <= PLAUSIBLE_DENSITY[1]:
            warnings.append(f"the density is {density:.3g} g/cm³: are positions and cell in Å (not Bohr or nm)?")
    if len(system) > 1:
        warnings += _implausible_distance(system)
    return warnings


def _implausible_distance(system: System) -> list[str]:
    from ase.data import chemical_symbols, covalent_radii

    low, high = PLAUSIBLE_DISTANCE
    radii = covalent_radii[system.numbers]
    reach = max(high, 2 * LOOSEST_BOND * radii.max())
    pair = closest_pair(system.positions, system.cell, system.pbc, reach)
    if pair is None:
        return [f"no two atoms are closer than {reach:.1f} Å: are the positions in Å (not nm or Bohr)?"]
    i, j, distance = pair
    who = f"atoms {i} ({chemical_symbols[system.numbers[i]]}) and {j} ({chemical_symbols[system.numbers[j]]})"
    if distance < low:
        return [f"{who} are {distance:.3f} Å apart: are the positions in Å (not nm)?"]
    bonds = distance / (radii[i] + radii[j])
    if bonds > LOOSEST_BOND and not {int(system.numbers[i]), int(system.numbers[j])} & NOBLE_GASES:
        return [
            f"the closest {who} are {distance:.2f} Å apart, {bonds:.1f} times a bond: are the positions in Å (not Bohr)?"
        ]
    return []


# ---------------------------------------------------------------------------------------------------------- water

_BOND, _ANGLE = 0.9572, np.radians(104.52)  # gas-phase geometry, Å
#: Contacts between molecules (Å) that the relaxation works towards, and those it must reach: O–O, O–H, H–H.
_WANTED = {(8, 8): 2.75, (1, 8): 1.75, (1, 1): 2.10}
_LEAST = {(8, 8): 2.40, (1, 8): 1.50, (1, 1): 1.60}


def build_water(molecules: int, *, density_g_cm3: float = 0.997, seed: int = 0, periodic: bool = True) -> System:
    """Water molecules in a cubic cell, or a droplet with open boundaries, without bad contacts.

    Molecules start on a lattice with random orientations and are pushed apart as nearly rigid bodies by a soft repulsion
    between molecules. The same arguments give the same atoms; it is a start for minimisation, not equilibrated water.
    Atoms are ordered O H H, molecule by molecule.

    Raises InputError when the molecules cannot be packed without bad contacts at this density.
    """
    from ase.data import atomic_masses

    if molecules < 1 or not (np.isfinite(density_g_cm3) and density_g_cm3 > 0):
        raise InputError(f"cannot build {molecules} molecules of water at {density_g_cm3} g/cm³")
    numbers = np.tile([8, 1, 1], molecules)
    masses = atomic_masses[numbers]
    volume = masses.sum() * DENSITY / density_g_cm3
    edge = volume ** (1 / 3)
    rng = np.random.default_rng(seed)
    centers = _lattice(molecules, edge, rng) if periodic else _ball(molecules, edge)
    positions = (centers[:, None, :] + _oriented(molecules, rng)).reshape(-1, 3)
    cell = np.eye(3) * edge if periodic else np.zeros((3, 3))
    pbc = np.full(3, periodic)
    positions = _push_apart(numbers, positions, cell, pbc)
    shortest = _worst_contact(numbers, positions, cell, pbc)
    if shortest is not None:
        raise InputError(
            f"water at {density_g_cm3:g} g/cm³ cannot be built: contact of {shortest:.2f} Å left; take a lower density"
        )
    return System(numbers, positions, cell, pbc, masses, np.zeros((3 * molecules, 3)))


def _lattice(molecules: int, edge: float, rng: np.random.Generator) -> np.ndarray:
    per_axis = int(np.ceil(round(molecules ** (1 / 3), 9)))
    sites = np.stack(np.meshgrid(*[np.arange(per_axis)] * 3, indexing="ij"), -1).reshape(-1, 3)
    chosen = np.sort(rng.permutation(len(sites))[:molecules])
    return (sites[chosen] + 0.5) * edge / per_axis


def _ball(molecules: int, edge: float) -> np.ndarray:
    spacing = edge / molecules ** (1 / 3)
    half = int(np.ceil(molecules ** (1 / 3))) + 1
    sites = np.stack(np.meshgrid(*[np.arange(-half, half + 1)] * 3, indexing="ij"), -1).reshape(-1, 3) + np.array(
        [0.1, 0.2, 0.3]
    )
    return sites[np.argsort((sites**2).sum(1), kind="stable")[:molecules]] * spacing


def _oriented(molecules: int, rng: np.random.Generator) -> np.ndarray:
    """(molecules, 3, 3) atoms O, H, H around the oxygen, uniformly random orientations."""
    half = _ANGLE / 2
    body = _BOND * np.array([[0, 0, 0], [np.sin(half), np.cos(half), 0], [-np.sin(half), np.cos(half), 0]])
    q = rng.standard_normal((molecules, 4))
    w, x, y, z = (q / np.linalg.norm(q, axis=1)[:, None]).T
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    return np.einsum("abm,kb->mka", rotation, body)


def _contacts(
    numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, table: dict[tuple[int, int], float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Centres, edges, lengths and shortfalls of pairs of atoms of different molecules that are closer than ``table``."""
    pairs = build_pairs(positions, cell, pbc, max(table.values()))
    i, j, edges = pairs.centers, pairs.neighbors, pairs.edges(positions, cell)
    other = (i // 3 != j // 3) | pairs.shifts.any(axis=1)
    low, high = np.minimum(numbers[i], numbers[j]), np.maximum(numbers[i], numbers[j])
    wanted = np.where(high == 1, table[1, 1], np.where(low == 8, table[8, 8], table[1, 8]))
    lengths = np.sqrt((edges**2).sum(axis=1))
    near = other & (lengths < wanted)
    return i[near], edges[near], lengths[near], (wanted - lengths)[near]


def _push_apart(numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Alternate steps along the soft repulsion with a reset of every molecule to its rigid shape (Kabsch)."""
    half = _ANGLE / 2
    body = _BOND * np.array([[0, 0, 0], [np.sin(half), np.cos(half), 0], [-np.sin(half), np.cos(half), 0]])
    body = body - body.mean(axis=0)
    for _ in range(400):
        i, edges, lengths, short = _contacts(numbers, positions, cell, pbc, _WANTED)
        if len(i) == 0:
            break
        push = np.zeros_like(positions)
        np.add.at(push, i, 0.4 * (short / np.maximum(lengths, 1e-3))[:, None] * edges)
        longest = np.sqrt((push**2).sum(axis=1)).max()
        moved = (positions + push * min(1.0, 0.3 / longest)).reshape(-1, 3, 3)
        center = moved.mean(axis=1, keepdims=True)
        u, _, vt = np.linalg.svd(np.einsum("ka,mkb->mab", body, moved - center))
        flip = np.sign(np.linalg.det(u @ vt))
        u[:, :, 2] *= flip[:, None]
        positions = (center + np.einsum("ka,mab->mkb", body, u @ vt)).reshape(-1, 3)
    return positions


def _worst_contact(numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> float | None:
    _, _, lengths, _ = _contacts(numbers, positions, cell, pbc, _LEAST)
    return float(lengths.min()) if len(lengths) else None
