"""Predictions beside labels: errors, energy differences, and what was assumed on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polmd.errors import InputError
from polmd.evaluation.frames import KINDS, Frame
from polmd.evaluation.labels import LABELS, choose_labels, label_value
from polmd.evaluation.metrics import errors, fit_offsets, grouped
from polmd.evaluation.predictions import Prediction, Settings, predict
from polmd.model.card import VACUUM
from polmd.model.file import Model

#: Most energy differences that the summary prints; all are in the results.
_SHOWN = 20


@dataclass
class Evaluation:
    """A model on frames.

    Attributes
    ----------
    model, settings, frames, predictions : what was evaluated, and what came out
    labels : quantity → key in the frames
    kinds : the kind of each frame
    metrics : quantity → errors (mae, rmse, r2, bias, count, unit; by "elements" and "kinds" where there are several)
    differences : energies of frames relative to the first of the same composition, eV
    offsets : element → eV added to the energy of each atom before energies were compared; None when not asked for
    notes : what was assumed, in words
    """

    model: Model
    settings: Settings
    frames: list[Frame]
    predictions: list[Prediction]
    labels: dict[str, str]
    kinds: list[str]
    metrics: dict[str, dict[str, Any]]
    differences: list[dict[str, Any]]
    offsets: dict[str, float] | None
    notes: list[str]

    @property
    def failures(self) -> list[tuple[Frame, str]]:
        """Frames that could not be evaluated, with the reason."""
        return [(f, p.failure) for f, p in zip(self.frames, self.predictions, strict=True) if p.failure]

    def label(self, k: int, quantity: str) -> np.ndarray | None:
        """The label of frame ``k``, or None."""
        return label_value(self.frames[k], quantity, self.labels[quantity]) if quantity in self.labels else None

    def offset(self, k: int) -> float:
        """Fitted offset of the energy of frame ``k``, eV; zero when none was asked for."""
        return sum(self.offsets.get(s, 0.0) for s in self.frames[k].symbols) if self.offsets is not None else 0.0


def evaluate(
    model: Model,
    frames: Sequence[Frame],
    settings: Settings | None = None,
    *,
    labels: Mapping[str, str] | None = None,
    group_by: str | None = None,
    fit_energy_offsets: bool = False,
    jobs: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Evaluate a model on frames and compare it with their labels.

    Parameters
    ----------
    model, frames, settings, jobs, progress : see :func:`polmd.evaluation.predict`
    labels : quantity → key or "none", see :func:`polmd.evaluation.choose_labels`
    group_by : key whose value is the kind of a frame, or "file"; by default config_type, kind, or the files if several
    fit_energy_offsets : fit one constant energy per element before energies are compared

    Raises
    ------
    InputError
        for ambiguous labels, unknown elements, or offsets without energy labels; before anything is computed
    """
    settings = settings or Settings()
    frames = list(frames)
    chosen, notes = choose_labels(frames, labels)
    for quantity, option in (("born_charges", "born"), ("dipole", "moments"), ("polarizability", "moments")):
        asked = settings.born_charges if option == "born" else settings.moments
        if quantity in chosen and not asked:
            notes.append(f"the label of {quantity} is not compared (--{option} does)")
            del chosen[quantity]
    if fit_energy_offsets and "energy" not in chosen:
        raise InputError("energy offsets can only be fitted to energy labels, and no frame has one")
    kinds, note = _kinds(frames, group_by)
    notes += note
    norm_factor = model.header.electrostatics.norm_factor
    if (settings.moments or settings.born_charges) and not math.isclose(norm_factor, VACUUM, rel_tol=0.02):
        notes.append(
            f"the model has norm_factor {norm_factor:g}: its charges, moments and Born charges are "
            f"{math.sqrt(VACUUM / norm_factor):.6g} times as large as in e"
        )
    predictions = predict(model, frames, settings, jobs=jobs, progress=progress)
    out = Evaluation(model, settings, frames, predictions, chosen, kinds, {}, [], None, notes)
    if fit_energy_offsets:
        _fit(out)
    for quantity in LABELS:
        _compare(out, quantity)
    _differences(out)
    return out


def _kinds(frames: Sequence[Frame], group_by: str | None) -> tuple[list[str], list[str]]:
    if group_by is not None and group_by != "file" and not any(group_by in f.values for f in frames):
        raise InputError(f"--group-by {group_by}: no frame has that key")
    key = group_by or next((k for k in KINDS if any(isinstance(f.values.get(k), str) for f in frames)), None)
    if key is None and len({f.file for f in frames}) > 1:
        key = "file"
    if key is None:
        return [""] * len(frames), []
    names = {f.file: Path(f.file).name for f in frames}
    if len(set(names.values())) < len(names):
        names = {file: file for file in names}
    kinds = [names[f.file] if key == "file" else str(f.values.get(key, "none")) for f in frames]
    return kinds, [f"kinds of frames: {key}, {len(set(kinds))} of them"]


def _labelled(out: Evaluation, quantity: str) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(frame, prediction, label) where both are there."""
    for k, prediction in enumerate(out.predictions):
        value = out.label(k, quantity)
        if value is None or prediction.failure:
            continue
        if quantity == "energy":
            yield k, np.array(prediction.energy + out.offset(k)), value
        elif quantity in prediction.arrays:
            yield k, prediction.arrays[quantity], value


def _fit(out: Evaluation) -> None:
    symbols = list(dict.fromkeys(s for f in out.frames for s in f.symbols))
    found = list(_labelled(out, "energy"))
    if not found:
        raise InputError("energy offsets cannot be fitted: no frame with an energy label could be evaluated")
    counts = np.array([[out.frames[k].symbols.count(s) for s in symbols] for k, _, _ in found], dtype=float)
    solution, rank = fit_offsets(counts, np.array([float(l - p) for _, p, l in found]))
    out.offsets = dict(zip(symbols, solution.tolist(), strict=True))
    text = ", ".join(f"{s} {v:.6f}" for s, v in out.offsets.items())
    out.notes.append(
        f"energy offsets were fitted to the labels of {len(found)} frames and added before energies were compared: "
        f"{text} eV per atom"
        + (f" (the compositions fix only {rank} of {len(symbols)})" if rank < len(symbols) else "")
    )


def _compare(out: Evaluation, quantity: str) -> None:
    found = list(_labelled(out, quantity))
    if not found:
        return
    pairs = [(p, l) for _, p, l in found]
    unit = LABELS[quantity].unit
    if quantity in ("forces", "born_charges"):
        symbols = [out.frames[k].symbols for k, _, _ in found]
        kinds = [[out.kinds[k]] * len(out.frames[k].system) for k, _, _ in found]
        out.metrics[quantity] = grouped(pairs, unit, {"elements": symbols, "kinds": kinds})
        if quantity == "born_charges":
            _note_sign(out, quantity, pairs)
        return
    groups = {"kinds": [[out.kinds[k]] for k, _, _ in found]}
    out.metrics[quantity] = grouped(pairs, unit, groups)
    if quantity == "dipole":
        _note_sign(out, quantity, pairs)
    if quantity != "energy":
        return
    sizes = [len(out.frames[k].system) for k, _, _ in found]
    per_atom = [(p / n, l / n) for (p, l), n in zip(pairs, sizes, strict=True)]
    out.metrics["energy_per_atom"] = grouped(per_atom, "eV/atom", groups)
    relative: list[tuple[np.ndarray, np.ndarray]] = []
    for members in _by_composition(out, [k for k, _, _ in found]).values():
        if len(members) > 1:
            rows = np.array([[p, l] for k, p, l in found if k in set(members)], dtype=float)
            relative.append(tuple((rows - rows.mean(axis=0)).T))
    if relative:
        out.metrics["energy_relative"] = errors(*(np.concatenate(x) for x in zip(*relative, strict=True)))
        out.metrics["energy_relative"]["unit"] = "eV"
        out.notes.append("energy_relative: energies relative to the mean over frames of the same composition")
    metric = out.metrics["energy_per_atom"]
    spread = math.sqrt(max(metric["rmse"] ** 2 - metric["bias"] ** 2, 0.0))
    if out.offsets is None and len(found) > 1 and abs(metric["bias"]) > 0.1 and abs(metric["bias"]) > 10 * spread:
        out.notes.append(
            f"energies differ from their labels by nearly the same {metric['bias']:.4f} eV per atom: the model has other "
            "atomic energies than the labels (--fit-energy-offsets compares without them)"
        )


def _note_sign(out: Evaluation, quantity: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Energies fix the moments only up to a common sign: say so when the other one fits better."""
    flipped = errors(-np.concatenate([np.ravel(p) for p, _ in pairs]), np.concatenate([np.ravel(l) for _, l in pairs]))
    if flipped["rmse"] < out.metrics[quantity]["rmse"]:
        out.metrics[quantity]["opposite_sign"] = flipped
        out.notes.append(
            f"{quantity}: with the opposite sign the RMSE is {flipped['rmse']:.4g} {LABELS[quantity].unit}; energies fix "
            "charges and moments only up to a common sign"
        )


def _by_composition(out: Evaluation, frames: Sequence[int]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for k in frames:
        groups.setdefault(out.frames[k].composition, []).append(k)
    return groups


def _differences(out: Evaluation) -> None:
    evaluated = [k for k, p in enumerate(out.predictions) if not p.failure]
    for composition, members in _by_composition(out, evaluated).items():
        first = members[0]
        reference = out.label(first, "energy")
        for k in members[1:]:
            label = out.label(k, "energy")
            out.differences.append(
                {
                    "composition": composition,
                    "frame": k,
                    "reference": first,
                    "difference_eV": out.predictions[k].energy - out.predictions[first].energy,
                    "label_eV": float(label - reference) if label is not None and reference is not None else None,
                }
            )


def summary(out: Evaluation) -> Iterator[str]:
    """The evaluation in words."""
    atoms = sum(len(f.system) for f in out.frames)
    yield f"{len(out.frames)} frames, {atoms} atoms, model '{out.model.name}'"
    yield from out.notes
    if not out.labels:
        yield "no labels: predictions only"
    for quantity, metric in out.metrics.items():
        yield f"{quantity}: {_errors(metric)}"
        for grouping in ("elements", "kinds"):
            for name, part in metric.get(grouping, {}).items():
                yield f"  {name}: {_errors({**part, 'unit': metric['unit']})}"
    for row in out.differences[:_SHOWN]:
        label = "" if row["label_eV"] is None else f" (label {row['label_eV']:+.4f} eV)"
        names = [f"{Path(f.file).name}, frame {f.index}" for f in (out.frames[row[k]] for k in ("frame", "reference"))]
        yield f"E({names[0]}) − E({names[1]}) = {row['difference_eV']:+.4f} eV{label}"
    if len(out.differences) > _SHOWN:
        yield f"… {len(out.differences) - _SHOWN} more energy differences in the results"
    for frame, reason in out.failures:
        yield f"not evaluated: {frame}: {reason}"


def _errors(metric: Mapping[str, Any]) -> str:
    unit, factor = metric["unit"], 1.0
    if unit.startswith("eV") and abs(metric["rmse"]) < 1.0:
        unit, factor = "m" + unit, 1000.0
    r2 = "" if metric["r2"] is None else f", R² {metric['r2']:.6f}"
    values = f"MAE {metric['mae'] * factor:.4g}, RMSE {metric['rmse'] * factor:.4g} {unit}"
    return f"{values}{r2} ({metric['count']} values)"
