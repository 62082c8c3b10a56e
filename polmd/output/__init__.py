"""Everything a run writes, in one directory, so that no fault costs data (see ``segment``, ``checkpoint``)."""

from polmd.output.checkpoint import Checkpoint, check_compatible, read_checkpoint, write_checkpoint
from polmd.output.directory import RunDirectory
from polmd.output.export import export, export_extxyz, export_h5md
from polmd.output.h5md import TrajectoryReporter, TrajectoryWriter, rebuild_master, truncate_to
from polmd.output.log import LogReporter, RunLog
from polmd.output.progress import ProgressReporter
from polmd.output.reporter import Reporter, StepInfo
from polmd.output.response import ResponseReporter
from polmd.output.response_file import ResponseData, read_response
from polmd.output.segment import Frame
from polmd.output.thermo import ThermoReporter
from polmd.output.trajectory import Trajectory
from polmd.output.verify import verify

__all__ = [
    "Checkpoint",
    "Frame",
    "LogReporter",
    "ProgressReporter",
    "Reporter",
    "ResponseData",
    "ResponseReporter",
    "RunDirectory",
    "RunLog",
    "StepInfo",
    "ThermoReporter",
    "Trajectory",
    "TrajectoryReporter",
    "TrajectoryWriter",
    "check_compatible",
    "export",
    "export_extxyz",
    "export_h5md",
    "read_checkpoint",
    "read_response",
    "rebuild_master",
    "truncate_to",
    "verify",
    "write_checkpoint",
]
