"""The thermo file: exact numbers, one row a report, continued as if never stopped."""

import csv
import dataclasses
import math

import numpy as np
import pytest

from polmd.errors import OutputError
from polmd.output import Reporter, ThermoReporter
from polmd.output import thermo as thermo_module
from polmd.units import GIGAPASCAL


def write(run, path, frames):
    reporter = ThermoReporter(path, every=20)
    run.report(reporter, 0, frames)
    reporter.close()
    return path.read_bytes()


def test_numbers_are_exact(run, tmp_path):
    path = tmp_path / "thermo.csv"
    assert isinstance(ThermoReporter(path, every=20), Reporter)
    write(run, path, 5)
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == thermo_module.COLUMNS
    assert len(rows) == 5
    for k, values in enumerate(rows):
        state, info = run.state(k), run.info(k)
        assert int(values["step"]) == state.step and int(values["stage"]) == 0
        assert float(values["time_fs"]) == state.time_fs
        assert float(values["potential_energy_eV"]) == state.result.energy
        assert float(values["kinetic_energy_eV"]) == state.kinetic_energy
        assert float(values["total_energy_eV"]) == state.result.energy + state.kinetic_energy
        assert float(values["conserved_eV"]) == info.conserved
        assert float(values["temperature_K"]) == info.temperature
        assert float(values["volume_A3"]) == state.system.volume
        momentum = (state.system.masses[:, None] * state.system.velocities).sum(axis=0)
        assert math.isclose(float(values["momentum_amu_A_per_fs"]), np.linalg.norm(momentum), rel_tol=1e-14)
        assert values["pressure_GPa"] == ""


def test_pressure(run, tmp_path):
    info = dataclasses.replace(run.info(0), pressure=1.25e-3)
    line = thermo_module.row(run.state(0), info)
    assert float(line.split(",")[thermo_module.COLUMNS.index("pressure_GPa")]) == 1.25e-3 * GIGAPASCAL


def test_numpy_numbers_are_written_as_plain_ones(run):
    state = run.state(1)
    state.result.energy = np.float64(state.result.energy)
    assert "np." not in thermo_module.row(state, run.info(1))


def test_every_row_is_there_at_once(run, tmp_path):
    reporter = ThermoReporter(tmp_path / "t", every=20)
    for k in range(3):
        run.report(reporter, k, k + 1)
        text = (tmp_path / "t").read_text()
        assert text.count("\n") == k + 2 and text.endswith("\n")
    reporter.close()
    reporter.close()
    with pytest.raises(OutputError, match="closed"):
        run.report(reporter, 3, 4)


@pytest.mark.parametrize("stop", range(5))
def test_continued_equals_uninterrupted(run, tmp_path, stop):
    whole = write(run, tmp_path / "whole", 8)
    dead = ThermoReporter(tmp_path / "t", every=20)
    run.report(dead, 0, stop)
    position = dead.position()
    assert position["rows"] == stop
    run.report(dead, stop, 6)
    with open(tmp_path / "t", "ab") as file:
        file.write(b"120,60.0,0,-1")  # half a row
    again = ThermoReporter(tmp_path / "t", every=20)
    again.rewind(position)
    assert again.position() == position
    run.report(again, stop, 8)
    again.close()
    assert (tmp_path / "t").read_bytes() == whole


def test_existing_and_changed_files_are_refused(run, tmp_path):
    path = tmp_path / "t"
    reporter = ThermoReporter(path, every=20)
    run.report(reporter, 0, 3)
    position = reporter.position()
    reporter.close()
    data = path.read_bytes()
    with pytest.raises(OutputError, match="File exists"):
        write(run, path, 1)
    path.write_bytes(data[:-1])
    with pytest.raises(OutputError, match=f"has {len(data) - 1} bytes of {len(data)} since the checkpoint"):
        ThermoReporter(path, every=20).rewind(position)
    path.write_bytes(data.replace(b"300", b"301"))
    with pytest.raises(OutputError, match="it was changed since the checkpoint"):
        ThermoReporter(path, every=20).rewind(position)
    path.unlink()
    with pytest.raises(OutputError, match="No such file"):
        ThermoReporter(path, every=20).rewind(position)


def test_full_disk_leaves_whole_rows(run, tmp_path, monkeypatch):
    path = tmp_path / "t"
    reporter = ThermoReporter(path, every=20)
    run.report(reporter, 0, 3)
    before = path.read_bytes()
    real = thermo_module.write_all

    def full(fd, data, offset):
        real(fd, data[:7], offset)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(thermo_module, "write_all", full)
    with pytest.raises(OutputError, match=r"cannot write .*t: No space left on device"):
        run.report(reporter, 3, 4)
    assert path.read_bytes() == before
    monkeypatch.undo()
    run.report(reporter, 3, 4)
    reporter.close()
    assert path.read_bytes() == write(run, tmp_path / "whole", 4)
