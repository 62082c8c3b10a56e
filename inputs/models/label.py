"""Sample structures and label them with a calculator whose weights or parameters are free to use.

    python label.py mapbi3 mapbi3.xyz      # CHGNet 0.3.0 (PyPI chgnet 0.4.2, BSD-3): 48-atom cells of three phases
    python label.py mapbi3_close close.xyz # the same calculator: atoms pushed together
    python label.py au_mgo au_mgo.xyz      # the same calculator: Au2 on MgO(001), with and without Al
    python label.py au_close close.xyz     # the same calculator: Au too close to the surface and to each other
    python label.py frames more.xyz out.xyz # the same calculator on the frames of sample.py
    python label.py nacl_curve curve.xyz   # GFN2-xTB (PyPI tblite 0.8.0, LGPL-3): one Na moved away from the cluster
    python label.py nacl more.xyz out.xyz  # the same calculator: frames of sample.py, and others made of them
    python label.py water DATA water.xyz   # no calculator: frames and labels of DeePMD-kit's examples/water/data (LGPL-3)

Every trajectory is one piece of Langevin dynamics with its own seed; hydrogen is made heavier, which leaves the
distribution of positions as it is and allows longer steps. Frames are appended as they come; a second call with the same
file goes on after the last complete trajectory. One thread is enough: set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import CalculationFailed
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import FIRE
from ase.spacegroup import crystal
from d4 import coordination
from frames import read_frames
from scipy.optimize import brentq

#: Methylammonium along x, carbon first, its centre at the origin (Å): C-N 1.49, C-H 1.09, N-H 1.03, staggered.
_ANGLES = np.radians([0.0, 120.0, 240.0])
METHYLAMMONIUM = Atoms(
    "CNH3H3",
    [
        (-0.745, 0.0, 0.0), (0.745, 0.0, 0.0),
        *[(-0.745 - 0.363, 1.028 * np.cos(a), 1.028 * np.sin(a)) for a in _ANGLES],
        *[(0.745 + 0.360, 0.965 * np.cos(a + np.pi / 3), 0.965 * np.sin(a + np.pi / 3)) for a in _ANGLES],
    ],
)  # fmt: skip


def mapbi3(phase: str, rng: np.random.Generator) -> Atoms:
    """A 48-atom cell (√2×2×√2 pseudo-cubic cells). ``orthorhombic``: Pnma frame with ordered cations; ``tetragonal`` and
    ``cubic``: the frame with the tilts of I4/mcm, or without tilts, and cations that point anywhere."""
    if phase == "orthorhombic":
        lengths = [8.84, 12.58, 8.56]
        frame = crystal(
            ("Pb", "I", "I"), [(0, 0, 0.5), (0.486, 0.25, -0.053), (0.190, 0.017, 0.186)], spacegroup=62,
            cellpar=[*lengths, 90, 90, 90],
        )  # fmt: skip
        sites = crystal(
            ("C",), [(0.0, 0.25, 0.0)], spacegroup=62, cellpar=[*lengths, 90, 90, 90]
        ).get_scaled_positions()
        axes = [(np.cos(a), 0.0, np.sin(a)) for a in np.radians([40.0, 220.0, 140.0, 320.0])]
        # Neighbouring cations of one mirror plane are at an angle, those of adjacent planes antiparallel, as neutron
        # diffraction has them; the relaxation does the rest.
        order = np.lexsort((np.round(sites[:, 0], 2), np.round(sites[:, 1], 2)))
        directions = {int(site): axes[k] for site, k in zip(order, (0, 2, 1, 3), strict=True)}
    else:
        lengths = [8.85, 12.65, 8.85] if phase == "tetragonal" else [8.91, 12.60, 8.91]
        d = 0.035 if phase == "tetragonal" else 0.0
        basis = [("Pb", (0, y, 0.5)) for y in (0, 0.5)] + [("Pb", (0.5, y, 0)) for y in (0, 0.5)]
        basis += [("I", (0, y, 0.5)) for y in (0.25, 0.75)] + [("I", (0.5, y, 0)) for y in (0.25, 0.75)]
        for y, turn in ((0, 1), (0.5, -1)):
            s = d * turn
            basis += [
                ("I", (0.25 + s, y, 0.25 - s)), ("I", (0.75 - s, y, 0.75 + s)),
                ("I", (0.25 + s, y, 0.75 + s)), ("I", (0.75 - s, y, 0.25 - s)),
            ]  # fmt: skip
        frame = Atoms([s for s, _ in basis], scaled_positions=[p for _, p in basis], cell=lengths, pbc=True)
        sites = np.array([(x, y, x) for x in (0, 0.5) for y in (0.25, 0.75)])
        directions = dict(enumerate(rng.normal(size=(4, 3))))
    for k, site in enumerate(sites):
        cation = METHYLAMMONIUM.copy()
        cation.rotate(360 * rng.random(), "x")
        cation.rotate((1, 0, 0), directions[k])
        cation.translate(site @ frame.cell.array)
        frame += cation
    return frame


def au_mgo(isomer: str, doped: bool) -> Atoms:
    """Au2 on a 3×3 MgO(001) slab of four layers: ``upright`` on an oxygen (non-wetting) or ``flat`` above two magnesiums
    (wetting); doped: three Al in place of Mg in the third layer below the gold."""
    a, n, layers = 4.19, 3, 4
    side = a / np.sqrt(2)
    slab = Atoms(cell=[n * side, n * side, 24.0], pbc=True)
    for layer, i, j in np.ndindex(layers, n, n):
        for symbol, s in (("O", 0.5 * (layer % 2)), ("Mg", 0.5 * (layer % 2) + 0.5)):
            slab += Atoms(symbol, [((i + s) % n * side, (j + s) % n * side, 8.3 - layer * a / 2)])
    top = slab.positions[:, 2].max()
    layers = np.round((top - slab.positions[:, 2]) / (a / 2)).astype(int)
    if doped:
        slab.symbols[np.flatnonzero((layers == 2) & (slab.numbers == 12))[[0, 4, 8]]] = "Al"
    surface_oxygen = [k for k in np.flatnonzero(layers == 0) if slab.numbers[k] == 8]
    centre = slab.cell.array[:2, :2].sum(0) / 2
    first = min(surface_oxygen, key=lambda k: np.linalg.norm(slab.positions[k, :2] - centre))
    x, y, z = slab.positions[first]
    gold = [(x, y, z + 2.10), (x, y, z + 4.60)] if isomer == "upright" else [(x, y, z + 2.25), (x + 2.6, y, z + 2.25)]
    slab += Atoms("Au2", gold)
    return slab


def heavy_hydrogen(atoms: Atoms) -> None:
    masses = atoms.get_masses()
    masses[atoms.numbers == 1] = 6.0
    atoms.set_masses(masses)


def labelled(atoms: Atoms, kind: str, *, stress: bool) -> Atoms:
    """A copy with the results of its calculator, as numbers."""
    frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    results = {"energy": float(atoms.get_potential_energy()), "forces": np.array(atoms.get_forces(), float)}
    if stress:
        results["stress"] = np.array(atoms.get_stress(), float)
    frame.calc = SinglePointCalculator(frame, **results)
    frame.info["kind"] = kind
    return frame


def trajectory(atoms: Atoms, kind: str, temperature: float, rng: np.random.Generator, *, timestep: float, skip: int,
               frames: int, every: int, stress: bool) -> list[Atoms]:  # fmt: skip
    """Langevin dynamics at a fixed cell: ``skip`` steps, then ``frames`` frames, one each ``every`` steps."""
    MaxwellBoltzmannDistribution(atoms, temperature_K=temperature, rng=rng)
    md = Langevin(atoms, timestep * units.fs, temperature_K=temperature, friction=0.02 / units.fs, rng=rng)
    md.run(skip)
    found = []
    for _ in range(frames):
        md.run(every)
        found.append(labelled(atoms, f"{kind}-{temperature:.0f}K", stress=stress))
    return found


def chgnet() -> object:
    import torch
    from chgnet.model.dynamics import CHGNetCalculator

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    return CHGNetCalculator(use_device="cpu")


def pieces_mapbi3(calculator: object):
    """Name and maker of each piece: phase, temperature and strain vary."""
    plan = [(p, t) for _ in range(4) for p, ts in (("orthorhombic", (100, 200, 300)), ("tetragonal", (250, 350)),
                                                 ("cubic", (350, 500))) for t in ts]  # fmt: skip
    for k, (phase, temperature) in enumerate(plan[:26]):

        def make(k: int = k, phase: str = phase, temperature: int = temperature) -> list[Atoms]:
            rng = np.random.default_rng(1000 + k)
            atoms = mapbi3(phase, rng)
            strain = np.eye(3) + np.diag(rng.normal(0.03, 0.025, 3)) + np.triu(rng.normal(0, 0.01, (3, 3)), 1)
            atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
            heavy_hydrogen(atoms)
            atoms.calc = calculator
            FIRE(atoms, logfile=None, maxstep=0.1).run(fmax=1.0, steps=40)
            first = [labelled(atoms, f"{phase}-relaxing", stress=True)]
            return first + trajectory(
                atoms, phase, temperature, rng, timestep=2.0, skip=60, frames=9, every=12, stress=True
            )

        yield f"mapbi3-{k}", make


def pieces_au_mgo(calculator: object):
    plan = [(i, d, t) for t in (300, 600) for i in ("upright", "flat") for d in (False, True)]
    for k, (isomer, doped, temperature) in enumerate(plan[:5]):

        def make(k: int = k, isomer: str = isomer, doped: bool = doped, temperature: int = temperature) -> list[Atoms]:
            rng = np.random.default_rng(2000 + k)
            atoms = au_mgo(isomer, doped)
            atoms.calc = calculator
            kind = f"{isomer}-{'doped' if doped else 'undoped'}"
            relax = FIRE(atoms, logfile=None, maxstep=0.1)
            found = []
            for _ in range(3 if k < 4 else 1):
                relax.run(fmax=0.05, steps=12)
                found.append(labelled(atoms, kind + "-relaxing", stress=False))
            return found + trajectory(
                atoms, kind, temperature, rng, timestep=4.0, skip=20, frames=10, every=6, stress=False
            )

        yield f"au_mgo-{k}", make


def pieces_au_close(calculator: object):
    """Au pressed towards the surface and towards each other: the repulsion that thermal frames do not show."""
    for isomer in ("upright", "flat"):
        for doped in (False, True):

            def make(isomer: str = isomer, doped: bool = doped) -> list[Atoms]:
                found = []
                for k in range(8):
                    rng = np.random.default_rng([3000, k, isomer == "flat", doped])
                    atoms = au_mgo(isomer, doped)
                    atoms.positions += rng.normal(0, 0.06, atoms.positions.shape)
                    gold = atoms.positions[-2:]
                    gold[:, :2] += rng.uniform(-1.5, 1.5, 2)
                    bond = gold[1] - gold[0]
                    gold[1] = gold[0] + bond * rng.uniform(2.15, 2.6) / np.linalg.norm(bond)
                    gold[:, 2] -= rng.uniform(0.0, 0.6)
                    atoms.calc = calculator
                    found.append(labelled(atoms, f"{isomer}-{'doped' if doped else 'undoped'}-close", stress=False))
                return found

            yield f"au_close-{isomer}-{doped}", make


def pieces_mapbi3_close(calculator: object):
    """Atoms pushed together: the repulsion that thermal frames do not show; without it a model has wells there.

    Frames of ``mapbi3.xyz.xz``; either one atom (I or Pb) or one cation as it is moves along the line between an H (or C, N) of
    the cation and the atom, until they are as close as drawn."""
    frames = [a for a in read_frames(Path(__file__).with_name("mapbi3.xyz.xz")) if "close" not in a.info["kind"]]
    plan = [("I", "H", 1.1, 2.2, 48), ("Pb", "H", 1.6, 2.8, 16), ("I", "C", 1.9, 3.2, 12), ("I", "N", 1.9, 3.0, 12)]
    plan += [("Pb", "N", 2.2, 3.4, 8), ("H", "H", 0.9, 1.8, 12), ("I", "I", 2.4, 3.4, 12), ("Pb", "I", 2.2, 2.7, 12)]
    for heavy, light, low, high, count in plan:

        def make(
            heavy: str = heavy, light: str = light, low: float = low, high: float = high, count: int = count
        ) -> list[Atoms]:
            found = []
            for k in range(count):
                rng = np.random.default_rng([4000, atomic_numbers[heavy], atomic_numbers[light], k])
                atoms = frames[rng.integers(len(frames))].copy()
                bonded = atoms.get_all_distances(mic=True) < 1.9
                first = rng.choice(np.flatnonzero(atoms.symbols == light))
                cation = np.flatnonzero((np.linalg.matrix_power(bonded.astype(int), 4) > 0)[first])
                others = np.setdiff1d(np.flatnonzero(atoms.symbols == heavy), cation)
                second = others[atoms.get_distances(first, others, mic=True).argmin()]
                line = atoms.get_distance(first, second, mic=True, vector=True)
                shift = line * (1 - rng.uniform(low, high) / np.linalg.norm(line))
                if k % 2:
                    atoms.positions[second] -= shift
                else:
                    atoms.positions[cation] += shift
                atoms.calc = calculator
                found.append(labelled(atoms, f"{heavy}-{light}-close", stress=True))
            return [a for a in found if np.abs(a.get_forces()).max() < 15]

        yield f"mapbi3_close-{heavy}-{light}", make


def pieces_nacl_curve(calculator: object):
    """The relaxed Na9Cl8+ of the training data, and the same without the Na that is farthest from the one that moves: the
    outermost Na goes away from the centre of the others, which do not move."""
    frames = read_frames(Path(__file__).with_name("nacl_variants.xyz.xz"))
    start = next(a for a in frames if a.info["kind"] == "relaxed" and len(a) == 17)
    sodium = np.flatnonzero(start.numbers == 11)
    out = np.linalg.norm(start.positions - start.positions.mean(0), axis=1)
    mover = sodium[out[sodium].argmax()]
    far = sodium[start.get_distances(mover, sodium).argmax()]
    others = np.delete(np.arange(len(start)), mover)
    direction = start.positions[mover] - start.positions[others].mean(0)
    direction /= np.linalg.norm(direction)
    shifts = np.concatenate([np.arange(-0.5, 1.5, 0.1), np.arange(1.5, 4.0, 0.25), np.arange(4.0, 10.1, 0.5)])
    for name in ("Na9Cl8+", "Na8Cl8+"):

        def make(name: str = name) -> list[Atoms]:
            found = []
            for shift in shifts:
                atoms = start.copy()
                atoms.info = {}
                atoms.positions[mover] += shift * direction
                if name == "Na8Cl8+":
                    del atoms[far]
                atoms.calc = calculator
                frame = labelled(atoms, name, stress=False)
                frame.info["shift"], frame.info["moves"] = (
                    float(shift),
                    int(mover - (name == "Na8Cl8+" and far < mover)),
                )
                frame.info["direction"] = direction
                found.append(frame)
            return found

        yield name, make


def nacl_away(atoms: Atoms, rng: np.random.Generator) -> list[Atoms]:
    """One of the three outermost Na moved along its line from the centre of the others, give or take 10 degrees, by -0.4 to
    8 Å; of Na9Cl8+ also without the Na farthest from it, so that both charge states have the same surroundings there."""
    sodium = np.flatnonzero(atoms.numbers == 11)
    out = np.linalg.norm(atoms.positions - atoms.positions.mean(0), axis=1)
    mover = rng.choice(sodium[np.argsort(out[sodium])[-3:]])
    direction = atoms.positions[mover] - np.delete(atoms.positions, mover, axis=0).mean(0)
    direction = direction / np.linalg.norm(direction) + rng.normal(0, 0.17, 3)
    moved = atoms.copy()
    shift = rng.uniform(-0.4, 2.0) if rng.random() < 0.6 else rng.uniform(2.0, 8.0)
    moved.positions[mover] += shift * direction / np.linalg.norm(direction)
    found = [moved]
    if len(sodium) == 9:
        fewer = moved.copy()
        del fewer[int(sodium[atoms.get_distances(mover, sodium).argmax()])]
        found.append(fewer)
    return found


def nacl_step(atoms: Atoms, rng: np.random.Generator) -> list[Atoms]:
    """An Na moved along its line from the centre until its D4 coordination number is near the step of the labels (d4.py)."""
    sodium = np.flatnonzero(atoms.numbers == 11)
    nearest = sodium[np.abs(coordination(atoms)[sodium] - 3.388).argmin()]
    direction = atoms.positions[nearest] - atoms.positions.mean(0)
    direction /= np.linalg.norm(direction)
    wanted = 3.388 + rng.normal(0, 0.02)

    def missing(shift: float) -> float:
        moved = atoms.copy()
        moved.positions[nearest] += shift * direction
        return float(coordination(moved)[nearest] - wanted)

    if missing(-0.3) * missing(0.3) > 0:
        return []
    moved = atoms.copy()
    moved.positions[nearest] += brentq(missing, -0.3, 0.3) * direction
    return [moved]


def pieces_nacl(calculator: object, source: Path):
    """Frames of sample.py as they are; of every fourth also one with an Na moved away, of another fourth one at the step."""
    frames = read(source, ":")
    for number, name in enumerate(dict.fromkeys(a.info["piece"] for a in frames)):

        def make(number: int = number, name: str = name) -> list[Atoms]:
            found = []
            for k, a in enumerate(f for f in frames if f.info["piece"] == name):
                rng = np.random.default_rng([5000, number, k])
                temperature = a.info["kind"].rpartition("-")[2]
                found.append((f"sampled-md-{temperature}", [a]))
                if k % 4 == 0:
                    found.append((f"sampled-away-{temperature}", nacl_away(a, rng)))
                elif k % 4 == 2:
                    found.append((f"sampled-step-{temperature}", nacl_step(a, rng)))
            out = []
            for kind, made in found:
                for a in made:
                    a.calc = calculator
                    try:
                        frame = labelled(a, kind, stress=False)
                    except CalculationFailed as error:  # charge that does not know where to go, far from the cluster
                        print(f"{name} {kind}: left out, {error}")
                        continue
                    if np.abs(frame.get_forces()).max() < 8:
                        out.append(frame)
            return out

        yield name, make


def pieces_frames(calculator: object, source: Path):
    """Frames from a file, piece by piece, without those whose atoms are so close that a force exceeds 15 eV/Å."""
    frames = read(source, ":")
    stress = 82 in frames[0].numbers  # slabs with vacuum have none
    for name in dict.fromkeys(a.info["piece"] for a in frames):

        def make(name: str = name) -> list[Atoms]:
            found = []
            for a in frames:
                if a.info["piece"] == name:
                    a.calc = calculator
                    frame = labelled(a, a.info["kind"], stress=stress)
                    if np.abs(frame.get_forces()).max() < 15:
                        found.append(frame)
            return found

        yield name, make


def pieces_water(source: Path):
    """The sets of DeePMD-kit's ``examples/water/data``: 64 H2O, PBE0-TS energies and forces."""
    for folder in sorted(source.glob("data_*/set.*")):

        def make(folder: Path = folder) -> list[Atoms]:
            symbols = (folder.parent / "type_map.raw").read_text().split()
            names = [symbols[int(k)] for k in (folder.parent / "type.raw").read_text().split()]
            arrays = [np.load(folder / f"{name}.npy").astype(float) for name in ("coord", "box", "energy", "force")]
            found = []
            for x, box, energy, force in zip(*arrays, strict=True):
                frame = Atoms(names, x.reshape(-1, 3), cell=box.reshape(3, 3), pbc=True)
                frame.calc = SinglePointCalculator(frame, energy=energy, forces=force.reshape(-1, 3))
                frame.info["kind"] = "water-330K"
                found.append(frame)
            return found

        yield f"{folder.parent.name}-{folder.name}", make


def xtb() -> object:
    from tblite.ase import TBLite

    return TBLite(method="GFN2-xTB", charge=1, verbosity=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "system", choices=("mapbi3", "mapbi3_close", "au_mgo", "au_close", "nacl_curve", "nacl", "frames", "water")
    )
    parser.add_argument("source", type=Path, nargs="?", help="frames, nacl: the file with positions; water: the folder")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    if arguments.system in ("frames", "nacl", "water") and arguments.source is None:
        parser.error(f"{arguments.system} needs two paths: what it reads and what it writes")
    done: set[str] = set()
    if arguments.out.exists():
        done = {a.info["piece"] for a in read(arguments.out, ":")}
    pieces, calculator = {
        "mapbi3": (pieces_mapbi3, chgnet), "mapbi3_close": (pieces_mapbi3_close, chgnet),
        "au_mgo": (pieces_au_mgo, chgnet), "au_close": (pieces_au_close, chgnet),
        "nacl_curve": (pieces_nacl_curve, xtb), "nacl": (lambda c: pieces_nacl(c, arguments.source), xtb),
        "frames": (lambda c: pieces_frames(c, arguments.source), chgnet),
        "water": (lambda _: pieces_water(arguments.source), lambda: None),
    }[arguments.system]  # fmt: skip
    for name, make in pieces(calculator()):
        if name in done:
            continue
        frames = make()
        for frame in frames:
            frame.info["piece"] = name
        if not frames:
            continue
        largest = max(np.abs(f.get_forces()).max() for f in frames)
        write(arguments.out, frames, append=True)
        print(f"{name} {frames[-1].info['kind']}: {len(frames)} frames, largest force {largest:.2f} eV/A", flush=True)


if __name__ == "__main__":
    main()
