"""Exact reference values of multipole electrostatics: every output of every case."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from polmd import electrostatics

# Acceptance: energy 1e-9 eV and 1e-10 relative, everything else 1e-9 of the largest component, virial 1e-8.
_RELATIVE = {"energy": 1e-10, "dE_dstrain": 1e-8, "dE_dcell": 1e-8}


def _evaluate(case: h5py.Group) -> dict[str, np.ndarray]:
    a, i = case.attrs, {k: case["in"][k][()] for k in case["in"]}
    cell = None if a["kind"] == "open" else i["cell"]
    r = electrostatics.compute(
        i["r"], cell, i["q"], i.get("u"), i.get("Q"), i.get("kappa"), i.get("alpha"),
        sigma=a["sigma"], dl=a["dl"], norm_factor=90.4756, field=i.get("e_ext"),
        remove_self_interaction=bool(a["remove_self_interaction"]),
    )  # fmt: skip
    g = r.gradients
    out = {
        "energy": r.energy, "forces": r.forces, "dE_dr": -r.forces, "dE_dstrain": r.strain_gradient,
        "phi": r.potentials, "field": r.fields, "q_induced": r.induced_charges, "u_induced": r.induced_dipoles,
        "dE_dq": g.get("charges"), "dE_du": g.get("dipoles"), "dE_dQ": g.get("quadrupoles"),
        "dE_dkappa": g.get("charge_responses"), "dE_dalpha": g.get("polarizabilities"), "dE_de_ext": g.get("field"),
    }  # fmt: skip
    if cell is not None:
        out["dE_dcell"] = np.linalg.inv(cell).T @ (r.strain_gradient + i["r"].T @ r.forces)
    return out


def _check_file(path: Path, expected_cases: int) -> None:
    with h5py.File(path) as h5:
        assert len(h5) == expected_cases
        for name, case in h5.items():
            got = _evaluate(case)
            for key in case["out"]:
                want = case["out"][key][()]
                value = np.asarray(got[key], dtype=float)
                assert value.shape == want.shape, (name, key)
                error, scale = np.abs(value - want).max(), np.abs(want).max()
                assert error <= _RELATIVE.get(key, 1e-9) * scale, (name, key, error, scale)
                assert key != "energy" or error <= 1e-9, (name, error)


@pytest.mark.parametrize(("file", "cases"), [("electrostatics.h5", 19), ("asymmetric.h5", 5)])
def test_bundled_cases(data: Path, file: str, cases: int) -> None:
    _check_file(data / file, cases)


@pytest.mark.parametrize(("file", "cases"), [("electrostatics.h5", 40), ("asymmetric.h5", 8)])
def test_all_cases(shared: Path, file: str, cases: int) -> None:
    _check_file(shared / "vectors" / file, cases)
