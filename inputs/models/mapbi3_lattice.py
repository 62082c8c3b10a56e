"""Lattice parameters of MAPbI3 from a run of ``inputs/mapbi3.toml``: table, and the figure of docs/mapbi3.md.

polmd run inputs/mapbi3.toml
python mapbi3_lattice.py ../mapbi3-run --plot ../../docs/mapbi3_lattice.png
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

import numpy as np

from polmd.output import Trajectory

#: Pseudo-cubic cells along each edge of the 96-atom cell.
CELLS = np.array([np.sqrt(2), 2.0, 2 * np.sqrt(2)])
NAMES = ("a/√2", "b/2", "c/√2")
#: K, and the pseudo-cubic edges as above, Å: Baikie et al. 2013 (100 K), Stoumpos et al. 2013 (293 K, tetragonal, its c in the
#: place of b), Poglitsch and Weber 1987 (cubic).
EXPERIMENT = [(100, 6.25, 6.29, 6.05), (293, 6.26, 6.32, 6.26), (350, 6.33, 6.33, 6.33)]


def block_error(x: np.ndarray, blocks: int = 5) -> np.ndarray:
    """Standard error of the mean from ``blocks`` consecutive blocks; ``x`` is [time, n]."""
    means = np.array([part.mean(0) for part in np.array_split(x, blocks)])
    return means.std(0, ddof=1) / np.sqrt(blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--skip", type=float, default=10.0, help="ps of each stage that are not counted")
    parser.add_argument("--plot", type=Path)
    a = parser.parse_args()
    stages = [s for s in tomllib.loads((a.run / "input.toml").read_text())["stage"] if s["kind"] == "npt"]
    frames = [(f.time_fs / 1e3, np.linalg.norm(f.cell, axis=1) / CELLS) for f in Trajectory(a.run)]
    times, edges = np.array([t for t, _ in frames]), np.array([e for _, e in frames])
    rows, start = [], 0.0
    print("K      " + "  ".join(f"{n:14s}" for n in NAMES) + "  volume per formula unit, Å^3")
    for stage in stages:
        end = start + stage["time_ps"]
        which = (times > start + a.skip) & (times <= end + 1e-6)
        start = end
        if which.sum() < 10:
            continue
        x = np.column_stack([edges[which], edges[which].prod(1)])
        rows.append((stage["temperature_K"], x.mean(0), block_error(x)))
        t, mean, error = rows[-1]
        print(f"{t:5.0f}  " + "  ".join(f"{m:.3f} ± {e:.3f}" for m, e in zip(mean, error, strict=True)))
    if a.plot:
        _plot(a.plot, rows)


def _plot(path: Path, rows: list) -> None:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    t = np.array([r[0] for r in rows])
    mean, error = np.array([r[1] for r in rows]), np.array([r[2] for r in rows])
    e = np.array(EXPERIMENT)
    for k, (name, colour) in enumerate(zip(NAMES, ("C0", "C1", "C2"), strict=True)):
        left.errorbar(t, mean[:, k], error[:, k], fmt="o-", color=colour, label=name, capsize=2)
        left.plot(e[:, 0], e[:, 1 + k], "x", color=colour)
    right.errorbar(t, mean[:, 3], error[:, 3], fmt="o-", color="k", capsize=2, label="polmd")
    right.plot(e[:, 0], e[:, 1:].prod(1), "kx", label="experiment")
    left.plot([], [], "kx", label="experiment")
    left.set(xlabel="T / K", ylabel="pseudo-cubic edge / Å")
    right.set(xlabel="T / K", ylabel="volume per formula unit / Å$^3$")
    left.legend(fontsize=8)
    right.legend(fontsize=8)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
