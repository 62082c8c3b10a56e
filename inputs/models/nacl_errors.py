"""Test errors of the NaCl models, with and without the frames in which the labels jump.

    python nacl_errors.py trained/nacl_cluster-*.npz

The D4 dispersion of GFN2-xTB changes the reference of Na where its coordination number passes 3.388, within 0.015: the energy
drops by some 25 meV while the atom moves by 0.02 Å, with forces above 1 eV/Å in between.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from d4 import coordination
from frames import read_frames
from train import Recipe, split

import polmd
from polmd.model.importers.npz import read_npz

WINDOW = (3.33, 3.45)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    here = Path(__file__).resolve().parent
    recipe = Recipe.read(here / "nacl_cluster.toml")
    test = split(read_frames(here / recipe.data), recipe)[2]
    numbers = [coordination(a)[a.numbers == 11] for a in test]
    jumps = np.array([((n > WINDOW[0]) & (n < WINDOW[1])).any() for n in numbers])
    print(f"{len(test)} test frames, {jumps.sum()} with an Na in the window; force and energy rms: all, jumps, others")
    for path in parser.parse_args().models:
        potential = polmd.MultipolePotential(read_npz(path))
        found = [potential.compute(polmd.System.from_ase(a)) for a in test]
        force = np.array([np.mean((r.forces - a.get_forces()) ** 2) for r, a in zip(found, test, strict=True)])
        pairs = zip(found, test, strict=True)
        energy = np.array([((r.energy - a.get_potential_energy()) / len(a)) ** 2 for r, a in pairs])
        rms = [1e3 * np.sqrt(x[m].mean()) for x in (force, energy) for m in (jumps | True, jumps, ~jumps)]
        print(f"{path.stem}: " + "  ".join(f"{x:.1f}" for x in rms[:3]) + " meV/A; ", end="")
        print("  ".join(f"{x:.2f}" for x in rms[3:]) + " meV/atom")


if __name__ == "__main__":
    main()
