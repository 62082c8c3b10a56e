"""A whole run on the device through the command line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from ase.io import read, write
from comparing import make_system
from random_models import random_model
from typer.testing import CliRunner

from polmd import cli
from polmd.errors import OutputError, PolmdError

INPUT = """
seed = 3
[structure]
file = "atoms.xyz"
min_distance_A = 0.0
[model]
file = "./model.h5"
precision = "mixed"
[limits]
max_force_eV_A = 1e6
max_temperature_K = 1e9
[output]
trajectory_every = 3
thermo_every = 2
log_every = 2
checkpoint_every = 5
[[stage]]
name = "relax"
kind = "minimize"
max_steps = 2
[[stage]]
name = "warm"
kind = "nvt"
steps = 6
temperature_K = 300.0
friction_per_ps = 5.0
[[stage]]
name = "press"
kind = "npt"
steps = 3
temperature_K = 300.0
barostat_every = 2
barostat_time_ps = 1e4
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_model(predicts=("charges", "dipoles"), n_radial=1, n_rbf=2).save(tmp_path / "model.h5")
    write(tmp_path / "atoms.xyz", make_system().to_ase())
    (tmp_path / "input.toml").write_text(INPUT)
    return tmp_path


def _polmd(*arguments: object) -> str:
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if isinstance(result.exception, PolmdError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_run_and_resume(folder: Path) -> None:
    source, whole, pieces = folder / "input.toml", folder / "whole", folder / "pieces"
    _polmd("run", source, "--device", "cuda", "--out", whole)
    log = (whole / "run.log").read_text()
    assert "device: cuda, Numba's CUDA simulator; precision mixed" in log
    assert "stage relax" in log and "cuda computes the forces, atoms are moved on the host" in log
    assert "stage warm" in log and "cuda does the whole step" in log
    rows = list(csv.DictReader((whole / "thermo.csv").open()))
    assert [int(row["step"]) for row in rows] == [0, 2, 4, 6, 8, 10]
    assert all(row["pressure_GPa"] for row in rows)
    assert "stage press" in log and log.count("cuda does the whole step") == 2
    assert float(rows[-1]["volume_A3"]) != float(rows[0]["volume_A3"])

    import polmd.run as running

    original = running.time.monotonic
    try:  # the clock runs out after a few looks
        looks = iter(range(10**9))
        running.time.monotonic = lambda: 0.0 if next(looks) < 6 else 1e9
        result = CliRunner().invoke(
            cli.app, ["run", str(source), "--device", "cuda", "--out", str(pieces), "--max-hours", "1"]
        )
    finally:
        running.time.monotonic = original
    assert result.exit_code == running.RESUMABLE, result.output
    with pytest.raises(OutputError, match=r"model\.device"):
        _polmd("run", source, "--out", pieces, "--resume")
    _polmd("run", source, "--device", "cuda", "--out", pieces, "--resume")
    assert (whole / "thermo.csv").read_bytes() == (pieces / "thermo.csv").read_bytes()
    ends = [read(run / "final.extxyz") for run in (whole, pieces)]
    assert (ends[0].positions == ends[1].positions).all()


def test_in_a_field_the_host_moves_the_atoms(folder: Path) -> None:
    source, energies = folder / "input.toml", []
    text = source.read_text().partition("[[stage]]")[0].replace('"mixed"', '"double"')
    stage = '[[stage]]\nkind = "nve"\nsteps = 2\ntimestep_fs = 0.1\nvelocities = "keep"\n'
    source.write_text(text + "[field]\nvector_V_A = [0.01, 0.02, -0.03]\n" + stage)
    for device in ("cpu", "cuda"):
        _polmd("run", source, "--device", device, "--out", folder / device)
        rows = list(csv.DictReader((folder / device / "thermo.csv").open()))
        energies.append([float(row["conserved_eV"]) for row in rows])
    assert "atoms are moved on the host" in (folder / "cuda" / "run.log").read_text()
    assert energies[1] == pytest.approx(energies[0], rel=1e-9)


@pytest.mark.parametrize("method", ["direct", "mesh"])
def test_bench(folder: Path, method: str) -> None:
    """Every kernel of a step is measured, those of the roofline beside their floor."""
    write(folder / "three.xyz", make_system(3).to_ase())
    case = f'measure = "nve"\nstructure = "three"\nmodel = "{folder}/model.h5"\nprecision = ["mixed"]\nseconds = 0.01\n'
    (folder / "cases.toml").write_text(
        '[structure.three]\nfile = "three.xyz"\n[[case]]\nname = "step"\n'
        + case
        + f'method = "{method}"\ntolerance = 1e-3\n'
    )
    _polmd("bench", folder / "cases.toml", "--device", "cuda", "--out", folder / "out.csv")
    rows = list(csv.DictReader((folder / "out.csv").open()))
    assert "launches a step" in rows[0]["note"] and all(float(row["median_ms"]) > 0 for row in rows)
    assert all(row["device"] == "Numba's CUDA simulator" for row in rows)
    ratios = {row["stage"]: float(row["note"].rpartition(" ")[2]) for row in rows if "measured/floor" in row["note"]}
    expected = {"descriptor.edges", "network.forward", "network.reverse", "integrate.gather_forces", "neighbors.check"}
    sums = {"kspace.structure_factor", "kspace.fields"}
    expected |= {"mesh.spread", "mesh.convolve", "mesh.interpolate"} if method == "mesh" else sums
    assert expected <= set(ratios) and all(ratio > 1 for ratio in ratios.values())


def test_info() -> None:
    output = _polmd("info")
    assert "numba-cuda: " in output and "simulator" in output
    assert 'model.device = "auto" stands for: cuda' in output
