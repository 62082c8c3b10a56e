"""Files of an evaluation: JSON, HDF5, CSV, extended XYZ."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from polmd.errors import InputError, OutputError
from polmd.evaluation.labels import LABELS
from polmd.evaluation.predictions import MOMENTS
from polmd.evaluation.report import Evaluation
from polmd.output import files

UNITS = {"energy": "eV", **{name: label.unit for name, label in LABELS.items()}, **MOMENTS}


def check_output(path: Path, *, overwrite: bool = False) -> None:
    """Refuse a file that cannot be written, before anything is computed."""
    if path.suffix.lower() not in WRITERS:
        raise InputError(f"{path}: results are written as {', '.join(WRITERS)}")
    if path.is_dir():
        raise OutputError(f"{path} is a directory")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists: name another file or give --overwrite")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path}: there is no directory {path.absolute().parent}")


def write_results(out: Evaluation, path: Path, *, overwrite: bool = False) -> None:
    """Write an evaluation; the suffix of ``path`` says how. Raises OutputError when the file exists."""
    check_output(path, overwrite=overwrite)
    files.write_atomically(path, WRITERS[path.suffix.lower()](out))


def _head(out: Evaluation) -> dict[str, Any]:
    """All but the frames."""
    return {
        "polmd": version("polmd"),
        "model": {"name": out.model.name, "source": out.model.source, "fingerprint": out.model.fingerprint()},
        "labels": out.labels,
        "notes": out.notes,
        "metrics": out.metrics,
        "energy_offsets_eV": out.offsets,
        "energy_differences": out.differences,
    }


def _json(out: Evaluation) -> bytes:
    frames = []
    for k, (frame, prediction) in enumerate(zip(out.frames, out.predictions, strict=True)):
        entry: dict[str, Any] = {
            "file": frame.file,
            "index": frame.index,
            "kind": out.kinds[k],
            "composition": frame.composition,
            "numbers": frame.system.numbers.tolist(),
            "energy_eV": None if prediction.failure else prediction.energy,
        }
        if prediction.failure:
            entry["failure"] = prediction.failure
        entry |= {name: array.tolist() for name, array in prediction.arrays.items()}
        entry["labels"] = {q: l.tolist() for q in out.labels if (l := out.label(k, q)) is not None}
        frames.append(entry)
    units = {name: UNITS[name] for name in UNITS if any(name in f or name == "energy" for f in frames)}
    return json.dumps({**_head(out), "units": units, "frames": frames}, ensure_ascii=False, allow_nan=False).encode()


def _hdf5(out: Evaluation) -> bytes:
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as h5:
        for key, value in _head(out).items():
            h5.attrs[key] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for k, (frame, prediction) in enumerate(zip(out.frames, out.predictions, strict=True)):
            group = h5.create_group(f"frames/{k:06d}")
            group.attrs.update({"file": frame.file, "index": frame.index, "kind": out.kinds[k]})
            if prediction.failure:
                group.attrs["failure"] = prediction.failure
            for name in ("numbers", "positions", "cell", "pbc"):
                group["system/" + name] = getattr(frame.system, name)
            for name, value in {"energy": np.array(prediction.energy), **prediction.arrays}.items():
                group[name] = value
                group[name].attrs["unit"] = UNITS[name]
            for quantity in out.labels:
                label = out.label(k, quantity)
                if label is not None:
                    group["labels/" + quantity] = label
    return buffer.getvalue()


def _csv(out: Evaluation) -> bytes:
    """One row per frame: energies and errors, no arrays."""
    text = io.StringIO(newline="")
    columns = ["file", "index", "kind", "composition", "n_atoms", "energy_eV"]
    if "energy" in out.labels:
        columns += ["label_energy_eV", "energy_offset_eV", "energy_error_eV"]
    compared = [q for q in out.labels if q != "energy" and q in out.metrics]
    columns += [f"{q}_{kind}" for q in compared for kind in ("mae", "rmse")] + ["failure"]
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    for k, (frame, prediction) in enumerate(zip(out.frames, out.predictions, strict=True)):
        row: dict[str, Any] = {
            "file": frame.file, "index": frame.index, "kind": out.kinds[k], "composition": frame.composition,
            "n_atoms": len(frame.system), "failure": prediction.failure,
        }  # fmt: skip
        if not prediction.failure:
            row["energy_eV"] = repr(prediction.energy)
        label = out.label(k, "energy")
        if label is not None and not prediction.failure:
            row |= {"label_energy_eV": repr(float(label)), "energy_offset_eV": repr(out.offset(k))}
            row["energy_error_eV"] = repr(prediction.energy + out.offset(k) - float(label))
        for q in compared:
            label = out.label(k, q)
            if label is not None and q in prediction.arrays:
                difference = prediction.arrays[q] - label
                row[f"{q}_mae"] = repr(float(np.abs(difference).mean()))
                row[f"{q}_rmse"] = repr(float(np.sqrt(np.mean(difference**2))))
        writer.writerow(row)
    return text.getvalue().encode()


def _extxyz(out: Evaluation) -> bytes:
    """Predictions as energy, forces and stress; labels under label_…; numbers with the eight decimals of ASE's writer."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io.extxyz import write_xyz

    text = io.StringIO()
    for k, (frame, prediction) in enumerate(zip(out.frames, out.predictions, strict=True)):
        atoms = frame.system.to_ase()
        atoms.info = {"source": frame.file, "source_index": frame.index}
        if out.kinds[k]:
            atoms.info["kind"] = out.kinds[k]
        if prediction.failure:
            atoms.info["failure"] = prediction.failure
        else:
            known = {name: prediction.arrays[name] for name in ("forces", "stress") if name in prediction.arrays}
            atoms.calc = SinglePointCalculator(atoms, energy=prediction.energy, **known)
        values = {name: v for name, v in prediction.arrays.items() if name not in ("forces", "stress")}
        labels = {f"label_{q}": l for q in out.labels if (l := out.label(k, q)) is not None}
        per_atom = {*MOMENTS, "born_charges", "label_forces", "label_born_charges"}
        for name, value in {**values, **labels}.items():
            if name in per_atom:
                atoms.set_array(name, value.reshape(len(atoms), -1) if value.ndim > 2 else value)
            else:
                atoms.info[name] = float(value) if value.ndim == 0 else value
        write_xyz(text, atoms)
    return text.getvalue().encode()


WRITERS: dict[str, Callable[[Evaluation], bytes]] = {
    ".json": _json, ".h5": _hdf5, ".hdf5": _hdf5, ".csv": _csv, ".xyz": _extxyz, ".extxyz": _extxyz,
}  # fmt: skip
