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
from polmd.errors import InputError, OutputError, PolmdError

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
    assert [int(row["step"]) for row in rows] == [0, 2, 4, 6, 8]
    assert all(row["pressure_GPa"] for row in rows)

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


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ('[[stage]]\nkind = "npt"\nsteps = 2\ntemperature_K = 300.0\n', r"stage npt \(npt\): not available"),
    ],
)
def test_what_is_not_available_is_refused(folder: Path, extra: str, message: str) -> None:
    source = folder / "input.toml"
    text = source.read_text()
    source.write_text(text + extra if extra.startswith("[[") else text.replace("[output]", extra + "[output]"))
    with pytest.raises(InputError, match=message):
        _polmd("check", source, "--device", "cuda")


def test_info() -> None:
    output = _polmd("info")
    assert "numba-cuda: " in output and "simulator" in output
    assert 'model.device = "auto" stands for: cuda' in output
