"""The local network, slow and obvious: NumPy, general Cartesian products, no hand-written derivative.

Every operation is analytic, so positions may be complex: derivatives by complex step are exact to rounding (see
``complex_step_gradient``), which makes this module the oracle for the reverse pass too.
"""

from __future__ import annotations

import itertools
import math

import numpy as np


def monomials(max_l):
    """Exponents (lx, ly, lz) with lx+ly+lz ≤ max_l: by level; within a level x, then y, then z of each predecessor is
    raised, first occurrences kept."""
    level, found = [(0, 0, 0)], [(0, 0, 0)]
    for _ in range(max_l):
        raised = []
        for m in level:
            for axis in range(3):
                new = tuple(n + (a == axis) for a, n in enumerate(m))
                if new not in raised:
                    raised.append(new)
        level = raised
        found += raised
    return found


def multinomial(m):
    """(lx+ly+lz)! / (lx! ly! lz!)."""
    return math.factorial(sum(m)) // math.prod(math.factorial(n) for n in m)


def radial(r, frequencies, cutoff, exponent):
    """R_n(r) = √(2/rc) sin(w_n r)/r · f(r/rc), shape (len(r), n_rbf); f the polynomial cutoff of order p."""
    x, p = r / cutoff, exponent
    f = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
    f = np.where(x.real < 1, f, 0.0)
    return np.sqrt(2 / cutoff) * np.sin(r[:, None] * frequencies) / r[:, None] * f[:, None]


def descriptor(weights, max_l, cutoff, exponent, types, centers, neighbors, vectors):
    """A features A[atom, m, l, c].

    weights : dict of float64 arrays named as in the model file
    types : (n,) index of each atom's element in the model
    centers, neighbors : (edges,) atom indices; vectors : (edges, 3) r_center − r_neighbor with images, Å
    """
    n, nz = len(types), len(weights["embedding/neighbor"])
    exponents = monomials(max_l)
    r = np.sqrt((vectors * vectors).sum(1))
    unit = vectors / r[:, None]
    angular = np.stack([np.prod([unit[:, a] ** m[a] for a in range(3)], axis=0) for m in exponents], 1)
    edge = radial(r, weights["radial/frequencies"], cutoff, exponent)[:, :, None] * angular[:, None, :]
    by_species = np.zeros((n, nz, *edge.shape[1:]), dtype=edge.dtype)
    np.add.at(by_species, (centers, types[neighbors]), edge)
    a0 = np.einsum("iznl,za,ib->inlab", by_species, weights["embedding/neighbor"], weights["embedding/center"][types])
    a0 = a0.reshape(*a0.shape[:3], -1)
    mixed = [
        np.einsum("inc,nmc->imc", a0[:, :, k], weights[f"radial/mixing_{sum(m)}"]) for k, m in enumerate(exponents)
    ]
    return np.stack(mixed, 2)


def cartesian(a, max_l):
    """Symmetric Cartesian tensors T_l[atom, C, i, j, …] of the A features, C = m·n_channels + c."""
    where = {m: k for k, m in enumerate(monomials(max_l))}
    flat = a.transpose(0, 1, 3, 2).reshape(len(a), -1, a.shape[2])
    tensors = {}
    for level in range(1, max_l + 1):
        t = np.zeros((*flat.shape[:2], *[3] * level), dtype=a.dtype)
        for index in itertools.product(range(3), repeat=level):
            t[(..., *index)] = flat[:, :, where[tuple(index.count(x) for x in range(3))]]
        tensors[level] = t
    return tensors


def invariants(a, max_l, max_nu):
    """Feature vector f[atom, (m, b, c)]."""
    exponents = monomials(max_l)
    where = {m: k for k, m in enumerate(exponents)}
    b = [a[:, :, 0]]
    for level in range(1, max_l + 1):
        b.append(sum(multinomial(m) * a[:, :, where[m]] ** 2 for m in exponents if sum(m) == level))
    if max_nu >= 3:
        for low in range(1, max_l + 1):
            for high in range(low, max_l + 1 - low):
                total = 0.0
                for m1, m2 in itertools.product(exponents, exponents):
                    if sum(m1) == low and sum(m2) == high:
                        both = tuple(x + y for x, y in zip(m1, m2, strict=True))
                        weight = multinomial(m1) * multinomial(m2)
                        total = total + weight * a[:, :, where[m1]] * a[:, :, where[m2]] * a[:, :, where[both]]
                b.append(total)
    return np.stack(b, 2).reshape(len(a), -1)


def contract(x, y, l3):
    """P(X, Y → l3): the last (l1+l2−l3)/2 indices of X with the first of Y, channel by channel."""
    l1, l2 = x.ndim - 2, y.ndim - 2
    shared = (l1 + l2 - l3) // 2
    first, second = "ijk"[:l1], "ijk"[l1 - shared : l1] + "pqr"[: l2 - shared]
    return np.einsum(f"nC{first},nC{second}->nC{first[: l1 - shared]}{second[shared:]}", x, y)


def l_features(a, f, max_l, max_nu):
    """Features of rank 0, 1, 2 that enter the tensor readout: rank 0 is f; the others are lists of terms joined over C."""
    t = cartesian(a, max_l)
    levels = range(1, max_l + 1)
    ranks = lambda l1, l2: [x for x in range(abs(l1 - l2), l1 + l2 + 1) if (l1 + l2 + x) % 2 == 0 and x > 0]  # noqa: E731
    two = {level: [] for level in levels}
    for l1 in levels:
        for l2 in range(l1, max_l + 1):
            for l3 in ranks(l1, l2):
                if l3 <= max_l:
                    two[l3].append(contract(t[l1], t[l2], l3))
    features = {level: [t[level], *two[level]] for level in (1, 2)}
    if max_nu >= 3:
        for l1 in levels:
            for l2 in levels:
                for l3 in ranks(l1, l2):
                    if l3 <= 2:
                        features[l3] += [contract(x, t[l2], l3) for x in two[l1]]
    return f, np.concatenate(features[1], 1), np.concatenate(features[2], 1)


def silu(x):
    """x / (1 + e^−x)."""
    return x / (1 + np.exp(-x))


def readout(weights, name, f):
    """MLP(f) + linear(f), as far as the file has them; shape (n,)."""
    bias = lambda key: weights.get(f"{name}/{key}", 0.0)  # noqa: E731
    h = silu(f @ weights[f"{name}/weight_0"].T + bias("bias_0"))
    h = silu(h @ weights[f"{name}/weight_1"].T + bias("bias_1"))
    y = h @ weights[f"{name}/weight_2"].T + bias("bias_2")
    if f"{name}/linear_weight" in weights:
        y = y + f @ weights[f"{name}/linear_weight"].T + bias("linear_bias")
    return y[:, 0]


def network(weights, options, types, centers, neighbors, vectors):
    """Energies (without the constant atomic energies) and multipoles of every atom.

    weights : dict of arrays named as in the model file
    options : dict with max_l, max_nu, cutoff, exponent, predicts (set of names), charge_scale, charge_response_scale,
        scalar_polarizability_scale, make_alpha_positive, make_kappa_positive, make_quad_traceless
    types, centers, neighbors, vectors : as in :func:`descriptor`

    Returns dict: energies, charges (n,), dipoles (n, 3), quadrupoles (n, 3, 3), charge_responses (n,),
    polarizabilities (n, 3, 3), as far as predicted.
    """
    w = {k: np.asarray(v, dtype=np.float64) for k, v in weights.items()}
    max_l, max_nu, predicts = options["max_l"], options["max_nu"], options["predicts"]
    a = descriptor(w, max_l, options["cutoff"], options["exponent"], types, centers, neighbors, vectors)
    f = invariants(a, max_l, max_nu)
    out = {"energies": readout(w, "energy", f)}
    if "charges" in predicts:
        out["charges"] = options["charge_scale"] * readout(w, "charge", f)
    if "tensor/mix_in_0" not in w:
        return out
    features = l_features(a, f, max_l, max_nu)
    o = [np.einsum("nC...,oC->no...", x, w[f"tensor/mix_in_{rank}"]) for rank, x in enumerate(features)]
    g = np.concatenate([o[0], (o[1] ** 2).sum(-1), (o[2] ** 2).sum((-1, -2))], 1)
    gate = [g @ w[f"tensor/gate_weight_{rank}"].T + w[f"tensor/gate_bias_{rank}"] for rank in range(3)]
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    h = [silu(gate[0]), sigmoid(gate[1])[:, :, None] * o[1], sigmoid(gate[2])[:, :, None, None] * o[2]]
    y = [np.einsum("no...,po->np...", h[rank], w[f"tensor/mix_out_{rank}"]) for rank in range(3)]
    eye = np.eye(3)
    if "charge_responses" in predicts:
        kappa = options["charge_response_scale"] * y[0][:, 0]
        out["charge_responses"] = kappa**2 if options["make_kappa_positive"] else kappa
    if "dipoles" in predicts:
        out["dipoles"] = y[1][:, 0]
    if "polarizabilities" in predicts:
        alpha = y[2][:, 0]
        if "scalar_polarizability/weight_0" in w:
            scalar = options["scalar_polarizability_scale"] * readout(w, "scalar_polarizability", f)
            alpha = alpha + scalar[:, None, None] * eye
        if options["make_alpha_positive"]:
            alpha = alpha @ alpha.transpose(0, 2, 1)
        out["polarizabilities"] = alpha
    if "quadrupoles" in predicts:
        quad = y[2][:, 1 if "polarizabilities" in predicts else 0]
        if options["make_quad_traceless"]:
            quad = quad - np.trace(quad, axis1=1, axis2=2)[:, None, None] / 3 * eye
        out["quadrupoles"] = quad
    return out


def complex_step_gradient(function, x, step=1e-30):
    """dF/dx of a real analytic scalar function of an array, exact to rounding: Im F(x + i h)/h."""
    gradient = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        shifted = x.astype(complex)
        shifted[index] += 1j * step
        gradient[index] = np.imag(function(shifted)) / step
    return gradient
