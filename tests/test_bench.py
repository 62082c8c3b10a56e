"""polmd bench: real measurements of small cases, peers that are not there, mistakes in the file."""

import csv
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from polmd.bench import load_cases, run_cases
from polmd.bench.peers import PEERS
from polmd.cli import app
from polmd.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
_CASES = """
[structure.small]
file = "atoms.xyz"

[structure.moved]
of = "small"
steps = 2

[[case]]
name = "list"
measure = "neighbors"
structure = "small"
cutoff_A = 5.5
threads = [1]
peers = ["matscipy", "nobody"]
seconds = 0.02

[[case]]
name = "step"
measure = "nve"
structure = "moved"
threads = [1]
seconds = 0.1

[[case]]
name = "model that is not there"
measure = "energy_forces"
structure = "small"
model = "$POLMD_NO_SUCH_VARIABLE/model.npz"
"""


@pytest.fixture
def cases(tmp_path: Path, data: Path) -> Path:
    shutil.copy(data / "water_pbe0_ts.xyz", tmp_path / "atoms.xyz")
    (tmp_path / "cases.toml").write_text(_CASES)
    return tmp_path / "cases.toml"


def test_a_file_of_cases_becomes_a_table(cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "matscipy", ("no-such-package", PEERS["matscipy"][1]))
    out = tmp_path / "out" / "table.csv"
    done = CliRunner().invoke(app, ["bench", str(cases), "--out", str(out)])
    assert done.exit_code == 0, done.output
    with open(out, newline="") as file:
        rows = list(csv.DictReader(file))
    ours, installed, unknown = (r for r in rows if r["case"] == "list")
    assert float(ours["median_ms"]) > 0 and float(ours["ratio"]) == 1.0 and int(ours["repeats"]) >= 5
    assert "numba" in ours["version"] and "cores" in ours["device"] and ours["atoms"] == "192"
    assert installed["note"] == "left out: no-such-package is not installed" and installed["median_ms"] == ""
    assert "no such peer" in unknown["note"] and "no such peer" in done.output
    step = {r["stage"]: float(r["median_ms"]) for r in rows if r["case"] == "step"}
    kernels = sum(v for k, v in step.items() if "." in k)
    assert {"network.forward", "network.reverse", "integrate.drift", "outside kernels"} <= set(step)
    assert 0 < step["network.reverse"] < kernels and kernels > step["outside kernels"]
    assert rows[-1]["note"] == "$POLMD_NO_SUCH_VARIABLE/model.npz is not set"


def test_only_some_cases(cases: Path) -> None:
    assert {r.case for r in run_cases(load_cases(cases), cases.parent, "model")} == {"model that is not there"}


def test_the_cases_of_the_project_are_valid() -> None:
    files = sorted((ROOT / "benchmarks").glob("*.toml"))
    assert files
    for file in files:
        cases = load_cases(file)
        assert {peer for case in cases.case for peer in case.peers} <= set(PEERS)
        for structure in cases.structure.values():
            assert structure.file is None or (file.parent / structure.file).is_file()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"nve"', '"speed"', "measure"),
        ('of = "small"', 'of = "moved"', "no structure 'moved' to make it of"),
        ('structure = "moved"', 'structure = "large"', "no structure 'large'"),
        ('of = "small"', 'of = "small"\nfile = "atoms.xyz"', "either file or of"),
        ("seconds = 0.02", "second = 1", "second"),
        ("[structure.small]", "[structure.small", "line"),
    ],
)
def test_mistakes_in_the_file(cases: Path, old: str, new: str, message: str) -> None:
    cases.write_text(_CASES.replace(old, new))
    with pytest.raises(InputError, match=message):
        load_cases(cases)
