"""Response kernels and Born charges against their slow twins, every architecture, derivatives by complex step."""

import numba
import numpy as np
import pytest
from polmd.kernels.layout import Multipoles
from polmd.kernels.reference import electrostatics as reference_electrostatics
from polmd.kernels.reference import response as twin
from polmd.kernels.reference.network import complex_step_gradient, network
from test_network_kernels import NAMES, VARIANTS, _reference, _setting

import polmd
from polmd.model.network import LocalNetwork, empty_multipoles
from polmd.neighbors import build_pairs

ELECTRICAL = [name for name, options in VARIANTS.items() if options.get("predicts") != ()]


def _options(model: polmd.Model) -> dict:
    a, s = model.header.architecture, model.header.scales
    return {
        "max_l": a.max_l, "max_nu": a.max_nu, "cutoff": a.cutoff_A, "exponent": a.cutoff_exponent,
        "predicts": set(model.header.predicts), "charge_scale": s.charge, "charge_response_scale": s.charge_response,
        "scalar_polarizability_scale": s.scalar_polarizability, **model.header.flags.model_dump(),
    }  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_rates_are_directional_derivatives(variant: str) -> None:
    model, positions, cell, types = _setting(VARIANTS[variant])
    pairs = build_pairs(positions, cell, np.array([True] * 3), model.cutoff)
    local = LocalNetwork(model)
    velocities = np.random.default_rng(3).normal(size=(3, *positions.shape))
    velocities[1] = 0.0
    rates = local.rates(local.forward(positions, cell, types, pairs), velocities)
    for k in range(3):
        shifted = _reference(model, types, pairs, positions + 1e-30j * velocities[k], cell)
        for name in NAMES[1:]:
            if name in shifted:
                want = np.imag(shifted[name]) / 1e-30
                found = getattr(rates, name)[k]
                np.testing.assert_allclose(found, want, atol=1e-12 * np.abs(want).max(), err_msg=name)
            else:
                assert not getattr(rates, name).any()


def test_rates_do_not_depend_on_threads() -> None:
    model, positions, cell, types = _setting(VARIANTS["l3 nu3"])
    positions = np.concatenate([positions + np.array([0.0, 0.0, 5.1 * k]) for k in range(3)])
    cell, types = cell * [[1], [1], [3]], np.tile(types, 3)
    pairs = build_pairs(positions, cell, np.array([True] * 3), model.cutoff)
    local = LocalNetwork(model)
    state = local.forward(positions, cell, types, pairs)
    seeds = Multipoles(*(np.stack([array + 1.0, 0.5 * array]) for array in empty_multipoles(len(types))))
    theta = 2 * np.pi * positions @ np.linalg.inv(cell)
    angles = np.concatenate([np.sin(theta), np.cos(theta)], axis=1)
    before, found = numba.get_num_threads(), []
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        numba.set_num_threads(threads)
        found.append((local.rates(state, positions[None]), local.gradients(state, seeds, angles)))
    numba.set_num_threads(before)
    for one, two in zip(found[0], found[1], strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(one, two, strict=True))


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("variant", ELECTRICAL)
def test_born_charges(variant: str, periodic: bool) -> None:
    """Z* with both displacements from whole Jacobians: total charges and dipoles as analytic functions of the positions."""
    model, positions, cell, types = _setting(VARIANTS[variant])
    n, boundary, settings = len(types), cell if periodic else None, model.header.electrostatics
    if not periodic:
        positions, cell = 1.4 * positions, np.zeros((3, 3))
    pairs = build_pairs(positions, cell, np.array([periodic] * 3), model.cutoff)
    numbers = reference_electrostatics.wave_numbers(cell, settings.dl_A) if periodic else None
    sigma, sign = settings.sigma_A, 0.0 if periodic else 1.0  # remove_self_interaction is false in random models
    self_term = sign * settings.norm_factor / (2 * np.pi) ** 1.5

    def response(r: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict]:
        vectors = r[pairs.centers] - r[pairs.neighbors] - pairs.shifts @ cell
        m = network(model.arrays, _options(model), types, pairs.centers, pairs.neighbors, vectors)
        m = {"charges": np.zeros(n), "dipoles": np.zeros((n, 3)), "quadrupoles": np.zeros((n, 3, 3)), **m}
        moments = m["charges"], m["dipoles"], m["quadrupoles"]
        if periodic:
            _, phi, f = reference_electrostatics.periodic_fields(
                r, cell, *moments, sigma, settings.norm_factor, numbers
            )
        else:
            _, phi, f = reference_electrostatics.open_fields(r, *moments, sigma, settings.norm_factor)
        phi = phi + 2 * self_term / sigma * m["charges"]
        f = f - 2 * self_term / (3 * sigma**3) * m["dipoles"]
        q = m["charges"] - m.get("charge_responses", 0.0) * phi
        u = m["dipoles"] + (np.einsum("nc,ncd->nd", f, m["polarizabilities"]) if "polarizabilities" in m else 0.0)
        return q, u, phi.real, m

    charges, _, phi, _ = response(positions)
    charge_jacobian, dipole_jacobian = np.empty((n, n, 3)), np.empty((3, n, 3))
    for i, b in np.ndindex(n, 3):
        shifted = positions.astype(complex)
        shifted[i, b] += 1e-30j
        q, u, _, _ = response(shifted)
        charge_jacobian[:, i, b] = np.imag(q) / 1e-30
        dipole_jacobian[:, i, b] = np.imag(u.sum(axis=0)) / 1e-30
    charge, dipole = twin.born_charges(positions, boundary, charges.real, charge_jacobian, dipole_jacobian)

    vectors = pairs.edges(positions, cell)

    def local_charge(v: np.ndarray) -> complex:
        m = network(model.arrays, _options(model), types, pairs.centers, pairs.neighbors, v)
        return np.sum(m.get("charges", 0.0)) - np.sum(m.get("charge_responses", 0.0) * phi)

    edge, phase = twin.edge_charges(n, pairs.neighbors, vectors, complex_step_gradient(local_charge, vectors), boundary)
    numbers_of_atoms = np.array(model.elements)[types]
    system = polmd.System(numbers_of_atoms, positions, cell, [periodic] * 3, np.ones(n), np.zeros((n, 3)))
    potential = polmd.MultipolePotential(model)
    velocities = np.random.default_rng(4).normal(size=(n, 3))
    groups = np.array([0, 1, 1, 2, 0, 2])
    for displacement, want in (("phase", charge), ("edge", charge - phase + edge)):
        r = potential.compute(system, born_charges=True, displacement=displacement, acoustic_sum_rule=False)
        scale = max(np.abs(want).max(), np.abs(dipole).max())
        np.testing.assert_allclose(r.born_charge_part, want, atol=1e-11 * scale)
        np.testing.assert_allclose(r.born_dipole_part, dipole, atol=1e-11 * scale)
        np.testing.assert_allclose(r.born_charges, want + dipole, atol=1e-11 * scale)
        np.testing.assert_allclose(r.born.sum, (want + dipole).sum(axis=0), atol=1e-10 * scale)
        for rule in (False, True):
            r = potential.compute(
                system, born_charges=True, velocities=velocities, groups=groups, displacement=displacement,
                acoustic_sum_rule=rule, born_charge_scale=1.3,
            )  # fmt: skip
            mean = (want + dipole).mean(axis=0) if rule else 0.0
            np.testing.assert_allclose(r.born_charges, 1.3 * (want + dipole - mean), atol=2e-11 * scale)
            np.testing.assert_allclose(
                r.current, np.einsum("nab,nb->a", r.born_charges, velocities), atol=1e-10 * scale
            )
            for g in range(3):
                part = np.einsum("nab,nb->a", r.born_charges[groups == g], velocities[groups == g])
                np.testing.assert_allclose(r.currents.parts[g].sum(axis=0), part, atol=1e-10 * scale)
            other = np.einsum("nab,nb->a", r.born.other_charge_part, velocities)
            np.testing.assert_allclose(r.currents.other_charge.sum(axis=0), other, atol=1e-10 * scale)
