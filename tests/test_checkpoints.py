"""PyTorch checkpoints: exact import of both layouts, and refusal, without execution, of everything else."""

import io
import pickle
import struct
import zipfile
from pathlib import Path

import checkpoints
import h5py
import numpy as np
import pytest
from checkpoints import Obj, Ordered, Param, Raw, Symbol, archive, payload
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_models import FULL, random_model

import polmd
from polmd.model.architecture import Chi, MessagePassing, Readout, Scales
from polmd.model.importers import parse_atomic_energies, read_weights
from polmd.model.importers.cace import read_checkpoint
from polmd.model.importers.npz import read_npz, write_npz


def _small(**options) -> polmd.Model:
    return random_model(2, 2, predicts=("charges",), **options)


def _saved(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _refused(tmp_path: Path, content: bytes, pattern: str) -> None:
    path = _saved(tmp_path / "bad.pth", content)
    with pytest.raises(polmd.InputError, match=pattern) as caught:
        read_checkpoint(path)
    assert str(caught.value).startswith(str(path))


def _meaning(model: polmd.Model) -> dict:
    """The header without name, provenance and atomic energies, and without settings of what is not predicted."""
    h = model.header.model_dump()
    predicts, scalar = h["predicts"], h["architecture"]["scalar_polarizability"]
    used = {
        "charge": True,
        "charge_response": "charge_responses" in predicts,
        "scalar_polarizability": scalar is not None,
    }
    h["scales"] = {k: v for k, v in h["scales"].items() if used[k]}
    needs = {"make_alpha_positive": "polarizabilities", "make_kappa_positive": "charge_responses"}
    h["flags"] = {k: v for k, v in h["flags"].items() if needs.get(k, "quadrupoles") in predicts}
    return {k: v for k, v in h.items() if k not in ("name", "provenance", "atomic_energies_eV")}


def _same(a: polmd.Model, b: polmd.Model) -> None:
    """Equal in what they mean, bit for bit in the weights."""
    assert _meaning(a) == _meaning(b)
    assert a.arrays.keys() == b.arrays.keys()
    for name, array in a.arrays.items():
        assert array.dtype == b.arrays[name].dtype and array.tobytes() == b.arrays[name].tobytes(), name


MODELS = {
    "charges": {"predicts": ("charges",), "scalar": None},
    "no biases, no linear part": {
        "predicts": ("charges",), "charge": Readout(hidden=[5, 3], bias=False, linear=False), "max_l": 3, "max_nu": 2,
    },
    "full": {"flags": ("make_alpha_positive", "make_kappa_positive", "make_quad_traceless"), "max_l": 3, "max_nu": 3},
    "scalar alpha": {
        "predicts": ("charges", "dipoles", "polarizabilities"), "scalar": Readout(hidden=[4, 3], linear=False),
    },
    "quadrupoles alone": {"predicts": ("charges", "quadrupoles"), "outputs": 1, "max_l": 3, "max_nu": 2},
    "response alone": {"predicts": ("charges", "charge_responses", "polarizabilities"), "hidden": 3, "outputs": 3},
    "cutoff": {"predicts": ("charges",), "exponent": 5},
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_les_layout(tmp_path: Path, name: str) -> None:
    options = {"max_l": 2, "max_nu": 3, **MODELS[name]}
    model = random_model(**options)
    model = polmd.Model(model.header.model_copy(update={"predicts": _ordered(model.header.predicts)}), model.arrays)
    back = read_checkpoint(_saved(tmp_path / "model.pth", archive(checkpoints.les(model))))
    _same(model, back)
    assert back.name == "model" and "model.pth (sha256 " in back.header.provenance


def _ordered(predicts: list[str]) -> list[str]:
    order = ["charges", "dipoles", "quadrupoles", "charge_responses", "polarizabilities"]
    return sorted(predicts, key=order.index)


def test_single_and_double_precision(tmp_path: Path) -> None:
    model = _small()
    singles = {k: v.astype(np.float32) for k, v in model.arrays.items()}
    for arrays in (model.arrays, singles):
        expected = polmd.Model(model.header, arrays)
        _same(expected, read_checkpoint(_saved(tmp_path / "m.pth", archive(checkpoints.les(expected)))))


def test_native_layout(tmp_path: Path) -> None:
    model = _small(charge=Readout(hidden=[5, 3], bias=False, linear_bias=False))
    header = model.header.model_copy(update={"scales": Scales(charge=1.0)})
    model = polmd.Model(header, model.arrays)
    _same(model, read_checkpoint(_saved(tmp_path / "model.pth", archive(checkpoints.native(model)))))


def test_outputs_in_another_order_and_scaled(tmp_path: Path) -> None:
    """Rank 2 given as [quads, alphas], scales of ranks 1 and 2: the same predictions, weights put in order."""
    model = random_model(2, 2, predicts=tuple(_ordered(FULL)))
    tree = checkpoints.les(model, l2_key=["quads", "alphas"])
    _same(model, read_checkpoint(_saved(tmp_path / "a.pth", archive(tree))))
    readout = _find(tree, "TensorReadout")[0]
    readout.state["l1_output_scale"] = 0.5
    readout.state["l2_output_scale"] = 3.0
    scaled = read_checkpoint(_saved(tmp_path / "b.pth", archive(tree)))
    for rank, scale in ((0, 1.0), (1, 0.5), (2, 3.0)):
        name = f"tensor/mix_out_{rank}"
        assert np.array_equal(scaled.arrays[name], model.arrays[name] * scale)


def test_published_checkpoints(shared: Path) -> None:
    """Bit for bit the weights of their twins; what the weights give is test_vectors_models.py's subject."""
    folder = shared / "models" / "published"
    for path in sorted(folder.glob("*.npz")):
        twin, model = read_npz(path), read_checkpoint(path.with_suffix(".pth"))
        _same(twin, model)
    model = read_checkpoint(folder / "cace_les_dipeptide_message_passing.pth")
    layers = model.header.architecture.message_passing
    assert layers == [
        MessagePassing(norm=10**-0.5, memory=False, decay=False, chi=Chi(per_level=True, per_channel=True))
    ]


def _find(tree, name: str) -> list[Obj]:
    """All objects of a class in a tree."""
    found, work = [], [tree]
    while work:
        value = work.pop()
        if isinstance(value, Obj):
            if value.name == name:
                found.append(value)
            work.append(value.state)
        elif isinstance(value, dict):
            work.extend(value.values())
        elif isinstance(value, (list, tuple)):
            work.extend(value)
    return found


def _edit(name: str, **state):
    def change(tree) -> None:
        for obj in _find(tree, name):
            obj.state.update(state)

    return change


def _rename(old: str, module: str, new: str):
    def change(tree) -> None:
        for obj in _find(tree, old):
            obj.module, obj.name = module, new

    return change


def _parameter(owner: str, key: str, change_array):
    def change(tree) -> None:
        state = _find(tree, owner)[0].state
        group = "_parameters" if key in state["_parameters"] else "_buffers"
        state[group][key] = Param(change_array(state[group][key].array))

    return change


def _with(array: np.ndarray, value: float) -> np.ndarray:
    array = array.copy()
    array.flat[0] = value
    return array


M = "cace.modules."
UNSUPPORTED = {
    "gaussian radial": (_rename("BesselRBF", M + "radial", "GaussianRBF"), "is a GaussianRBF"),
    "other cutoff": (_rename("PolynomialCutoff", M + "cutoff", "CosineCutoff"), "is a CosineCutoff"),
    "undirected edges": (_edit("EdgeEncoder", directed=False), "has directed = False"),
    "unknown class": (_rename("EdgeEncoder", M + "type", "EdgeEncoder_InterIntra"), r"uses .*EdgeEncoder_InterIntra"),
    "unknown attribute": (_edit("Cace", temperature=3.0), "attribute that polmd does not know: 'temperature'"),
    "charge and spin": (_edit("Cace", charge_spin_key="spin"), "charge_spin_key = spin"),
    "max_l": (_edit("Cace", max_l=4), "max_l = 4"),
    "hooks": (_edit("Atomwise", _forward_hooks=Ordered({"0": 1})), r"has hooks \(_forward_hooks\)"),
    "activation": (_edit("Dense", activation=Symbol("torch.nn.functional", "relu")), "is followed by relu"),
    "batch norm": (_edit("Dense", use_batchnorm=True), "use_batchnorm = True"),
    "residual": (_edit("Atomwise", residual=True), "residual = True"),
    "fixed charges": (_edit("Les", use_fixed_atomic_charges=True), "use_fixed_atomic_charges = True"),
    "atomic alpha": (_edit("LesWrapper", atomic_number_key="atomic_numbers"), "atomic_number_key = atomic_numbers"),
    "vectorised Ewald": (_edit("Les", is_periodic=True), "is_periodic = True"),
    "inconsistent sigma": (_edit("Ewald", sigma=1.3), "sigma_sq_half"),
    "no norm_factor": (_edit("Ewald", norm_factor=None), "has no number norm_factor"),
    "infinite sigma": (_edit("Ewald", sigma=float("inf")), "has no number sigma"),
    "no energy": (_edit("Forces", energy_key="other"), r"0 local energies"),
    "two terms": (_edit("FeatureAdd", feature_keys=["SR_energy", "ewald_potential", "x"]), "one local and one long-range"),
    "other elements": (_edit("Cace", zs=[1, 7]), "numbers the elements otherwise"),
    "wild elements": (_edit("Cace", zs=[1, 2**30]), "no list of elements"),
    "other cutoff radius": (_edit("Cace", cutoff=4.0), "asks for"),
    "other monomials": (_edit("AngularComponent", lxlylz_list=[(0, 0, 0)]), "monomials in another order"),
    "other invariants": (_edit("Symmetrizer", vec_dict_allnu={2: {}}), "combines the descriptor"),
    "post-processing": (_edit("NeuralNetworkPotential", do_postprocessing=True), "do_postprocessing = True"),
    "nan": (_parameter("BesselRBF", "bessel_weights", lambda a: _with(a, np.nan)), "not finite"),
    "inf": (_parameter("Linear", "weight", lambda a: _with(a, np.inf)), "not finite"),
    "integers": (_parameter("BesselRBF", "bessel_weights", lambda a: a.astype(np.int64)), "type int64"),
    "half precision": (_parameter("BesselRBF", "bessel_weights", lambda a: a.astype(np.float16)), "torch.HalfStorage"),
    "shape": (_parameter("Linear", "weight", lambda a: a[:, :-1]), "of shape"),
    "rank": (_parameter("BesselRBF", "bessel_weights", lambda a: a[None]), "of shape"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_polmd_cannot_evaluate_is_refused_by_name(tmp_path: Path, name: str) -> None:
    change, pattern = UNSUPPORTED[name]
    tree = checkpoints.les(_small())
    change(tree)
    _refused(tmp_path, archive(tree), pattern)


ALL = MessagePassing(norm=0.5, memory=True, decay=True, chi=Chi(per_level=True, per_channel=True))
_H = {"norm": 0.3, "memory": False, "decay": False}
MESSAGES = {
    "all": (ALL, ALL),
    "memory and decay": (MessagePassing(norm=0.3, memory=True, decay=True, chi=None),),
    "shared": (MessagePassing(**_H, chi=Chi(per_level=False, per_channel=False)),),
    "deep, per channel": (MessagePassing(**_H, chi=Chi(hidden=[5, 4], bias=False, per_level=False, per_channel=True)),),
    "per level": (MessagePassing(**_H, chi=Chi(hidden=[3], per_level=True, per_channel=False)),),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_message_passing(tmp_path: Path, name: str) -> None:
    model = _small(messages=MESSAGES[name])
    back = read_checkpoint(_saved(tmp_path / "m.pth", archive(checkpoints.les(model))))
    _same(model, back)
    back.save(tmp_path / "m.h5")
    assert polmd.load_model(tmp_path / "m.h5").fingerprint() == back.fingerprint()
    with pytest.raises(polmd.OutputError, match="no message passing"):
        write_npz(back, tmp_path / "m.npz")


WRONG_MESSAGES = {
    "count": (lambda t: _find(t, "Cace")[0].state.update(num_message_passing=3), "has 2 message-passing layers, but says 3"),
    "other groups": (
        lambda t: _find(t, "MessageBchi")[0].state["_buffers"].update(l_matrix=Param(np.ones((3, 10)))),
        "groups the monomials",
    ),
    "residual": (lambda t: _find(t, "MessageBchi")[0].state.update(residual=True), "residual = True"),
    "another message": (lambda t: setattr(_find(t, "MessageAr")[0], "name", "MessageArMLP"), "is a MessageArMLP"),
    "order": (
        lambda t: setattr(_find(t, "MessageAr")[0], "name", "NodeMemory"), "is a NodeMemory; polmd evaluates MessageAr"
    ),
    "never evaluated": (lambda t: _find(t, "MessageBchi")[0].state["_modules"].update(hnet=None), "has no layers"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_MESSAGES)
def test_other_message_passing_is_refused(tmp_path: Path, name: str) -> None:
    change, pattern = WRONG_MESSAGES[name]
    tree = checkpoints.les(_small(messages=(ALL, ALL)))
    change(tree)
    _refused(tmp_path, archive(tree), pattern)


def test_message_passing_with_tensors_is_refused(tmp_path: Path) -> None:
    tree = checkpoints.les(random_model(2, 2))
    layers = checkpoints.les(_small(messages=(ALL,)))
    cace = _find(tree, "Cace")[0]
    cace.state["num_message_passing"] = 1
    cace.state["_modules"]["message_passing_list"] = _find(layers, "Cace")[0].state["_modules"]["message_passing_list"]
    _refused(tmp_path, archive(tree), "reads tensors after message passing")


@pytest.mark.parametrize("name", ["torch_multipoles", "torch_message_passing"])
def test_files_written_by_torch(data: Path, name: str) -> None:
    """Whole modules with random weights, saved by PyTorch 2.13, against what they gave there in float64."""
    model = read_checkpoint(data / f"{name}.pth")
    with h5py.File(data / "checkpoints.h5") as h5:
        for group in h5[name].values():
            n = len(group["numbers"])
            parts = [group[key][()] for key in ("numbers", "positions", "cell", "pbc")]
            result = polmd.MultipolePotential(model).compute(polmd.System(*parts, np.ones(n), np.zeros((n, 3))))
            assert result.energy == pytest.approx(group["energy"][()], rel=1e-12)
            for value, expected in ((result.forces, group["forces"][()]), (result.charges, group["q"][()])):
                assert np.abs(value - expected).max() < 1e-12 * np.abs(expected).max()


def test_state_dictionaries_say_what_is_missing(tmp_path: Path) -> None:
    _refused(tmp_path, archive(Ordered({"weight": Param(np.ones(3, np.float32))})), "dictionary .* not a model")


def _payloads(marker: Path) -> dict[str, bytes]:
    """Pickles that would create a file, with the call in every position and every protocol."""

    class Call:
        def __reduce__(self):
            return (Path.touch, (marker,))

    class Evaluate:
        def __reduce__(self):
            return (eval, (f"open({str(marker)!r}, 'w')",))

    found = {}
    for protocol in range(6):
        for name, value in (("reduce", Call()), ("eval", Evaluate())):
            for where, tree in (
                ("root", value), ("list", [value]), ("tuple", (1, value)), ("key", None), ("value", {"a": value}),
                ("deep", [{"a": ({"b": [value]},)}]),
            ):  # fmt: skip
                if where == "key":
                    continue
                found[f"{name} {where} {protocol}"] = pickle.dumps(tree, protocol)
    return found


def _positions(call: Raw) -> dict[str, object]:
    """Trees of a checkpoint with the call in every position that a pickle has."""
    trees: dict[str, object] = {}

    def add(name: str, change) -> None:
        tree = checkpoints.les(_small())
        change(tree)
        trees[name] = tree

    cace = lambda t: _find(t, "Cace")[0]  # noqa: E731
    add("attribute", lambda t: cace(t).state.update(cutoff=call))
    add("unknown attribute", lambda t: cace(t).state.update(more=call))
    add("key", lambda t: cace(t).state.update({"_buffers": Raw(b"}(" + call.code + b"K\x01u")}))
    add("list", lambda t: cace(t).state.update(zs=[1, call]))
    add("state", lambda t: setattr(cace(t), "state", call))
    add("build", lambda t: cace(t).state.update(cutoff=Raw(call.code + b"}b")))
    add("build of a name", lambda t: cace(t).state.update(cutoff=Raw(b"ctorch.nn.functional\nsilu\n}b")))
    add("module", lambda t: cace(t).state["_modules"].update(node_onehot=call))
    add("hook", lambda t: cace(t).state.update(_forward_hooks=Ordered({"0": call})))
    add("parameter", lambda t: _find(t, "BesselRBF")[0].state["_parameters"].update(bessel_weights=call))
    add("storage", lambda t: _find(t, "BesselRBF")[0].state["_parameters"].update(bessel_weights=_tensor(call.code)))
    add("storage type", lambda t: _find(t, "BesselRBF")[0].state["_parameters"].update(bessel_weights=_typed(call)))
    add("shape", lambda t: _find(t, "BesselRBF")[0].state["_parameters"].update(bessel_weights=_shaped(call)))
    add("persistent", lambda t: cace(t).state.update(cutoff=Raw(call.code + b"Q")))
    add("newobj", lambda t: cace(t).state.update(cutoff=Raw(b"cbuiltins\neval\n" + b"(V1+1\nt\x81")))
    add("inst", lambda t: cace(t).state.update(cutoff=Raw(b"(V1+1\nibuiltins\neval\n")))
    add("obj", lambda t: cace(t).state.update(cutoff=Raw(b"(cbuiltins\neval\nV1+1\no")))
    add("extension", lambda t: cace(t).state.update(cutoff=Raw(b"\x82\x01")))
    add("stack global", lambda t: cace(t).state.update(cutoff=Raw(b"Vposix\nVsystem\n\x93(Vtrue\ntR")))
    add(
        "allowed function",
        lambda t: cace(t).state.update(cutoff=Raw(b"ccollections\nOrderedDict\n(" + call.code + b"tR")),
    )
    add("after the end", lambda t: cace(t).state.update(cutoff=Raw(b"K\x01." + call.code)))
    return trees


def _tensor(storage: bytes) -> Raw:
    return Raw(
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00(K\x01t(K\x01t\x89ccollections\nOrderedDict\n)RtR"
    )


def _typed(call: Raw) -> Raw:
    return _tensor(b"(X\x07\x00\x00\x00storage" + call.code + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ")


def _shaped(call: Raw) -> Raw:
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01tQ"
    return Raw(b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00(" + call.code + b"t(K\x01t\x89}tR")


def test_payloads_are_never_executed(tmp_path: Path) -> None:
    """Row 22 of the fault table: REDUCE, BUILD, NEWOBJ, INST, OBJ, nested, in storages; protocols 0 to 5."""
    marker = tmp_path / "marker"
    for name, pickled in _payloads(marker).items():
        _refused(tmp_path, archive(None, pickled=pickled), "names|operation|call|construction")
        assert not marker.exists(), name
    for module, function, argument in (
        ("builtins", "eval", f"open({str(marker)!r},'w')"),
        ("os", "system", f"touch {marker}"),
        ("torch._utils", "_rebuild_device_tensor_from_numpy", "x"),
        ("torch.nn.functional", "silu", "x"),
        ("cace.modules.type", "NodeEncoder", "x"),
    ):
        for name, tree in _positions(Raw(payload(module, function, argument))).items():
            _refused(tmp_path, archive(tree), "checkpoint refused")
            assert not marker.exists(), (module, name)
    path = _saved(tmp_path / "good.pth", archive(checkpoints.les(_small())))
    assert read_checkpoint(path).elements == [1, 8]  # the same archive without a payload is read


def test_a_payload_in_the_numbers_is_numbers(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    content = archive(
        checkpoints.les(_small()), extra={"data/0": pickle.dumps(payload("os", "system", f"touch {marker}"))}
    )
    _refused(tmp_path, content, "two members|bytes of numbers")
    assert not marker.exists()


def test_truncated_files(tmp_path: Path) -> None:
    """Row 20: by one byte, at every 10 %, empty."""
    content = archive(checkpoints.les(_small()))
    for length in [0, 1, *(len(content) * k // 10 for k in range(1, 10)), len(content) - 1]:
        _refused(tmp_path, content[:length], "empty|cut off|zip archive")


def test_damaged_numbers(tmp_path: Path) -> None:
    content = bytearray(archive(checkpoints.les(_small())))
    at = content.index(b"best_model/data/3") + 40
    content[at] ^= 1
    _refused(tmp_path, bytes(content), "checksum")


def _rezip(content: bytes, change) -> bytes:
    """The archive with its members (name, bytes, compression) changed."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = [(i.filename, file.read(i), zipfile.ZIP_STORED) for i in file.infolist()]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, data, compression in change(members):
            file.writestr(name, data, compression)
    return out.getvalue()


ARCHIVES = {
    "compressed": (lambda m: [(n, d, zipfile.ZIP_DEFLATED) for n, d, _ in m], "is compressed"),
    "zip bomb": (lambda m: [*m, ("best_model/data/999", b"\0" * 10_000_000, zipfile.ZIP_DEFLATED)], "is compressed"),
    "renamed pickle": (lambda m: [(n.replace("data.pkl", "date.pkl"), d, c) for n, d, c in m], "no member NAME/data.pkl"),
    "renamed storage": (lambda m: [(n.replace("data/3", "data/x3"), d, c) for n, d, c in m], "are missing"),
    "two pickles": (lambda m: [*m, ("other/data.pkl", m[0][1], 0)], "or more than one"),
    "foreign member": (lambda m: [*m, ("../../etc/passwd", b"x", 0)], "does not belong"),
    "TorchScript": (lambda m: [*m, ("best_model/constants.pkl", b"x", 0)], "TorchScript"),
    "short storage": (lambda m: [(n, d[:-4] if n.endswith("data/3") else d, c) for n, d, c in m], "bytes of numbers"),
    "long storage": (lambda m: [(n, d + b"1234" if n.endswith("data/3") else d, c) for n, d, c in m], "bytes of numbers"),
    "byte order": (lambda m: [(n, b"middle" if "byteorder" in n else d, c) for n, d, c in m], "byte order"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_that_are_not_as_torch_writes_them(tmp_path: Path, name: str) -> None:
    """Rows 23 and 24."""
    change, pattern = ARCHIVES[name]
    _refused(tmp_path, _rezip(archive(checkpoints.les(_small())), change), pattern)


def test_sizes_are_checked_before_anything_is_allocated(tmp_path: Path) -> None:
    """Row 23: claims of 10⁹ numbers, in the pickle and in the directory of the archive."""
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    for count in (10**9, 2**31 - 1):
        huge = b"J" + struct.pack("<i", count)
        for shape, steps in ((huge, b"K\x01"), (huge, b"K\x00"), (b"K\x01" + huge, b"K\x00K\x00")):
            call = (
                b"ctorch._utils\n_rebuild_tensor_v2\n("
                + storage
                + huge
                + b"tQK\x00("
                + shape
                + b"t("
                + steps
                + b"t\x89}tR"
            )
            tree = checkpoints.les(_small())
            _find(tree, "BesselRBF")[0].state["_parameters"]["bessel_weights"] = Raw(call)
            _refused(tmp_path, archive(tree), "more numbers than its storage|bytes of numbers")
    content = archive(checkpoints.les(_small()))
    at = content.rindex(b"PK\x01\x02")  # the last entry of the directory: claim 4 GB
    claimed = content[: at + 20] + struct.pack("<II", 2**32 - 2, 2**32 - 2) + content[at + 28 :]
    _refused(tmp_path, claimed, "does not have|zip archive")
    nested = b"]" * 5000 + b"a" * 4999
    _refused(tmp_path, archive(None, pickled=b"\x80\x02" + nested + b"."), "nesting")
    _refused(tmp_path, archive(None, pickled=b"\x80\x02]q\x00h\x00a."), "contains itself")
    _refused(tmp_path, archive(None, pickled=b"\x80\x02X\xff\xff\xff\x7fabc."), "a text of")
    _refused(tmp_path, archive(None, pickled=b"\x80\x02" + b"\x8b\xff\xff\xff\x7f" + b"."), "operation")


def test_old_and_foreign_formats_are_named(tmp_path: Path) -> None:
    _refused(tmp_path, pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"rest", "before 1.6")
    _refused(tmp_path, b"\x89HDF\r\n\x1a\n" + b"\0" * 100, "zip archive")
    with pytest.raises(polmd.InputError, match=r"none\.pth: cannot be read"):
        read_checkpoint(tmp_path / "none.pth")


@pytest.fixture(scope="module")
def example() -> bytes:
    return archive(checkpoints.les(random_model(2, 2)))


def survives(path: Path, content: bytes) -> None:
    """Reading ends with a model or an InputError, whatever the bytes."""
    path.write_bytes(content)
    try:
        read_checkpoint(path)
    except polmd.InputError as error:
        assert str(path) in str(error)


@settings(max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files(tmp_path: Path, example: bytes, data) -> None:
    """Bytes changed, cut out and put in, anywhere."""
    content = bytearray(example)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(content) - 1, 0)))
        end = at + data.draw(st.integers(0, 8))
        content[at:end] = data.draw(st.binary(max_size=8))
    survives(tmp_path / "m.pth", bytes(content))


_CODES = st.sampled_from([bytes([c]) for c in range(256)])
_PIECES = st.one_of(
    _CODES,
    st.sampled_from([b"(", b"t", b"R", b"b", b"Q", b")\x81", b"]", b"}", b"u", b"e", b"K\x01", b"q\x01", b"h\x01", b"."]),
    st.sampled_from([f"c{n}\n".encode() for n in ("os\nsystem", "collections\nOrderedDict", "torch\nFloatStorage",
                     "torch._utils\n_rebuild_tensor_v2", "cace.modules.type\nNodeEncoder", "builtins\neval")]),
    st.binary(max_size=6).map(lambda b: b"X" + struct.pack("<I", len(b)) + b),
)  # fmt: skip


@settings(max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(_PIECES, max_size=60))
def test_random_pickles(tmp_path: Path, pieces: list[bytes]) -> None:
    survives(tmp_path / "p.pth", archive(None, pickled=b"\x80\x04" + b"".join(pieces)))


def test_npz_round_trip(tmp_path: Path) -> None:
    """Every architecture survives the way out and back, bit for bit."""
    for k, options in enumerate(MODELS.values()):
        model = random_model(**{"max_l": 2, "max_nu": 3, **options})
        write_npz(model, tmp_path / f"{k}.npz")
        assert read_npz(tmp_path / f"{k}.npz").fingerprint() == model.fingerprint()
    with pytest.raises(polmd.OutputError, match="exists"):
        write_npz(model, tmp_path / "0.npz")
    bundled = polmd.load_model("water")
    write_npz(bundled, tmp_path / "water.npz")
    assert read_npz(tmp_path / "water.npz").fingerprint() == bundled.fingerprint()


def test_npz_sizes_and_types(tmp_path: Path, data: Path) -> None:
    """Rows 21, 23 and 24 for archives: shapes without the bytes for them, wrong dimensions, meta that is no object."""
    whole = dict(np.load(data / "lmax2_nu3.npz"))
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (10**9,)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as file:
        file.writestr("bessel.npy", head.getvalue() + b"\0" * 8)
    cases = {
        "bomb.npz": "bessel has shape .* but not the bytes",
        "dimensions.npz": r"array rt0 has shape \(6,\)",
        "type.npz": "array cutoff has shape .* and type int64",
        "meta.npz": "meta is not JSON",
        "list.npz": "meta is not a JSON object",
        "energies.npz": "atomic_energies_eV",
        "nan.npz": "not finite",
    }
    np.savez(tmp_path / "dimensions.npz", **{**whole, "rt0": np.ones(6, np.float32)})
    np.savez(tmp_path / "type.npz", **{**whole, "cutoff": np.array(4)})
    np.savez(tmp_path / "meta.npz", **{**whole, "meta": np.array("{")})
    np.savez(tmp_path / "list.npz", **{**whole, "meta": np.array("[1]")})
    np.savez(tmp_path / "energies.npz", **{**whole, "meta": np.array('{"atomic_energies": 3}')})
    np.savez(tmp_path / "nan.npz", **{**whole, "bessel": whole["bessel"] * np.nan})
    for name, pattern in cases.items():
        with pytest.raises(polmd.InputError, match=pattern):
            read_npz(tmp_path / name)


def test_read_weights_tells_formats_by_content(tmp_path: Path) -> None:
    model = _small()
    (tmp_path / "checkpoint.bin").write_bytes(archive(checkpoints.les(model)))
    write_npz(model, tmp_path / "arrays.bin")
    model.save(tmp_path / "model.bin")
    energies = {"1": -13.6, "8": -432.0}
    for name in ("checkpoint.bin", "arrays.bin", "model.bin"):
        found = read_weights(tmp_path / name, name="x", atomic_energies=energies)
        _same(model, found)
        assert found.name == "x" and found.header.atomic_energies_eV == energies
    assert read_weights("water").fingerprint() == polmd.load_model("water").fingerprint()
    with pytest.raises(polmd.InputError, match="atomic energies for elements that the model does not have"):
        read_weights(tmp_path / "model.bin", atomic_energies={"79": 1.0})
    (tmp_path / "text.dat").write_text("nothing")
    with pytest.raises(polmd.InputError, match="not a readable weight archive"):
        read_weights(tmp_path / "text.dat")


def test_atomic_energies_of_the_command_line(tmp_path: Path) -> None:
    assert parse_atomic_energies("H=-13.6, 8=-432.1") == {"1": -13.6, "8": -432.1}
    (tmp_path / "e.json").write_text('{"Au": -3, "12": 1.5}')
    assert parse_atomic_energies(str(tmp_path / "e.json")) == {"79": -3.0, "12": 1.5}
    for text in ("H", "H=", "H=x", "Q=1", "H=1,1=2", "H=nan", "0=1", ""):
        with pytest.raises(polmd.InputError, match="atomic energy"):
            parse_atomic_energies(text)
    (tmp_path / "bad.json").write_text("[")
    for name in ("bad.json", "none.json"):
        with pytest.raises(polmd.InputError, match="cannot be read"):
            parse_atomic_energies(str(tmp_path / name))
