"""kernels/cpu/integrate.py against its twin in kernels/reference."""

import inspect

import numpy as np
import pytest
from polmd.kernels.cpu import integrate as cpu
from polmd.kernels.reference import integrate as reference


@pytest.fixture
def arrays():
    rng = np.random.default_rng(5)
    n = 37
    masses = rng.uniform(1.0, 50.0, n)
    inverse_masses = 1.0 / masses
    inverse_masses[[3, 20]] = 0.0  # fixed atoms
    velocities = rng.normal(size=(n, 3)) * (inverse_masses > 0)[:, None]
    return {
        "positions": rng.normal(size=(n, 3)),
        "velocities": velocities,
        "forces": rng.normal(size=(n, 3)),
        "vectors": rng.normal(size=(n, 3)),
        "normals": rng.normal(size=(n, 3)),
        "momentum": np.zeros(3),
        "masses": masses,
        "inverse_masses": inverse_masses,
        "factor": 0.37,
        "duration": 0.7,
        "decay": 0.8,
        "thermal": 0.3,
        "mixing": 0.13,
        "timestep": 1.3,
        "largest_step": 0.2,
    }


CASES = [
    ("kick", {}),
    ("drift", {}),
    ("ornstein_uhlenbeck", {"remove_momentum": False}),
    ("ornstein_uhlenbeck", {"remove_momentum": True}),
    ("kinetic_energy", {}),
    ("total_momentum", {}),
    ("largest_norm", {}),
    ("fire_step", {}),
    ("fire_step", {"largest_step": 1e9}),
    ("power", {}),
]


@pytest.mark.parametrize(("name", "extra"), CASES)
def test_equals_twin(arrays, name, extra):
    outputs = []
    for module in (cpu, reference):
        function = getattr(module, name)
        parameters = inspect.signature(getattr(reference, name)).parameters
        given = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in {**arrays, **extra}.items()}
        returned = function(*(given[parameter] for parameter in parameters))
        outputs.append([given[k] for k in parameters] + ([] if returned is None else [returned]))
    changed = False
    for a, b in zip(*outputs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
    before = [{**arrays, **extra}[parameter] for parameter in parameters]
    changed = len(outputs[0]) > len(before) or any(
        not np.array_equal(x, y) for x, y in zip(before, outputs[0], strict=False)
    )
    assert changed


def test_fixed_atoms_stay(arrays):
    v = arrays["velocities"].copy()
    cpu.kick(v, arrays["forces"], arrays["inverse_masses"], 0.5)
    cpu.ornstein_uhlenbeck(v, arrays["normals"], arrays["masses"], arrays["inverse_masses"], 0.9, 0.2, True)
    assert not v[[3, 20]].any()
    assert v[[2, 19]].all()


def test_noise_without_momentum(arrays):
    v = np.zeros_like(arrays["velocities"])
    cpu.ornstein_uhlenbeck(v, arrays["normals"], arrays["masses"], arrays["inverse_masses"], 0.9, 0.2, True)
    momenta = arrays["masses"][:, None] * v
    assert np.abs(momenta.sum(axis=0)).max() < 1e-14 * np.abs(momenta).sum()


@pytest.mark.parametrize("where", [0, 17, 36])
def test_largest_norm_sees_what_is_not_finite(arrays, where):
    a = arrays["vectors"].copy()
    a[where, 1] = np.inf
    assert cpu.largest_norm(a) == np.inf
    a[(where + 5) % 37, 2] = np.nan
    assert np.isnan(cpu.largest_norm(a))


def test_same_bits_on_any_number_of_threads(arrays):
    import numba

    most = numba.get_num_threads()
    results = []
    try:
        for threads in {1, most}:
            numba.set_num_threads(threads)
            v = arrays["velocities"].copy()
            cpu.kick(v, arrays["forces"], arrays["inverse_masses"], 0.5)
            results.append((v.tobytes(), cpu.kinetic_energy(v, arrays["masses"])))
    finally:
        numba.set_num_threads(most)
    assert len(set(results)) == 1
