"""Forces and stress of whole models on the device equal those of the CPU, and are the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from comparing import assert_close, make_system
from polmd.kernels.cuda.compile import SIMULATED
from random_models import random_model

import polmd
from polmd import MultipolePotential
from polmd.cuda.potential import CudaPotential
from polmd.errors import InputError, SimulationError
from polmd.model.architecture import MessagePassing

FLAGS = ("make_alpha_positive", "make_kappa_positive", "make_quad_traceless")
CASES = {
    "everything": ({"flags": FLAGS}, True, "double"),
    "everything, mixed": ({"flags": FLAGS}, True, "mixed"),
    "open": ({}, False, "double"),
    "open, mixed": ({}, False, "mixed"),
    "charges": ({"predicts": ("charges",)}, True, "double"),
    "energies": ({"predicts": ()}, True, "mixed"),
}
MOMENTS = (
    "charges", "dipoles", "quadrupoles", "charge_responses", "polarizabilities", "potentials", "fields",
    "induced_charges", "induced_dipoles",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_equal_to_the_cpu(case: str) -> None:
    assert SIMULATED
    options, pbc, precision = CASES[case]
    model, system = random_model(**options), make_system(pbc=pbc)
    expected = MultipolePotential(model).compute(system, stress=True)
    potential = MultipolePotential(model, device="cuda", precision=precision)
    assert isinstance(potential, CudaPotential) and potential.device == "cuda"
    found = potential.compute(system, stress=True)
    assert_close(found.energy, expected.energy, precision, "energy")
    assert_close(found.long_range_energy, expected.long_range_energy, precision, "long-range energy")
    for name in ("forces", "atomic_energies", *MOMENTS):
        value = getattr(expected, name)
        if value is None:
            assert getattr(found, name) is None, name
        else:
            assert_close(getattr(found, name), value, precision, name)
    if pbc:
        assert_close(found.stress, expected.stress, precision, "stress")
    else:
        assert found.stress is None


def test_water() -> None:
    """The bundled model, three molecules in a small box."""
    system = make_system(9, elements=(8, 1, 1))
    expected = MultipolePotential("water").compute(system)
    found = MultipolePotential("water", device="cuda", precision="mixed").compute(system)
    assert_close(found.forces, expected.forces, "mixed")
    assert abs(found.energy - expected.energy) < 1e-5 * abs(expected.energy)


def test_repeats_are_the_same_bit_for_bit() -> None:
    model, system = random_model(), make_system(6)
    results = [MultipolePotential(model, device="cuda", precision="mixed").compute(system, stress=True)]
    potential = MultipolePotential(model, device="cuda", precision="mixed")
    other = system.copy()
    other.positions += 0.3
    for s in (system, other, system):
        potential.compute(s)
    potential.engine.rebuild_list()
    results.append(potential.compute(system, stress=True))
    assert results[0].energy == results[1].energy
    assert np.array_equal(results[0].forces, results[1].forces)
    assert np.array_equal(results[0].stress, results[1].stress)


def test_cell_and_wave_numbers_may_change() -> None:
    model, system = random_model(predicts=("charges", "dipoles")), make_system()
    cpu, device = MultipolePotential(model), MultipolePotential(model, device="cuda")
    for potential in (cpu, device):
        potential.fix_wave_numbers(system.cell)
        potential.compute(system)
    strain = np.eye(3) + np.array([[0.05, 0.01, 0.0], [0.0, -0.04, 0.0], [0.02, 0.0, 0.3]])
    system.positions[:], system.cell[:] = system.positions @ strain, system.cell @ strain
    for fixed in (True, False):
        if not fixed:
            cpu.fix_wave_numbers(None)
            device.fix_wave_numbers(None)
        expected, found = cpu.compute(system, stress=True), device.compute(system, stress=True)
        assert_close(found.forces, expected.forces, "double")
        assert_close(found.stress, expected.stress, "double")


def test_what_a_gpu_cannot_do_is_refused() -> None:
    model = random_model()
    assert isinstance(MultipolePotential(model, device="auto"), CudaPotential)
    passing = random_model(
        predicts=("charges",), messages=(MessagePassing(norm=2.0, memory=True, decay=False, chi=None),)
    )
    with pytest.raises(InputError, match="message passing"):
        MultipolePotential(passing, device="cuda")
    big = random_model(embedding=(4, 4), n_radial=16)
    with pytest.raises(InputError, match="KiB of shared memory"):
        MultipolePotential(big, device="cuda")
    system = make_system()
    system.positions[1] = system.positions[0]
    with pytest.raises(SimulationError, match=r"atoms \d and \d are 0 Å apart"):
        polmd.MultipolePotential(model, device="cuda").compute(system)


@pytest.mark.parametrize("precision", ["double", "mixed"])
def test_mesh(precision: str) -> None:
    """Against the mesh of the CPU, with the transforms on the host; a big tolerance makes a small mesh."""
    model, system = random_model(max_l=2, max_nu=2, n_radial=1, n_rbf=2), make_system(3)
    options = {"method": "mesh", "tolerance": 1e-3}
    expected = MultipolePotential(model, **options).compute(system, stress=True)
    potential = MultipolePotential(model, device="cuda", precision=precision, **options)
    found = potential.compute(system, stress=True)
    for name in ("energy", "forces", "stress", *MOMENTS):
        assert_close(getattr(found, name), getattr(expected, name), precision, name)
    assert str(potential.electrostatics_solver(system)).startswith("mesh of")
    assert 0 < potential.mesh_error(system) < 1e-3
    again = potential.compute(system)
    assert np.array_equal(again.forces, found.forces)
