"""The local network of models with message passing: features of an atom also depend on the features of its neighbours.

With A⁰ and its invariants B⁰ as without messages, layer t makes

    A^(t+1) = N · [ T(Σ_j R Y S_ij h(B^t_j)) + Σ_j A^t_j p e^(−k r) f(r) ] + c A^t,

each of the three terms as far as the model has it (CACE calls them Bchi, Ar and M): h is a small network whose output
weights the edges per rank of Y and channel, p, k and c are trained per rank, radial function and channel, f is the cutoff
function, T the radial mixing of the descriptor, N a constant. Readouts see the invariants of all layers, the layer
running fastest. Source: Cheng, "Cartesian atomic cluster expansion", npj Comput. Mater. (2024), where the layers are
described; the details were checked against the authors' code (README).

NumPy, atom by atom: exact and of linear cost, slower than the compiled network of models without messages.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from polmd.kernels.layout import Multipoles
from polmd.model.architecture import Architecture, MessagePassing, invariant_pairs, monomials, multinomial
from polmd.model.file import Model
from polmd.model.network import empty_multipoles
from polmd.neighbors import PairList


@dataclass
class _Edges:
    """Geometry of the edges within the cutoff, sorted by centre: R_n, f, Y_l and what their derivatives need."""

    first: np.ndarray
    centers: np.ndarray
    neighbors: np.ndarray
    vectors: np.ndarray
    r: np.ndarray
    radial: np.ndarray
    radial_slope: np.ndarray
    envelope: np.ndarray
    envelope_slope: np.ndarray
    angular: np.ndarray
    angular_slope: np.ndarray


@dataclass
class _Layer:
    """A, B, the source weights of the edges and the activations of h of one layer."""

    a: np.ndarray
    b: np.ndarray
    source: np.ndarray
    activations: list[np.ndarray]


@dataclass
class MessageForward:
    """Predictions, the sum of their energies (eV), and what the reverse pass needs of the forward pass."""

    predictions: Multipoles
    energy: float
    types: np.ndarray
    edges: _Edges
    layers: list[_Layer]
    readouts: dict[str, list[np.ndarray]]


class MessagePassingNetwork:
    """A local network with message-passing layers, ready to run; the interface of
    :class:`polmd.model.network.LocalNetwork`.

    Parameters
    ----------
    model : the trained model, energies and charges only
    """

    def __init__(self, model: Model) -> None:
        self._header = model.header
        a: Architecture = model.header.architecture
        self._a = a
        self._w = {k: np.asarray(v, dtype=np.float64) for k, v in model.arrays.items()}
        self._monomials = monomials(a.max_l)
        self._levels = np.array([sum(m) for m in self._monomials])
        self._slices = [slice(*np.flatnonzero(self._levels == L)[[0, -1]] + [0, 1]) for L in range(a.max_l + 1)]
        index = {m: k for k, m in enumerate(self._monomials)}
        # Invariant b is the sum of coefficient · product of A over its index tuples.
        self._program: list[list[tuple[tuple[int, ...], int]]] = [[((0,), 1)]]
        for level in range(1, a.max_l + 1):
            members = [m for m in self._monomials if sum(m) == level]
            self._program.append([((index[m], index[m]), multinomial(m)) for m in members])
        for l1, l2 in invariant_pairs(a.max_l) if a.max_nu == 3 else []:
            pairs = itertools.product(self._monomials, repeat=2)
            self._program.append(
                [
                    (
                        (index[m], index[n], index[m[0] + n[0], m[1] + n[1], m[2] + n[2]]),
                        multinomial(m) * multinomial(n),
                    )
                    for m, n in pairs
                    if (sum(m), sum(n)) == (l1, l2)
                ]
            )

    def forward(self, positions: np.ndarray, cell: np.ndarray, types: np.ndarray, pairs: PairList) -> MessageForward:
        """Energies and charges of every atom; arguments as in :meth:`polmd.model.network.LocalNetwork.forward`."""
        a, n = self._a, len(types)
        edges = self._geometry(positions, cell, pairs)
        ones = np.ones((n, a.max_l + 1, a.n_channels))
        source = self._sender(types)[:, None, :] * ones
        first = self._gather(edges, types, source)
        layers = [_Layer(first, self._invariants(first), source, [])]
        for t, layer in enumerate(a.message_passing):
            layers.append(self._message(t, layer, edges, types, layers[-1]))
        features = np.stack([layer.b.reshape(n, -1) for layer in layers], axis=-1).reshape(n, -1)
        out, kept = empty_multipoles(n), {}
        for name, target, scale in self._targets():
            values, kept[name] = self._readout(name, features)
            getattr(out, target)[:] = scale * values
        return MessageForward(out, float(out.energies.sum()), types, edges, layers, kept)

    def reverse(
        self,
        state: MessageForward,
        seeds: Multipoles,
        forces: np.ndarray | float = 0.0,
        strain: np.ndarray | float = 0.0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Forces (n, 3) and strain gradient (3, 3) of Σ seeds · predictions, with those given added, as
        :meth:`polmd.model.network.LocalNetwork.reverse`."""
        a, n, edges = self._a, len(state.types), state.edges
        gradient: np.ndarray | float = 0.0
        for name, target, scale in self._targets():
            gradient = gradient + self._readout_reverse(name, state.readouts[name], scale * getattr(seeds, target))
        shape = (n, a.n_radial, a.n_invariants, a.n_channels, len(state.layers))
        by_layer = np.reshape(gradient, shape)
        on_edges = np.zeros((len(edges.r), 3))
        d_a, d_b = np.zeros_like(state.layers[-1].a), by_layer[..., -1]
        for t in range(len(a.message_passing) - 1, -1, -1):
            d_a = d_a + self._invariants_reverse(state.layers[t + 1].a, d_b)
            d_a, extra = self._message_reverse(t, a.message_passing[t], state, d_a, on_edges)
            d_b = by_layer[..., t] + extra
        d_a = d_a + self._invariants_reverse(state.layers[0].a, d_b)
        self._gather_reverse(edges, state.types, state.layers[0].source, d_a, on_edges)
        own = np.zeros((n, 3))
        np.subtract.at(own, edges.centers, on_edges)
        np.add.at(own, edges.neighbors, on_edges)
        return own + forces, edges.vectors.T @ on_edges + strain

    def _targets(self) -> list[tuple[str, str, float]]:
        """Readout, what it predicts, its scale."""
        targets = [("energy", "energies", 1.0)]
        return targets + ([("charge", "charges", self._header.scales.charge)] if self._a.charge is not None else [])

    # geometry

    def _geometry(self, positions: np.ndarray, cell: np.ndarray, pairs: PairList) -> _Edges:
        a, w, p = self._a, self._w["radial/frequencies"], float(self._a.cutoff_exponent)
        vectors = pairs.edges(positions, cell)
        r = np.sqrt(np.einsum("ek,ek->e", vectors, vectors))
        near = r < a.cutoff_A
        centers, neighbors = pairs.centers[near], pairs.neighbors[near]
        vectors, r = vectors[near], r[near]
        first = np.searchsorted(centers, np.arange(len(positions) + 1))
        x = r / a.cutoff_A
        f = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1) - p * (p + 1) / 2 * x ** (p + 2)
        df = -p * (p + 1) * (p + 2) / 2 * x ** (p - 1) * (1 - x) ** 2 / a.cutoff_A
        norm, wr = math.sqrt(2 / a.cutoff_A), r[:, None] * w
        bare = norm * np.sin(wr) / r[:, None]
        slope = norm * w * np.cos(wr) / r[:, None] - bare / r[:, None]
        unit = vectors / r[:, None]
        powers = np.ones((a.max_l + 1, len(r), 3))
        for k in range(1, a.max_l + 1):
            powers[k] = powers[k - 1] * unit
        angular = np.empty((len(r), len(self._monomials)))
        by_unit = np.zeros((len(r), len(self._monomials), 3))
        for k, m in enumerate(self._monomials):
            angular[:, k] = powers[m[0], :, 0] * powers[m[1], :, 1] * powers[m[2], :, 2]
            for axis in range(3):
                if m[axis]:
                    others = [powers[m[b], :, b] for b in range(3) if b != axis]
                    by_unit[:, k, axis] = m[axis] * powers[m[axis] - 1, :, axis] * others[0] * others[1]
        # Y is homogeneous of degree L in the unit vector: ∂Y/∂v = (∂Y/∂u − L Y u)/r
        angular_slope = by_unit - self._levels[None, :, None] * angular[:, :, None] * unit[:, None, :]
        return _Edges(
            first, centers, neighbors, vectors, r, bare * f[:, None], slope * f[:, None] + bare * df[:, None], f, df,
            angular, angular_slope / r[:, None, None],
        )  # fmt: skip

    def _sender(self, types: np.ndarray) -> np.ndarray:
        """Embedding of each atom as a neighbour, per channel (a, b)."""
        return np.repeat(self._w["embedding/neighbor"][types], self._a.n_embedding_center, axis=1)

    def _receiver(self, types: np.ndarray) -> np.ndarray:
        """Embedding of each atom as a centre, per channel (a, b)."""
        return np.tile(self._w["embedding/center"][types], (1, self._a.n_embedding_neighbor))

    # A from the edges, each weighted by its source atom per level and channel

    def _gather(self, edges: _Edges, types: np.ndarray, source: np.ndarray) -> np.ndarray:
        """A[atom, m, l, c] = Σ_n T_L[n, m, c] Wr[c] Σ_j R_n Y_l source[j, L, c]."""
        a, n = self._a, len(types)
        moments = np.empty((n, a.n_rbf, len(self._monomials), a.n_channels))
        for i in range(n):
            e = slice(edges.first[i], edges.first[i + 1])
            for level, s in enumerate(self._slices):
                basis = edges.radial[e, :, None] * edges.angular[e, None, s]
                sums = basis.reshape(len(basis), -1).T @ source[edges.neighbors[e], level]
                moments[i, :, s] = sums.reshape(a.n_rbf, -1, a.n_channels)
        moments *= self._receiver(types)[:, None, None, :]
        out = np.empty((n, a.n_radial, len(self._monomials), a.n_channels))
        for level, s in enumerate(self._slices):
            out[:, :, s] = np.einsum("inlc,nmc->imlc", moments[:, :, s], self._w[f"radial/mixing_{level}"])
        return out

    def _gather_reverse(
        self, edges: _Edges, types: np.ndarray, source: np.ndarray, d_a: np.ndarray, on_edges: np.ndarray
    ) -> np.ndarray:
        """Adds the gradient with respect to the edge vectors to ``on_edges``; returns that of ``source``."""
        a, n = self._a, len(types)
        d_moments = np.empty((n, a.n_rbf, len(self._monomials), a.n_channels))
        for level, s in enumerate(self._slices):
            d_moments[:, :, s] = np.einsum("imlc,nmc->inlc", d_a[:, :, s], self._w[f"radial/mixing_{level}"])
        d_moments *= self._receiver(types)[:, None, None, :]
        d_source = np.zeros_like(source)
        unit = edges.vectors / edges.r[:, None]
        for i in range(n):
            e = slice(edges.first[i], edges.first[i + 1])
            neighbors = edges.neighbors[e]
            for level, s in enumerate(self._slices):
                rows = d_moments[i, :, s].reshape(-1, a.n_channels)
                basis = (edges.radial[e, :, None] * edges.angular[e, None, s]).reshape(len(neighbors), -1)
                np.add.at(d_source[:, level], neighbors, basis @ rows)
                seed = (source[neighbors, level] @ rows.T).reshape(len(neighbors), a.n_rbf, -1)
                along = np.einsum("enl,en,el->e", seed, edges.radial_slope[e], edges.angular[e, s])
                across = np.einsum("enl,en->el", seed, edges.radial[e])
                on_edges[e] += along[:, None] * unit[e] + np.einsum("el,elk->ek", across, edges.angular_slope[e, s])
        return d_source

    # invariants

    def _invariants(self, a: np.ndarray) -> np.ndarray:
        """B[atom, m, b, c]."""
        out = np.zeros((len(a), self._a.n_radial, len(self._program), self._a.n_channels))
        for b, terms in enumerate(self._program):
            for indices, coefficient in terms:
                out[:, :, b] += coefficient * math.prod(a[:, :, k] for k in indices)
        return out

    def _invariants_reverse(self, a: np.ndarray, d_b: np.ndarray) -> np.ndarray:
        out = np.zeros_like(a)
        for b, terms in enumerate(self._program):
            for indices, coefficient in terms:
                for k, index in enumerate(indices):
                    others = [a[:, :, other] for other in indices[:k] + indices[k + 1 :]]
                    out[:, :, index] += coefficient * d_b[:, :, b] * math.prod(others)
        return out

    # one layer of messages

    def _message(self, t: int, layer: MessagePassing, edges: _Edges, types: np.ndarray, before: _Layer) -> _Layer:
        out = np.zeros_like(before.a)
        source, activations = np.zeros((0, 0, 0)), []
        if layer.chi is not None:
            activations = self._chi(t, before.b.reshape(len(types), -1))
            shape = (len(types), self._a.max_l + 1 if layer.chi.per_level else 1, -1)
            source = self._sender(types)[:, None, :] * activations[-1].reshape(shape)
            source = np.broadcast_to(source, (len(types), self._a.max_l + 1, self._a.n_channels))
            out += self._gather(edges, types, source)
        if layer.decay:
            decay = self._decay(t, edges)[0]
            for i in range(len(types)):
                e = slice(edges.first[i], edges.first[i + 1])
                values = before.a[edges.neighbors[e]]
                for level, s in enumerate(self._slices):
                    out[i, :, s] += np.einsum("emlc,emc->mlc", values[:, :, s], decay[level][e])
        out *= layer.norm
        if layer.memory:
            for level, s in enumerate(self._slices):
                out[:, :, s] += before.a[:, :, s] * self._w[f"message_{t}/memory_{level}"][:, None, :]
        return _Layer(out, self._invariants(out), source, activations)

    def _message_reverse(
        self, t: int, layer: MessagePassing, state: MessageForward, d_out: np.ndarray, on_edges: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gradients with respect to A and B of the layer before, from that with respect to A of layer t + 1."""
        edges, before, after = state.edges, state.layers[t], state.layers[t + 1]
        n = len(state.types)
        d_a, d_b = np.zeros_like(before.a), np.zeros_like(before.b)
        if layer.memory:
            for level, s in enumerate(self._slices):
                d_a[:, :, s] += d_out[:, :, s] * self._w[f"message_{t}/memory_{level}"][:, None, :]
        d_sum = layer.norm * d_out
        if layer.decay:
            decay, slope = self._decay(t, edges)
            unit = edges.vectors / edges.r[:, None]
            for i in range(n):
                e = slice(edges.first[i], edges.first[i + 1])
                neighbors = edges.neighbors[e]
                for level, s in enumerate(self._slices):
                    np.add.at(d_a[:, :, s], neighbors, d_sum[i, None, :, s] * decay[level][e][:, :, None, :])
                    values = np.einsum("emlc,mlc->emc", before.a[neighbors][:, :, s], d_sum[i, :, s])
                    on_edges[e] += np.einsum("emc,emc->e", values, slope[level][e])[:, None] * unit[e]
        if layer.chi is not None:
            d_source = self._gather_reverse(edges, state.types, after.source, d_sum, on_edges)
            d_h = d_source * self._sender(state.types)[:, None, :]
            if not layer.chi.per_level:
                d_h = d_h.sum(axis=1, keepdims=True)
            if not layer.chi.per_channel:
                d_h = d_h.sum(axis=2, keepdims=True)
            d_b += self._chi_reverse(t, after.activations, d_h.reshape(n, -1)).reshape(d_b.shape)
        return d_a, d_b

    def _decay(self, t: int, edges: _Edges) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """p e^(−k r) f(r) of every edge and its derivative, per level (edges, m, c)."""
        values, slopes = [], []
        for level in range(self._a.max_l + 1):
            rate = self._w[f"message_{t}/decay_rate_{level}"]
            bare = self._w[f"message_{t}/decay_prefactor_{level}"] * np.exp(-edges.r[:, None, None] * rate)
            values.append(bare * edges.envelope[:, None, None])
            slopes.append(bare * edges.envelope_slope[:, None, None] - rate * values[-1])
        return values, slopes

    def _chi(self, t: int, features: np.ndarray) -> list[np.ndarray]:
        """Inputs of every layer of h, and its output last; SiLU between the layers."""
        steps, x = [features], features
        layers = len(self._a.message_passing[t].chi.hidden) + 1  # type: ignore[union-attr]
        for k in range(layers):
            x = x @ self._w[f"message_{t}/chi_weight_{k}"].T + self._w.get(f"message_{t}/chi_bias_{k}", 0.0)
            steps.append(x)
            if k < layers - 1:
                x = _silu(x)
        return steps

    def _chi_reverse(self, t: int, steps: list[np.ndarray], d_out: np.ndarray) -> np.ndarray:
        for k in range(len(steps) - 2, -1, -1):
            d_out = d_out @ self._w[f"message_{t}/chi_weight_{k}"]
            if k:
                d_out = d_out * _silu_slope(steps[k])
        return d_out

    # readouts

    def _readout(self, name: str, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """Values (n,) and the inputs of the two SiLU layers."""
        w = self._w
        z0 = x @ w[f"{name}/weight_0"].T + w.get(f"{name}/bias_0", 0.0)
        z1 = _silu(z0) @ w[f"{name}/weight_1"].T + w.get(f"{name}/bias_1", 0.0)
        y = _silu(z1) @ w[f"{name}/weight_2"].T + w.get(f"{name}/bias_2", 0.0)
        if f"{name}/linear_weight" in w:
            y = y + x @ w[f"{name}/linear_weight"].T + w.get(f"{name}/linear_bias", 0.0)
        return y[:, 0], [z0, z1]

    def _readout_reverse(self, name: str, kept: list[np.ndarray], seed: np.ndarray) -> np.ndarray:
        w, (z0, z1) = self._w, kept
        d1 = seed[:, None] * w[f"{name}/weight_2"] * _silu_slope(z1)
        d0 = (d1 @ w[f"{name}/weight_1"]) * _silu_slope(z0)
        out = d0 @ w[f"{name}/weight_0"]
        if f"{name}/linear_weight" in w:
            out = out + seed[:, None] * w[f"{name}/linear_weight"]
        return out


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x))


def _silu_slope(x: np.ndarray) -> np.ndarray:
    s = 1.0 / (1.0 + np.exp(-x))
    return s * (1.0 + x * (1.0 - s))
