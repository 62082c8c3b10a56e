"""Weights as plain NumPy archives, the layout of the PyTorch statement of the model.

Arrays ``zs, cutoff, bessel, emb_s, emb_r, rt0..rt3``; per readout ``sr_*`` (energy), ``q_*`` (charge), ``as_*`` (scalar
polarisability) ``w0, b0, w1, b1, w2, b2, wl, bl``; tensor readout ``mix1_0..2, gate0..2_w, gate0..2_b, mix2_0..2``;
optional ``meta`` (JSON). Nothing is unpickled.
"""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from polmd.errors import InputError
from polmd.model.architecture import (
    Architecture,
    Electrostatics,
    Flags,
    Header,
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
}  # fmt: skip


def read_npz(path: str | os.PathLike, *, name: str | None = None) -> Model:
    """Read a weight archive as a model. Raises InputError when it is not what the layout says."""
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > 8 * MAX_WEIGHTS:
                raise InputError(f"{path}: more than {8 * MAX_WEIGHTS} bytes of weights")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {k: archive[k] for k in archive.files}
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path}: not a readable weight archive ({error})") from error
    try:
        return _model(arrays, name or path.stem, str(path))
    except KeyError as error:
        raise InputError(f"{path}: array {error} is missing") from error
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InputError(f"{path}: {reasons}") from error


def _model(arrays: dict[str, np.ndarray], name: str, source: str) -> Model:
    given = json.loads(str(arrays["meta"])) if "meta" in arrays else {}
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
    predicts = ["charges"] if "q_w0" in arrays else []
    if tensor is not None:
        predicts += ["dipoles", "quadrupoles", "charge_responses", "polarizabilities"]
    header = Header(
        name=name,
        architecture=architecture,
        predicts=predicts,  # type: ignore[arg-type]
        scales=Scales(charge=float(meta["charge_scale"]), charge_response=float(meta["kappa_scale"])),
        flags=Flags(**{k: meta[k] for k in ("make_alpha_positive", "make_kappa_positive", "make_quad_traceless")}),
        electrostatics=Electrostatics(
            norm_factor=float(meta["norm_factor"]),
            sigma_A=float(meta["sigma"]),
            dl_A=float(meta["dl"]),
            remove_self_interaction=meta["remove_self_interaction"],
        ),
        atomic_energies_eV={str(z): float(e) for z, e in meta["atomic_energies"].items()},
        provenance=meta["provenance"],
        licence=meta["licence"],
    )
    renamed = {_full_name(k): v for k, v in arrays.items() if k not in ("zs", "cutoff", "meta")}
    return Model(header, renamed, source)


def _readout(arrays: dict[str, np.ndarray], short: str) -> Readout:
    return Readout(
        hidden=[arrays[f"{short}_w0"].shape[0], arrays[f"{short}_w1"].shape[0]],
        bias=f"{short}_b0" in arrays,
        linear=f"{short}_wl" in arrays,
        linear_bias=f"{short}_bl" in arrays,
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
