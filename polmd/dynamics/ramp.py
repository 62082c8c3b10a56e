"""Targets of thermostats and barostats that change during a stage."""

from __future__ import annotations

import math
from dataclasses import dataclass

from polmd.errors import InputError


@dataclass(frozen=True)
class Ramp:
    """A value that goes from ``start`` to ``end`` in equal parts over ``steps`` steps, and stays at ``end``.

    A constant target is ``Ramp(value, value, 1)``; integrators take a plain number for it.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start) and math.isfinite(self.end) and self.steps >= 1):
            raise InputError(f"a ramp from {self.start} to {self.end} over {self.steps} steps: give finite numbers")

    def at(self, step: float) -> float:
        """The value after ``step`` steps; a half in the middle of a step."""
        return self.start + (self.end - self.start) * min(step / self.steps, 1.0)


def as_ramp(value: float | Ramp) -> Ramp:
    """``value`` as a ramp."""
    return value if isinstance(value, Ramp) else Ramp(float(value), float(value), 1)
