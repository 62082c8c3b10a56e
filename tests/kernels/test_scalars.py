"""The scalar physics: against NumPy, quadrature and finite differences; float32 stays float32."""

import inspect
import itertools

import numpy as np
import pytest
from polmd.kernels.scalar import elementary, multipole, radial, smearing, tensor
from scipy.integrate import quad


def _full3(v: tuple) -> np.ndarray:
    return np.array(v)


def _full6(s: tuple) -> np.ndarray:
    return np.array([[s[0], s[1], s[2]], [s[1], s[3], s[4]], [s[2], s[4], s[5]]])


def _full10(t: tuple) -> np.ndarray:
    order = ["xxx", "xxy", "xxz", "xyy", "xyz", "xzz", "yyy", "yyz", "yzz", "zzz"]
    out = np.empty((3, 3, 3))
    for i in itertools.product(range(3), repeat=3):
        out[i] = t[order.index("".join(sorted("xyz"[k] for k in i)))]
    return out


@pytest.fixture
def parts() -> dict[str, tuple]:
    rng = np.random.default_rng(4)
    sizes = {"a": 3, "b": 3, "s": 6, "t": 6, "x": 10, "g": 9}
    return {k: tuple(rng.normal(size=n)) for k, n in sizes.items()}


def test_products(parts: dict[str, tuple]) -> None:
    a, b, s, t, x, g = (parts[k] for k in "abstxg")
    A, B, S, T, X, G = _full3(a), _full3(b), _full6(s), _full6(t), _full10(x), np.reshape(g, (3, 3))
    e = np.einsum
    close = lambda got, want: np.testing.assert_allclose(got, want, atol=1e-13)  # noqa: E731
    close(tensor.dot(a, b), A @ B)
    close(tensor.cross(a, b), np.cross(A, B))
    close(tensor.trace_product(s, t), np.sum(S * T))
    close(tensor.matrix_vector(s, a), S @ A)
    close(_full6(tensor.tensor_vector(x, a)), X @ A)
    close(tensor.tensor_matrix(x, s), e("ijk,jk", X, S))
    close(_full6(tensor.outer_self(a)), np.outer(A, A))
    close(_full6(tensor.outer_symmetric(a, b)), np.outer(A, B) + np.outer(B, A))
    close(_full6(tensor.outer_mean(a, b, 0.5)), (np.outer(A, B) + np.outer(B, A)) / 2)
    close(_full6(tensor.square(s)), S @ S)
    close(_full6(tensor.tensor_square(x)), e("ijk,ljk->il", X, X))
    close(np.reshape(tensor.matrix_product(s, t), (3, 3)), S @ T)
    close(_full6(tensor.symmetric_part(g)), G + G.T)
    epsilon = np.array([[[np.linalg.det(np.eye(3)[[i, j, k]]) for k in range(3)] for j in range(3)] for i in range(3)])
    c = tensor.axial_part(g)
    close(c, e("kij,ij", epsilon, G))
    close((G + G.T) / 2 + e("ijk,k", epsilon, c) / 2, G)
    close(np.reshape(tensor.general_matrix(s, a), (3, 3)), S + e("ijk,k", epsilon, A))
    close(_full6(tensor.general_symmetric_product(g, t)), G @ T + (G @ T).T)
    close(np.reshape(tensor.transpose(g), (3, 3)), G.T)


def test_gradients_by_components(parts: dict[str, tuple]) -> None:
    """The functions are polynomials of at most second order: central differences are exact to rounding."""
    a, s, x = parts["a"], parts["s"], parts["x"]

    def slope(function, values: tuple) -> np.ndarray:
        values = np.array(values)
        return np.array([function(values + d) - function(values - d) for d in 0.5 * np.eye(len(values))])

    e = np.einsum
    np.testing.assert_allclose(tensor.gradient_matrix(s), slope(lambda t: np.sum(_full6(s) * _full6(t)), parts["t"]))
    np.testing.assert_allclose(
        tensor.gradient_vector_matrix(a, s), slope(lambda t: e("ijk,i,jk", _full10(t), a, _full6(s)), x), atol=1e-13
    )
    np.testing.assert_allclose(
        tensor.gradient_tensor_square(s, x),
        slope(lambda t: e("il,ijk,ljk", _full6(s), _full10(t), _full10(t)), x),
        atol=1e-12,
    )
    np.testing.assert_allclose(
        tensor.gradient_square_norm(0.7, x), slope(lambda t: 0.35 * np.sum(_full10(t) ** 2), x), atol=1e-13
    )


def test_tensor_algebra_keeps_float32() -> None:
    from polmd.kernels.cpu import scalars

    sizes = {"a": 3, "b": 3, "c": 3, "s": 6, "t": 10, "g": 9, "m": 9, "w": 0, "x": 0, "half": 0}
    special = {  # functions whose argument names mean other sizes
        "add6": (6, 6), "add10": (10, 10), "scale6": (0, 6), "scale3": (0, 3), "trace_product": (6, 6), "double": (0,),
        "square": (6,), "matrix_product": (6, 6), "matrix_vector": (6, 3), "tensor_matrix": (10, 6),
        "general_matrix": (6, 3), "general_symmetric_product": (9, 6), "gradient_matrix": (6,),
        "gradient_tensor_square": (6, 10),
    }  # fmt: skip
    functions = [n for n, f in vars(tensor).items() if inspect.isfunction(f)]
    assert len(functions) > 20
    for name in functions:
        names = list(inspect.signature(getattr(tensor, name)).parameters)
        arguments = []
        for size in special.get(name, tuple(sizes[n] for n in names)):
            values = tuple(np.float32(0.3 + 0.1 * k) for k in range(max(size, 1)))
            arguments.append(values if size else values[0])
        compiled = getattr(scalars, name)
        compiled(*arguments)
        returned = str(compiled.nopython_signatures[-1].return_type)
        assert "float32" in returned and "float64" not in returned, (name, returned)


def test_sincos() -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.uniform(-1e3, 1e3, 100_000), np.arange(-50, 51) * np.pi / 4, [0.0, 1e-300, -1e-9]])
    s, c = elementary.sincos(x)
    np.testing.assert_allclose(s, np.sin(x), atol=3e-16)
    np.testing.assert_allclose(c, np.cos(x), atol=3e-16)


def test_exponential_and_what_is_made_of_it() -> None:
    x = np.concatenate([np.linspace(-87, 87, 100_001), [0.0, -1e-300, 1e-9]])
    np.testing.assert_allclose(elementary.exponential(x), np.exp(x), rtol=5e-16)
    assert elementary.exponential(np.array([-1e4]))[0] == pytest.approx(np.exp(-87.0))
    assert np.isnan(elementary.exponential(np.array([np.nan]))).all()
    np.testing.assert_allclose(elementary.sigmoid(x), 1 / (1 + np.exp(-x)), rtol=1e-15)
    value, slope = elementary.silu(x)
    np.testing.assert_allclose(value, x / (1 + np.exp(-x)), rtol=1e-15)
    h = 1e-3
    numeric = (8 * (elementary.silu(x + h)[0] - elementary.silu(x - h)[0])) / 12 / h
    numeric -= (elementary.silu(x + 2 * h)[0] - elementary.silu(x - 2 * h)[0]) / 12 / h
    np.testing.assert_allclose(slope, numeric, atol=1e-11)


@pytest.mark.parametrize("p", [2, 5, 6])
def test_cutoff_and_radial_basis(p: int) -> None:
    x, rc, w, h = np.linspace(0.05, 0.98, 40), 4.5, 1.7, 1e-5
    f, df = radial.cutoff_function(x, (float(p), x ** (p - 1)))
    want = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    np.testing.assert_allclose(f, want, atol=1e-13)

    def basis(r: np.ndarray) -> tuple:
        u = r / rc
        f, df = radial.cutoff_function(u, (float(p), u ** (p - 1)))
        return radial.radial_basis(r, 1 / r, w, f, df / rc, np.sqrt(2 / rc))

    r = x * rc
    value, slope = basis(r)
    np.testing.assert_allclose(value, np.sqrt(2 / rc) * np.sin(w * r) / r * want, atol=1e-14)
    numeric = (8 * (basis(r + h)[0] - basis(r - h)[0]) - (basis(r + 2 * h)[0] - basis(r - 2 * h)[0])) / (12 * h)
    np.testing.assert_allclose(slope, numeric, atol=1e-9)
    assert radial.cutoff_function(1.0, (float(p), 1.0)) == pytest.approx((0.0, 0.0), abs=1e-13)
    assert df[-1] < 0


@pytest.mark.parametrize("x", [0.0, 1e-12, 0.3, 2.0, 5.999999, 6.0, 6.000001, 20.0, 300.0])
def test_boys_functions(x: float) -> None:
    for n, value in enumerate(smearing.boys(x)):
        want = quad(lambda t, n=n: t ** (2 * n) * np.exp(-x * t * t), 0, 1, epsabs=0, epsrel=1e-13, limit=500)[0]
        assert value == pytest.approx(want, rel=3e-13)


def test_derivatives_of_a_multipole_potential() -> None:
    rng = np.random.default_rng(8)
    q, u, m = rng.normal(), tuple(rng.normal(size=3)), tuple(rng.normal(size=6))
    at = rng.normal(size=3)

    def derivatives(r: np.ndarray) -> tuple:
        return multipole.potential_derivatives(q, u, m, tuple(r), smearing.smeared_coulomb(r @ r, 0.8))

    value, gradient, hessian, third = derivatives(at)
    h = 1e-3
    numeric = [[], [], []]
    for d in h * np.eye(3):
        p1, m1, p2, m2 = (derivatives(at + k * d) for k in (1, -1, 2, -2))
        for order, full in enumerate((float, _full3, _full6)):
            numeric[order].append(
                (8 * (full(p1[order]) - full(m1[order])) - (full(p2[order]) - full(m2[order]))) / 12 / h
            )
    np.testing.assert_allclose(gradient, numeric[0], atol=1e-10)
    np.testing.assert_allclose(_full6(hessian), numeric[1], atol=1e-10)
    np.testing.assert_allclose(_full10(third), numeric[2], atol=1e-9)
    f = lambda r: __import__("scipy.special").special.erf(r / (0.8 * np.sqrt(2))) / r  # noqa: E731
    alone = multipole.potential_derivatives(
        1.0, (0.0,) * 3, (0.0,) * 6, (0.0, 0.0, 1.3), smearing.smeared_coulomb(1.69, 0.8)
    )
    assert alone[0] == pytest.approx(f(1.3), rel=1e-14) and np.isfinite(value)
