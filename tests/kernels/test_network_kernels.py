"""The CPU network against its slow twin, for every option of the architecture: values, and derivatives by complex step."""

import numba
import numpy as np
import pytest
from polmd.kernels.reference import network as reference
from random_models import FULL, random_model

import polmd
from polmd.model.architecture import Readout
from polmd.model.network import LocalNetwork, empty_multipoles, make_blocks
from polmd.neighbors import build_pairs

NAMES = ("energies", "charges", "dipoles", "quadrupoles", "charge_responses", "polarizabilities")
ALL_FLAGS = ("make_alpha_positive", "make_kappa_positive", "make_quad_traceless")
VARIANTS = {
    "l3 nu3": {},
    "l3 nu3 flags": {"flags": ALL_FLAGS, "embedding": (2, 3), "hidden": 3},
    "l3 nu2": {"max_nu": 2, "elements": (1, 6, 8)},
    "l2 nu3": {"max_l": 2, "scalar": Readout(hidden=[3, 7])},
    "l2 nu2": {"max_l": 2, "max_nu": 2, "exponent": 5, "n_radial": 7},
    "scalar alpha, positive": {
        "scalar": Readout(hidden=[4, 2], bias=False, linear=False),
        "flags": ("make_alpha_positive",),
    },
    "no biases": {"charge": Readout(hidden=[4, 4], bias=False, linear=True, linear_bias=False)},
    "charges": {"predicts": ("charges",)},
    "energies only": {"predicts": ()},
    "alpha alone": {"predicts": ("charges", "polarizabilities"), "outputs": 1, "hidden": 3},
    "Q alone": {"predicts": ("charges", "quadrupoles"), "outputs": 1, "max_l": 2, "max_nu": 2},
    "kappa": {"predicts": ("charges", "charge_responses"), "outputs": 1},
    "u and Q without q": {"predicts": ("dipoles", "quadrupoles")},
}


def _setting(options: dict) -> tuple[polmd.Model, np.ndarray, np.ndarray, np.ndarray]:
    model = random_model(**options)
    rng = np.random.default_rng(11)
    cell = np.array([[4.0, 0.0, 0.0], [0.7, 4.4, 0.0], [-0.5, 0.3, 5.1]])
    positions = rng.uniform(0, 1, (6, 3)) @ cell
    types = rng.integers(0, len(model.elements), 6)
    return model, positions, cell, types


def _reference(model: polmd.Model, types: np.ndarray, pairs, positions: np.ndarray, cell: np.ndarray) -> dict:
    a, s = model.header.architecture, model.header.scales
    options = {
        "max_l": a.max_l, "max_nu": a.max_nu, "cutoff": a.cutoff_A, "exponent": a.cutoff_exponent,
        "predicts": set(model.header.predicts), "charge_scale": s.charge, "charge_response_scale": s.charge_response,
        "scalar_polarizability_scale": s.scalar_polarizability, **model.header.flags.model_dump(),
    }  # fmt: skip
    vectors = positions[pairs.centers] - positions[pairs.neighbors] - pairs.shifts @ cell
    return reference.network(model.arrays, options, types, pairs.centers, pairs.neighbors, vectors)


@pytest.mark.parametrize("variant", VARIANTS)
def test_values_and_derivatives(variant: str) -> None:
    model, positions, cell, types = _setting(VARIANTS[variant])
    pairs = build_pairs(positions, cell, np.array([True] * 3), model.cutoff)
    network = LocalNetwork(model)
    state = network.forward(positions, cell, types, pairs)
    expected = _reference(model, types, pairs, positions, cell)
    assert set(expected) == {"energies", *model.header.predicts}
    rng = np.random.default_rng(2)
    seeds = empty_multipoles(len(types))
    for name in NAMES:
        value = getattr(state.predictions, name)
        if name not in expected:
            assert not value.any()
            continue
        np.testing.assert_allclose(value, expected[name], atol=1e-12 * np.abs(expected[name]).max(), err_msg=name)
        getattr(seeds, name)[...] = rng.normal(size=value.shape)

    def total(r: np.ndarray, c: np.ndarray) -> complex:
        out = _reference(model, types, pairs, r, c)
        return sum(np.sum(out[name] * getattr(seeds, name)) for name in out)

    forces, strain = network.reverse(state, seeds)
    gradient = reference.complex_step_gradient(lambda r: total(r, cell), positions)
    np.testing.assert_allclose(forces, -gradient, atol=1e-11 * np.abs(gradient).max())
    eye = np.eye(3)
    by_strain = reference.complex_step_gradient(
        lambda e: total(positions @ (eye + e), cell @ (eye + e)), np.zeros((3, 3))
    )
    np.testing.assert_allclose(strain, by_strain, atol=1e-11 * np.abs(by_strain).max())


def test_same_bits_on_one_and_two_threads_and_longer_lists_change_nothing() -> None:
    model, positions, cell, types = _setting({})
    network, pbc = LocalNetwork(model), np.array([True] * 3)
    seeds = empty_multipoles(len(types))
    seeds.energies[:] = 1.0
    seeds.quadrupoles[:] = 0.3
    results = []
    before = numba.get_num_threads()
    try:
        for threads, cutoff in ((1, model.cutoff), (before, model.cutoff), (before, model.cutoff + 1.0)):
            numba.set_num_threads(threads)
            state = network.forward(positions, cell, types, build_pairs(positions, cell, pbc, cutoff))
            results.append((state.predictions.quadrupoles, *network.reverse(state, seeds)))
    finally:
        numba.set_num_threads(before)
    for a, b, c in zip(*results, strict=True):
        assert np.array_equal(a, b)
        np.testing.assert_allclose(c, a, atol=1e-12 * np.abs(a).max())


def test_lone_atom_has_no_forces() -> None:
    model = random_model()
    pairs = build_pairs(np.zeros((1, 3)), np.zeros((3, 3)), np.array([False] * 3), model.cutoff)
    network = LocalNetwork(model)
    state = network.forward(np.zeros((1, 3)), np.zeros((3, 3)), np.array([1]), pairs)
    assert not state.predictions.dipoles.any() and np.isfinite(state.predictions.energies).all()
    seeds = empty_multipoles(1)
    seeds.energies[:] = 1.0
    forces, strain = network.reverse(state, seeds)
    assert not forces.any() and not strain.any()
    assert set(FULL) == set(model.header.predicts)


def test_reverse_adds_to_what_is_given() -> None:
    model, positions, cell, types = _setting({})
    network = LocalNetwork(model)
    state = network.forward(positions, cell, types, build_pairs(positions, cell, np.array([True] * 3), model.cutoff))
    assert state.energy == pytest.approx(state.predictions.energies.sum(), rel=1e-13)
    seeds = empty_multipoles(len(types))
    seeds.energies[:] = 1.0
    own = network.reverse(state, seeds)
    rng = np.random.default_rng(4)
    given = rng.normal(size=positions.shape), rng.normal(size=(3, 3))
    kept = given[0].copy(), given[1].copy()
    for found, a, b in zip(network.reverse(state, seeds, *given), own, kept, strict=True):
        np.testing.assert_allclose(found, a + b, atol=1e-12)
    for a, b in zip(given, kept, strict=True):
        assert np.array_equal(a, b)


def test_states_do_not_share_memory_until_they_are_gone() -> None:
    model, positions, cell, types = _setting({})
    network, pbc = LocalNetwork(model), np.array([True] * 3)
    pairs = build_pairs(positions, cell, pbc, model.cutoff)
    seeds = empty_multipoles(len(types))
    seeds.energies[:] = 1.0
    first = network.forward(positions, cell, types, pairs)
    before = network.reverse(first, seeds)
    second = network.forward(1.01 * positions, cell, types, pairs)
    assert not np.shares_memory(first.workspace[0], second.workspace[0])
    for a, b in zip(network.reverse(first, seeds), before, strict=True):
        assert np.array_equal(a, b)
    kept = second.workspace[0]
    del second
    assert np.shares_memory(kept, network.forward(positions, cell, types, pairs).workspace[0])


@pytest.mark.parametrize("count", [1, 7, 8, 17])
def test_blocks_hold_every_atom_once(count: int) -> None:
    types = np.random.default_rng(count).integers(0, 3, count)
    blocks, kinds = make_blocks(types, 8)
    inside = blocks >= 0
    assert sorted(blocks[inside]) == list(range(count))
    assert all((types[b[b >= 0]] == k).all() and len(b[b >= 0]) for b, k in zip(blocks, kinds, strict=True))
