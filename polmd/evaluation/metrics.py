"""Errors of predictions against labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def errors(predicted: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Mean absolute error, root mean square error, R² and number of values, component by component.

    R² = 1 − Σ(p − l)²/Σ(l − mean l)²; None where the labels do not vary.
    """
    p, l = np.ravel(predicted), np.ravel(labels)
    difference = p - l
    spread = float(np.sum((l - l.mean()) ** 2))
    scale = float(np.abs(l).max()) * np.finfo(float).eps
    return {
        "mae": float(np.abs(difference).mean()),
        "rmse": float(np.sqrt(np.mean(difference**2))),
        "r2": 1.0 - float(np.sum(difference**2)) / spread if spread > len(l) * scale**2 else None,
        "bias": float(difference.mean()),
        "count": len(p),
    }


def grouped(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], unit: str, groups: Mapping[str, Sequence[Sequence[str]]]
) -> dict[str, Any]:
    """Errors over all pairs (predicted, label), and within groups of their rows.

    ``groups`` maps the name of a grouping ("elements", "kinds") to one list per pair, which names the group of each row
    of the pair's arrays; groupings with a single group are left out.
    """
    out: dict[str, Any] = errors(
        np.concatenate([np.ravel(p) for p, _ in pairs]), np.concatenate([np.ravel(l) for _, l in pairs])
    )
    out["unit"] = unit
    for grouping, rows in groups.items():
        names = np.array([name for row in rows for name in row])
        if len(set(names.tolist())) < 2:
            continue
        predicted = np.concatenate([np.reshape(p, (len(row), -1)) for (p, _), row in zip(pairs, rows, strict=True)])
        labels = np.concatenate([np.reshape(l, (len(row), -1)) for (_, l), row in zip(pairs, rows, strict=True)])
        out[grouping] = {
            str(name): errors(predicted[names == name], labels[names == name]) for name in dict.fromkeys(names.tolist())
        }
    return out


def fit_offsets(compositions: np.ndarray, differences: np.ndarray) -> tuple[np.ndarray, int]:
    """Energy per atom of each element that, added to the predictions, brings them closest to the labels.

    compositions (frames, elements) numbers of atoms; differences (frames,) label − prediction, eV. Least squares, the
    shortest solution where the frames do not fix it. Returns (elements,) eV and the rank: how many are fixed.
    """
    solution, _, rank, _ = np.linalg.lstsq(compositions, differences, rcond=None)
    return solution, int(rank)
