"""Parity plots: predictions against labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from polmd.errors import InputError, OutputError
from polmd.evaluation.labels import LABELS
from polmd.evaluation.report import Evaluation
from polmd.output import files


def check_plots(directory: Path) -> None:
    """Refuse, before anything is computed, what would fail at the end."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError("parity plots need matplotlib: pip install 'polmd[plot]'") from None
    if directory.exists() and not directory.is_dir():
        raise OutputError(f"{directory} is not a directory")


def write_parity_plots(out: Evaluation, directory: Path, *, overwrite: bool = False) -> list[Path]:
    """One PNG per compared quantity, ``parity_QUANTITY.png``; returns the files.

    Forces and Born charges are coloured by element, the rest by kind of frame.

    Raises OutputError for files that exist, InputError without matplotlib.
    """
    check_plots(directory)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    written = []
    for quantity in [q for q in LABELS if q in out.metrics]:
        path = directory / f"parity_{quantity}.png"
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists: name another directory or give --overwrite")
        figure = Figure(figsize=(5, 5), layout="constrained")
        axes = figure.add_subplot()
        low, high = np.inf, -np.inf
        for name, (labels, predicted) in _points(out, quantity).items():
            axes.plot(labels, predicted, ".", markersize=3, alpha=0.6, label=name or None, rasterized=True)
            low, high = min(low, labels.min(), predicted.min()), max(high, labels.max(), predicted.max())
        margin = 0.03 * (high - low) or 1.0
        axes.plot([low - margin, high + margin], [low - margin, high + margin], color="black", linewidth=0.8)
        metric, unit = out.metrics[quantity], LABELS[quantity].unit
        title = quantity.replace("_", " ") + (", offsets fitted" if quantity == "energy" and out.offsets else "")
        axes.set_title(f"{title}: MAE {metric['mae']:.4g}, RMSE {metric['rmse']:.4g} {unit}", fontsize="medium")
        axes.set_xlabel(f"label ({unit})")
        axes.set_ylabel(f"{out.model.name} ({unit})")
        axes.set_aspect("equal", adjustable="datalim")
        if len(axes.get_legend_handles_labels()[1]) > 1:
            axes.legend(markerscale=3)
        with files.writing(path):
            directory.mkdir(parents=True, exist_ok=True)
            FigureCanvasAgg(figure).print_png(str(path))
        written.append(path)
    return written


def _points(out: Evaluation, quantity: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name of the group → labels, predictions."""
    groups: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for k, prediction in enumerate(out.predictions):
        label = out.label(k, quantity)
        if label is None or prediction.failure:
            continue
        if quantity == "energy":
            groups.setdefault(out.kinds[k], []).append((label.ravel(), np.array([prediction.energy + out.offset(k)])))
        elif quantity not in prediction.arrays:
            continue
        elif quantity in ("forces", "born_charges"):
            symbols = np.array(out.frames[k].symbols)
            for symbol in dict.fromkeys(symbols.tolist()):
                rows = symbols == symbol
                groups.setdefault(symbol, []).append((label[rows].ravel(), prediction.arrays[quantity][rows].ravel()))
        else:
            groups.setdefault(out.kinds[k], []).append((label.ravel(), prediction.arrays[quantity].ravel()))
    return {name: (np.concatenate([a for a, _ in v]), np.concatenate([b for _, b in v])) for name, v in groups.items()}
