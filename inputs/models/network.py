"""The model in PyTorch, for training: local network, multipoles, long-range energy in periodic and open boundaries.

The formulas are those of the engine (kernels/reference/*.py state them in NumPy); tests/test_training.py compares the two.
Weights go by the names of polmd's plain archives (polmd/model/importers/npz.py). Training sees features that are centred and
scaled by constants of the training data; :meth:`Network.exported` folds the constants into the weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import silu

from polmd.model.architecture import invariant_pairs, monomials, multinomial, products_nu2, products_nu3

#: What each variant of the hierarchy predicts beside the energy.
VARIANTS: dict[str, list[str]] = {
    "none": [],
    "q": ["charges"],
    "q+u": ["charges", "dipoles"],
    "q+u+Q": ["charges", "dipoles", "quadrupoles"],
    "full": ["charges", "dipoles", "quadrupoles", "charge_responses", "polarizabilities"],
}
CHARGE_SCALE = KAPPA_SCALE = 0.1
#: A logistic step of unit width as eight hidden units: sum over k of weight · [silu(u + shift) − silu(u − shift)]. Least
#: squares on value and slope; largest deviations 0.9 % of the height and 1.3 % of the slope.
STEP_SHIFTS, STEP_WEIGHTS = (1.0, 3.0, 5.0, 7.0), (0.191, 0.052, 0.010, 0.015)


@dataclass(frozen=True)
class Step:
    """A step of the energy in a coordination number that the network is to know of, for atoms of one ``element``: centre and
    width of the logistic function, and what a neighbour of each element at a distance r adds to the number."""

    element: int
    centre: float
    width: float
    counting: Callable[[int, int, np.ndarray], np.ndarray]

    def coefficients(self, elements: list[int], cutoff: float, n_rbf: int) -> np.ndarray:
        """[elements, radial]: the counting function of each neighbour as a sum of the radial functions, least squares over
        distances from 2 Å to the cutoff."""
        r = np.linspace(2.0, cutoff, 701)[:-1]
        x = r / cutoff
        envelope = 1 - 28 * x**6 + 48 * x**7 - 21 * x**8
        n = np.arange(1, n_rbf + 1)
        basis = math.sqrt(2 / cutoff) * np.sin(math.pi / cutoff * n * r[:, None]) / r[:, None] * envelope[:, None]
        matrix = np.vstack([basis, 1e-5 * np.eye(n_rbf)])
        wanted = [np.append(self.counting(self.element, z, r), np.zeros(n_rbf)) for z in elements]
        return np.array([np.linalg.lstsq(matrix, w, rcond=None)[0] for w in wanted])


class Network(torch.nn.Module):
    """Energies and multipoles of atoms from their neighbours within the cutoff.

    Parameters: ``elements`` atomic numbers, ``cutoff`` Å, ``predicts`` one of :data:`VARIANTS`, widths as in the recipe.
    With ``step`` one more radial channel holds its coordination number, and eight more units of the first hidden layer the
    step; both are fixed, and so are the frequencies of the radial functions, while all that follows from the step is trained.
    """

    def __init__(self, elements: list[int], cutoff: float, predicts: list[str], *, max_l: int = 3, max_nu: int = 3,
                 embedding: int = 2, n_rbf: int = 6, n_radial: int = 12, hidden: tuple[int, int] = (32, 16),
                 step: Step | None = None):  # fmt: skip
        super().__init__()
        self.elements, self.cutoff, self.predicts, self.max_l, self.max_nu = elements, cutoff, predicts, max_l, max_nu
        self._products(max_l, max_nu)
        n_c = embedding**2
        n_f = n_radial * self.pairs.shape[1] * n_c
        w: dict[str, torch.Tensor] = {"bessel": math.pi / cutoff * torch.arange(1.0, n_rbf + 1)}
        for name in ("emb_s", "emb_r"):
            w[name] = torch.nn.init.xavier_uniform_(torch.empty(len(elements), embedding))
        for level in range(max_l + 1):
            w[f"rt{level}"] = torch.rand(n_rbf, n_radial, n_c)
        for name in ("sr", "q") if predicts else ("sr",):
            for key, n_in, n_out in (("0", n_f, hidden[0]), ("1", *hidden), ("2", hidden[1], 1), ("l", n_f, 1)):
                layer = torch.nn.Linear(n_in, n_out)
                w[f"{name}_w{key}"], w[f"{name}_b{key}"] = layer.weight.data, layer.bias.data
        if step:
            w["step"] = torch.empty(hidden[1], 1).uniform_(-0.5, 0.5)
        if len(predicts) > 1:
            n_out = 2 if {"quadrupoles", "polarizabilities"} <= set(predicts) else 1
            n_h = 2
            w["mix1_0"] = torch.nn.Linear(n_f, n_h, bias=False).weight.data
            for rank in (1, 2):
                n_in = n_radial * n_c * self.terms[rank]
                w[f"mix1_{rank}"] = torch.nn.Linear(n_in, n_h, bias=False).weight.data
            for rank in range(3):
                gate = torch.nn.Linear(3 * n_h, n_h)
                w[f"gate{rank}_w"], w[f"gate{rank}_b"] = gate.weight.data, gate.bias.data
                w[f"mix2_{rank}"] = torch.nn.Linear(n_h, n_out, bias=False).weight.data
        self.w = torch.nn.ParameterDict({k: torch.nn.Parameter(v) for k, v in w.items()})
        self.step = step
        if step:
            if embedding != len(elements):
                raise ValueError("a step needs an embedding as wide as there are elements")
            self.w["bessel"].requires_grad_(False)
            counts = step.coefficients(elements, cutoff, n_rbf)
            self.register_buffer("counts", torch.tensor(counts, dtype=torch.get_default_dtype()))
        self.register_buffer("mean", torch.zeros(n_f))
        self.register_buffer("scale", torch.ones(n_f))

    def _products(self, max_l: int, max_nu: int) -> None:
        """Constant matrices of the invariants and index lists of the tensor products."""
        self.exponents = monomials(max_l)
        index = {m: k for k, m in enumerate(self.exponents)}
        levels = [[m for m in self.exponents if sum(m) == level] for level in range(max_l + 1)]
        self.span = [(index[m[0]], index[m[-1]] + 1) for m in levels]
        couples = invariant_pairs(max_l) if max_nu == 3 else []
        pairs = torch.zeros(len(self.exponents), 1 + max_l + len(couples))
        for level in range(1, max_l + 1):
            for m in levels[level]:
                pairs[index[m], level] = multinomial(m)
        triples = [
            (b, m1, m2) for b, (l1, l2) in enumerate(couples, 1 + max_l) for m1 in levels[l1] for m2 in levels[l2]
        ]
        fold = torch.zeros(len(triples), pairs.shape[1])
        for row, (b, m1, m2) in enumerate(triples):
            fold[row, b] = multinomial(m1) * multinomial(m2)
        total = lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True))  # noqa: E731
        self.triples = [
            torch.tensor([index[m] for m in column], dtype=torch.long)
            for column in ([t[1] for t in triples], [t[2] for t in triples], [total(*t[1:]) for t in triples])
        ]
        self.register_buffer("pairs", pairs)
        self.register_buffer("fold", fold)
        self.cartesian = {
            rank: torch.tensor(
                [index[tuple(c.count(a) for a in range(3))] for c in itertools.product(range(3), repeat=rank)]
            )
            for rank in range(1, max_l + 1)
        }
        self.nu2, self.nu3 = products_nu2(max_l), products_nu3(max_l, max_nu)
        of_rank = {rank: sum(c == rank for *_, c in self.nu2) for rank in range(1, max_l + 1)}
        self.terms = {r: 1 + of_rank[r] + sum(of_rank[a] for a, _, c in self.nu3 if c == r) for r in (1, 2)}

    def radial(self, r: torch.Tensor) -> torch.Tensor:
        """Radial functions [edges, radial] of distances [edges, 1]."""
        x, p = r / self.cutoff, 6.0
        envelope = 1 + x**6 * (-(p + 1) * (p + 2) / 2 + x * (p * (p + 2) - x * (p * (p + 1) / 2)))
        return math.sqrt(2 / self.cutoff) * torch.sin(self.w["bessel"] * r) / r * (envelope * (x < 1))

    def descriptors(self, vectors: torch.Tensor, types: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """A [atoms, radial, monomials, channels] from vectors r_i − r_j [edges, 3]."""
        r = vectors.norm(dim=1, keepdim=True)
        unit, radial = vectors / r, self.radial(r)
        columns = [torch.ones_like(r[:, 0])]
        for m in self.exponents[1:]:
            axis = m.index(max(m))
            lower = tuple(n - (a == axis) for a, n in enumerate(m))
            columns.append(columns[self.exponents.index(lower)] * unit[:, axis])
        edge = (radial[:, :, None] * torch.stack(columns, 1)[:, None, :]).flatten(1)
        n, nz = len(types), len(self.elements)
        a = torch.zeros(n * nz, edge.shape[1], dtype=edge.dtype).index_add(0, i * nz + types[j], edge)
        a = (a.reshape(n, nz, -1).transpose(1, 2) @ self.w["emb_s"]).reshape(n, radial.shape[1], len(columns), -1)
        mixed = [torch.einsum("njka,jmab->nmkab", a[:, :, s:e], self.w[f"rt{v}"].unflatten(2, (a.shape[3], -1)))
                 for v, (s, e) in enumerate(self.span)]  # fmt: skip
        return (torch.cat(mixed, 2) * self.w["emb_r"][types][:, None, None, None, :]).flatten(3)

    def features(self, a: torch.Tensor) -> torch.Tensor:
        """Invariants [atoms, features], not centred and not scaled."""
        b = torch.einsum("nmkc,kb->nmbc", a * a, self.pairs)
        if self.max_nu == 3:
            i, j, k = self.triples
            b = b + torch.einsum("nmkc,kb->nmbc", a[:, :, i] * a[:, :, j] * a[:, :, k], self.fold)
        return torch.cat([a[:, :, :1], b[:, :, 1:]], 2).flatten(1)

    def stepped(self, vectors: torch.Tensor, types: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        """The step of each atom, [atoms, 1]: from 0 to 1; 0 for other elements."""
        assert self.step
        added = (self.radial(vectors.norm(dim=1, keepdim=True)) * self.counts[types[j]]).sum(1)
        number = torch.zeros(len(types), dtype=added.dtype).index_add(0, i, added)
        number = number * (types == self.elements.index(self.step.element))
        u = (number - self.step.centre) / self.step.width
        pairs = [w * (silu(u + s) - silu(u - s)) for s, w in zip(STEP_SHIFTS, STEP_WEIGHTS, strict=True)]
        return torch.stack(pairs).sum(0)[:, None]

    def readout(self, name: str, x: torch.Tensor, step: torch.Tensor | None = None) -> torch.Tensor:
        w = self.w
        h = silu(x @ w[f"{name}_w0"].T + w[f"{name}_b0"]) @ w[f"{name}_w1"].T + w[f"{name}_b1"]
        h = silu(h if step is None else h + step @ w["step"].T)
        return (h @ w[f"{name}_w2"].T + w[f"{name}_b2"] + x @ w[f"{name}_wl"].T + w[f"{name}_bl"])[:, 0]

    def tensors(self, a: torch.Tensor, x: torch.Tensor) -> dict[int, torch.Tensor]:
        """o_0 [n, h], o_1 [n, h, 3], o_2 [n, h, 3, 3].

        Tensors are kept as [3**rank, n, C]: products are then long vector operations, mixing is one matrix product.
        """
        n, n_c = a.shape[0], a.shape[1] * a.shape[3]
        c = a.permute(2, 0, 1, 3).reshape(a.shape[2], n, n_c)
        t = {rank: c[index] for rank, index in self.cartesian.items()}

        def product(first: torch.Tensor, second: torch.Tensor, l1: int, l2: int, l3: int) -> torch.Tensor:
            """Contract the last (l1 + l2 − l3)/2 indices of ``first`` with the first ones of ``second``."""
            shared = 3 ** ((l1 + l2 - l3) // 2)
            first, second = first.reshape(-1, shared, 1, n, n_c), second.reshape(1, shared, -1, n, n_c)
            return (first * second).sum(1).reshape(-1, n, n_c) if shared > 1 else (first * second).reshape(-1, n, n_c)

        needed = {1, 2} | {l1 for l1, _, _ in self.nu3}
        products: dict[int, list[torch.Tensor]] = {rank: [] for rank in range(1, self.max_l + 1)}
        for l1, l2, l3 in self.nu2:
            if l3 in needed:
                products[l3].append(product(t[l1], t[l2], l1, l2, l3))
        terms = {rank: [t[rank], *products[rank]] for rank in (1, 2)}
        for l1, l2, l3 in self.nu3:
            terms[l3] += [product(p, t[l2], l1, l2, l3) for p in products[l1]]
        out = {0: x @ self.w["mix1_0"].T}
        for rank in (1, 2):
            mixed = torch.cat(terms[rank], 2) @ self.w[f"mix1_{rank}"].T
            out[rank] = mixed.permute(1, 2, 0).reshape(n, -1, *([3] * rank))
        return out

    def forward(
        self, vectors: torch.Tensor, types: torch.Tensor, i: torch.Tensor, j: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        a = self.descriptors(vectors, types, i, j)
        x = (self.features(a) - self.mean) / self.scale
        m = {"energies": self.readout("sr", x, self.stepped(vectors, types, i, j) if self.step else None)}
        if "charges" in self.predicts:
            m["charges"] = self.readout("q", x) * CHARGE_SCALE
        if len(self.predicts) == 1 or not self.predicts:
            return m
        w, o = self.w, self.tensors(a, x)
        g = torch.cat([o[0], (o[1] ** 2).sum(-1), (o[2] ** 2).sum((-1, -2))], 1)
        gate = [g @ w[f"gate{rank}_w"].T + w[f"gate{rank}_b"] for rank in range(3)]
        m["dipoles"] = torch.einsum("noa,o->na", torch.sigmoid(gate[1])[:, :, None] * o[1], w["mix2_1"][0])
        second = torch.einsum("noab,po->npab", torch.sigmoid(gate[2])[:, :, None, None] * o[2], w["mix2_2"])
        if "charge_responses" in self.predicts:
            m["charge_responses"] = ((silu(gate[0]) @ w["mix2_0"][0]) * KAPPA_SCALE) ** 2
        if "polarizabilities" in self.predicts:
            m["polarizabilities"] = second[:, 0] @ second[:, 0].transpose(1, 2)
        if "quadrupoles" in self.predicts:
            q = second[:, -1]
            trace = q.diagonal(dim1=1, dim2=2).sum(1) / 3
            m["quadrupoles"] = q - trace[:, None, None] * torch.eye(3, dtype=q.dtype)
        return m

    def standardise(self, features: torch.Tensor) -> None:
        """Take the constants of the scaling from features [atoms, features] of training data, and make the first readout
        weights small, since features that hardly vary would otherwise give large forces at the start."""
        self.mean.copy_(features.mean(0))
        self.scale.copy_(features.std(0).clamp_min(0.05 * float(features.std(0).median())))
        with torch.no_grad():
            for key, value in self.w.items():
                if key.endswith(("_w0", "_wl")):
                    value *= 0.2 if key.endswith("_w0") else 0.02

    def exported(self, weights: dict[str, torch.Tensor], *, flip: bool = False) -> dict[str, np.ndarray]:
        """Weights by name with the scaling folded in, in float64 and rounded to float32. ``flip``: (q, u, Q) → −(q, u, Q),
        which leaves the energy as it is."""
        w = {k: v.detach().double() for k, v in weights.items()}
        mean, scale = self.mean.double(), self.scale.double()
        for key in [k for k in w if k.endswith(("_w0", "_wl"))]:
            w[key] = w[key] / scale
            w[key.replace("_w", "_b")] = w[key.replace("_w", "_b")] - w[key] @ mean
        if "mix1_0" in w:
            # The centring of rank 0, which has no bias of its own, goes into the biases of the gates.
            w["mix1_0"] = w["mix1_0"] / scale
            shift = w["mix1_0"] @ mean
            for rank in range(3):
                w[f"gate{rank}_b"] = w[f"gate{rank}_b"] - w[f"gate{rank}_w"][:, : len(shift)] @ shift
        if flip:
            for key in ("q_w2", "q_b2", "q_wl", "q_bl", "mix2_1"):
                if key in w:
                    w[key] = -w[key]
            if "quadrupoles" in self.predicts:
                w["mix2_2"] = torch.cat([w["mix2_2"][:-1], -w["mix2_2"][-1:]])
        if self.step:
            self._write_step(w, self.step)
        return {k: v.float().numpy() for k, v in w.items()}

    def _write_step(self, w: dict[str, torch.Tensor], step: Step) -> None:
        """Put the step into ``w``: a radial channel whose scalar is the coordination number, and hidden units of it."""
        nu, n_b, n_c = w["rt0"].shape[1], self.pairs.shape[1], w["rt0"].shape[2]
        pad = torch.nn.functional.pad
        for level in range(self.max_l + 1):
            w[f"rt{level}"] = pad(w[f"rt{level}"], (0, 0, 0, 1))
        counts = torch.linalg.inv(w["emb_s"]) @ self.counts.double()  # [a, radial]
        w["rt0"][:, nu] = counts.T.repeat_interleave(w["emb_r"].shape[1], 1)
        for key in [k for k in w if k.endswith(("_w0", "_wl")) or k == "mix1_0"]:
            w[key] = pad(w[key].reshape(-1, nu, n_b * n_c), (0, 0, 0, 1)).flatten(1)
        for rank in (1, 2):
            if f"mix1_{rank}" in w:
                w[f"mix1_{rank}"] = pad(w[f"mix1_{rank}"].reshape(-1, self.terms[rank], nu, n_c), (0, 0, 0, 1)).flatten(
                    1
                )
        unit = w["sr_w0"].new_zeros(nu + 1, n_b, n_c)
        unit[nu, 0] = torch.linalg.inv(w["emb_r"])[:, self.elements.index(step.element)].repeat(w["emb_s"].shape[1])
        shifts = torch.tensor([*STEP_SHIFTS, *(-s for s in STEP_SHIFTS)], dtype=unit.dtype)
        weights = torch.tensor([*STEP_WEIGHTS, *(-s for s in STEP_WEIGHTS)], dtype=unit.dtype)
        w["sr_w0"] = torch.cat([w["sr_w0"], (unit.flatten() / step.width).expand(len(shifts), -1)])
        w["sr_b0"] = torch.cat([w["sr_b0"], shifts - step.centre / step.width])
        w["sr_w1"] = torch.cat([w["sr_w1"], w.pop("step") * weights], 1)


def response_energy(m: dict[str, torch.Tensor], phi: torch.Tensor, field: torch.Tensor | None) -> torch.Tensor:
    """Energy per atom of one step of linear response, −½ κ φ² − ½ F·α·F."""
    energy = torch.zeros_like(phi)
    if "charge_responses" in m:
        energy = energy - 0.5 * m["charge_responses"] * phi**2
    if "polarizabilities" in m and field is not None:
        energy = energy - 0.5 * torch.einsum("na,nab,nb->n", field, m["polarizabilities"], field)
    return energy


def open_energy(vectors: torch.Tensor, m: dict[str, torch.Tensor], i: torch.Tensor, j: torch.Tensor, norm: float,
                sigma: float) -> torch.Tensor:  # fmt: skip
    """Long-range energy per atom in open boundaries: smeared multipoles, all ordered pairs (i, j), r = r_i − r_j."""
    a = 1 / (sigma * math.sqrt(2))
    r2 = (vectors**2).sum(1)
    r = r2.sqrt()
    tail = torch.exp(-(a * a) * r2) / (a * math.sqrt(math.pi))
    g, b = [], torch.erf(a * r) / r
    for n in range(5):
        g.append((-1) ** n * b * (norm / (2 * math.pi)))
        b = ((2 * n + 1) * b - (2 * a * a) ** (n + 1) * tail) / r2
    q, u, quad = m["charges"], m.get("dipoles"), m.get("quadrupoles")
    at_atoms = lambda values: torch.zeros(len(q), *values.shape[1:], dtype=q.dtype).index_add(0, i, values)  # noqa: E731
    phi, field, hessian = q[j] * g[0], None, None
    if u is not None:
        ur = (u[j] * vectors).sum(1)
        phi = phi - ur * g[1]
        along = q[j] * g[1] - ur * g[2]  # field = −(along · r − u g1 + …)
        field = u[j] * g[1][:, None]
    if quad is not None:
        sym = 0.5 * (quad + quad.transpose(1, 2))
        qr = torch.einsum("eab,eb->ea", sym[j], vectors)
        rqr = (qr * vectors).sum(1)
        trace = sym.diagonal(dim1=1, dim2=2).sum(1)
        phi = phi + 0.5 * (trace[j] * g[1] + rqr * g[2])
        along = along + 0.5 * (trace[j] * g[2] + rqr * g[3])
        field = field - qr * g[2][:, None]
        own = torch.einsum("eab,eb->ea", sym[i], vectors)
        ror = (own * vectors).sum(1)
        hessian = q[j] * (trace[i] * g[1] + ror * g[2])
        hessian = hessian - (trace[i] * ur + 2 * (own * u[j]).sum(1)) * g[2] - ror * ur * g[3]
        both = (sym[i] * sym[j]).sum((1, 2))
        hessian = hessian + 0.5 * (
            (trace[i] * trace[j] + 2 * both) * g[2]
            + (trace[i] * rqr + trace[j] * ror + 4 * (own * qr).sum(1)) * g[3]
            + ror * rqr * g[4]
        )
    phi = at_atoms(phi)
    energy = 0.5 * q * phi
    if field is not None:
        field = at_atoms(field - along[:, None] * vectors)
        energy = energy - 0.5 * (u * field).sum(1)
    if hessian is not None:
        energy = energy + 0.25 * at_atoms(hessian)
    return energy + response_energy(m, phi, field)


def half_sphere(cell: np.ndarray, dl: float) -> np.ndarray:
    """Integer wave vectors of half the sphere 0 < |k| ≤ 2π/dl."""
    g = 2 * np.pi * np.linalg.inv(cell).T
    limits = [max(1, int(np.linalg.norm(row) / dl)) for row in cell]
    n = np.array(list(itertools.product(*[range(-m, m + 1) for m in limits])))
    k2 = ((n @ g) ** 2).sum(1)
    n = n[(k2 > 0) & (k2 <= (2 * np.pi / dl) ** 2 * (1 + 1e-9))]
    return n[np.array([row[np.nonzero(row)[0][0]] for row in n]) > 0]


def periodic_energy(pos: torch.Tensor, cell: torch.Tensor, m: dict[str, torch.Tensor], n: torch.Tensor, norm: float,
                    sigma: float) -> torch.Tensor:  # fmt: skip
    """Long-range energy of one periodic cell, self-interaction removed."""
    k = n @ (2 * math.pi * torch.linalg.inv(cell).T)
    k2, volume = (k**2).sum(1), torch.det(cell).abs()
    angle = pos @ k.T
    cos, sin = torch.cos(angle), torch.sin(angle)
    q, u, quad = m["charges"], m.get("dipoles"), m.get("quadrupoles")
    real = q[:, None]
    if quad is not None:
        real = real - 0.5 * torch.einsum("nij,mij->nm", quad, k[:, :, None] * k[:, None, :])
    re, im = (real * cos).sum(0), (real * sin).sum(0)
    if u is not None:
        uk = u @ k.T
        re, im = re - (uk * sin).sum(0), im + (uk * cos).sum(0)
    green = torch.exp(-0.5 * sigma**2 * k2) / k2
    unit = norm / (2 * math.pi) ** 1.5
    energy = 2 * norm / volume * (green * (re**2 + im**2)).sum() - unit / sigma * (q**2).sum()
    if u is not None:
        energy = energy - unit / (3 * sigma**3) * (u**2).sum()
    if quad is not None:
        energy = energy - unit / (10 * sigma**5) * (quad**2).sum()
    if "charge_responses" in m or "polarizabilities" in m:
        w = 4 * norm / volume * green
        phi = cos @ (w * re) + sin @ (w * im) - 2 * unit / sigma * q
        field = (sin * (w * re) - cos * (w * im)) @ k
        if u is not None:
            field = field + 2 * unit / (3 * sigma**3) * u
        energy = energy + response_energy(m, phi, field).sum()
    return energy
