"""The seam between the simulation loop and everything that is written while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from polmd.dynamics.state import State


@dataclass(frozen=True)
class StepInfo:
    """What the loop knows about a step beyond its ``State``.

    Attributes
    ----------
    conserved : the conserved quantity of the integrator, eV
    temperature : instantaneous temperature, K
    degrees_of_freedom : those the temperature is counted over
    pressure : instantaneous pressure, eV/Å³, or None when the stress was not computed
    stage : name of the stage, for instance ``nvt``
    stage_index : its place in the run, from 0
    """

    conserved: float
    temperature: float
    degrees_of_freedom: int
    pressure: float | None = None
    stage: str = ""
    stage_index: int = 0


@runtime_checkable
class Reporter(Protocol):
    """Something that is told about every ``every``-th step.

    The loop calls ``report`` when ``state.step % every == 0``, ``position`` when it writes a checkpoint, ``rewind``
    once before the first ``report`` of a resumed run and ``close`` at the end, also after an error. ``ThermoReporter``
    is the short example to copy.

    report   : write the step; when it returns, what it wrote survives the death of the process
    position : make all that was written durable (fsync) and return what a checkpoint must remember, as plain ints and
               strings; never call it after ``close``
    rewind   : cut the output back to a remembered position, so that the continued output equals an uninterrupted one
    close    : finish the files; a second call does nothing
    """

    every: int

    def report(self, state: State, info: StepInfo) -> None: ...

    def position(self) -> dict[str, Any]: ...

    def rewind(self, position: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...
