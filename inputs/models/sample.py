"""More configurations for a data set: short dynamics with a model trained on the first frames, to be labelled afterwards.

    python sample.py au_mgo.xyz.xz first.h5 more.xyz --temperatures 300 600 900
    python label.py frames more.xyz au_mgo_more.xyz

Every start is the last frame of the data set with its kind (the part of ``kind`` before the last hyphen), or, with ``--start``,
the last frame of that kind of each composition, named by its formula; one piece of Langevin dynamics for each start and
temperature, a frame every ``--every`` steps. With ``--pressure`` the three edges of the cell move.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import write
from frames import read_frames

import polmd
from polmd.dynamics.barostats import StochasticCellRescaling
from polmd.dynamics.integrators import Barostatted, Langevin
from polmd.dynamics.simulation import Simulation
from polmd.errors import SimulationError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--temperatures", type=float, nargs="+", required=True)
    parser.add_argument("--timestep", type=float, default=2.0, help="fs")
    parser.add_argument("--start", help="kind of the frames to start from")
    parser.add_argument("--pressure", type=float, help="bar")
    parser.add_argument("--every", type=int, default=200)
    parser.add_argument("--count", type=int, default=12, help="frames of each piece")
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    potential = polmd.MultipolePotential(polmd.load_model(a.model))
    frames = read_frames(a.frames)
    if a.start:
        starts = {f.get_chemical_formula(): f for f in frames if f.info["kind"] == a.start}
    else:
        starts = {f.info["kind"].rpartition("-")[0]: f for f in frames}
    found: list[Atoms] = []
    for k, (kind, start) in enumerate(starts.items()):
        for temperature in a.temperatures:
            name = f"{kind}-{temperature:.0f}K"
            rng = np.random.default_rng([a.seed, k, int(temperature)])
            integrator: Langevin | Barostatted = Langevin(a.timestep, temperature_K=temperature, friction_per_ps=5)
            if a.pressure is not None:
                barostat = StochasticCellRescaling(a.pressure, coupling="anisotropic", time_ps=0.5)
                integrator = Barostatted(integrator, barostat)
            simulation = Simulation(polmd.System.from_ase(start), potential, integrator, rng=rng)
            simulation.draw_velocities(temperature)
            for _ in range(a.count):
                try:
                    simulation.run(a.every)
                except SimulationError as error:
                    print(f"{name} ends: {error}")
                    break
                s = simulation.state.system
                frame = Atoms(s.numbers, np.array(s.positions), cell=s.cell, pbc=s.pbc)
                frame.info |= {"kind": name, "piece": f"sampled{a.seed}-{name}"}
                found.append(frame)
            print(f"{name} done, {len(found)} frames in all", flush=True)
    write(a.out, found)


if __name__ == "__main__":
    main()
