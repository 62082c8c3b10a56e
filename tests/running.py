"""Whole runs for tests: the command line in this process, and digests of all that must repeat bit for bit."""

from __future__ import annotations

import hashlib
from pathlib import Path

import polmd
from polmd.output import Trajectory

#: Every ensemble, thermostat, barostat and both kinds of ramp, with outputs at intervals that do not divide each other.
EVERYTHING = """
seed = 3
[structure]
masses_amu = { H = 2.014 }
[structure.water]
molecules = 8
[output]
trajectory_every = 3
thermo_every = 1
checkpoint_every = 7
log_every = 10
segment_frames = 4
store_forces = true
[[stage]]
kind = "minimize"
max_steps = 8
max_force_eV_A = 0.05
[[stage]]
kind = "nvt"
steps = 9
temperature_K = 100.0
final_temperature_K = 300.0
friction_per_ps = 5.0
[[stage]]
kind = "nvt"
steps = 9
temperature_K = 300.0
thermostat = "nose-hoover"
[[stage]]
kind = "npt"
steps = 12
temperature_K = 300.0
thermostat = "bussi"
pressure_bar = 1.0
final_pressure_bar = 500.0
barostat_every = 5
[[stage]]
kind = "npt"
steps = 12
temperature_K = 300.0
thermostat = "nose-hoover"
coupling = "anisotropic"
barostat_every = 2
barostat_time_ps = 0.2
[[stage]]
kind = "npt"
steps = 8
temperature_K = 300.0
coupling = "semi-isotropic"
barostat_every = 3
[[stage]]
kind = "nve"
steps = 9
"""


def command(*arguments: object) -> tuple[int, str]:
    """Exit code and output of ``polmd`` with these arguments."""
    from typer.testing import CliRunner

    from polmd.cli import app

    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, polmd.PolmdError):
        return 1, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def digests(run: Path) -> dict[str, str]:
    """Digest of every output that must repeat bit for bit, frame by frame."""

    def digest(content: bytes) -> str:
        return hashlib.sha256(content).hexdigest()[:12]

    out = {p.name: digest(p.read_bytes()) for p in sorted(run.glob("trajectory*.h5"))}
    out["thermo"] = digest((run / "thermo.csv").read_bytes())
    for f in Trajectory(run):
        out[f"step {f.step}"] = digest(
            f.positions.tobytes() + f.velocities.tobytes() + f.cell.tobytes() + repr(f.time_fs).encode()
        )
    return out
