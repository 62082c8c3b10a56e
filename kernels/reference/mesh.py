"""Particle mesh for multipoles, slow and obvious: SciPy's B-splines, whole meshes and transforms, NumPy."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.interpolate import BSpline


class ReferenceMesh:
    """The interaction matrix T of a mesh: ``potential(…)`` gives the mesh of the potential of moments, ``derivatives``
    its derivatives at the atoms up to third order as a dict {(a, b, c): (n,)} in coordinates of the mesh.

    r (n, 3) Å, cell (3, 3) Å, n_set (nk, 3) the integer set over the full sphere, shape of the mesh, order of the splines.
    """

    def __init__(self, r, cell, sigma, norm_factor, n_set, shape, order):
        shape = np.array(shape)
        inverse = np.linalg.inv(cell)
        self.to_grid = inverse * shape  # ∂(mesh coordinate d)/∂r_c
        x = (r @ inverse) * shape
        points = np.floor(x).astype(int)[:, None, :] + np.arange(1 - order // 2, order // 2 + 1)[None, :, None]
        spline = [BSpline.basis_element(np.arange(order + 1), extrapolate=False)]
        for _ in range(3):
            spline.append(spline[-1].derivative())
        argument = points - x[:, None, :] + order / 2
        # derivatives are with respect to the atom, hence the signs
        self.weights = [(-1) ** d * np.nan_to_num(s(argument)) for d, s in enumerate(spline)]
        self.index = points % shape
        self.shape = shape
        k = n_set @ (2 * np.pi * inverse.T)
        k2 = (k * k).sum(1)
        green = 2 * norm_factor / abs(np.linalg.det(cell)) * np.exp(-0.5 * sigma**2 * k2) / k2
        self.influence = np.zeros(shape)
        decay = np.sinc(n_set / shape).prod(1) ** (2 * order)
        self.influence[tuple((n_set % shape).T)] = green / decay * shape.prod()

    def _products(self, a, b, c):
        """Products of splines on the patches (n, p, p, p), and which points of the mesh those are."""
        axes = [
            (slice(None), slice(None), None, None),
            (slice(None), None, slice(None), None),
            (slice(None), None, None),
        ]
        w = [self.weights[d][:, :, axis][axes[axis]] for axis, d in enumerate((a, b, c))]
        return w[0] * w[1] * w[2], tuple(self.index[:, :, axis][axes[axis]] for axis in range(3))

    def potential(self, q, u, m):
        """Mesh of the potential, V, of charges (n,), dipoles (n, 3), quadrupoles (n, 3, 3)."""
        mesh = np.zeros(self.shape)
        in_grid = u @ self.to_grid, np.einsum("nab,ac,bd->ncd", m, self.to_grid, self.to_grid)
        unit = np.eye(3, dtype=int)
        terms = [(q, (0, 0, 0))] + [(in_grid[0][:, a], tuple(unit[a])) for a in range(3)]
        terms += [
            (0.5 * in_grid[1][:, a, b], tuple(unit[a] + unit[b])) for a, b in itertools.product(range(3), repeat=2)
        ]
        for factor, order in terms:
            product, where = self._products(*order)
            np.add.at(mesh, where, factor[:, None, None, None] * product)
        return np.fft.ifftn(np.fft.fftn(mesh) * self.influence).real

    def derivatives(self, mesh, highest=3):
        """Derivatives of the potential at the atoms."""
        out = {}
        for order in itertools.product(range(highest + 1), repeat=3):
            if sum(order) <= highest:
                product, where = self._products(*order)
                out[order] = (mesh[where] * product).sum((1, 2, 3))
        return out

    def interactions(self, q, u, m, mesh):
        """φ, F, ∇∇φ (n, 3, 3) and the force on (q, u, Q) in Cartesian coordinates, as the solvers give them."""
        d = self.derivatives(mesh)
        unit, g = np.eye(3, dtype=int), self.to_grid

        def tensor(rank):
            out = np.empty((len(q), *(3,) * rank))
            for axes in itertools.product(range(3), repeat=rank):
                out[(slice(None), *axes)] = d[tuple(sum((unit[a] for a in axes), np.zeros(3, int)))]
            return out

        first = np.einsum("na,ca->nc", tensor(1), g)
        second = np.einsum("nab,ca,db->ncd", tensor(2), g, g)
        third = np.einsum("nabe,ca,db,fe->ncdf", tensor(3), g, g, g)
        force = -(q[:, None] * first + np.einsum("na,nac->nc", u, second) + 0.5 * np.einsum("nab,nabc->nc", m, third))
        return d[0, 0, 0], -first, second, force
