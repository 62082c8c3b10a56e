"""Evaluation of models on frames: labels, errors, energy differences, results, plots."""

import csv
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from random_models import random_model
from typer.testing import CliRunner

import polmd
from polmd.cli import app, main
from polmd.evaluation import Settings, choose_labels, evaluate, read_frames
from polmd.evaluation.metrics import errors, fit_offsets
from polmd.evaluation.plots import write_parity_plots
from polmd.evaluation.report import summary
from polmd.evaluation.results import check_output, write_results


@pytest.fixture(scope="module")
def model() -> polmd.Model:
    return random_model(2, 2)


def _atoms(seed: int, n: int = 5, periodic: bool = True, symbols: str = "HO") -> Atoms:
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(2)] * 3), -1).reshape(-1, 3)[:n] * 1.6
    atoms = Atoms([symbols[k % len(symbols)] for k in range(n)], positions=grid + rng.uniform(-0.2, 0.2, (n, 3)))
    if periodic:
        atoms.set_cell(np.eye(3) * 5.0 + rng.uniform(-0.2, 0.2, (3, 3)))
        atoms.pbc = True
    return atoms


def _labelled(atoms: Atoms, **values) -> Atoms:
    """With labels: energy, forces and stress as ASE keeps them, the rest as columns or values."""
    known = {k: values.pop(k) for k in ("energy", "forces", "stress") if k in values}
    if known:
        atoms.calc = SinglePointCalculator(atoms, **known)
    for key, value in values.items():
        if np.ndim(value) and len(value) == len(atoms) and np.ndim(value) > 1:
            atoms.arrays[key] = np.asarray(value)
        else:
            atoms.info[key] = value
    return atoms


def _file(path: Path, frames: list[Atoms]) -> Path:
    write(path, frames, format="extxyz")
    return path


@pytest.fixture(scope="module")
def truth(model: polmd.Model) -> list[Atoms]:
    """Six frames of two compositions, periodic and open, with the model's own predictions as labels."""
    potential, frames = polmd.MultipolePotential(model), []
    for k in range(6):
        atoms = _atoms(k, n=5 + k % 2, periodic=k < 4)
        r = potential.compute(polmd.System.from_ase(atoms), stress=True)
        labels = {"energy": r.energy, "forces": r.forces}
        if r.stress is not None:
            labels["stress"] = r.stress
        frames.append(_labelled(atoms, config_type="box" if k < 4 else "drop", **labels))
    return frames


def test_own_labels_have_no_error(tmp_path: Path, model: polmd.Model, truth: list[Atoms]) -> None:
    """Written with eight decimals; errors are those of the writing."""
    out = evaluate(model, read_frames([_file(tmp_path / "f.xyz", truth)]))
    assert out.labels == {"energy": "energy", "forces": "forces", "stress": "stress"}
    for name in ("energy", "energy_per_atom", "forces", "stress", "energy_relative"):
        metric = out.metrics[name]
        assert metric["rmse"] < 3e-8 and metric["mae"] <= metric["rmse"] and metric["r2"] > 1 - 1e-12, name
    assert out.metrics["stress"]["count"] == 4 * 9 and out.metrics["forces"]["count"] == 3 * 33
    assert set(out.metrics["forces"]["elements"]) == {"H", "O"}
    assert set(out.metrics["forces"]["kinds"]) == {"box", "drop"} == set(out.metrics["energy"]["kinds"])
    assert [p.arrays.keys() >= {"stress"} for p in out.predictions] == [True] * 4 + [False] * 2


def test_errors_are_what_they_say(tmp_path: Path, model: polmd.Model, truth: list[Atoms]) -> None:
    """Known changes of the labels come out as errors of the right size, element and kind."""
    frames = [a.copy() for a in truth]
    for k, (a, b) in enumerate(zip(frames, truth, strict=True)):
        forces = b.get_forces()
        forces[[s == "O" for s in a.symbols], 0] += 0.3
        _labelled(a, energy=b.get_potential_energy() - 2.0 * len(a) + (0.1 if k == 0 else 0.0), forces=forces)
    out = evaluate(model, read_frames([_file(tmp_path / "f.xyz", frames)]))
    parts = out.metrics["forces"]["elements"]
    assert parts["H"]["rmse"] < 1e-8
    assert parts["O"]["rmse"] == pytest.approx(0.3 / np.sqrt(3)) and parts["O"]["mae"] == pytest.approx(0.1)
    assert parts["O"]["bias"] == pytest.approx(-0.1)
    assert out.metrics["energy_per_atom"]["bias"] == pytest.approx((6 * 2.0 - 0.1 / 5) / 6)
    assert any("nearly the same 1.99" in note for note in out.notes) and out.offsets is None
    assert out.metrics["energy_relative"]["rmse"] == pytest.approx(0.1 * np.sqrt(2 / 3 / 6))
    fitted = evaluate(model, read_frames([tmp_path / "f.xyz"]), fit_energy_offsets=True)
    assert fitted.metrics["energy"]["rmse"] < 0.06 and any("offsets were fitted" in note for note in fitted.notes)
    assert fitted.predictions[0].energy == out.predictions[0].energy  # predictions stay the model's
    assert not any("offset" in note for note in out.notes[:3])


def test_energy_differences(tmp_path: Path, model: polmd.Model, truth: list[Atoms]) -> None:
    out = evaluate(model, read_frames([_file(tmp_path / "f.xyz", truth)]))
    assert [(d["frame"], d["reference"]) for d in out.differences] == [(2, 0), (4, 0), (3, 1), (5, 1)]
    for d in out.differences:
        energies = [truth[d[k]].get_potential_energy() for k in ("frame", "reference")]
        assert d["label_eV"] == pytest.approx(energies[0] - energies[1], abs=1e-7)
        assert d["difference_eV"] == pytest.approx(d["label_eV"], abs=1e-7)


def test_metrics() -> None:
    p, l = np.array([1.0, 2.0, 3.0, 5.0]), np.array([1.0, 2.5, 3.0, 4.0])
    m = errors(p, l)
    assert m["mae"] == pytest.approx(1.5 / 4) and m["rmse"] == pytest.approx(np.sqrt(1.25 / 4)) and m["count"] == 4
    assert m["r2"] == pytest.approx(1 - 1.25 / np.sum((l - l.mean()) ** 2))
    assert errors(p, np.full(4, -1476723.7))["r2"] is None
    counts = np.array([[1.0, 2.0], [2.0, 2.0], [3.0, 1.0]])
    offsets, rank = fit_offsets(counts, counts @ [3.0, -4.0])
    assert offsets == pytest.approx([3.0, -4.0]) and rank == 2
    assert fit_offsets(counts[:, :1] @ [[1.0, 1.0]], np.ones(3))[1] == 1


def test_label_names(tmp_path: Path) -> None:
    """Row 19: found by name and shown; never chosen among several that differ."""

    def frames(**values):
        return read_frames([_file(tmp_path / "l.xyz", [_labelled(_atoms(0), **values)])])

    f = np.random.default_rng(0).normal(size=(5, 3)).round(6)
    for name in ("forces", "force", "REF_forces", "dft_force", "forces_ref"):
        found, notes = choose_labels(frames(**{name: f}))
        assert found == {"forces": name} and any(f"label of forces: {name}, 1 of 1" in n for n in notes)
    for name in ("mace_forces", "forces_old", "velocity"):
        assert choose_labels(frames(**{name: f}))[0] == {}
    both = frames(forces=f, REF_forces=f + 1)
    with pytest.raises(polmd.InputError, match="forces and REF_forces could both be the label of forces"):
        choose_labels(both)
    assert choose_labels(both, {"forces": "REF_forces"})[0] == {"forces": "REF_forces"}
    assert choose_labels(both, {"forces": "none"})[0] == {}
    found, notes = choose_labels(frames(energy=-1.5, free_energy=-1.5))
    assert found == {"energy": "energy"} and "free_energy is the same as energy" in notes
    with pytest.raises(polmd.InputError, match="energy and free_energy"):
        choose_labels(frames(energy=-1.5, free_energy=-1.6))
    with pytest.raises(polmd.InputError, match="no frame has 'x'; they have"):
        choose_labels(both, {"forces": "x"})
    with pytest.raises(polmd.InputError, match="no label 'force'"):
        choose_labels(both, {"force": "force"})
    _, notes = choose_labels(frames(forces=np.ones((5, 2))))
    assert notes == ["not used: forces, its shape is not that of forces"]
    born = np.arange(45.0).reshape(5, 9)
    loaded = frames(
        bec=born, alpha=np.arange(9.0), stress=np.arange(9.0).reshape(3, 3) + np.arange(9.0).reshape(3, 3).T
    )
    found, _ = choose_labels(loaded)
    assert found == {"stress": "stress", "born_charges": "bec", "polarizability": "alpha"}


def test_frames(tmp_path: Path, data: Path) -> None:
    path = _file(tmp_path / "f.xyz", [_atoms(k) for k in range(4)])
    for selection, expected in ((":", [0, 1, 2, 3]), ("1", [1]), ("-1", [3]), ("1:3", [1, 2]), ("::2", [0, 2])):
        assert [f.index for f in read_frames([path], selection)] == expected
    for selection in ("x", "1:2:3:4", "::0", ""):
        with pytest.raises(polmd.InputError, match="write a number or start:stop:step"):
            read_frames([path], selection)
    with pytest.raises(polmd.InputError, match="has no frame 9, it has 4"):
        read_frames([path], "9")
    with pytest.raises(polmd.InputError, match="selects no frame"):
        read_frames([path], "9:")
    text = path.read_text().splitlines()
    text[9] = text[9].replace("H ", "H x", 1)
    (tmp_path / "bad.xyz").write_text("\n".join(text))
    with pytest.raises(polmd.InputError, match=r"bad\.xyz: line 10"):
        read_frames([tmp_path / "bad.xyz"])
    write(tmp_path / "f.cif", _atoms(0))
    assert read_frames([tmp_path / "f.cif"])[0].composition == "H3O2"
    with pytest.raises(polmd.InputError, match="no such structure file"):
        read_frames([tmp_path / "none.xyz"])


def test_moments_and_dipole(model: polmd.Model) -> None:
    """The dipole of an open system does not depend on the origin, and is compared up to its sign."""
    from polmd.evaluation.frames import Frame

    systems = [polmd.System.from_ase(_atoms(1, periodic=False)) for _ in range(2)]
    systems[1].positions += 7.0
    frames = [Frame(s, "x", k, {}) for k, s in enumerate(systems)]
    out = evaluate(model, frames, Settings(moments=True))
    a, b = (p.arrays for p in out.predictions)
    assert a["dipole"] == pytest.approx(b["dipole"], abs=1e-10) and a["charges"].shape == (5,)
    result = polmd.MultipolePotential(model).compute(systems[0])
    q = result.charges + result.induced_charges
    expected = (q - q.mean()) @ systems[0].positions + (result.dipoles + result.induced_dipoles).sum(0)
    assert a["dipole"] == pytest.approx(expected, abs=1e-12)
    nf = model.header.electrostatics.norm_factor
    assert a["polarizability"] == pytest.approx(result.polarizabilities.sum(0) * nf / (2 * np.pi))
    frames = [Frame(s, "x", k, {"dipole": -expected}) for k, s in enumerate(systems)]
    out = evaluate(model, frames, Settings(moments=True))
    assert out.metrics["dipole"]["rmse"] > 0.01 and out.metrics["dipole"]["opposite_sign"]["rmse"] < 1e-9
    assert any("opposite sign" in note for note in out.notes)
    assert "dipole" not in evaluate(model, frames).metrics


def test_born_charges(model: polmd.Model, data: Path) -> None:
    """As published ("phase", nothing subtracted), against the reference values of the models."""
    pytest.importorskip("polmd.born")
    from polmd.evaluation.frames import Frame

    with h5py.File(data / "models.h5") as h5:
        g = h5["008"]
        n = len(g["in/numbers"])
        system = polmd.System(
            g["in/numbers"][()], g["in/positions"][()], g["in/cell"][()], g["in/pbc"][()], np.ones(n), np.zeros((n, 3))
        )
        expected = g["out/born_charges"][()]
    frames = [Frame(system, "x", 0, {"bec": expected.reshape(n, 9)})]
    settings = Settings(born_charges=True, displacement="phase", acoustic_sum_rule=False)
    out = evaluate(polmd.load_model("water"), frames, settings)
    assert out.metrics["born_charges"]["rmse"] < 1e-8 and set(out.metrics["born_charges"]["elements"]) == {"H", "O"}


def test_failures_keep_the_rest(tmp_path: Path, model: polmd.Model, truth: list[Atoms]) -> None:
    """A frame that cannot be evaluated is named; the others and their errors stay."""
    frames = [a.copy() for a in truth[:3]]
    for a, b in zip(frames, truth, strict=False):
        _labelled(a, energy=b.get_potential_energy(), forces=b.get_forces())
    frames[1].positions[2] = frames[1].positions[1]
    out = evaluate(model, read_frames([_file(tmp_path / "f.xyz", frames)]))
    assert [(f.index, "atoms 1 and 2" in reason) for f, reason in out.failures] == [(1, True)]
    assert out.metrics["forces"]["count"] == 30 and out.metrics["forces"]["rmse"] < 1e-8
    for name in ("r.json", "r.h5", "r.csv", "r.xyz"):
        write_results(out, tmp_path / name)
    found = json.loads((tmp_path / "r.json").read_text())["frames"][1]
    assert found["energy_eV"] is None and "atoms 1 and 2" in found["failure"] and "forces" not in found
    assert "failure" in read(tmp_path / "r.xyz", 1).info
    assert "not evaluated" in "\n".join(summary(out))
    other = [_atoms(0), _atoms(0, symbols="HNO")]
    with pytest.raises(polmd.InputError, match=r"o\.xyz, frame 1: element N \(atom 1"):
        evaluate(model, read_frames([_file(tmp_path / "o.xyz", other)]))


def test_processes_give_the_same(tmp_path: Path, model: polmd.Model, truth: list[Atoms]) -> None:
    frames, done = read_frames([_file(tmp_path / "f.xyz", truth)]), []
    one = evaluate(model, frames)
    two = evaluate(model, frames, jobs=2, progress=done.append)
    assert done == [1, 2, 3, 4, 5, 6]
    for a, b in zip(one.predictions, two.predictions, strict=True):
        assert a.energy == pytest.approx(b.energy, abs=1e-11)
        assert np.allclose(a.arrays["forces"], b.arrays["forces"], atol=1e-11)


def test_command(tmp_path: Path, data: Path) -> None:
    """polmd eval on real input, every format and plots."""
    frame, runner = data / "water_pbe0_ts.xyz", CliRunner()
    outputs = [tmp_path / f"r.{suffix}" for suffix in ("json", "h5", "csv", "xyz")]
    arguments = ["eval", str(frame), "--model", "water", "--plots", str(tmp_path / "plots"), "--moments"]
    arguments += [x for path in outputs for x in ("--out", str(path))]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "label of forces: forces, 1 of 1 frames" in result.output and "forces: MAE " in result.output
    content = json.loads(outputs[0].read_text())
    metric, got = content["metrics"]["forces"], content["frames"][0]
    label = read(frame).get_forces()
    difference = np.array(got["forces"]) - label
    assert metric["unit"] == "eV/Å" and metric["rmse"] == pytest.approx(np.sqrt(np.mean(difference**2)))
    assert metric["mae"] == pytest.approx(np.abs(difference).mean()) and 0.01 < metric["rmse"] < 0.03
    assert metric["r2"] == pytest.approx(1 - np.sum(difference**2) / np.sum((label - label.mean()) ** 2))
    expected = polmd.MultipolePotential("water").compute(polmd.System.from_ase(read(frame)), stress=True)
    assert got["energy_eV"] == pytest.approx(expected.energy, abs=1e-9) and content["units"]["forces"] == "eV/Å"
    assert np.allclose(got["dipoles"], expected.dipoles, atol=1e-12)
    with h5py.File(outputs[1]) as h5:
        group = h5["frames/000000"]
        assert np.allclose(group["forces"], expected.forces, atol=1e-12) and group["forces"].attrs["unit"] == "eV/Å"
        assert np.allclose(group["labels/forces"], label) and np.allclose(group["stress"], expected.stress)
        assert json.loads(h5.attrs["metrics"])["forces"]["rmse"] == metric["rmse"]
    with open(outputs[2], newline="") as file:
        row = next(csv.DictReader(file))
    assert float(row["energy_eV"]) == got["energy_eV"] and float(row["forces_rmse"]) == pytest.approx(metric["rmse"])
    back = read(outputs[3])
    assert np.allclose(back.get_forces(), expected.forces, atol=1e-7) and np.allclose(
        back.arrays["label_forces"], label
    )
    assert back.arrays["quadrupoles"].shape == (192, 9)
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {"parity_energy.png", "parity_forces.png"}
    assert (tmp_path / "plots" / "parity_forces.png").read_bytes()[:4] == b"\x89PNG"


def test_command_refusals(tmp_path: Path, data: Path, capsys, monkeypatch) -> None:
    """Before anything is computed: existing files, unknown formats, bad labels."""
    frame = str(data / "water_pbe0_ts.xyz")
    (tmp_path / "r.json").write_text("mine")
    cases = [
        (["--out", str(tmp_path / "r.json")], "exists"),
        (["--out", str(tmp_path / "r.txt")], "results are written as"),
        (["--out", str(tmp_path / "no" / "r.json")], "there is no directory"),
        (["--label", "forces"], "QUANTITY=KEY"),
        (["--label", "forces=x"], "no frame has 'x'"),
        (["--group-by", "x"], "no frame has that key"),
        (["--frames", "7"], "has no frame 7"),
        (["--label", "energy=none", "--fit-energy-offsets"], "offsets can only be fitted"),
        (["--model", "steam"], "no bundled model"),
    ]
    for arguments, pattern in cases:
        monkeypatch.setattr("sys.argv", ["polmd", "eval", frame, *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 1
        assert pattern in capsys.readouterr().err
    assert (tmp_path / "r.json").read_text() == "mine"
    with pytest.raises(polmd.OutputError, match="is a directory"):
        (tmp_path / "d.json").mkdir()
        check_output(tmp_path / "d.json", overwrite=True)


def test_plots_are_not_overwritten(tmp_path: Path, model: polmd.Model, truth: list[Atoms]) -> None:
    out = evaluate(model, read_frames([_file(tmp_path / "f.xyz", truth)]))
    assert [p.name for p in write_parity_plots(out, tmp_path)] == [
        "parity_energy.png", "parity_forces.png", "parity_stress.png"
    ]  # fmt: skip
    with pytest.raises(polmd.OutputError, match="exists"):
        write_parity_plots(out, tmp_path)
    write_parity_plots(out, tmp_path, overwrite=True)


def test_convert_and_info_commands(tmp_path: Path, data: Path) -> None:
    import checkpoints

    runner = CliRunner()
    (tmp_path / "best_model.pth").write_bytes(checkpoints.archive(checkpoints.les(random_model(2, 2))))
    steps = [
        ["convert", str(tmp_path / "best_model.pth"), str(tmp_path / "m.h5"), "--atomic-energies", "H=-13.6,O=-432", "--name",
         "mine", "--licence", "MIT"],
        ["convert", str(tmp_path / "m.h5"), str(tmp_path / "m.npz")],
        ["convert", "water", str(tmp_path / "water.dat"), "--to", "npz"],
        ["convert", str(tmp_path / "m.npz"), str(tmp_path / "again.h5")],
    ]  # fmt: skip
    for step in steps:
        result = runner.invoke(app, step)
        assert result.exit_code == 0, (step, result.output)
    first, again = polmd.load_model(tmp_path / "m.h5"), polmd.load_model(tmp_path / "again.h5")
    assert first.fingerprint() == again.fingerprint() and first.name == "mine" and first.header.licence == "MIT"
    card = runner.invoke(app, ["models", "info", str(tmp_path / "m.h5")]).output
    for text in (
        "elements: H O",
        "H -13.6, O -432 eV",
        "licence: MIT",
        "best_model.pth (sha256",
        "cutoff 3.2 Å",
        "ν 2",
    ):
        assert text in card
    result = runner.invoke(app, ["convert", str(tmp_path / "best_model.pth"), str(tmp_path / "m.h5")])
    assert isinstance(result.exception, polmd.OutputError)
    result = runner.invoke(app, ["convert", str(tmp_path / "best_model.pth"), str(tmp_path / "n.h5")])
    assert "no atomic energies for H O" in result.output


def test_published_models(tmp_path: Path, shared: Path) -> None:
    """Force error of the water model, energy differences of Au2 on MgO, from the checkpoints as published."""
    from polmd.model.importers.cace import read_checkpoint

    published, frames = shared / "models" / "published", shared / "data"
    out = evaluate(read_checkpoint(published / "cace_les_water.pth"), read_frames([frames / "water_rpbe_d3.xyz"], "0"))
    assert out.metrics["forces"]["rmse"] == pytest.approx(0.0239, abs=5e-5)
    assert out.predictions[0].energy == pytest.approx(3.0739424517, abs=1e-9)
    paths = [frames / f"au2_mgo_{isomer}-{kind}.xyz" for kind in ("doped", "undoped") for isomer in (1, 3)]
    out = evaluate(read_checkpoint(published / "cace_les_au_mgo.pth"), read_frames(paths))
    found = {Path(out.frames[d["frame"]].file).stem: (d["difference_eV"], d["label_eV"]) for d in out.differences}
    assert found["au2_mgo_3-doped"] == pytest.approx((-0.0709, -0.067), abs=5e-4)
    assert found["au2_mgo_3-undoped"] == pytest.approx((0.9309, 0.935), abs=5e-4)
    assert out.kinds == [p.name for p in paths]
    for name in ("cace_les_dipeptide", "cace_native_ewald_water"):
        twin = polmd.MultipolePotential(_npz(published / f"{name}.npz"))
        path = frames / ("dipeptides_spice.xyz" if "dipeptide" in name else "water_rpbe_d3.xyz")
        found = evaluate(read_checkpoint(published / f"{name}.pth"), read_frames([path], ":2"))
        for frame, prediction in zip(found.frames, found.predictions, strict=True):
            expected = twin.compute(frame.system)
            assert prediction.energy == pytest.approx(expected.energy, rel=1e-9)
            assert np.allclose(prediction.arrays["forces"], expected.forces, rtol=0, atol=1e-9)


def _npz(path: Path) -> polmd.Model:
    from polmd.model.importers.npz import read_npz

    return read_npz(path)
