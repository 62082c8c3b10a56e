"""Polarisation, Born charges, current and forces in a field on the device equal those of the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from comparing import assert_close, make_system
from random_models import random_model

from polmd import MultipolePotential
from polmd.born import Conventions
from polmd.errors import InputError
from polmd.field import FieldPotential

SMALL = {"n_radial": 1, "n_rbf": 2}
CASES = {
    "everything": ({}, True, "double", "edge"),
    "phase, mixed": ({}, True, "mixed", "phase"),
    "open": ({}, False, "double", "edge"),
    "charges": ({"predicts": ("charges",)}, True, "double", "edge"),
    "no kappa": ({"predicts": ("charges", "dipoles")}, False, "mixed", "phase"),
}


@pytest.mark.parametrize("case", CASES)
def test_equal_to_the_cpu(case: str) -> None:
    options, pbc, precision, displacement = CASES[case]
    model, system = random_model(**SMALL, **options), make_system(3, pbc=pbc)
    wanted = {
        "born_charges": True, "velocities": system.velocities, "groups": np.array([0, 1, 0]),
        "displacement": displacement, "acoustic_sum_rule": case != "open", "born_charge_scale": 1.5,
    }  # fmt: skip
    expected = MultipolePotential(model).compute(system, **wanted)
    found = MultipolePotential(model, device="cuda", precision=precision).compute(system, **wanted)
    scale = float(np.abs(expected.charges).sum())  # e Å: sums of terms of either sign
    for part in ("charge", "permanent", "induced"):
        a, b = getattr(found.polarization, part), getattr(expected.polarization, part)
        assert_close(np.concatenate([a.real, a.imag]), np.concatenate([b.real, b.imag]), precision, part, scale)
    terms = float(
        np.abs(expected.born_charges).max() * np.abs(system.velocities).sum()
    )  # of the current, of either sign
    for name in ("born_charges", "born_charge_part", "born_dipole_part"):
        assert_close(getattr(found, name), getattr(expected, name), precision, name)
    assert_close(found.born.other_charge_part, expected.born.other_charge_part, precision)
    assert_close(found.born.sum, expected.born.sum, precision, scale=1.0)
    assert_close(found.current, expected.current, precision, scale=terms)
    assert_close(found.currents.parts, expected.currents.parts, precision, scale=terms)
    assert_close(found.currents.other_charge, expected.currents.other_charge, precision, scale=terms)
    assert_close(found.forces, expected.forces, precision)


def test_uniform_field_and_sum_of_polarizabilities() -> None:
    model, system, field = random_model(**SMALL), make_system(3), np.array([0.02, -0.01, 0.03])
    results = []
    for options in ({}, {"device": "cuda"}):
        potential = MultipolePotential(model, **options)
        in_field = FieldPotential(potential, field, Conventions()).compute(system)
        response = potential.response(system, Conventions())
        results.append((in_field.forces, in_field.energy, response.polarizability, response.charges))
    for a, b in zip(*results, strict=True):
        assert_close(b, a, "double")


def test_models_without_response_are_refused() -> None:
    potential = MultipolePotential(random_model(predicts=()), device="cuda")
    with pytest.raises(InputError, match="predicts energies only"):
        potential.response(make_system(3), Conventions())
