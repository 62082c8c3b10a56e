"""Isomers of Au2 on MgO(001): relaxed energies, and the heights of the gold along runs (figure of docs/au_mgo.md).

for s in flat_doped flat_undoped upright_doped upright_undoped; do   # au_mgo.toml with another structures/au_mgo_$s.xyz
    sed "s/flat_doped/$s/; s/au_mgo-run/au_mgo_$s-run/" ../au_mgo.toml > ../au_mgo_$s.toml && polmd run ../au_mgo_$s.toml
done
python au_mgo_isomers.py --runs .. --plot ../../docs/au_mgo.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase.io import read

import polmd
from polmd.dynamics.integrators import VelocityVerlet
from polmd.dynamics.simulation import Simulation
from polmd.output import Trajectory

STRUCTURES = Path(__file__).resolve().parent.parent / "structures"
ISOMERS, SLABS = ("upright", "flat"), ("undoped", "doped")


def height(positions: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Heights of the two gold atoms above the mean of the uppermost layer, Å."""
    slab = positions[numbers != 79, 2]
    top = slab[slab > slab.max() - 1.2].mean()
    return np.sort(positions[numbers == 79, 2] - top)


def relaxed(isomer: str, slab: str, model: str) -> tuple[float, np.ndarray, float]:
    """Energy (eV), heights and distance of the gold atoms (Å), every force below 0.005 eV/Å."""
    atoms = read(STRUCTURES / f"au_mgo_{isomer}_{slab}.xyz")
    potential = polmd.MultipolePotential(polmd.load_model(model))
    simulation = Simulation(polmd.System.from_ase(atoms), potential, VelocityVerlet(1.0), rng=1)
    simulation.minimize(0.005, 2000)
    positions = simulation.state.system.positions
    atoms.set_constraint()
    atoms.positions = positions
    gold = np.flatnonzero(atoms.numbers == 79)
    return float(simulation.state.result.energy), height(positions, atoms.numbers), atoms.get_distance(*gold, mic=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="au_mgo")
    parser.add_argument("--runs", type=Path, help="folder with au_mgo_{flat,upright}_{doped,undoped}-run")
    parser.add_argument("--plot", type=Path)
    a = parser.parse_args()
    energies = {}
    for slab in SLABS:
        for isomer in ISOMERS:
            energies[isomer, slab], z, bond = relaxed(isomer, slab, a.model)
            print(f"{isomer} {slab}: {energies[isomer, slab]:.4f} eV, heights {z.round(2)}, Au-Au {bond:.2f} Å")
        print(f"{slab}: E(flat) - E(upright) = {energies['flat', slab] - energies['upright', slab]:.3f} eV")
    if not (a.runs and a.plot):
        return
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 5), sharex=True, sharey=True, layout="constrained")
    for row, isomer in zip(axes, ISOMERS, strict=True):
        for axis, slab in zip(row, SLABS, strict=True):
            numbers = read(STRUCTURES / f"au_mgo_{isomer}_{slab}.xyz").numbers
            frames = list(Trajectory(a.runs / f"au_mgo_{isomer}_{slab}-run"))
            times = np.array([f.time_fs / 1e3 for f in frames])
            heights = np.array([height(f.positions, numbers) for f in frames])
            axis.plot(times, heights, linewidth=0.8)
            axis.axvline(times[-1] / 2, color="k", linewidth=0.5)
            axis.set_title(f"{isomer}, {slab}: 300 K, 600 K", fontsize=10)
            for name, half in (("300 K", times < times[-1] / 2), ("600 K", times >= times[-1] / 2)):
                mean = heights[half].mean(0)
                print(
                    f"{isomer} {slab} {name}: heights in the mean {mean.round(2)} Å, at the end {heights[half][-1].round(2)}"
                )
    for axis in axes[:, 0]:
        axis.set_ylabel("height of Au / Å")
    for axis in axes[1]:
        axis.set_xlabel("time / ps")
    figure.savefig(a.plot, dpi=90)


if __name__ == "__main__":
    main()
