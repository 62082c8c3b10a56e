"""Figures of spectra and distributions (matplotlib)."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polmd.errors import InputError
from polmd.output.files import write_atomically

#: Published positions of bands, 1/cm, by name: (label, positions).
REFERENCES: dict[str, tuple[str, tuple[float, ...]]] = {
    "water": ("Hale and Querry 1973, maxima of n·α", (606.0, 1639.0, 3390.0)),
}


def plot_curves(
    path: Path,
    x: np.ndarray,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray | None]],
    *,
    ylabel: str,
    xlabel: str = "wavenumber (cm⁻¹)",
    title: str = "",
    xlim: tuple[float, float] | None = None,
    top: float | None = None,
    reference: str | None = None,
) -> None:
    """Curves with their error bands (one standard error) over wavenumbers or another ``x``, as PNG, SVG or PDF.

    ``top``: end of the vertical axis. ``reference``: a name of :data:`REFERENCES` (vertical lines) or a CSV file with two
    columns, wavenumber and value.
    Raises InputError without matplotlib or for an unknown reference.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise InputError("a plot needs matplotlib: pip install 'polmd[plot]'") from None
    overlay = None if reference is None else _reference(reference)
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name, (values, error) in curves.items():
        (line,) = axes.plot(x, values, label=name, lw=1.2)
        if error is not None:
            axes.fill_between(x, values - error, values + error, color=line.get_color(), alpha=0.3, lw=0)
    if overlay is not None:
        _draw(axes, overlay)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_xlim(*(xlim or (0, float(x[-1]))))
    axes.set_ylim(0, top)
    if title:
        axes.set_title(title, fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    content = io.BytesIO()
    kind = path.suffix.lower().lstrip(".") or "png"
    try:
        figure.savefig(content, format=kind, dpi=150)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    finally:
        plt.close(figure)
    write_atomically(path, content.getvalue())


def _reference(name: str) -> tuple[str, Sequence[float] | np.ndarray]:
    if name in REFERENCES:
        return REFERENCES[name]
    path = Path(name)
    if not path.exists():
        raise InputError(f"reference {name!r} is neither a file nor one of {', '.join(REFERENCES)}")
    try:
        table = np.loadtxt(path, delimiter=",", comments="#", ndmin=2)
        if table.shape[1] < 2:
            raise ValueError("it has one column")
    except ValueError as error:
        raise InputError(
            f"reference {path}: two columns of numbers are expected, wavenumber and value ({error})"
        ) from None
    return path.stem, table


def _draw(axes: Any, overlay: tuple[str, Sequence[float] | np.ndarray]) -> None:
    label, content = overlay
    if isinstance(content, np.ndarray):
        axes.plot(content[:, 0], content[:, 1], "k--", lw=1, label=label)
        return
    for k, position in enumerate(content):
        axes.axvline(position, color="k", ls="--", lw=0.8, label=label if k == 0 else None)
