"""polmd: molecular dynamics with machine-learned polarizable atomic multipoles.

>>> import polmd
>>> potential = polmd.MultipolePotential(polmd.load_model("water"))
>>> result = potential.compute(polmd.System.from_ase(atoms), stress=True)

Names are imported when first used, so that ``import polmd`` is quick.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polmd import electrostatics
    from polmd.errors import InputError, OutputError, PolmdError, SimulationError
    from polmd.model.file import Model, load_model
    from polmd.potential import MultipolePotential, Result
    from polmd.system import System

__all__ = [
    "InputError",
    "Model",
    "MultipolePotential",
    "OutputError",
    "PolmdError",
    "Result",
    "SimulationError",
    "System",
    "electrostatics",
    "load_model",
]

_HOME = {
    "InputError": "polmd.errors",
    "Model": "polmd.model.file",
    "MultipolePotential": "polmd.potential",
    "OutputError": "polmd.errors",
    "PolmdError": "polmd.errors",
    "Result": "polmd.potential",
    "SimulationError": "polmd.errors",
    "System": "polmd.system",
    "load_model": "polmd.model.file",
}


def __getattr__(name: str) -> Any:
    if name == "electrostatics":
        return import_module("polmd.electrostatics")
    if name == "__version__":
        return metadata.version("polmd")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'polmd' has no attribute {name!r}")
