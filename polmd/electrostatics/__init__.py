"""Long-range electrostatics of polarizable Gaussian multipoles, usable as a library of its own."""

from polmd.electrostatics.compute import ElectrostaticsResult, compute

__all__ = ["ElectrostaticsResult", "compute"]
