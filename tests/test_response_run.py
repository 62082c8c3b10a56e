"""Streams of the electrical response and fields in whole runs: written, killed, resumed, analysed."""

import os
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_run import _polmd

import polmd
from polmd import born
from polmd.analysis.evaluate import evaluate
from polmd.analysis.frames import read_frames
from polmd.analysis.series import read_series
from polmd.output import Trajectory, read_checkpoint, read_response

INPUT = """
seed = 5
[structure.water]
molecules = 8
periodic = {periodic}
[output]
trajectory_every = 2
checkpoint_every = 5
[born_charges]
displacement = "phase"
[response]
every = 2
{field}
[[stage]]
kind = "minimize"
max_steps = 4
[[stage]]
kind = "nvt"
steps = 13
timestep_fs = 0.5
temperature_K = 300.0
[[stage]]
kind = "nve"
steps = 28
timestep_fs = 0.5
"""


def _input(tmp_path: Path, periodic: bool = True, field: str = "") -> Path:
    path = tmp_path / "input.toml"
    path.write_text(INPUT.format(periodic=str(periodic).lower(), field=field))
    return path


@pytest.mark.parametrize("periodic", [True, False])
def test_stream_equals_evaluation_of_the_frames(tmp_path: Path, periodic: bool) -> None:
    """Every frame of the stream is what the potential gives for the frame of the trajectory; polmd ir takes both."""
    run = tmp_path / "run"
    code, output = _polmd("run", _input(tmp_path, periodic), "--out", run)
    assert code == 0 and "Born charges: displacement phase, mean of Z* subtracted, scale 1" in output
    data = read_response(run)
    assert data["step"].tolist() == list(range(6, 46, 2))
    assert set(data["stage"][:6]) == {1} and set(data["stage"][6:]) == {2}
    assert data.header["groups"] == ["H", "O"] and data.header["molecules"] == 8
    potential, trajectory = polmd.MultipolePotential("water"), Trajectory(run)
    conventions = born.Conventions("phase")
    for k in (0, 11):
        frame = next(f for f in trajectory if f.step == data["step"][k])
        system = polmd.System(
            trajectory.numbers, frame.positions, frame.cell, trajectory.pbc, trajectory.masses, frame.velocities
        )
        r = potential.response(system, conventions, born_charges=True, velocities=frame.velocities)
        np.testing.assert_allclose(data["current"][k].sum(axis=(0, 1)), r.current.total, atol=1e-10)
        for g, z in enumerate((1, 8)):
            moving = trajectory.numbers == z
            part = np.einsum("nab,nb->a", r.born.total[moving], frame.velocities[moving])
            np.testing.assert_allclose(data["current"][k, g].sum(axis=0), part, atol=1e-10)
        np.testing.assert_allclose(data["polarizability"][k], r.polarizability, atol=1e-11)
        np.testing.assert_allclose(data["polarization_induced"][k], r.polarization.induced, atol=1e-11)
        charge = data["polarization_charge"][k]
        np.testing.assert_allclose(
            charge[:, 0] + 1j * charge[:, 1] if periodic else charge, r.polarization.charge, atol=1e-9
        )
    streamed = read_series(run)
    evaluated = evaluate(read_frames(run), polmd.load_model("water"), conventions)
    assert streamed.interval_fs == evaluated.interval_fs == 1.0 and streamed.lengths == [14]
    last = slice(-14, None)
    np.testing.assert_allclose(streamed.current, evaluated.current[last], atol=1e-10)
    np.testing.assert_allclose(streamed.molecular, evaluated.molecular[last], atol=1e-9)
    if not periodic:
        np.testing.assert_allclose(streamed.polarization, evaluated.polarization[last], atol=1e-9)
        return
    table, figure = tmp_path / "ir.csv", tmp_path / "ir.png"
    options = ["--resolution", 6000, "--stage", "nve"]
    code, output = _polmd("ir", run, *options, "--out", table, "--plot", figure, "--band", "all=100:9000")
    assert code == 0, output
    for text in (
        "displacement phase",
        "window hann, resolution",
        "f-sum rule: the area",
        "band all: maximum at",
        "written",
    ):
        assert text in output
    assert table.read_text().splitlines()[0].startswith("# ") and figure.exists()
    code, output = _polmd("ir", run, *options, "--out", table)
    assert code == 1 and "--overwrite" in output
    code, output = _polmd("raman", run, *options, "--prefactor", "harmonic")
    assert code == 0 and "screening none, prefactor harmonic, laser 532 nm" in output
    code, output = _polmd("analyze", "dielectric", run, "--blocks", 3)
    assert code == 0 and output.count("±") == 4
    for name, more in (("rdf", []), ("vdos", ["--resolution", 4000])):
        code, output = _polmd("analyze", name, run, *more, "--out", tmp_path / f"{name}.csv")
        assert code == 0 and (tmp_path / f"{name}.csv").exists(), output
    code, output = _polmd("analyze", "diffusion", run)
    assert code == 1 and "too few for a diffusion coefficient" in output
    code, output = _polmd("ir", run, "--stage", "npt")
    assert code == 1 and "no stage npt; stages: minimize, nvt, nve" in output


def test_ir_of_a_trajectory_in_parallel(tmp_path: Path) -> None:
    """An exported trajectory is evaluated with the model named; without one polmd says so."""
    run = tmp_path / "run"
    assert _polmd("run", _input(tmp_path), "--out", run)[0] == 0
    assert _polmd("export", run, tmp_path / "all.xyz")[0] == 0
    code, output = _polmd("ir", tmp_path / "all.xyz", "--resolution", 3000)
    assert code == 1 and "--model water" in output
    options = ["--model", "water", "--resolution", 4000, "--workers", 2, "--displacement", "phase"]
    code, output = _polmd("ir", tmp_path / "all.xyz", *options, "--out", tmp_path / "ir.h5")
    assert code == 0 and "displacement phase" in output, output
    with h5py.File(tmp_path / "ir.h5") as file:
        total = file["n_alpha_per_cm"][()]
        parts = [file[f"{name}_n_alpha_per_cm"][()] for name in ("charges", "permanent_dipoles", "induced_dipoles")]
        assert total.max() > 0
        np.testing.assert_allclose(sum(parts), total, rtol=1e-9)


def _digest(run: Path) -> dict[str, bytes]:
    data = read_response(run)
    return {k: v.tobytes() for k, v in data.arrays.items()} | {"file": (run / "response.h5").read_bytes()}


@pytest.mark.parametrize(
    ("stop_at", "field"),
    [(3, ""), (12, "[field]\nvector_V_A = [0.0, 0.0, 0.1]"), (31, "[field]\nvector_V_A = [0.05, 0, 0]")],
)
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path, monkeypatch, stop_at: int, field: str) -> None:
    """An exception between checkpoints, as a kill: frames after the checkpoint are cut off, then written again."""
    source = _input(tmp_path, field=field)
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    code, output = _polmd("run", source, "--out", whole)
    assert code == 0, output
    if field:
        assert "terms of order E² are omitted" in output

    from polmd.dynamics.simulation import Simulation

    step = Simulation._step

    def killed(self, state):
        step(self, state)
        if state.step == stop_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(Simulation, "_step", killed)
    assert _polmd("run", source, "--out", pieces)[0] != 0
    monkeypatch.undo()
    before = len(read_response(pieces)) if stop_at > 5 else 0
    checkpoint = read_checkpoint(pieces / "checkpoint.polmd").content["simulation"]["step"] if stop_at > 5 else -1
    if stop_at <= 5:
        assert _polmd("run", source, "--out", pieces, "--overwrite")[0] == 0
    else:
        assert checkpoint < stop_at and before > 0
        code, output = _polmd("run", source, "--out", pieces, "--resume")
        assert code == 0 and f"resumed at step {checkpoint}" in output
    assert _digest(whole) == _digest(pieces)


def test_signal_in_the_middle(tmp_path: Path, monkeypatch) -> None:
    source, whole, pieces = _input(tmp_path), tmp_path / "whole", tmp_path / "pieces"
    assert _polmd("run", source, "--out", whole)[0] == 0

    from polmd.dynamics.simulation import Simulation

    step, sent = Simulation._step, []

    def signalled(self, state):
        step(self, state)
        if state.step >= 23 and not sent:  # a step may be many
            sent.append(state.step)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Simulation, "_step", signalled)
    assert _polmd("run", source, "--out", pieces)[0] == 75
    monkeypatch.undo()
    assert _polmd("run", source, "--out", pieces, "--resume")[0] == 0
    assert _digest(whole) == _digest(pieces)


def test_damage_is_found(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert _polmd("run", _input(tmp_path), "--out", run)[0] == 0
    path = run / "response.h5"
    with h5py.File(path) as file:
        offset = file["response/current"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(polmd.OutputError, match="frame 0 of 20 is damaged"):
        read_response(run)
    path.write_bytes(content[:100])
    with pytest.raises(polmd.OutputError, match="is not a response file of polmd"):
        read_response(run)
    path.unlink()
    with pytest.raises(polmd.OutputError, match=r"the run had no \[response\] table"):
        read_response(run)


def test_input_is_checked(tmp_path: Path) -> None:
    def refused(old: str, new: str) -> str:
        path = tmp_path / "bad.toml"
        path.write_text(INPUT.format(periodic="true", field="").replace(old, new))
        code, output = _polmd("run", path, "--out", tmp_path / "run")
        assert code == 1 and not (tmp_path / "run").exists()
        return output

    assert "there is no stage 'npt'; stages: minimize, nvt, nve" in refused(
        "every = 2\n\n", 'every = 2\nstages = ["npt"]\n'
    )
    assert "displacement" in refused('"phase"', '"faze"')
    assert "both scale and epsilon_infinity" in refused('"phase"', '"phase"\nscale = 1.2\nepsilon_infinity = 1.8')
    assert "vector_V_A" in refused("[response]", "[field]\nvector = [0, 0, 1]\n[response]")
    assert "at least 1" in refused("every = 2\n\n", "every = 0\n")


def test_scale_from_epsilon_infinity(tmp_path: Path) -> None:
    source = _input(tmp_path)
    source.write_text(source.read_text().replace('"phase"', '"phase"\nepsilon_infinity = 1.78'))
    code, output = _polmd("run", source, "--out", tmp_path / "run", "--steps", 2)
    assert code == 0
    scale = read_response(tmp_path / "run").header["born_charge_scale"]
    assert f"scale {scale:.6g}" in output and 1.1 < scale < 1.3  # √(1.78/(1 + χ)), χ about 0.25


def test_current_is_the_derivative_of_the_dipole(tmp_path: Path) -> None:
    """Open boundaries, atoms on a smooth path: both routes to 1e-6 at every time; of the spectra, leakage of the window
    leaves 1e-4 where the finite differences are corrected."""
    from polmd.analysis.checks import derivative, routes
    from polmd.analysis.frames import Frames
    from polmd.structures import build_water

    start = build_water(2, periodic=False, seed=1)
    rng, interval = np.random.default_rng(6), 0.25
    times = interval * np.arange(160)
    waves = 2 * np.pi * 2.998e-5 * rng.uniform(300, 3700, start.positions.shape)
    x = start.positions + 0.03 * np.sin(waves * times[:, None, None])
    v = 0.03 * waves * np.cos(waves * times[:, None, None])
    systems = [
        polmd.System(start.numbers, a, start.cell, start.pbc, start.masses, b) for a, b in zip(x, v, strict=True)
    ]
    series = evaluate(Frames(Path("made"), times, None, systems), polmd.load_model("water"), born.Conventions())
    current = series.current.sum(axis=(1, 2))[4:-4]
    assert np.abs(derivative(series.polarization, interval) - current).max() < 1e-6 * np.abs(current).max()
    off, ratio = routes(series, series.polarization, 2500.0)
    assert off < 2e-4 and ratio == pytest.approx(1.0, abs=2e-4)
