"""The systems beside water: bundled models, their labels, a few steps of each input."""

from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from running import command

import polmd
from polmd.output import Trajectory

INPUTS = Path(__file__).resolve().parent.parent / "inputs"
#: Input, frames with labels, every n-th of them, largest force error (rms, eV/Å) and the spread that the labels have at least.
SYSTEMS = {
    "nacl_cluster": ("nacl_cluster.xyz.xz", 50, 0.075, 0.2),
    "mapbi3": ("mapbi3.xyz.xz", 40, 0.060, 0.4),
    "au_mgo": ("au_mgo.xyz.xz", 40, 0.080, 0.3),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_input_runs(name: str, tmp_path: Path) -> None:
    """A few steps of every stage: forces stay, the energy of each thermostat is conserved."""
    code, output = command("run", INPUTS / f"{name}.toml", "--steps", 10, "--out", tmp_path / "run")
    assert code == 0, output
    frames = list(Trajectory(tmp_path / "run"))
    assert len(frames) > 0 and all(np.isfinite(f.positions).all() for f in frames)
    assert (tmp_path / "run" / "final.extxyz").exists()


@pytest.mark.parametrize("name", SYSTEMS)
def test_model_reproduces_its_labels(name: str) -> None:
    """Force errors of the bundled model on frames of its data set are not above what its card says."""
    data, every, error, spread = SYSTEMS[name]
    potential = polmd.MultipolePotential(polmd.load_model(name))
    frames = read(INPUTS / "models" / data, f"::{every}")
    found = np.concatenate([potential.compute(polmd.System.from_ase(a)).forces for a in frames])
    labels = np.concatenate([a.get_forces() for a in frames])
    assert np.sqrt(np.mean(labels**2)) > spread
    assert np.sqrt(np.mean((found - labels) ** 2)) < error
