"""The direct reciprocal sum from moments to fields, each pass one driver.

For a few hundred atoms a pass takes less than a millisecond; as eight kernels and the arrays between them, called one by
one, a tenth more. Arrays are those of kernels/cpu/kspace.py and kernels/cpu/moments.py, all float64; equations:
polmd/electrostatics.
"""

import numba
import numpy as np
from polmd.kernels.compile import kernel
from polmd.kernels.cpu.kspace import add_strain, fields, structure_factors
from polmd.kernels.cpu.moments import (
    add_response_forces,
    moment_strain,
    pack_fractions,
    pack_sources,
    unpack_fields,
    weigh,
)

_helper = numba.njit(error_model="numpy", nogil=True)


@_helper
def _fields_of(atoms, lattice, rows, limits, spectrum, out):
    """Fields of one spectrum (1, 2, nk) at the atoms, Cartesian, ``out`` (n, 10 or 13)."""
    n_blocks, _, lanes = atoms.shape
    blocks = np.empty((n_blocks, out.shape[1], lanes))
    fields(atoms.reshape(-1), rows, limits, spectrum, out.shape[1], blocks.reshape(-1))
    unpack_fields(blocks, lattice, out)


@kernel()
def structure(positions, inverse, lattice, charges, dipoles, quadrupoles, rows, limits, groups, partial, atoms, out):
    """S(k) of M.

    name                            shape                    dtype    unit     in/out
    positions                       (n, 3)                   float64  Å        in
    inverse, lattice                (3, 3)                   float64  1/Å      in, as in pack_fractions, pack_sources
    charges, dipoles, quadrupoles   (n,), (n, 3), (n, 3, 3)  float64  e, …     in, M
    rows, limits, groups, partial                                              in and scratch, as in structure_factors
    atoms                           (blocks, ROWS, lanes)    float64           out; lanes without an atom hold zeros
    out                             (2, nk)                  float64  e        out
    """
    atoms[-1:] = 0.0
    pack_fractions(positions, inverse, atoms)
    pack_sources(charges, dipoles, quadrupoles, lattice, atoms)
    nothing = np.empty(0)
    structure_factors(atoms.reshape(-1), nothing, rows, limits, groups, partial, out.reshape((1, 2, out.shape[1])))


@kernel()
def derivatives(atoms, lattice, rows, limits, weight, structure, out):
    """φ, F, ∇∇φ (n, 10) of M: atoms and S(k) from :func:`structure`, weight (nk,) V/e in."""
    spectrum = np.empty((1, 2, len(weight)))
    for part in range(2):
        for k in range(len(weight)):
            spectrum[0, part, k] = weight[k] * structure[part, k]
    _fields_of(atoms, lattice, rows, limits, spectrum, out)


@kernel()
def interactions(atoms, lattice, rows, limits, groups, k, sigma, weight, structure, dipoles, quadrupoles, low,
                 response_charges, response_dipoles, partial, out, strain):  # fmt: skip
    """Second pass, fields and forces of M with M̃, and the strain gradient.

    name                               shape      dtype    unit   in/out
    atoms, structure                                              in, of M, from :func:`structure`
    lattice, rows, limits, groups, partial                        in and scratch, as there
    k, sigma                           (3, nk), – float64  1/Å, Å in
    weight                             (nk,)      float64  V/e    in
    dipoles, quadrupoles               as M                       in
    low                                (n, 10)    float64         in, from :func:`derivatives`; length 0 without M̃
    response_charges, response_dipoles (n,), (n, 3)               in, M̃; length 0 without
    out                                (n, 13)    float64         out, see FieldSolver.interactions
    strain                             (3, 3)     float64  eV     out, at constant moments
    """
    nk = len(weight)
    induced = np.empty((1, 2, nk if len(low) > 0 else 0))
    if len(low) > 0:
        sources = np.empty(atoms.shape)
        sources[-1:] = 0.0
        for block in range(len(atoms)):
            sources[block, :3] = atoms[block, :3]
        pack_sources(response_charges, response_dipoles, np.empty((0, 3, 3)), lattice, sources)
        structure_factors(sources.reshape(-1), np.empty(0), rows, limits, groups, partial, induced)
    spectrum, energies = np.empty((1, 2, nk)), np.empty(nk)
    weigh(weight, structure, induced[0], spectrum[0], energies)
    _fields_of(atoms, lattice, rows, limits, spectrum, out)
    if len(low) > 0:
        add_response_forces(response_charges, response_dipoles, low, out)
    strain[:] = 0.0
    add_strain(k, sigma, energies, strain)
    moment_strain(dipoles, quadrupoles, out, response_dipoles, low, strain)
