"""Whole runs through the command line: end to end, stopped and resumed, refused."""

import csv
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from typer.testing import CliRunner

import polmd
from polmd.cli import app
from polmd.output import Trajectory, read_checkpoint, write_checkpoint

INPUTS = Path(__file__).resolve().parent.parent / "inputs"

SMALL = """
seed = 3
[structure.water]
molecules = 12
[output]
trajectory_every = 5
thermo_every = 1
checkpoint_every = 4
log_every = 10
segment_frames = 3
trajectory_precision = "double"
[[stage]]
kind = "minimize"
max_steps = 12
max_force_eV_A = 0.05
[[stage]]
kind = "nvt"
steps = 23
timestep_fs = 0.5
temperature_K = 300.0
friction_per_ps = 5.0
[[stage]]
kind = "nve"
steps = 20
timestep_fs = 0.5
"""


def _polmd(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, polmd.PolmdError):
        return 1, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.mark.parametrize("name", ["water", "water_cluster"])
def test_inputs_run(tmp_path: Path, name: str) -> None:
    out = tmp_path / "run"
    code, output = _polmd("run", INPUTS / f"{name}.toml", "--steps", 20, "--out", out)
    assert code == 0, output
    assert "finished: " in output and "finished: " in (out / "run.log").read_text()
    rows = list(csv.DictReader((out / "thermo.csv").open()))
    last = rows[-1]
    assert {row["stage"] for row in rows} == {"0", "1", "2"}
    nve = [float(row["conserved_eV"]) for row in rows if row["stage"] == "2"]
    assert np.ptp(nve) < 0.05
    # the numbers of the last row are those of the potential at the final positions
    checkpoint = read_checkpoint(out / "checkpoint.polmd").content["simulation"]
    system = polmd.System(**checkpoint["system"])
    energy = polmd.MultipolePotential("water").compute(system).energy
    assert int(last["step"]) == checkpoint["step"] or int(last["step"]) % 10 == 0
    assert checkpoint["result"]["energy"] == pytest.approx(energy, rel=1e-13)
    trajectory = Trajectory(out)
    assert len(trajectory) >= 2 and list(trajectory.numbers) == list(system.numbers)
    final = read(out / "final.extxyz")
    np.testing.assert_allclose(final.positions, system.positions, atol=1e-7)
    assert final.pbc.all() == (name == "water")
    code, output = _polmd("export", out, tmp_path / "all.extxyz")
    assert code == 0 and len(read(tmp_path / "all.extxyz", ":")) == len(trajectory)


def test_input_with_mesh_runs_and_is_checked(tmp_path: Path) -> None:
    """1 536 atoms: polmd check measures the mesh's error, a run stopped and resumed repeats bit for bit."""
    source = INPUTS / "water_mesh.toml"
    code, output = _polmd("check", source, "--steps", 2, "--out", tmp_path / "run")
    assert code == 0 and "mesh of" in output, output
    error = float(output.split("force error of the mesh:")[1].split()[0])
    assert 0 < error < 1e-5
    code, output = _polmd("run", source, "--steps", 3, "--out", tmp_path / "run")
    assert code == 0, output
    log = (tmp_path / "run" / "run.log").read_text()
    assert "splines of order 12" in log and "finished: " in log
    rows = list(csv.DictReader((tmp_path / "run" / "thermo.csv").open()))
    checkpoint = read_checkpoint(tmp_path / "run" / "checkpoint.polmd").content["simulation"]
    system = polmd.System(**checkpoint["system"])
    direct = polmd.MultipolePotential("water").compute(system)
    assert rows and checkpoint["result"]["energy"] == pytest.approx(
        direct.energy, abs=1e-4 * abs(direct.long_range_energy)
    )


def _files(run: Path) -> dict[str, str]:
    """Digest of every output that must repeat bit for bit, frame by frame."""
    digest = lambda content: hashlib.sha256(content).hexdigest()[:12]  # noqa: E731
    out = {p.name: digest(p.read_bytes()) for p in sorted(run.glob("trajectory*.h5"))}
    out["thermo"] = digest((run / "thermo.csv").read_bytes())
    for f in Trajectory(run):
        out[f"step {f.step}"] = digest(f.positions.tobytes() + f.velocities.tobytes() + repr(f.time_fs).encode())
    return out


@pytest.mark.parametrize("stop_at", [7, 20, 41])
def test_stopped_and_resumed_equals_uninterrupted(small: Path, tmp_path: Path, monkeypatch, stop_at: int) -> None:
    """A signal in the minimisation, in NVT and in NVE; the resumed files are those of the uninterrupted run, bit for bit."""
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert _polmd("run", small, "--out", whole)[0] == 0

    from polmd.dynamics.simulation import Simulation

    step = Simulation._step

    def with_signal(self, state):
        step(self, state)
        if state.step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Simulation, "_step", with_signal)
    code, output = _polmd("run", small, "--out", pieces)
    assert code == 75, output
    monkeypatch.undo()
    assert read_checkpoint(pieces / "checkpoint.polmd").content["simulation"]["step"] == stop_at
    code, output = _polmd("run", small, "--out", pieces, "--resume")
    assert code == 0 and f"resumed at step {stop_at}" in output
    assert _files(whole) == _files(pieces)
    a, b = (read_checkpoint(run / "checkpoint.polmd").content["simulation"] for run in (whole, pieces))
    assert a["rng"] == b["rng"]
    for key in ("positions", "velocities"):
        assert np.array_equal(a["system"][key], b["system"][key])


def test_same_seed_same_bits_other_seed_other_bits(small: Path, tmp_path: Path) -> None:
    runs = [tmp_path / "a", tmp_path / "b"]
    for run in runs:
        assert _polmd("run", small, "--out", run)[0] == 0
    assert _files(runs[0]) == _files(runs[1])
    other = tmp_path / "other.toml"
    other.write_text(SMALL.replace("seed = 3", "seed = 4"))
    assert _polmd("run", other, "--out", tmp_path / "c")[0] == 0
    assert _files(runs[0])["thermo"] != _files(tmp_path / "c")["thermo"]


def test_killed_process_resumes(small: Path, tmp_path: Path) -> None:
    """SIGKILL of a real process: the run goes on from its last checkpoint and ends as the uninterrupted one."""
    long = tmp_path / "long.toml"
    long.write_text(SMALL.replace("steps = 20", "steps = 400"))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert _polmd("run", long, "--out", whole)[0] == 0
    command = [sys.executable, "-c", "from polmd.cli import main; main()", "run", str(long), "--out", str(killed)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        thermo = killed / "thermo.csv"
        if thermo.exists() and thermo.read_text().count("\n") > 60:
            break
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    assert _polmd("run", long, "--out", killed, "--resume")[0] == 0
    assert _files(whole) == _files(killed)


def test_existing_output_is_not_touched(small: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert _polmd("run", small, "--steps", 2, "--out", run)[0] == 0
    before = _files(run)
    code, message = _polmd("run", small, "--steps", 2, "--out", run)
    assert code == 1 and "--resume" in message and _files(run) == before
    code, message = _polmd("run", small, "--steps", 3, "--out", run, "--resume")
    assert code == 1 and "stage[0].max_steps: 2 → 3" in message and _files(run) == before
    code, message = _polmd("run", small, "--out", tmp_path / "nothing", "--resume")
    assert code == 1 and "nothing to resume" in message
    assert _polmd("run", small, "--steps", 2, "--out", run, "--overwrite")[0] == 0
    assert _files(run) == before


@pytest.mark.parametrize("device", [None, "cuda"])
def test_checkpoint_that_does_not_say_its_device_is_of_the_cpu(small: Path, tmp_path: Path, device: str | None) -> None:
    """Checkpoints did not always say; one of another device is refused."""
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert _polmd("run", small, "--out", whole)[0] == 0
    assert _polmd("run", small, "--out", pieces)[0] == 0
    path = pieces / "checkpoint.polmd"
    content = read_checkpoint(path).content
    assert content["identity"].pop("device") == "cpu"
    if device is not None:
        content["identity"]["device"] = device
    write_checkpoint(path, content)
    code, output = _polmd("run", small, "--out", pieces, "--resume")
    if device is None:
        assert code == 0 and "resumed at step" in output
        assert _files(whole) == _files(pieces)
    else:
        assert code == 1 and "device: cuda in the checkpoint, cpu now" in output


def test_blow_up_keeps_the_last_good_step(small: Path, tmp_path: Path) -> None:
    wild = tmp_path / "wild.toml"
    wild.write_text(SMALL.replace("steps = 20\ntimestep_fs = 0.5", "steps = 200\ntimestep_fs = 8.0"))
    code, message = _polmd("run", wild, "--out", tmp_path / "run")
    assert code == 1 and "atoms" in message and "shorten the timestep" in message
    assert (tmp_path / "run" / "failed.extxyz").exists()
    content = read_checkpoint(tmp_path / "run" / "checkpoint.polmd").content["simulation"]
    assert np.isfinite(content["system"]["positions"]).all() and content["stage"]["name"] == "nve"


def test_check_reports_without_writing(small: Path, tmp_path: Path) -> None:
    code, output = _polmd("check", small, "--out", tmp_path / "run")
    assert code == 0 and output.rstrip().endswith("ok")
    for word in ("atoms: 36, H24O12", "energy: ", "ns/day", "memory: ", "largest force: "):
        assert word in output
    assert not (tmp_path / "run").exists()


def test_small_commands(tmp_path: Path, data: Path) -> None:
    code, output = _polmd("models")
    assert code == 0 and "water: H O; cutoff 4.5 Å" in output
    code, output = _polmd("schema")
    assert code == 0 and "| `timestep_fs` | number | `0.5` | fs |" in output
    code, output = _polmd("convert", data / "asymmetric.npz", tmp_path / "m.h5")
    assert code == 0 and polmd.load_model(tmp_path / "m.h5").name == "asymmetric"
    code, output = _polmd("convert", data / "asymmetric.npz", tmp_path / "m.h5")
    assert code == 1 and "exists" in output
    code, output = _polmd("build", "water", tmp_path / "w.xyz", "--molecules", 5, "--open")
    assert code == 0 and len(read(tmp_path / "w.xyz")) == 15


BAD_STRUCTURES = {
    "nan": ("O 0 0 0\nH 0.96 0 0\nH nan 0.93 0", r"positions of atom 2 \(H"),
    "identical": ("O 0 0 0\nH 0.96 0 0\nH 0.96 0 0", r"atoms 1 \(H\) and 2 \(H\).*identical"),
    "close": ("O 0 0 0\nH 0.96 0 0\nH 0.66 0 0", r"0\.300 Å apart"),
    "gold": ("O 0 0 0\nH 0.96 0 0\nAu 5 5 5", r"element Au \(atom 2"),
    "deuterium": ("O 0 0 0\nH 0.96 0 0\nD -0.2 0.93 0", r"line 5: D is no element symbol; write H"),
    "unknown": ("O 0 0 0\nH 0.96 0 0\nX -0.2 0.93 0", r"atom 2 \(counted from 0\) has no element"),
    "short": ("O 0 0 0\nH 0.96 0 0", r"promises 3 atoms, the file has 2"),
    "column": ("O 0 0\nH 0.96 0 0\nH -0.2 0.93 0", r"bad\.xyz"),
    "fortran": ("O 0 0 0\nH 0.96D+00 0 0\nH -0.2 0.93 0", r"line 4: 0\.96D\+00 has a Fortran exponent"),
}


@pytest.mark.parametrize("case", BAD_STRUCTURES)
@pytest.mark.parametrize("command", ["run", "check"])
def test_bad_structures_are_refused(tmp_path: Path, case: str, command: str) -> None:
    """Rows 1, 3, 4, 10, 11 and 18 of the fault table: one message, no output."""
    import re

    atoms, pattern = BAD_STRUCTURES[case]
    (tmp_path / "bad.xyz").write_text(f'3\nProperties=species:S:1:pos:R:3 pbc="F F F"\n{atoms}\n')
    (tmp_path / "in.toml").write_text('structure.file = "bad.xyz"\n[[stage]]\nkind = "nve"\nsteps = 5\n')
    code, message = _polmd(command, tmp_path / "in.toml", "--out", tmp_path / "run")
    assert code == 1 and re.search(pattern, message, re.S), message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("header", "pattern"),
    [
        ('Lattice="0 0 0 0 9 0 0 0 9" pbc="T T T"', "axis a is periodic but its lattice vector is zero"),
        ('Lattice="9 0 0 18 0 0 0 0 9" pbc="T T T"', "singular"),
        ('Lattice="9 0 0 0 9 0 0 0 0" pbc="T T F"', "lattice vector c is zero"),
    ],
)
def test_bad_cells_are_refused(tmp_path: Path, header: str, pattern: str) -> None:
    """Row 7."""
    text = f"3\n{header} Properties=species:S:1:pos:R:3\nO 0 0 0\nH 0.96 0 0\nH -0.2 0.93 0\n"
    (tmp_path / "bad.xyz").write_text(text)
    (tmp_path / "in.toml").write_text('structure.file = "bad.xyz"\n[[stage]]\nkind = "nve"\nsteps = 5\n')
    code, message = _polmd("check", tmp_path / "in.toml")
    assert code == 1 and pattern in message


def test_infinite_velocity_and_no_atoms_are_refused(tmp_path: Path) -> None:
    """Rows 2 and 12."""
    (tmp_path / "in.toml").write_text('structure.file = "bad.xyz"\n[[stage]]\nkind = "nve"\nsteps = 5\n')
    text = '1\nProperties=species:S:1:pos:R:3:momenta:R:3 pbc="F F F"\nO 0 0 0 inf 0 0\n'
    (tmp_path / "bad.xyz").write_text(text)
    code, message = _polmd("check", tmp_path / "in.toml")
    assert code == 1 and "velocities of atom 0 (O" in message
    (tmp_path / "bad.xyz").write_text("0\n\n")
    code, message = _polmd("check", tmp_path / "in.toml")
    assert code == 1 and ("no atoms" in message or "cannot be read" in message)


def test_odd_but_good_structures_run(tmp_path: Path) -> None:
    """Rows 8, 12, 17, 18 and 19: a slab with a note, one atom, CRLF, force columns named and not used, nm warned of."""
    text = '3\nProperties=species:S:1:pos:R:3:REF_forces:R:3 pbc="T T F" Lattice="9 0 0 0 9 0 0 0 20"\n'
    text += "O 0 0 0 1 1 1\nH 0.96 0 0 1 1 1\nH -0.2 0.93 0 1 1 1\n"
    (tmp_path / "odd.xyz").write_bytes(text.replace("\n", "\r\n").encode())
    (tmp_path / "in.toml").write_text('structure.file = "odd.xyz"\n[[stage]]\nkind = "nve"\nsteps = 2\n')
    code, output = _polmd("run", tmp_path / "in.toml", "--out", tmp_path / "run")
    assert code == 0 and "periodic along ab only" in output and "not used: REF_forces" in output
    (tmp_path / "odd.xyz").write_text("1\n\nO 0 0 0\n")
    code, output = _polmd("run", tmp_path / "in.toml", "--out", tmp_path / "one")
    assert code == 0
    (tmp_path / "odd.xyz").write_text("3\n\nO 0 0 0\nH 0.096 0 0\nH -0.02 0.093 0\n")
    (tmp_path / "in.toml").write_text(
        'structure = {file = "odd.xyz", min_distance_A = 0.01}\n[[stage]]\nkind = "minimize"\nmax_steps = 1\n'
    )
    code, output = _polmd("check", tmp_path / "in.toml")
    assert "are the positions in Å" in output
