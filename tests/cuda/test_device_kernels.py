"""Every kernel of the device against the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from comparing import CELL, assert_close, make_system
from numba import cuda
from polmd.kernels.cuda import moments, network
from polmd.kernels.cuda.descriptor import BUILDS
from random_models import random_model
from test_network_kernels import NAMES, VARIANTS

from polmd.cuda.engine import Engine
from polmd.electrostatics import compute
from polmd.model.network import LocalNetwork, empty_multipoles
from polmd.neighbors import build_pairs
from polmd.system import System

COLUMNS = {"energies": 0, "charges": 1, "dipoles": 2, "quadrupoles": 5, "charge_responses": 14, "polarizabilities": 15}
IN_FLOAT32 = ("l3 nu3", "l3 nu3 flags", "l2 nu3", "charges")


@pytest.mark.parametrize(
    ("variant", "precision"), [(v, "double") for v in VARIANTS] + [(v, "mixed") for v in IN_FLOAT32]
)
def test_network(variant: str, precision: str) -> None:
    model = random_model(**VARIANTS[variant])
    system = make_system(elements=tuple(model.elements))
    types = np.array([model.elements.index(z) for z in system.numbers])
    pairs = build_pairs(system.positions, system.cell, system.pbc, model.cutoff)
    local = LocalNetwork(model)
    state = local.forward(system.positions, system.cell, types, pairs)

    engine = Engine(model, precision, 0.5)
    engine.load(system)
    engine.launch_list()
    engine.launch_network()
    assert engine.make_room() or _again(engine)
    predictions = engine.fetch(engine.predictions)
    rng = np.random.default_rng(2)
    table, seeds = rng.normal(size=predictions.shape), empty_multipoles(len(system))
    for name in NAMES:
        value = getattr(state.predictions, name)
        columns = slice(COLUMNS[name], COLUMNS[name] + value[0].size)
        assert_close(predictions[:, columns].reshape(value.shape), value, precision, name)
        getattr(seeds, name)[...] = table[:, columns].reshape(value.shape)

    forces, strain = local.reverse(state, seeds)
    none = cuda.to_device(np.zeros((len(system), moments.N_RESULTS)))
    engine.launch_reverse(cuda.to_device(table), none, engine.forces)
    assert_close(engine.fetch(engine.forces), forces, precision, "forces")
    assert_close(engine.total(engine.virial).reshape(3, 3), strain, precision, "strain")


def _again(engine: Engine) -> bool:
    engine.rebuild_list()
    engine.launch_list()
    engine.launch_network()
    return engine.make_room()


BOXES = {
    "smaller than the cutoff": (CELL, (True, True, True)),
    "left-handed": (CELL[[1, 0, 2]] * 1.5, (True, True, True)),
    "slab": (CELL, (True, True, False)),
    "wire": (CELL, (False, True, False)),
    "open": (np.zeros((3, 3)), (False, False, False)),
    "several cells": (np.diag([13.0, 9.0, 8.0]), (True, True, True)),
}


@pytest.mark.parametrize("box", BOXES)
def test_neighbor_list(box: str) -> None:
    cell, pbc = BOXES[box]
    model, n = random_model(predicts=()), 7
    rng = np.random.default_rng(5)
    spread = cell if cell.any() else 2.5 * np.eye(3)
    positions = rng.uniform(-1.0, 2.0, (n, 3)) @ spread
    system = System(np.resize([1, 8], n), positions, cell, np.array(pbc), np.ones(n), np.zeros((n, 3)))
    engine = Engine(model, "double", 0.4)
    engine.load(system)
    _check_list(engine, system, 1)
    system.positions += rng.uniform(-0.11, 0.11, (n, 3))  # within half the skin: the list stays
    engine.load(system)
    engine.launch_list()
    assert engine.fetch(engine.flags)[BUILDS] == 1
    engine.launch_network()
    system.positions[3] += [0.2, 0.1, -0.1]
    engine.load(system)
    _check_list(engine, system, 2)


def _check_list(engine: Engine, system: System, builds: int) -> None:
    """The pairs are those of the CPU, and every pair knows its mirror image. Starts with too little room on purpose."""
    engine._room, before = 1, int(engine.fetch(engine.flags)[BUILDS])
    engine._make_cell_room()
    tries = 0
    while True:
        engine.launch_list()
        tries += 1
        if engine.make_room():
            break
        engine.rebuild_list()
    assert engine.fetch(engine.flags)[BUILDS] == before + tries and before + 1 == builds
    flags = engine.fetch(engine.flags)
    flags[BUILDS] = builds
    engine.set_flags(flags)
    engine.launch_network()  # takes the flag down
    counts, neighbors, shifts, mirrors = engine.fetch_all(
        [engine._counts, engine._neighbors, engine._shifts, engine._mirrors]
    )
    expected = build_pairs(system.positions, system.cell, system.pbc, engine.cutoff + engine.skin)
    rows = zip(
        expected.centers.tolist(), expected.neighbors.tolist(), map(tuple, expected.shifts.tolist()), strict=True
    )
    found = {
        (i, int(neighbors[i, p]), tuple(shifts[i, p].tolist())) for i in range(len(system)) for p in range(counts[i])
    }
    assert found == set(rows) and sum(counts) == len(expected) > 0
    for i in range(len(system)):
        for p in range(counts[i]):
            j, m = neighbors[i, p], mirrors[i, p]
            assert neighbors[j, m] == i and (shifts[j, m] == -shifts[i, p]).all()


@pytest.mark.parametrize("precision", ["double", "mixed"])
@pytest.mark.parametrize("pbc", [True, False])
def test_electrostatics(pbc: bool, precision: str) -> None:
    """Moments at random in place of those of the network: nothing about them is symmetric."""
    model = random_model()
    system, rng = make_system(5, pbc=pbc), np.random.default_rng(3)
    engine = Engine(model, precision, 0.5)
    engine.load(system)
    table = rng.normal(size=(5, network.N_PREDICTIONS)) * 0.3
    engine.predictions.copy_to_device(table)
    engine.launch_electrostatics()
    given = {
        "charges": table[:, 1], "dipoles": table[:, 2:5], "quadrupoles": table[:, 5:14].reshape(5, 3, 3),
        "charge_responses": table[:, 14], "polarizabilities": table[:, 15:].reshape(5, 3, 3),
    }  # fmt: skip
    s = model.header.electrostatics
    expected = compute(
        system.positions, system.cell if pbc else None, *given.values(), sigma=s.sigma_A, dl=s.dl_A,
        norm_factor=s.norm_factor, remove_self_interaction=s.remove_self_interaction, method="direct",
    )  # fmt: skip
    seeds, results, energies = engine.fetch_all([engine.seeds, engine.results, engine.energies])
    assert_close(energies.sum(), expected.energy, precision, "energy")
    assert_close(results[:, :1].ravel(), expected.potentials, precision, "potentials")
    assert_close(results[:, 1:4], expected.fields, precision, "fields")
    assert_close(results[:, 4], expected.induced_charges, precision, "induced charges")
    assert_close(results[:, 5:8], expected.induced_dipoles, precision, "induced dipoles")
    assert_close(results[:, 8:], expected.forces, precision, "forces")
    for name, value in given.items():
        start = COLUMNS[name]
        assert_close(
            seeds[:, start : start + value[0].size].reshape(value.shape), expected.gradients[name], precision, name
        )
    if pbc:
        engine.virial.copy_to_device(np.zeros((5, 9)))
        assert_close(engine.strain_gradient(), expected.strain_gradient, precision, "strain")
