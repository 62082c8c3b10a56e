"""Vibrations, diffusion, distances and the dielectric constant of signals with known answers; trajectory files."""

import re
from pathlib import Path

import numpy as np
import pytest
from test_run import _polmd
from test_spectra import OMEGA, VOLUME, _series

import polmd
from polmd.analysis import motion
from polmd.analysis.frames import Frames, read_frames
from polmd.analysis.spectrum import find_band
from polmd.units import BOLTZMANN, INVERSE_VACUUM_PERMITTIVITY


def _frames(positions: np.ndarray, velocities: np.ndarray, interval: float, numbers: list[int], cell: float) -> Frames:
    from ase.data import atomic_masses

    masses = atomic_masses[numbers]
    periodic = [cell > 0] * 3
    systems = [
        polmd.System(numbers, x, cell * np.eye(3), periodic, masses, v)
        for x, v in zip(positions, velocities, strict=True)
    ]
    return Frames(Path("made"), interval * np.arange(len(systems)), None, systems)


def _write(path: Path, frames: Frames) -> list:
    """Frames as extended XYZ, and as ASE has them."""
    from ase.io import write

    atoms = [system.to_ase() for system in frames.systems]
    for a, time in zip(atoms, frames.times, strict=True):
        a.info["time_fs"] = time
    write(path, atoms, format="extxyz")
    return atoms


def _columns(path: Path) -> dict[str, np.ndarray]:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return dict(zip(lines[0].split(","), np.array([line.split(",") for line in lines[1:]], dtype=float).T, strict=True))


def test_vibrations() -> None:
    """Two atoms on a spring: one line, whose integral is all three degrees of freedom; species by kinetic energy."""
    times = 2.0 * np.arange(5000)
    masses = np.array([15.999, 1.008])
    speed = np.cos(OMEGA * 3650.0 * times[:, None] + np.arange(3))
    velocities = 0.01 * np.stack([speed / masses[0], -speed / masses[1]], axis=1)
    found = motion.vibrations(_frames(np.zeros_like(velocities), velocities, 2.0, [8, 1], 0.0), resolution=15.0)
    x = found.total.wavenumbers
    assert np.trapezoid(found.total.mean, x) == pytest.approx(3.0, rel=0.005)
    band = find_band(found.total, 3000, 4000, 0.0)
    assert abs(band.position - 3650.0) < 0.5 * found.total.cut.wavenumber_step
    np.testing.assert_allclose(found.species["H"] / found.species["O"], masses[0] / masses[1], rtol=2e-3)
    np.testing.assert_allclose(sum(found.species.values()), found.total.mean, rtol=1e-10)


def test_diffusion_of_random_walkers() -> None:
    """D of independent walkers, known, within its error; argon twice as fast as neon."""
    rng, n, steps, interval = np.random.default_rng(7), 300, 400, 10.0
    known = {"Ne": 0.002, "Ar": 0.004}  # Å²/fs
    scale = np.repeat([np.sqrt(2 * known["Ne"] * interval), np.sqrt(2 * known["Ar"] * interval)], n)
    walk = np.cumsum(scale[:, None] * rng.normal(size=(steps, 2 * n, 3)), axis=0)
    frames = _frames(walk, 0 * walk, interval, [10] * n + [18] * n, 0.0)
    for name, d in motion.diffusion(frames, fit=(50.0, 400.0)).items():
        assert d.error < 0.05 * d.coefficient
        assert (
            abs(d.coefficient - 0.1 * known[name]) < 4 * d.error + 0.004 * 0.1 * known[name]
        )  # centre of mass removed
        np.testing.assert_allclose(d.msd[:3], 6 * known[name] * d.times[:3], rtol=0.02, atol=1e-9)
    with pytest.raises(polmd.InputError, match="fewer than two frames"):
        motion.diffusion(frames, fit=(0.0, 5.0))


def test_displacements_of_known_motion() -> None:
    """Uniform relative motion: msd = (v t)² exactly."""
    t = 5.0 * np.arange(40)
    x = np.zeros((40, 2, 3))
    x[:, 0, 0], x[:, 1, 0] = 0.01 * t, -0.01 * t
    d = motion.diffusion(_frames(x, 0 * x, 5.0, [18, 18], 0.0), fit=(0.0, 45.0))["Ar"]
    np.testing.assert_allclose(d.msd, (0.01 * d.times) ** 2, atol=1e-10)


def test_distances() -> None:
    """A simple cubic crystal: shells and coordination numbers; an ideal gas: g = 1 beyond half the cell too."""
    grid = 3.0 * np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(-1, 3)
    crystal = np.stack([grid] * 4)
    found = motion.distances(_frames(crystal, 0 * crystal, 1.0, [18] * 64, 12.0), cutoff=5.0, width=0.1)["Ar-Ar"]
    shells = found.r[found.g > 0]
    np.testing.assert_allclose(shells, [3.0, 3.0 * np.sqrt(2)], atol=0.051)
    assert found.coordination[np.searchsorted(found.r, 3.5)] == pytest.approx(6.0)
    assert found.coordination[-1] == pytest.approx(18.0)
    gas = 10.0 * np.random.default_rng(3).uniform(size=(60, 200, 3))
    numbers = [10] * 100 + [18] * 100
    for d in motion.distances(_frames(gas, 0 * gas, 1.0, numbers, 10.0), cutoff=8.0, width=0.2).values():
        far = d.r > 1.0
        scores = (d.g[far] - 1) / d.error[far]
        assert np.abs(d.g[far] - 1).max() < 0.1 and np.sqrt(np.mean(scores**2)) < 1.8
    with pytest.raises(polmd.InputError, match="three periodic axes"):
        motion.distances(_frames(gas, 0 * gas, 1.0, numbers, 0.0))


def test_dielectric_constant() -> None:
    """Dipole moments of known variance, uncorrelated: ε within its error, by both routes where both exist."""
    rng, variance = np.random.default_rng(9), 40.0
    m = np.sqrt(variance) * rng.normal(size=(20000, 3))
    series = _series([np.zeros((20000, 3))], 2.0, molecular=m)
    known = 1.8 + INVERSE_VACUUM_PERMITTIVITY * 3 * variance / (3 * VOLUME * BOLTZMANN * 300.0)
    d = motion.dielectric(series, epsilon_infinity=1.8)
    assert abs(d.epsilon - known) < 4 * d.error and d.error < 0.02 * known
    assert np.all(np.abs(d.mean) < 5 * d.mean_error)
    times = 2.0 * np.arange(20000)
    waves = OMEGA * np.array([50.0, 80.0, 110.0])
    p = 9.0 * np.sin(times[:, None] * waves)
    slow = _series([9.0 * waves * np.cos(times[:, None] * waves)], 2.0, molecular=p)
    a, b = (motion.dielectric(slow, epsilon_infinity=1.8, source=s) for s in ("dipoles", "current"))
    assert a.epsilon == pytest.approx(b.epsilon, rel=1e-4)
    with pytest.raises(polmd.InputError, match="choose 'dipoles' or 'current'"):
        motion.dielectric(series, source="charges")


# ------------------------------------------------------------------------------------------------------------ commands


def test_diffusion_command(tmp_path: Path) -> None:
    """Walkers of known D, wrapped into their cell, from a file; the limits of the fit are taken."""
    n, steps, interval, known, cell = 100, 160, 10.0, 0.004, 9.0
    rng = np.random.default_rng(5)
    walk = np.cumsum(np.sqrt(2 * known * interval) * rng.normal(size=(steps, n, 3)), axis=0)
    _write(tmp_path / "walk.xyz", _frames(walk % cell, 0 * walk, interval, [18] * n, cell))
    command = ["analyze", "diffusion", tmp_path / "walk.xyz", "--fit-from", 30, "--fit-to", 200]
    code, output = _polmd(*command, "--out", tmp_path / "msd.csv")
    assert code == 0 and "msd fitted from 30 to 200 fs" in output, output
    value, error = map(float, re.search(r"Ar: D = (\S+) ± (\S+) cm²/s", output).groups())
    assert abs(value - 0.1 * known) < 4 * error and error < 0.1 * value
    table = _columns(tmp_path / "msd.csv")
    np.testing.assert_allclose(table["Ar_msd_A2"][1:4], 6 * known * table["time_fs"][1:4], rtol=0.05)
    code, output = _polmd(*command, "--every", 4, "--blocks", 3)
    assert code == 0 and abs(float(output.split("D = ")[1].split()[0]) - value) < 4 * error
    assert _polmd(*command[:-2])[1] == "give both --fit-from and --fit-to, or neither"


def test_vdos_and_rdf_commands(tmp_path: Path) -> None:
    times = 2.0 * np.arange(1500)
    masses = np.array([15.999, 1.008])
    speed = np.cos(OMEGA * 3650.0 * times[:, None] + np.arange(3))
    velocities = 0.01 * np.stack([speed / masses[0], -speed / masses[1]], axis=1)
    _write(tmp_path / "spring.xyz", _frames(np.zeros_like(velocities), velocities, 2.0, [8, 1], 0.0))
    table, plot = tmp_path / "vdos.csv", tmp_path / "vdos.svg"
    code, output = _polmd(
        "analyze", "vdos", tmp_path / "spring.xyz", "--resolution", 40, "--out", table, "--plot", plot
    )
    assert code == 0 and plot.exists(), output
    assert float(re.search(r"the integral, (\S+), is", output)[1]) == pytest.approx(3.0, abs=0.02)
    columns = _columns(table)
    assert abs(columns["wavenumber_per_cm"][np.argmax(columns["vdos_cm"])] - 3650.0) < 20.0

    grid = 3.0 * np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(-1, 3)
    crystal = np.stack([grid] * 3)
    _write(tmp_path / "crystal.xyz", _frames(crystal, 0 * crystal, 1.0, [18] * 64, 12.0))
    figure = tmp_path / "rdf.svg"
    options = ["--cutoff", 4, "--width", 0.1, "--out", tmp_path / "rdf.csv", "--plot", figure, "--top", 5]
    code, output = _polmd("analyze", "rdf", tmp_path / "crystal.xyz", *options)
    assert code == 0 and abs(float(re.search(r"Ar-Ar: highest maximum .* at (\S+) Å", output)[1]) - 3.0) < 0.051
    assert figure.stat().st_size > 5000
    columns = _columns(tmp_path / "rdf.csv")
    assert columns["Ar-Ar_coordination"][np.searchsorted(columns["r_A"], 3.5)] == pytest.approx(6.0)


# ------------------------------------------------------------------------------------------------------------- reading


def test_trajectory_files(tmp_path: Path) -> None:
    """The same wrapped motion from extended XYZ and from H5MD in other units: unwrapped, in Å and fs."""
    import h5py
    from ase.io import write

    cell, times = 8.0, 5.0 * np.arange(12)
    x = np.array([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]]) + 0.1 * times[:, None, None] * np.array(
        [[1.0, 0, 0], [0, -1.0, 0]]
    )
    v = np.broadcast_to(0.1 * np.array([[1.0, 0, 0], [0, -1.0, 0]]), x.shape)
    atoms = _write(tmp_path / "t.xyz", _frames(x % cell, v, 5.0, [8, 1], cell))
    with h5py.File(tmp_path / "t.h5", "w") as file:
        g = file.create_group("particles/all")
        g["species"] = [8, 1]
        g["position/value"], g["position/time"] = 0.1 * (x % cell), 1e-3 * times
        g["position/value"].attrs["unit"], g["position/time"].attrs["unit"] = "nm", "ps"
        g["velocity/value"] = 100.0 * v
        g["velocity/value"].attrs["unit"] = "nm ps-1"
        box = g.create_group("box")
        box.attrs["boundary"] = np.array(["periodic"] * 3, dtype="S8")
        box["edges/value"] = np.full((12, 3), 0.1 * cell)
    for name in ("t.xyz", "t.h5"):
        read = read_frames(tmp_path / name)
        np.testing.assert_allclose(read.times, times, atol=1e-9)
        np.testing.assert_allclose([s.positions for s in read.systems], x, atol=1e-6)
        np.testing.assert_allclose([s.velocities for s in read.systems], v, atol=1e-6)
        assert read.systems[0].pbc.all()
    assert len(read_frames(tmp_path / "t.xyz", every=5)) == 3
    assert read_frames(tmp_path / "t.xyz", interval_fs=2.0, every=5).times[1] == 10.0
    for a in atoms:
        del a.info["time_fs"]
    write(tmp_path / "n.xyz", atoms, format="extxyz")
    with pytest.raises(polmd.InputError, match="give --interval-fs"):
        read_frames(tmp_path / "n.xyz")
    with pytest.raises(polmd.InputError, match="does not exist"):
        read_frames(tmp_path / "none.xyz")
    (tmp_path / "bad.h5").write_bytes(b"no")
    with pytest.raises(polmd.InputError, match="is no H5MD file"):
        read_frames(tmp_path / "bad.h5")
