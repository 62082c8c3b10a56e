"""Weights as plain NumPy archives, the layout of the PyTorch statement of the model.

Arrays ``zs, cutoff, bessel, emb_s, emb_r, rt0..rt3``; per readout ``sr_*`` (energy), ``q_*`` (charge), ``as_*`` (scalar
polarisability) ``w0, b0, w1, b1, w2, b2, wl, bl``; tensor readout ``mix1_0..2, gate0..2_w, gate0..2_b, mix2_0..2``;
optional ``meta`` (JSON). Nothing is unpickled. The keys ``cutoff_exponent``, ``scalar_polarizability_scale`` and
``predicts`` of ``meta`` are polmd's own, written only where a model differs from what the layout otherwise means.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from polmd.errors import InputError, OutputError
from polmd.model.architecture import (
    Architecture,
    Electrostatics,
    Flags,
    Header,
    Quantity,
    Readout,
    Scales,
    TensorReadout,
)
from polmd.model.file import MAX_WEIGHTS, Model

_READOUTS = {"sr": "energy", "q": "charge", "as": "scalar_polarizability"}
_RENAME = {"bessel": "radial/frequencies", "emb_s": "embedding/neighbor", "emb_r": "embedding/center"}
_META_DEFAULTS: dict[str, Any] = {
    "sigma": 1.0, "dl": 2.0, "norm_factor": 90.4756, "remove_self_interaction": True, "charge_scale": 0.1,
    "kappa_scale": 0.1, "make_alpha_positive": False, "make_kappa_positive": False, "make_quad_traceless": True,
    "max_l": 3, "max_nu": 3, "atomic_energies": {}, "name": None, "provenance": "", "licence": "",
    "cutoff_exponent": 6, "scalar_polarizability_scale": 0.001, "predicts": None,
}  # fmt: skip


def read_npz(path: str | os.PathLike, *, name: str | None = None) -> Model:
    """Read a weight archive as a model. Raises InputError when it is not what the layout says."""
    path = Path(path)
    try:
        arrays = _arrays(path)
    except InputError:
        raise
    except Exception as error:  # zipfile and NumPy raise whatever their parsing stumbles over
        raise InputError(f"{path}: not a readable weight archive ({error})") from error
    try:
        return _model(arrays, name, path.stem, str(path))
    except KeyError as error:
        raise InputError(f"{path}: array {error} is missing") from error
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InputError(f"{path}: {reasons}") from error


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays, each checked against the size of its member before it is allocated."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(info.file_size for info in members) > 8 * MAX_WEIGHTS:
            raise InputError(f"{path}: more than {8 * MAX_WEIGHTS} bytes of weights")
        for info in members:
            name = info.filename.removesuffix(".npy")
            if name == info.filename or name in arrays:
                raise InputError(f"{path}: not a readable weight archive (member {info.filename!r})")
            with archive.open(info) as file:
                version = np.lib.format.read_magic(file)
                if version not in _HEADERS:
                    raise InputError(f"{path}: array {name} has version {version} of the npy format")
                shape, _, dtype = _HEADERS[version](file)
                if dtype.hasobject:
                    raise InputError(f"{path}: not a readable weight archive (array {name} holds Python objects)")
                size = math.prod(shape) * dtype.itemsize
                if size != info.file_size - file.tell():
                    raise InputError(f"{path}: array {name} has shape {shape}, but not the bytes for it")
            with archive.open(info) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
    return arrays


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def write_npz(model: Model, path: str | os.PathLike, *, overwrite: bool = False) -> None:
    """Write a model as a weight archive; :func:`read_npz` gives the same model back, bit for bit.

    Raises OutputError when the file exists and ``overwrite`` is false, or cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists; choose another name or allow overwriting")
    header = model.header
    a = header.architecture
    if a.message_passing:
        raise OutputError(f"{path}: the layout of plain arrays has no message passing; keep the model file")
    meta: dict[str, Any] = {
        "name": header.name, "max_l": a.max_l, "max_nu": a.max_nu, "charge_scale": header.scales.charge,
        "kappa_scale": header.scales.charge_response, "norm_factor": header.electrostatics.norm_factor,
        "sigma": header.electrostatics.sigma_A, "dl": header.electrostatics.dl_A,
        "remove_self_interaction": header.electrostatics.remove_self_interaction,
        **header.flags.model_dump(), "atomic_energies": header.atomic_energies_eV,
        "provenance": header.provenance, "licence": header.licence,
    }  # fmt: skip
    own = {
        "cutoff_exponent": a.cutoff_exponent,
        "scalar_polarizability_scale": header.scales.scalar_polarizability,
        "predicts": None if header.predicts == _predicts(a) else header.predicts,
    }
    meta.update({key: value for key, value in own.items() if value != _META_DEFAULTS[key]})
    arrays: dict[str, np.ndarray] = {
        "zs": np.array(a.elements), "cutoff": np.array(a.cutoff_A), "meta": np.array(json.dumps(meta))
    }  # fmt: skip
    arrays |= {_short_name(key): value for key, value in model.arrays.items()}
    partial = path.with_name(path.name + ".part")
    try:
        with open(partial, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error}") from error


def _model(arrays: dict[str, np.ndarray], name: str | None, stem: str, source: str) -> Model:
    _check_dimensions(arrays, source)
    try:
        given = json.loads(str(arrays["meta"])) if "meta" in arrays else {}
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source}: meta is not JSON ({error})") from error
    if not isinstance(given, dict):
        raise InputError(f"{source}: meta is not a JSON object")
    unknown = set(given) - set(_META_DEFAULTS)
    if unknown:
        raise InputError(f"{source}: meta has keys that polmd does not know: {sorted(unknown)}")
    meta = {**_META_DEFAULTS, **given}
    tensor = None
    if "mix1_0" in arrays:
        tensor = TensorReadout(hidden=arrays["mix1_0"].shape[0], outputs=arrays["mix2_0"].shape[0])
    architecture = Architecture(
        elements=[int(z) for z in arrays["zs"]],
        cutoff_A=float(arrays["cutoff"]),
        cutoff_exponent=meta["cutoff_exponent"],
        max_l=meta["max_l"],
        max_nu=meta["max_nu"],
        n_rbf=arrays["rt0"].shape[0],
        n_radial=arrays["rt0"].shape[1],
        n_embedding_neighbor=arrays["emb_s"].shape[1],
        n_embedding_center=arrays["emb_r"].shape[1],
        tensor=tensor,
        energy=_readout(arrays, "sr"),
        charge=_readout(arrays, "q") if "q_w0" in arrays else None,
        scalar_polarizability=_readout(arrays, "as") if "as_w0" in arrays else None,
    )
    predicts = _predicts(architecture) if meta["predicts"] is None else meta["predicts"]
    header = Header(
        name=name or meta["name"] or stem,
        architecture=architecture,
        predicts=predicts,
        scales=Scales(
            charge=meta["charge_scale"],
            charge_response=meta["kappa_scale"],
            scalar_polarizability=meta["scalar_polarizability_scale"],
        ),
        flags=Flags(**{k: meta[k] for k in ("make_alpha_positive", "make_kappa_positive", "make_quad_traceless")}),
        electrostatics=Electrostatics(
            norm_factor=meta["norm_factor"],
            sigma_A=meta["sigma"],
            dl_A=meta["dl"],
            remove_self_interaction=meta["remove_self_interaction"],
        ),
        atomic_energies_eV=meta["atomic_energies"],
        provenance=meta["provenance"],
        licence=meta["licence"],
    )
    renamed = {_full_name(k): v for k, v in arrays.items() if k not in ("zs", "cutoff", "meta")}
    return Model(header, renamed, source)


def _check_dimensions(arrays: dict[str, np.ndarray], source: str) -> None:
    """The arrays that give the sizes of all others have to be such arrays."""
    sizes = {"zs": 1, "cutoff": 0, "rt0": 3, "emb_s": 2, "emb_r": 2, "meta": 0, "mix1_0": 2, "mix2_0": 2}
    sizes |= {f"{short}_{w}": 2 for short in _READOUTS for w in ("w0", "w1")}
    for key, dimensions in sizes.items():
        if key not in arrays:
            continue
        array, kinds = arrays[key], {"zs": "iu", "meta": "U"}.get(key, "f")
        if array.ndim != dimensions or array.dtype.kind not in kinds:
            raise InputError(f"{source}: array {key} has shape {array.shape} and type {array.dtype}")


def _predicts(architecture: Architecture) -> list[Quantity]:
    """What the layout means a model to predict."""
    predicts: list[Quantity] = ["charges"] if architecture.charge is not None else []
    if architecture.tensor is not None:
        predicts += ["dipoles", "quadrupoles", "charge_responses", "polarizabilities"]
    return predicts


def _readout(arrays: dict[str, np.ndarray], short: str) -> Readout:
    return Readout(
        hidden=[arrays[f"{short}_w0"].shape[0], arrays[f"{short}_w1"].shape[0]],
        bias=f"{short}_b0" in arrays,
        linear=f"{short}_wl" in arrays,
        linear_bias=f"{short}_wl" not in arrays or f"{short}_bl" in arrays,
    )


def _full_name(key: str) -> str:
    if key in _RENAME:
        return _RENAME[key]
    if key.startswith("rt"):
        return f"radial/mixing_{key[2:]}"
    if key.startswith("mix"):
        return f"tensor/mix_{'in' if key[3] == '1' else 'out'}_{key[5:]}"
    if key.startswith("gate"):
        return f"tensor/gate_{'weight' if key.endswith('_w') else 'bias'}_{key[4]}"
    short, _, rest = key.partition("_")
    kind = {"w": "weight", "b": "bias"}.get(rest[:1], rest)
    if short not in _READOUTS:
        return key  # not of this layout: named and refused by the shape check
    return f"{_READOUTS[short]}/linear_{kind}" if rest.endswith("l") else f"{_READOUTS[short]}/{kind}_{rest[1:]}"


def _short_name(key: str) -> str:
    """The reverse of :func:`_full_name`."""
    for short, full in _RENAME.items():
        if key == full:
            return short
    group, _, rest = key.partition("/")
    if group == "radial":
        return rest.replace("mixing_", "rt")
    kind, _, index = rest.rpartition("_")
    if group == "tensor":
        return {
            "mix_in": f"mix1_{index}", "mix_out": f"mix2_{index}",
            "gate_weight": f"gate{index}_w", "gate_bias": f"gate{index}_b",
        }[kind]  # fmt: skip
    short = next(s for s, name in _READOUTS.items() if name == group)
    return f"{short}_{index[0]}l" if kind == "linear" else f"{short}_{kind[0]}{index}"
