"""Which motions the infrared bands of MAPbI3 belong to: spectra of internal coordinates of a run of ``inputs/mapbi3_ir.toml``.

    polmd run inputs/mapbi3_ir.toml
    polmd ir inputs/mapbi3_ir-run --resolution 15 --out ir.csv
    python inputs/models/mapbi3_modes.py inputs/mapbi3_ir-run ir.csv --plot docs/mapbi3_ir.png

Rates of bond lengths and angles (and of the cations' centres and axes) are taken from positions and velocities at constant
energy. The spectrum of each has its area normalised; its maxima are printed beside those of n·α.
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

import numpy as np
from ase import Atoms
from scipy.signal import find_peaks

from polmd.analysis.spectrum import average, segments, transforms
from polmd.output import Trajectory

RESOLUTION = 15.0
GROUPS = {
    "Pb-I stretch": "Pb–I stretch", "centre of cations": "cations against frame", "axis of cations": "libration of C–N",
    "CH3 rock": "rocking", "NH3 rock": "rocking", "C-N stretch": "C–N stretch", "CH3 bend, symmetric": "CH3 bend",
    "CH3 bend, other": "CH3 bend", "NH3 bend, symmetric": "NH3 bend", "NH3 bend, other": "NH3 bend",
    "C-H stretch, symmetric": "C–H stretch", "C-H stretch, other": "C–H stretch",
    "N-H stretch, symmetric": "N–H stretch", "N-H stretch, other": "N–H stretch",
}  # fmt: skip


def neighbours(start: Atoms, atom: int, number: int, cutoff: float) -> np.ndarray:
    found = np.flatnonzero(start.numbers == number)
    return found[start.get_distances(atom, found, mic=True) < cutoff]


def bonds(frames: list, cells: np.ndarray, i: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors, their rates and the rates of the lengths of bonds from i to j: [frames, bonds, 3], …, [frames, bonds]."""
    x = np.stack([f.positions[j] - f.positions[i] for f in frames])
    v = np.stack([f.velocities[j] - f.velocities[i] for f in frames])
    x -= np.einsum("tbk,tkl->tbl", np.round(np.einsum("tbk,tkl->tbl", x, np.linalg.inv(cells))), cells)
    r = np.linalg.norm(x, axis=2, keepdims=True)
    e = x / r
    rate = (v * e).sum(2)
    return e, (v - rate[..., None] * e) / r, rate


def angle_rates(e: np.ndarray, de: np.ndarray, pairs: list[tuple[int, int]]) -> np.ndarray:
    """Rates of the angles between some bonds of one atom, [frames, pairs]."""
    found = []
    for a, b in pairs:
        cosine = (e[:, a] * e[:, b]).sum(1)
        found.append(-((de[:, a] * e[:, b]).sum(1) + (e[:, a] * de[:, b]).sum(1)) / np.sqrt(1 - cosine**2))
    return np.stack(found, axis=1)


def coordinates(frames: list, start: Atoms) -> dict[str, np.ndarray]:
    """Rates of internal coordinates of one piece, [frames, coordinates]."""
    cells = np.stack([f.cell for f in frames])
    out: dict[str, list[np.ndarray]] = {name: [] for name in GROUPS}
    masses = start.get_masses()
    for carbon in np.flatnonzero(start.numbers == 6):
        nitrogen = int(neighbours(start, carbon, 7, 1.9)[0])
        e, de, rate = bonds(frames, cells, np.array([carbon]), np.array([nitrogen]))
        out["C-N stretch"].append(rate)
        out["axis of cations"].append(de[:, 0])
        members = [carbon, nitrogen]
        for centre, other, name in ((carbon, nitrogen, "C"), (nitrogen, carbon, "N")):
            hydrogen = neighbours(start, centre, 1, 1.35)
            members += list(hydrogen)
            h = np.concatenate([hydrogen, [other]])
            e, de, rate = bonds(frames, cells, np.full(4, centre), h)
            out[f"{name}-H stretch, symmetric"].append(rate[:, :3].mean(1, keepdims=True))
            out[f"{name}-H stretch, other"].append(rate[:, :3] - rate[:, :3].mean(1, keepdims=True))
            bend = angle_rates(e, de, [(0, 1), (1, 2), (0, 2)])
            out[f"{name}H3 bend, symmetric"].append(bend.mean(1, keepdims=True))
            out[f"{name}H3 bend, other"].append(bend - bend.mean(1, keepdims=True))
            rock = angle_rates(e, de, [(0, 3), (1, 3), (2, 3)])
            out[f"{name}H3 rock"].append(rock - rock.mean(1, keepdims=True))
        v = np.stack([f.velocities[members] for f in frames])
        out["centre of cations"].append(np.einsum("tnk,n->tk", v, masses[members]) / masses[members].sum())
    pairs = [(lead, int(k)) for lead in np.flatnonzero(start.numbers == 82) for k in neighbours(start, lead, 53, 4.2)]
    i, j = np.array(pairs).T
    out["Pb-I stretch"].append(bonds(frames, cells, i, j)[2])
    return {name: np.concatenate(parts, axis=1) for name, parts in out.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("infrared", type=Path, help="table of polmd ir --out")
    parser.add_argument("--plot", type=Path)
    a = parser.parse_args()
    trajectory = Trajectory(a.run)
    all_frames = list(trajectory)
    start = Atoms(trajectory.numbers, all_frames[0].positions, cell=all_frames[0].cell, pbc=True)
    times = np.array([f.time_fs for f in all_frames])
    pieces, begin = [], 0.0
    for stage in tomllib.loads((a.run / "input.toml").read_text())["stage"]:
        if stage["kind"] == "minimize":
            continue
        end = begin + 1e3 * stage["time_ps"]
        which = np.flatnonzero((times > begin + 1e-6) & (times <= end + 1e-6))
        if stage["kind"] == "nve" and len(which):
            pieces.append(coordinates([all_frames[k] for k in which], start))
        begin = end
    cut = segments([len(p["C-N stretch"]) for p in pieces], float(np.median(np.diff(times))), RESOLUTION)
    spectra = {}
    for name in GROUPS:
        power = np.abs(transforms([p[name] for p in pieces], cut)) ** 2
        estimate = average(power.sum(axis=2), cut)
        spectra[name] = estimate.mean / np.trapezoid(estimate.mean, estimate.wavenumbers)
    x = estimate.wavenumbers
    print("motion: maxima, 1/cm (share of its area within 40 1/cm of each)")
    for name, y in spectra.items():
        peaks, found = find_peaks(y, height=0.12 * y.max(), distance=int(25 / cut.wavenumber_step))
        best = peaks[np.argsort(-found["peak_heights"])][:4]
        shares = [np.trapezoid(np.where(abs(x - x[k]) < 40, y, 0), x) for k in best]
        print(f"{name}: " + ", ".join(f"{x[k]:.0f} ({100 * s:.0f} %)" for k, s in zip(best, shares, strict=True)))
    lines = [line for line in a.infrared.read_text().splitlines() if not line.startswith("#")]
    columns = [lines[0].split(",").index(f"{name}_per_cm") for name in ("wavenumber", "n_alpha", "n_alpha_error")]
    rows = np.array([[float(line.split(",")[k]) for k in columns] for line in lines[1:]])
    wave, alpha = rows[:, 0], rows[:, 1]
    print("n·α, maxima above 1 % of the highest:")
    peaks, found = find_peaks(alpha, height=0.01 * alpha.max(), prominence=0.01 * alpha.max(), distance=8)
    print(", ".join(f"{wave[k]:.0f} ({alpha[k]:.0f})" for k in peaks))
    if a.plot:
        _plot(a.plot, rows, x, spectra)


def _plot(path: Path, rows: np.ndarray, x: np.ndarray, spectra: dict[str, np.ndarray]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 5.5), layout="constrained", width_ratios=(1, 2))
    groups: dict[str, np.ndarray] = {}
    for name, y in spectra.items():
        groups[GROUPS[name]] = groups.get(GROUPS[name], 0) + y
    for column, (low, high) in zip(axes.T, ((0, 400), (700, 3500)), strict=True):
        inside = (rows[:, 0] >= low) & (rows[:, 0] <= high)
        column[0].plot(rows[inside, 0], rows[inside, 1], "k", linewidth=1)
        band = rows[inside, 1] - rows[inside, 2], rows[inside, 1] + rows[inside, 2]
        column[0].fill_between(rows[inside, 0], *band, color="k", alpha=0.3, linewidth=0)
        column[0].set_xlim(low, high)
        column[0].set_ylim(0, None)
        within = (x >= low) & (x <= high)
        for k, (name, y) in enumerate(groups.items()):
            if np.trapezoid(y[within], x[within]) > 0.3 * np.trapezoid(y, x):
                column[1].plot(x[within], y[within] / y[within].max(), color=f"C{k}", linewidth=1, label=name)
        column[1].set_xlim(low, high)
        column[1].set_xlabel("wavenumber / cm$^{-1}$")
        column[1].legend(fontsize=7)
    axes[0, 0].set_ylabel("n·α / cm$^{-1}$")
    axes[1, 0].set_ylabel("spectrum of the coordinate")
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
