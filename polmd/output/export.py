"""Export of a trajectory to other formats."""

from __future__ import annotations

from dataclasses import replace as replaced
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from polmd.errors import OutputError
from polmd.output import files
from polmd.output.segment import Frame, Segment, create_segment
from polmd.output.trajectory import Trajectory
from polmd.units import VELOCITY_FROM_ASE

if TYPE_CHECKING:
    from ase import Atoms


def to_ase(trajectory: Trajectory, frame: Frame, *, wrap: bool = False) -> Atoms:
    """A frame as ``ase.Atoms``: momenta, masses where they are not ASE's, energy and forces of a calculator.

    ``info`` holds ``step``, ``time_fs`` and ``kinetic_energy`` (eV). ``wrap`` puts atoms into the cell.
    """
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = Atoms(numbers=trajectory.numbers, positions=frame.positions, cell=frame.cell, pbc=trajectory.pbc)
    if not np.array_equal(atoms.get_masses(), trajectory.masses):
        atoms.set_masses(trajectory.masses)
    atoms.set_velocities(np.asarray(frame.velocities, dtype=np.float64) / VELOCITY_FROM_ASE)
    if wrap:
        atoms.wrap()
    atoms.info = {"step": frame.step, "time_fs": frame.time_fs, "kinetic_energy": frame.kinetic_energy}
    results = {"energy": frame.potential_energy}
    atoms.calc = SinglePointCalculator(
        atoms, **results, **({} if frame.forces is None else {"forces": np.asarray(frame.forces, dtype=np.float64)})
    )
    return atoms


def export(
    run_directory: str | Path, path: str | Path, *, every: int = 1, wrap: bool = False, overwrite: bool = False
) -> int:
    """Write the frames of all segments of a run to one file, in the format of its suffix; returns how many.

    ``.h5``: H5MD (see ``export_h5md``); anything else: extended XYZ (see ``export_extxyz``).
    """
    if Path(path).suffix != ".h5":
        return export_extxyz(run_directory, path, every=every, wrap=wrap, overwrite=overwrite)
    if wrap:
        raise OutputError("positions are wrapped for extended XYZ only; H5MD keeps them as they are")
    return export_h5md(run_directory, path, every=every, overwrite=overwrite)


def export_h5md(run_directory: str | Path, path: str | Path, *, every: int = 1, overwrite: bool = False) -> int:
    """Join every ``every``-th frame of a run in one H5MD file, bit for bit; returns how many.

    The file stands by itself, has the checksums of a segment, and is written beside ``path``, which it replaces at the end.
    """
    path = Path(path)
    _check_target(path, every, overwrite)
    temporary = path.with_name(path.name + ".tmp")
    with files.writing(path), Trajectory(run_directory) as trajectory:
        count = len(range(0, len(trajectory), every))
        if count == 0:
            raise OutputError(f"{run_directory} has no frames to export")
        layout = replaced(trajectory.layout, segment_frames=count)
        create_segment(temporary, layout, 0, count)
        target = Segment(temporary, writable=True)
        try:
            for slot in range(count):
                target.write(slot, trajectory.record(slot * every))
            target.sync()
            files.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            target.close()
    return count


def _check_target(path: Path, every: int, overwrite: bool) -> None:
    if every < 1:
        raise OutputError("every is at least 1")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists: name another file or allow overwriting it")
    if path.is_dir():
        raise OutputError(f"{path} is a directory")


def export_extxyz(
    run_directory: str | Path,
    path: str | Path,
    *,
    every: int = 1,
    wrap: bool = False,
    overwrite: bool = False,
) -> int:
    """Write every ``every``-th frame of a run to an extended XYZ file; returns how many.

    Frames are read and written one at a time, to a file beside ``path`` that replaces it at the end. Coordinates,
    momenta and forces have the eight decimals of ASE's writer.
    """
    from ase.io.extxyz import write_xyz

    path = Path(path)
    _check_target(path, every, overwrite)
    temporary = path.with_name(path.name + ".tmp")
    count = 0
    with files.writing(path), Trajectory(run_directory) as trajectory:
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                for frame in trajectory[::every]:
                    write_xyz(file, to_ase(trajectory, frame, wrap=wrap))
                    count += 1
            files.fsync_file(temporary)
            files.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return count
