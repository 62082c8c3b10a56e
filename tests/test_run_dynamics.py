"""Stages of every kind in whole runs: continuation, fixed atoms, masses, replicas, the wall-clock limit."""

import csv
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from ase.constraints import FixAtoms
from ase.io import read, write
from running import EVERYTHING, command, digests

import polmd
from polmd.dynamics import integrators
from polmd.dynamics.simulation import Simulation
from polmd.output import Trajectory, read_checkpoint
from polmd.structures import build_water

INPUTS = Path(__file__).resolve().parent.parent / "inputs"
LAST = 67


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The input with every kind of stage, and its uninterrupted run."""
    folder = tmp_path_factory.mktemp("everything")
    path = folder / "in.toml"
    path.write_text(EVERYTHING)
    code, output = command("run", path, "--out", folder / "whole")
    assert code == 0, output
    return path, folder / "whole"


def _checkpoint(run: Path) -> dict:
    return read_checkpoint(run / "checkpoint.polmd").content["simulation"]


def _same_end(a: Path, b: Path) -> bool:
    one, other = _checkpoint(a), _checkpoint(b)
    arrays = ("positions", "velocities", "cell")
    return (
        digests(a) == digests(b)
        and one["rng"] == other["rng"]
        and all(np.array_equal(one["system"][k], other["system"][k]) for k in arrays)
        and one["integrator"].keys() == other["integrator"].keys()
        and all(np.array_equal(one["integrator"][k], other["integrator"][k]) for k in one["integrator"])
        and (a / "final.extxyz").read_bytes() == (b / "final.extxyz").read_bytes()
    )


@pytest.mark.parametrize(
    ("stop_at", "number"),
    [
        (4, signal.SIGTERM),
        (8, signal.SIGINT),
        (12, signal.SIGUSR1),
        (21, signal.SIGTERM),
        (26, signal.SIGUSR1),
        (32, signal.SIGINT),
        (38, signal.SIGTERM),
        (45, signal.SIGINT),
        (55, signal.SIGTERM),
        (62, signal.SIGUSR1),
        (LAST, signal.SIGTERM),
    ],
)
def test_stopped_anywhere_by_any_signal(everything, tmp_path: Path, monkeypatch, stop_at: int, number: int) -> None:
    """In every stage and at their ends: exit code 75, a checkpoint at that step, and then the uninterrupted run."""
    path, whole = everything
    pieces = tmp_path / "pieces"
    step = Simulation._step

    def with_signal(self, state):
        step(self, state)
        if state.step == stop_at:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(Simulation, "_step", with_signal)
    code, output = command("run", path, "--out", pieces)
    assert code == 75 and signal.Signals(number).name in output
    monkeypatch.undo()
    assert _checkpoint(pieces)["step"] == stop_at
    assert command("verify", pieces)[0] == 0
    code, output = command("run", path, "--out", pieces, "--resume")
    assert code == 0 and f"resumed at step {stop_at}" in output
    assert _same_end(whole, pieces)


def test_second_signal_undoes_the_step(everything, tmp_path: Path, monkeypatch) -> None:
    """Two signals inside one step, right after a neighbour list was rebuilt for it: the checkpoint is at the step before,
    the continued run that of the uninterrupted one."""
    path, whole = everything
    compute = polmd.MultipolePotential.compute
    count = 0

    def signals(self, system, **options):
        nonlocal count
        count += 1
        result = compute(self, system, **options)
        if count == 20:
            self.neighbors._pairs = None
            compute(self, system, **options)
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    monkeypatch.setattr(polmd.MultipolePotential, "compute", signals)
    code, output = command("run", path, "--out", tmp_path / "run")
    assert code == 75, output
    monkeypatch.undo()
    assert 14 < _checkpoint(tmp_path / "run")["step"] < 20
    assert command("run", path, "--out", tmp_path / "run", "--resume")[0] == 0
    assert _same_end(whole, tmp_path / "run")


@pytest.mark.parametrize("signals", [1, 2])
def test_stopped_between_reports_of_constant_energy(tmp_path: Path, monkeypatch, signals: int) -> None:
    """NVE steps that nobody looks at are done many at a time: stopped there, by a signal or by two, which undo them, and with
    every step looked at, a run is the same bit for bit."""
    path, each = tmp_path / "in.toml", tmp_path / "each.toml"
    path.write_text(
        """
        seed = 3
        [structure.water]
        molecules = 8
        [output]
        trajectory_every = 40
        thermo_every = 40
        checkpoint_every = 55
        [[stage]]
        kind = "npt"
        steps = 20
        temperature_K = 300.0
        pressure_bar = 500.0
        barostat_every = 3
        barostat_time_ps = 0.05
        [[stage]]
        kind = "nve"
        steps = 120
        [[stage]]
        kind = "nvt"
        steps = 5
        temperature_K = 300.0
        """
    )
    each.write_text(path.read_text().replace("thermo_every = 40", "thermo_every = 1"))
    assert command("run", path, "--out", tmp_path / "whole")[0] == 0
    assert command("run", each, "--out", tmp_path / "each")[0] == 0
    assert (tmp_path / "whole" / "final.extxyz").read_bytes() == (tmp_path / "each" / "final.extxyz").read_bytes()

    steps, starts = integrators.verlet_steps, []

    def signalled(state, *given, **options):
        starts.append(state.step)
        done = steps(state, *given, **options)
        if state.step == 80:
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGTERM)
        return done

    monkeypatch.setattr(integrators, "verlet_steps", signalled)
    assert command("run", path, "--out", tmp_path / "run")[0] == 75
    assert starts == [20, 40, 55, 80]
    monkeypatch.undo()
    assert _checkpoint(tmp_path / "run")["step"] == (110 if signals == 1 else 80)
    assert command("run", path, "--out", tmp_path / "run", "--resume")[0] == 0
    assert _same_end(tmp_path / "whole", tmp_path / "run")


def test_too_hot(tmp_path: Path) -> None:
    """limits.max_temperature_K ends a run before the first step beyond, however seldom it is looked at; thermo.csv of a run
    without the limit says which step that is."""
    lines = """
        seed = 3
        [structure.water]
        molecules = 8
        [output]
        thermo_every = EVERY
        [limits]
        max_temperature_K = LIMIT
        [[stage]]
        kind = "nvt"
        steps = 10
        temperature_K = 300.0
        [[stage]]
        kind = "nve"
        steps = 60
        """
    path = tmp_path / "in.toml"
    path.write_text(lines.replace("EVERY", "1").replace("LIMIT", "1e5"))
    assert command("run", path, "--out", tmp_path / "free")[0] == 0
    with (tmp_path / "free" / "thermo.csv").open() as file:
        temperatures = [float(row["temperature_K"]) for row in csv.DictReader(file)]
    hottest = int(np.argmax(temperatures))
    assert 20 < hottest < 70
    limit = 0.5 * (temperatures[hottest] + max(temperatures[:hottest]))
    for every in (1, 0):
        path.write_text(lines.replace("EVERY", str(every)).replace("LIMIT", str(limit)))
        code, message = command("run", path, "--out", tmp_path / f"every{every}")
        assert code == 1 and f"step {hottest}: the temperature is" in message and "max_temperature_K" in message
        assert _checkpoint(tmp_path / f"every{every}")["step"] == hottest - 1


def test_wall_clock_limit(everything, tmp_path: Path) -> None:
    """max_hours stops after a step, whatever the system clock does; it may change from resume to resume."""
    path, whole = everything
    run = tmp_path / "run"
    code, output = command("run", path, "--out", run, "--max-hours", 1e-9)
    assert code == 75 and "stopped by limits.max_hours = 1e-09 after step 1" in output
    code, output = command("run", path, "--out", run, "--resume", "--max-hours", 2e-9)
    assert code == 75 and "after step 2" in output
    assert command("run", path, "--out", run, "--resume")[0] == 0
    assert _same_end(whole, run)
    limited = tmp_path / "limited.toml"
    limited.write_text(EVERYTHING + "[limits]\nmax_hours = 1e-9\n")
    assert command("run", limited, "--out", tmp_path / "limited")[0] == 75
    code, message = command("run", path, "--out", run, "--overwrite", "--max-hours", 0)
    assert code == 1 and "max_hours" in message


def test_every_stage_reports_a_conserved_quantity(everything) -> None:
    """In dynamics it moves far less than the energy where something gives or takes energy."""
    _, whole = everything
    rows = list(csv.DictReader((whole / "thermo.csv").open()))
    for stage in range(1, 7):
        conserved = [float(r["conserved_eV"]) for r in rows if r["stage"] == str(stage)]
        total = [float(r["total_energy_eV"]) for r in rows if r["stage"] == str(stage)]
        assert np.ptp(conserved) < (2e-2 if stage == 4 else 3e-3)  # a barostat five times too hasty in stage 4
        if stage in (1, 3, 4, 5):
            assert np.ptp(total) > 3 * np.ptp(conserved)
    volumes = {stage: {r["volume_A3"] for r in rows if r["stage"] == str(stage)} for stage in range(7)}
    assert [len(volumes[stage]) for stage in (0, 1, 2)] == [1, 1, 1]
    assert all(len(volumes[stage]) > 2 for stage in (3, 4, 5))


def test_wave_numbers_stay_through_an_npt_stage(everything) -> None:
    """Logged, in the checkpoint inside the stage, gone after it."""
    _, whole = everything
    log = (whole / "run.log").read_text()
    assert log.count("wave numbers (half sphere) of the cell at the start of the stage") == 3
    assert not any(name.startswith("wave_numbers.") for name in _checkpoint(whole)["potential"])


def test_masses_and_continued_masses(everything) -> None:
    _, whole = everything
    assert set(_checkpoint(whole)["system"]["masses"]) == {15.999, 2.014}
    assert set(Trajectory(whole).masses) == {15.999, 2.014}


def test_momentum_of_the_start_does_not_matter_on_resume(tmp_path: Path) -> None:
    """A file whose atoms drift: the thermostat's stage takes the momentum out, also for a run resumed inside it."""
    atoms = build_water(3, periodic=False).to_ase()
    atoms.set_velocities(np.random.default_rng(1).normal(size=(9, 3)) * 0.01 + 0.02)
    write(tmp_path / "start.xyz", atoms)
    stages = '[[stage]]\nkind = "nvt"\nsteps = 12\ntemperature_K = 300.0\n[[stage]]\nkind = "nve"\nsteps = 4\n'
    (tmp_path / "in.toml").write_text('structure.file = "start.xyz"\n[output]\nthermo_every = 1\n' + stages)
    assert command("run", tmp_path / "in.toml", "--out", tmp_path / "whole")[0] == 0
    for k in range(1, 13):
        arguments = ["run", tmp_path / "in.toml", "--out", tmp_path / "pieces", "--max-hours", 1e-9]
        assert command(*arguments, *(["--resume"] if k > 1 else []))[0] == 75
    assert command("run", tmp_path / "in.toml", "--out", tmp_path / "pieces", "--resume")[0] == 0
    assert _same_end(tmp_path / "whole", tmp_path / "pieces")


FIXED = """
[structure]
file = "start.xyz"
fixed_atoms = "0-2, 5"
[output]
trajectory_every = 1
thermo_every = 1
[[stage]]
kind = "minimize"
max_steps = 5
[[stage]]
kind = "nvt"
steps = 5
temperature_K = 300.0
thermostat = "{thermostat}"
[[stage]]
kind = "nve"
steps = 5
"""


@pytest.mark.parametrize("thermostat", ["langevin", "bussi", "nose-hoover"])
def test_fixed_atoms(tmp_path: Path, thermostat: str) -> None:
    """Four from the input and one from the file's move_mask stay bit for bit; 3 degrees of freedom for each of the rest."""
    atoms = build_water(6, periodic=False).to_ase()
    atoms.set_constraint(FixAtoms([9]))
    write(tmp_path / "start.xyz", atoms, format="extxyz", columns=["symbols", "positions", "move_mask"])
    (tmp_path / "in.toml").write_text(FIXED.format(thermostat=thermostat))
    code, output = command("run", tmp_path / "in.toml")
    assert code == 0, output
    assert "4 atoms fixed (0-2, 5)" in output and "fixed atoms taken from the file: 1" in output
    trajectory = Trajectory(tmp_path / "in-run")
    fixed = np.isin(np.arange(18), [0, 1, 2, 5, 9])
    for frame in trajectory:
        assert np.array_equal(frame.positions[fixed], trajectory[0].positions[fixed])
        assert not frame.velocities[fixed].any()
    last = trajectory[len(trajectory) - 1]
    assert (np.abs(last.positions - trajectory[0].positions)[~fixed] > 1e-4).any(axis=1).all()
    rows = list(csv.DictReader((tmp_path / "in-run" / "thermo.csv").open()))
    temperature = 2 * float(rows[-1]["kinetic_energy_eV"]) / (39 * polmd.units.BOLTZMANN)
    assert float(rows[-1]["temperature_K"]) == pytest.approx(temperature, rel=1e-12)
    nve = [float(r["conserved_eV"]) for r in rows if r["stage"] == "2"]
    assert np.ptp(nve) < 0.01
    assert read(tmp_path / "in-run" / "final.extxyz").get_positions()[9] == pytest.approx(atoms.positions[9], abs=1e-7)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"0-2, 5"', '"0-99"', r"structure.fixed_atoms: there is no atom 0-99; atoms are 0 to 17"),
        ('"0-2, 5"', '"Mg"', "the structure has no Mg"),
        ('"0-2, 5"', '"zwölf"', '"zwölf" is neither an atom such as 7'),
        ('"0-2, 5"', '"O, H"', "all atoms are fixed"),
        ('kind = "nvt"', 'kind = "npt"', "stage npt: a barostat needs three periodic axes"),
        ("[output]", "masses_amu = { Au = 1.0 }\n[output]", "structure.masses_amu: the structure has no Au"),
        ("[output]", "masses_amu = { H = 0.0 }\n[output]", "structure.masses_amu.H: must be greater than 0"),
        (
            "temperature_K = 300.0",
            "temperature_K = 300.0\nchain_length = 4",
            'chain_length: has no effect with thermostat = "bussi"',
        ),
        (
            "temperature_K = 300.0",
            "temperature_K = 300.0\nfriction_per_ps = 4.0",
            "remove it or use thermostat_time_ps",
        ),
        ("temperature_K = 300.0", "temperature_K = 300.0\npressure_bar = 4.0", "did you mean pressure_bar of "),
        ("temperature_K = 300.0", "temperature_K = 300.0\ntau = 4.0", "did you mean thermostat_time_ps?"),
    ],
)
def test_bad_dynamics_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    write(tmp_path / "start.xyz", build_water(6, periodic=False).to_ase())
    text = FIXED.format(thermostat="bussi")
    assert old in text
    (tmp_path / "in.toml").write_text(text.replace(old, new))
    for verb in ("run", "check"):
        code, output = command(verb, tmp_path / "in.toml")
        assert code == 1 and message in output
    assert not (tmp_path / "in-run").exists()


REPLICAS = """
seed = 5
replicas = 3
[structure.water]
molecules = 4
[output]
trajectory_every = 2
checkpoint_every = 3
[[stage]]
kind = "nvt"
steps = 8
temperature_K = 300.0
"""


def test_replicas(tmp_path: Path, monkeypatch) -> None:
    """Independent from the first velocity on, repeatable one by one, and resumed where a signal stopped them."""
    path = tmp_path / "in.toml"
    path.write_text(REPLICAS)
    assert command("run", path)[0] == 0
    runs = [tmp_path / "in-run" / f"replica.{k:04d}" for k in range(3)]
    starts = [Trajectory(run)[0] for run in runs]
    for a in range(3):
        for b in range(a):
            assert np.array_equal(starts[a].positions, starts[b].positions)
            correlation = np.corrcoef(starts[a].velocities.ravel(), starts[b].velocities.ravel())[0, 1]
            assert abs(correlation) < 0.7
    assert len({digests(run)["thermo"] for run in runs}) == 3
    assert command("run", path, "--out", tmp_path / "one", "--replica", 1)[0] == 0
    assert digests(tmp_path / "one" / "replica.0001") == digests(runs[1])
    assert [p.name for p in (tmp_path / "one").iterdir()] == ["replica.0001"]

    step, total = Simulation._step, 0

    def with_signal(self, state):
        nonlocal total
        step(self, state)
        total += 1
        if total == 12:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Simulation, "_step", with_signal)
    assert command("run", path, "--out", tmp_path / "pieces")[0] == 75
    monkeypatch.undo()
    assert sorted(p.name for p in (tmp_path / "pieces").iterdir()) == ["replica.0000", "replica.0001"]
    assert command("run", path, "--out", tmp_path / "pieces", "--resume")[0] == 0
    for run in runs:
        assert digests(tmp_path / "pieces" / run.name) == digests(run)
    code, report = command("verify", tmp_path / "pieces")
    assert code == 0 and report.count("--resume goes on from step 8") == 3
    code, message = command("run", path)
    assert code == 1 and "--resume" in message
    code, message = command("run", path, "--replica", 3)
    assert code == 1 and "there is no replica 3" in message
    single = tmp_path / "single.toml"
    single.write_text(REPLICAS.replace("replicas = 3\n", ""))
    code, message = command("run", single, "--out", tmp_path / "pieces" / "replica.0001", "--resume")
    assert code == 1 and "replicas: 3 → 1" in message


def test_volume_runs_away(tmp_path: Path) -> None:
    """Row 40: a pressure far from its target is caught, and the checkpoint is the last good step."""
    text = EVERYTHING.replace("final_pressure_bar = 500.0", "final_pressure_bar = 5e5").replace(
        "steps = 12", "steps = 400"
    )
    (tmp_path / "in.toml").write_text(
        text.replace("pressure_bar = 1.0\n", "pressure_bar = 5e5\nbarostat_time_ps = 0.05\n")
    )
    code, message = command("run", tmp_path / "in.toml")
    assert code == 1 and ("the cell would stretch" in message or "the volume is" in message or "beyond" in message)
    content = _checkpoint(tmp_path / "in-run")
    assert content["stage"]["name"] == "npt" and np.isfinite(content["system"]["positions"]).all()
    assert command("verify", tmp_path / "in-run")[0] == 0
    tight = EVERYTHING + "[limits]\nmax_volume_ratio = 1.0001\n"
    (tmp_path / "tight.toml").write_text(tight)
    code, message = command("run", tmp_path / "tight.toml")
    assert code == 1 and "times that at the start of the stage" in message


@pytest.mark.parametrize("name", ["water_npt", "water_stages", "water_fixed"])
def test_inputs_run(tmp_path: Path, name: str) -> None:
    code, output = command("run", INPUTS / f"{name}.toml", "--steps", 8, "--out", tmp_path / "run")
    assert code == 0, output
    assert command("verify", tmp_path / "run")[0] == 0
