"""Labels of frames: which key of a file holds which quantity. Found by name, shown, and never chosen among several."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from polmd.errors import InputError
from polmd.evaluation.frames import Frame


@dataclass(frozen=True)
class Label:
    """A quantity that can be compared: names it goes by, shape per frame (n: number of atoms), unit."""

    names: tuple[str, ...]
    shape: tuple[str | int, ...]
    unit: str


LABELS: dict[str, Label] = {
    "energy": Label(("energy", "total_energy", "potential_energy", "free_energy"), (), "eV"),
    "forces": Label(("forces", "force"), ("n", 3), "eV/Å"),
    "stress": Label(("stress",), (3, 3), "eV/Å³"),
    "dipole": Label(("dipole", "dipole_moment"), (3,), "e Å"),
    "born_charges": Label(("born_charges", "born_effective_charges", "bec", "becs"), ("n", 3, 3), "e"),
    "polarizability": Label(("polarizability", "polarisability", "alpha"), (3, 3), "Å³"),
}
# Parts of a key that say whose value it is, not what it is.
_OWNERS = {"ref", "reference", "dft", "qm", "label", "labels", "target", "true"}


def choose_labels(
    frames: Sequence[Frame], choices: Mapping[str, str] | None = None
) -> tuple[dict[str, str], list[str]]:
    """Quantity → key of the frames that holds it, and notes on what was found and what is not used.

    Parameters
    ----------
    frames : what was read
    choices : quantity → key, or "none" for no label, in place of detection

    Raises
    ------
    InputError
        when several keys could be the same quantity and differ, or a choice cannot be met
    """
    choices = dict(choices or {})
    keys = list(dict.fromkeys(key for frame in frames for key in frame.values))
    unknown = choices.keys() - LABELS.keys()
    if unknown:
        raise InputError(f"no label {min(unknown)!r}; labels are {', '.join(LABELS)}")
    found: dict[str, str] = {}
    notes: list[str] = []
    for quantity, label in LABELS.items():
        if quantity in choices:
            key = choices[quantity]
            if key == "none":
                continue
            if key not in keys:
                raise InputError(f"label {quantity}={key}: no frame has {key!r}; they have {', '.join(keys) or 'none'}")
            found[quantity] = key
            continue
        candidates = [key for key in keys if _base(key) in label.names]
        usable = [key for key in candidates if _count(frames, key, label) > 0]
        if not usable:
            notes += [f"not used: {key}, its shape is not that of {quantity}" for key in candidates]
            continue
        usable.sort(key=lambda key: (label.names.index(_base(key)), key.lower() != _base(key)))
        different = [key for key in usable[1:] if not _same(frames, usable[0], key)]
        if different:
            raise InputError(
                f"{usable[0]} and {different[0]} could both be the label of {quantity} and differ; say which with "
                f"--label {quantity}={usable[0]}, or --label {quantity}=none"
            )
        found[quantity] = usable[0]
        notes += [f"{key} is the same as {usable[0]}" for key in usable[1:]]
    for quantity, key in found.items():
        count = _count(frames, key, LABELS[quantity])
        if count == 0:
            raise InputError(f"label {quantity}={key}: its shape in the frames is not that of {quantity}")
        notes.insert(
            0, f"label of {quantity}: {key}, {count} of {len(frames)} frames, taken as {LABELS[quantity].unit}"
        )
    return found, notes


def label_value(frame: Frame, quantity: str, key: str) -> np.ndarray | None:
    """The label of a frame as an array of the shape of its quantity, or None."""
    if key not in frame.values:
        return None
    value = _numbers(frame.values[key])
    label = LABELS[quantity]
    shape = tuple(len(frame.system) if s == "n" else int(s) for s in label.shape)
    if value is None:
        return None
    if quantity in ("stress", "polarizability") and value.size == 6:
        xx, yy, zz, yz, xz, xy = value.ravel()
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    if value.size != np.prod(shape, dtype=int):
        return None
    return value.reshape(shape)


def _numbers(value: Any) -> np.ndarray | None:
    """A finite array of numbers, or None."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return array if np.isfinite(array).all() else None


def _count(frames: Sequence[Frame], key: str, label: Label) -> int:
    quantity = next(name for name, item in LABELS.items() if item is label)
    return sum(label_value(frame, quantity, key) is not None for frame in frames)


def _same(frames: Sequence[Frame], a: str, b: str) -> bool:
    """Whether two keys hold the same values in the same frames."""
    for frame in frames:
        if (a in frame.values) != (b in frame.values):
            return False
        if a in frame.values:
            x, y = _numbers(frame.values[a]), _numbers(frame.values[b])
            if x is None or y is None or not np.array_equal(x.ravel(), y.ravel()):
                return False
    return True


def _base(key: str) -> str:
    """``REF_forces`` → ``forces``: lower case, without the parts that say whose value it is."""
    parts = [part for part in re.split(r"[_\-\s]+", key.lower()) if part]
    return "_".join(part for part in parts if part not in _OWNERS)
