"""The model file: HDF5 with a JSON header, plain float arrays and a SHA-256 over both.

Layout: attribute ``header`` (JSON, see :class:`polmd.model.architecture.Header`), attribute ``sha256``, group
``weights`` with exactly the arrays of :func:`polmd.model.architecture.array_shapes`, float32 or float64, contiguous.
Nothing else is allowed in the file, and nothing in it is ever executed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from polmd.errors import InputError, OutputError
from polmd.model.architecture import Header, array_shapes

#: A header larger than this, or more weights than this, is refused before anything is allocated.
MAX_HEADER_BYTES = 1 << 20
MAX_WEIGHTS = 50_000_000


@dataclass(frozen=True)
class Model:
    """A trained model: header and weight arrays, as in the file.

    Attributes
    ----------
    header : everything that is not a weight
    arrays : name → float32 or float64 array, names and shapes as :func:`array_shapes` says
    source : bundled name or path it was read from
    """

    header: Header
    arrays: dict[str, np.ndarray] = field(repr=False)
    source: str = ""

    def __post_init__(self) -> None:
        check_arrays(self.header, {k: (v.shape, v.dtype) for k, v in self.arrays.items()}, self.source or "model")
        for name, array in self.arrays.items():
            bad = np.argwhere(~np.isfinite(array))
            if len(bad):
                raise InputError(f"{self.source or 'model'}: weights/{name}{tuple(bad[0].tolist())} is not finite")

    @property
    def name(self) -> str:
        return self.header.name

    @property
    def elements(self) -> list[int]:
        """Atomic numbers the model knows."""
        return self.header.architecture.elements

    @property
    def cutoff(self) -> float:
        """Cutoff radius of the local network, Å."""
        return self.header.architecture.cutoff_A

    @property
    def n_weights(self) -> int:
        return sum(a.size for a in self.arrays.values())

    def fingerprint(self) -> str:
        """SHA-256 over header and arrays: equal exactly when the models are the same, bit for bit."""
        return _digest(self.header.model_dump_json(), self.arrays)

    def save(self, path: str | os.PathLike, *, overwrite: bool = False) -> None:
        """Write the model file. Raises OutputError when it exists and ``overwrite`` is false."""
        import h5py

        path = Path(path)
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists; choose another name or allow overwriting")
        partial = path.with_name(path.name + ".part")
        try:
            with h5py.File(partial, "w") as h5:
                text = self.header.model_dump_json()
                h5.attrs["header"] = text
                h5.attrs["sha256"] = _digest(text, self.arrays)
                for name, array in self.arrays.items():
                    h5["weights/" + name] = array
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise OutputError(f"cannot write model file {path}: {error}") from error


def check_arrays(header: Header, found: dict[str, tuple[tuple[int, ...], np.dtype]], where: str) -> None:
    """Compare array names, shapes and types with what the header's architecture needs; raise InputError."""
    expected = array_shapes(header.architecture)
    problems = [f"weights/{k} is missing" for k in sorted(expected.keys() - found.keys())]
    problems += [f"weights/{k} does not belong to this architecture" for k in sorted(found.keys() - expected.keys())]
    for name in sorted(expected.keys() & found.keys()):
        shape, dtype = found[name]
        if shape != expected[name]:
            problems.append(f"weights/{name} has shape {shape}, the header asks for {expected[name]}")
        elif dtype not in (np.float32, np.float64):
            problems.append(f"weights/{name} has type {dtype}, expected float32 or float64")
    if problems:
        raise InputError(f"{where}: " + "; ".join(problems))


def bundled_models() -> dict[str, Path]:
    """Name → path of the models that come with polmd."""
    here = Path(__file__).resolve().parent.parent / "data"
    return {p.stem: p for p in sorted(here.glob("*.h5"))}


def load_model(name: str | os.PathLike) -> Model:
    """Read a bundled model by name, or a model file by path.

    Raises
    ------
    InputError
        when there is no such model, the file is damaged, or anything in it is not as the format says.
    """
    bundled = bundled_models()
    if str(name) in bundled:
        return _read(bundled[str(name)], str(name))
    path = Path(name)
    if not path.is_file():
        raise InputError(f"no model file {path} and no bundled model of that name; bundled: {', '.join(bundled)}")
    if path.suffix in (".npz", ".pth", ".pt"):
        raise InputError(f"{path} is not a polmd model file; convert it first: polmd convert {path} model.h5")
    return _read(path, str(path))


def _read(path: Path, source: str) -> Model:
    import h5py

    try:
        with h5py.File(path, "r") as h5:
            text, header = _header(h5, source)
            names = list(_datasets(h5, source))
            check_arrays(header, {k: (h5["weights/" + k].shape, h5["weights/" + k].dtype) for k in names}, source)
            if sum(h5["weights/" + k].size for k in names) > MAX_WEIGHTS:
                raise InputError(f"{source}: more than {MAX_WEIGHTS} weights")
            arrays = {k: h5["weights/" + k][()] for k in names}
            stored = h5.attrs.get("sha256")
    except InputError:
        raise
    except Exception as error:  # h5py raises OSError, KeyError, RuntimeError, ValueError, … on damaged files
        raise InputError(f"{source}: not a readable model file ({error})") from error
    if stored != _digest(text, arrays):  # over the text as stored, so that later defaults do not change it
        raise InputError(f"{source}: checksum does not match, the file is damaged or was edited")
    return Model(header, arrays, source)


def _digest(header_text: str, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(header_text.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _header(h5: object, source: str) -> tuple[str, Header]:
    attrs = h5.attrs  # type: ignore[attr-defined]
    if "header" not in attrs:
        raise InputError(f"{source}: no polmd header; is this a model file? 'polmd convert' makes one")
    text = attrs["header"]
    if not isinstance(text, str) or len(text) > MAX_HEADER_BYTES:
        raise InputError(f"{source}: header is not a text of at most {MAX_HEADER_BYTES} bytes")
    try:
        return text, Header.model_validate_json(text)
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'header'}: {e['msg']}" for e in error.errors())
        raise InputError(f"{source}: header: {reasons}") from error


def _datasets(h5: object, source: str) -> Iterator[str]:
    """Names of the datasets below ``weights``; anything else in the file, links outside it included, is refused."""
    import h5py

    def walk(group: h5py.Group, prefix: str) -> Iterator[str]:
        for key in group:
            link = group.get(key, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise InputError(f"{source}: {prefix}{key} is a link to another place")
            item = group[key]
            if isinstance(item, h5py.Group) and prefix.count("/") < 2:
                yield from walk(item, f"{prefix}{key}/")
            elif isinstance(item, h5py.Dataset) and prefix.startswith("weights/"):
                if item.is_virtual or item.external or item.chunks:
                    raise InputError(f"{source}: {prefix}{key} is not a plain contiguous array")
                yield (prefix + key).removeprefix("weights/")
            else:
                raise InputError(f"{source}: unexpected object {prefix}{key}")

    yield from walk(h5, "")
