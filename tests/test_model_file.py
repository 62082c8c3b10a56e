"""The model file: exact round trips, and refusal of everything that is not as the format says."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
from random_models import random_model

import polmd
from polmd.model.importers.npz import read_npz


@pytest.fixture
def path(tmp_path: Path) -> Path:
    random_model(2, 2).save(tmp_path / "model.h5")
    return tmp_path / "model.h5"


def _refused(path: Path | str, pattern: str) -> None:
    with pytest.raises(polmd.InputError, match=pattern):
        polmd.load_model(path)


def test_round_trip(path: Path) -> None:
    model, back = random_model(2, 2), polmd.load_model(path)
    assert back.header == model.header and back.fingerprint() == model.fingerprint()
    for name, array in model.arrays.items():
        assert array.dtype == back.arrays[name].dtype and np.array_equal(array, back.arrays[name])
    with pytest.raises(polmd.OutputError, match="exists"):
        model.save(path)
    random_model(2, 2, seed=1).save(path, overwrite=True)
    assert polmd.load_model(path).fingerprint() != model.fingerprint()


def test_bundled_water_is_the_trained_archive(shared: Path) -> None:
    trained = read_npz(shared / "models" / "water" / "weights.npz", name="water")
    bundled = polmd.load_model("water")
    assert bundled.fingerprint() == trained.fingerprint()


def test_names(tmp_path: Path) -> None:
    _refused("steam", "no bundled model of that name; bundled: au_mgo, mapbi3, nacl_cluster, water, water_1bar")
    _refused(tmp_path, "no model file")
    for name in ("a.pth", "a.npz"):
        (tmp_path / name).write_bytes(b"x")
        _refused(tmp_path / name, "polmd convert")


def test_damaged_files(path: Path) -> None:
    """Rows 20 of the fault table: truncated anywhere, empty, any byte of the weights flipped."""
    content = path.read_bytes()
    for length in [0, 1, 100, *range(500, len(content), len(content) // 25), len(content) - 1]:
        path.write_bytes(content[:length])
        _refused(path, "model.h5")
    with h5py.File(_written(path, content)) as h5:
        offsets = [h5["weights"][k].id.get_offset() for k in ("radial/frequencies", "energy/weight_0")]
    for offset in offsets:
        for bit in range(8):
            flipped = bytearray(content)
            flipped[offset + 3] ^= 1 << bit
            path.write_bytes(flipped)
            _refused(path, "checksum|not finite")
    path.write_bytes(b"not HDF5 at all")
    _refused(path, "not a readable model file")


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _edit(path: Path, change) -> None:
    with h5py.File(path, "r+") as h5:
        change(h5)


def _replace(h5: h5py.File, name: str, value: np.ndarray) -> None:
    del h5["weights/" + name]
    h5["weights/" + name] = value


CHANGES = {
    "extra array": (lambda h5: h5.create_dataset("weights/extra", data=np.zeros(3)), "weights/extra does not belong"),
    "extra at the top": (lambda h5: h5.create_dataset("more", data=np.zeros(3)), "unexpected object more"),
    "missing": (lambda h5: h5.__delitem__("weights/radial/mixing_1"), "weights/radial/mixing_1 is missing"),
    "shape": (lambda h5: _replace(h5, "radial/frequencies", np.ones(5)), r"radial/frequencies has shape \(5,\)"),
    "type": (lambda h5: _replace(h5, "radial/frequencies", np.ones(4, int)), "has type int64"),
    "nan": (lambda h5: h5["weights/radial/frequencies"].__setitem__(0, np.nan), "checksum"),
    "soft link": (lambda h5: h5.__setitem__("weights/link", h5py.SoftLink("/weights/radial")), "is a link"),
    "external link": (lambda h5: h5.__setitem__("weights/x", h5py.ExternalLink("/etc/passwd", "/")), "is a link"),
    "no header": (lambda h5: h5.attrs.__delitem__("header"), "no polmd header"),
    "broken header": (lambda h5: h5.attrs.__setitem__("header", "{"), "header: "),
    "header of other shapes": (
        lambda h5: h5.attrs.__setitem__("header", h5.attrs["header"].replace('"n_rbf":4', '"n_rbf":400000')),
        "n_rbf",
    ),
    "header with unknown key": (
        lambda h5: h5.attrs.__setitem__("header", h5.attrs["header"].replace('"n_rbf":4', '"n_rbf":4,"run":"rm"')),
        "run: Extra inputs",
    ),
    "edited number": (
        lambda h5: h5.attrs.__setitem__("header", h5.attrs["header"].replace('"sigma_A":0.9', '"sigma_A":1.0')),
        "checksum",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_edited_files(path: Path, change: str) -> None:
    """Rows 21 and 24."""
    edit, pattern = CHANGES[change]
    _edit(path, edit)
    _refused(path, pattern)


def test_weights_that_are_not_finite_are_never_written() -> None:
    model = random_model(2, 2)
    for bad in (np.nan, np.inf):
        arrays = {k: v.copy() for k, v in model.arrays.items()}
        arrays["energy/weight_1"][1, 2] = bad
        with pytest.raises(polmd.InputError, match=r"energy/weight_1\(1, 2\) is not finite"):
            polmd.Model(model.header, arrays)


class _Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def test_archives_are_never_unpickled(tmp_path: Path, data: Path) -> None:
    """Row 22: an object array with a payload; the marker file must not appear."""
    marker = tmp_path / "marker"
    arrays = dict(np.load(data / "lmax2_nu3.npz"))
    arrays["bessel"] = np.array([_Payload(marker)], dtype=object)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(polmd.InputError, match="not a readable weight archive"):
        read_npz(tmp_path / "bad.npz")
    (tmp_path / "worse.npz").write_bytes(pickle.dumps(_Payload(marker)))
    with pytest.raises(polmd.InputError, match="not a readable weight archive"):
        read_npz(tmp_path / "worse.npz")
    assert not marker.exists()


def test_archives_with_missing_or_unknown_arrays(tmp_path: Path, data: Path) -> None:
    whole = dict(np.load(data / "lmax2_nu3.npz"))
    for key, pattern in (("emb_s", "emb_s"), ("rt1", "radial/mixing_1 is missing"), ("mix1_1", "mix_in_1 is missing")):
        np.savez(tmp_path / "part.npz", **{k: v for k, v in whole.items() if k != key})
        with pytest.raises(polmd.InputError, match=pattern):
            read_npz(tmp_path / "part.npz")
    np.savez(tmp_path / "more.npz", **whole, surprise=np.zeros(2))
    with pytest.raises(polmd.InputError, match="surprise does not belong"):
        read_npz(tmp_path / "more.npz")
