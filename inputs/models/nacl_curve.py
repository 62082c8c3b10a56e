"""Energy and force when one Na leaves the cluster: models beside GFN2-xTB (nacl_curve.xyz.xz, made by label.py).

    python nacl_curve.py --out ../../docs/nacl_curve.png none=none-0.h5 none=none-1.h5 q=q-0.h5 full=full-0.h5

Several files of one name are seeds of one variant: their mean is drawn, their spread shaded. Prints root mean square errors of
the force along the path and of the energy (its mean removed per charge state), and what the two charge states differ by: force
near the minimum, and energy above the minimum with the atom ``AWAY`` from it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from frames import read_frames

import polmd

AWAY = 3.0  # Å


def curve(frames: list, model: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Energies (eV) and forces on the moving atom along the path (eV/Å), of a model or of the labels."""
    energies, forces = [], []
    potential = None if model is None else polmd.MultipolePotential(polmd.load_model(model))
    for a in frames:
        if potential is None:
            e, f = a.get_potential_energy(), a.get_forces()
        else:
            result = potential.compute(polmd.System.from_ase(a))
            e, f = result.energy, result.forces
        energies.append(e)
        forces.append(f[int(a.info["moves"])] @ np.array(a.info["direction"], float))
    return np.array(energies), np.array(forces)


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="NAME=FILE.h5")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    variants: dict[str, list[Path]] = {}
    for entry in arguments.models:
        name, _, path = entry.partition("=")
        variants.setdefault(name, []).append(Path(path))
    frames = read_frames(Path(__file__).with_name("nacl_curve.xyz.xz"))
    clusters = {n: [a for a in frames if a.info["kind"] == n] for n in ("Na9Cl8+", "Na8Cl8+")}
    shift = np.array([a.info["shift"] for a in clusters["Na9Cl8+"]])
    labels = {n: curve(c, None) for n, c in clusters.items()}
    found = {v: {n: [curve(c, p) for p in paths] for n, c in clusters.items()} for v, paths in variants.items()}
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharex=True, layout="constrained")
    for column, name in enumerate(clusters):
        top, bottom = axes[:, column]
        top.plot(shift, labels[name][0] - labels[name][0].min(), "k.", label="GFN2-xTB")
        bottom.plot(shift, labels[name][1], "k.")
        for variant, curves in found.items():
            for axis, k in ((top, 0), (bottom, 1)):
                values = np.array([c[k] - (labels[name][0].min() if k == 0 else 0) for c in curves[name]])
                (line,) = axis.plot(shift, values.mean(0), label=variant)
                axis.fill_between(shift, values.min(0), values.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
        top.set_title(name)
        bottom.set_xlabel("displacement of one Na / Å")
    axes[0, 0].set_ylabel("energy / eV")
    axes[1, 0].set_ylabel("force along the path / eV/Å")
    axes[0, 0].legend()
    for row in axes:
        row[1].sharey(row[0])
    figure.savefig(arguments.out, dpi=110)
    near = shift <= 1.5
    difference = lambda c: c["Na9Cl8+"][1] - c["Na8Cl8+"][1]  # noqa: E731
    there = np.abs(shift - AWAY).argmin()
    apart = lambda c: np.subtract(*(e[there] - e[near].min() for e in (c["Na9Cl8+"][0], c["Na8Cl8+"][0])))  # noqa: E731
    print(
        "variant, force error near and beyond 1.5 A (meV/A), energy error (meV), Na9Cl8+ - Na8Cl8+: force near the minimum "
        f"(meV/A), energy {AWAY:g} A away (meV)"
    )
    print(f"labels: {1e3 * difference(labels)[near].mean():.0f}, {1e3 * apart(labels):.0f}")
    for variant, curves in found.items():
        rows = []
        for k in range(len(variants[variant])):
            one = {n: curves[n][k] for n in clusters}
            df = np.concatenate([one[n][1] - labels[n][1] for n in clusters])
            de = np.concatenate([one[n][0] - labels[n][0] - (one[n][0] - labels[n][0])[near].mean() for n in clusters])
            both = np.concatenate([near, near])
            rms = [1e3 * np.sqrt(np.mean(x**2)) for x in (df[both], df[~both], de)]
            rows.append([*rms, 1e3 * difference(one)[near].mean(), 1e3 * apart(one)])
        mean, spread = np.mean(rows, 0), np.std(rows, 0)
        print(f"{variant}: " + ", ".join(f"{m:.0f} ± {s:.0f}" for m, s in zip(mean, spread, strict=True)))


if __name__ == "__main__":
    main()
