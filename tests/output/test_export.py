"""Exported trajectories read back by ASE."""

import numpy as np
import pytest
from ase.io import read

from polmd.errors import OutputError
from polmd.output import TrajectoryReporter, export_extxyz
from polmd.units import VELOCITY_FROM_ASE


def written(run, directory, **options):
    directory.mkdir()
    reporter = TrajectoryReporter(directory, run.system, every=20, segment_frames=4, **options)
    run.report(reporter, 0, 7)
    reporter.close()
    return directory


@pytest.mark.parametrize("every", [1, 3])
def test_ase_reads_the_same_numbers(run, tmp_path, every):
    source, target = written(run, tmp_path / "run", forces=True), tmp_path / "out.extxyz"
    assert export_extxyz(source, target, every=every) == len(range(0, 7, every))
    images = read(target, index=":")
    assert len(images) == len(range(0, 7, every))
    for k, atoms in zip(range(0, 7, every), images, strict=True):
        state = run.state(k)
        system = state.system
        np.testing.assert_array_equal(atoms.numbers, system.numbers)
        np.testing.assert_allclose(atoms.get_masses(), system.masses, atol=1e-8)
        np.testing.assert_allclose(atoms.positions, system.positions, atol=1e-8)
        momenta = system.masses[:, None] * system.velocities / VELOCITY_FROM_ASE
        np.testing.assert_allclose(atoms.get_momenta(), momenta, atol=1e-8)
        assert atoms.get_kinetic_energy() == pytest.approx(state.kinetic_energy, rel=1e-6)
        np.testing.assert_allclose(atoms.cell.array, system.cell, rtol=1e-14)
        assert atoms.pbc.all()
        assert atoms.get_potential_energy() == state.result.energy
        np.testing.assert_allclose(atoms.get_forces(), state.result.forces, atol=1e-8)
        assert (atoms.info["step"], atoms.info["time_fs"]) == (state.step, state.time_fs)
        assert atoms.info["kinetic_energy"] == state.kinetic_energy


def test_wrapping(run, tmp_path):
    source, target = written(run, tmp_path / "run"), tmp_path / "out.extxyz"
    export_extxyz(source, target, wrap=True)
    for k, atoms in enumerate(read(target, index=":")):
        scaled = atoms.get_scaled_positions(wrap=False)
        assert scaled.min() > -1e-8 and scaled.max() < 1 + 1e-8
        shift = np.linalg.solve(atoms.cell.array.T, (atoms.positions - run.state(k).system.positions).T)
        np.testing.assert_allclose(shift, np.round(shift), atol=1e-7)
        assert "forces" not in atoms.calc.results


@pytest.mark.parametrize("options", [{}, {"precision": "single", "forces": True}])
def test_open_boundaries_and_one_atom(make_run, tmp_path, options):
    run = make_run(n=1, pbc=(False, False, False))
    target = tmp_path / "out.extxyz"
    assert export_extxyz(written(run, tmp_path / "run", **options), target) == 7
    for k, atoms in enumerate(read(target, index=":")):
        assert not atoms.pbc.any() and not atoms.cell.array.any()
        np.testing.assert_allclose(atoms.positions, run.state(k).system.positions, atol=1e-5)


def test_existing_files_are_refused(run, tmp_path):
    source, target = written(run, tmp_path / "run"), tmp_path / "out.extxyz"
    target.write_text("mine")
    with pytest.raises(OutputError, match="exists: name another file"):
        export_extxyz(source, target)
    assert target.read_text() == "mine"
    export_extxyz(source, target, overwrite=True)
    assert len(read(target, index=":")) == 7
    with pytest.raises(OutputError, match="cannot write"):
        export_extxyz(source, tmp_path / "missing" / "out.extxyz")
    with pytest.raises(OutputError, match="holds no readable trajectory"):
        export_extxyz(tmp_path, tmp_path / "other.extxyz")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.extxyz", "run"]
