"""Small models with random weights, for any architecture."""

from __future__ import annotations

import numpy as np

from polmd import Model
from polmd.model.architecture import (
    Architecture,
    Electrostatics,
    Flags,
    Header,
    MessagePassing,
    Readout,
    Scales,
    TensorReadout,
    array_shapes,
)

FULL = ("charges", "dipoles", "quadrupoles", "charge_responses", "polarizabilities")


def random_model(
    max_l: int = 3,
    max_nu: int = 3,
    *,
    predicts: tuple[str, ...] = FULL,
    elements: tuple[int, ...] = (1, 8),
    embedding: tuple[int, int] = (2, 2),
    n_radial: int = 3,
    n_rbf: int = 4,
    hidden: int = 2,
    outputs: int = 2,
    scalar: Readout | None = None,
    charge: Readout | None = None,
    exponent: int = 6,
    messages: tuple[MessagePassing, ...] = (),
    flags: tuple[str, ...] = (),
    seed: int = 0,
) -> Model:
    """Weights are scaled by the square root of the row length, so that outputs stay of order one."""
    tensor = set(predicts) - {"charges"}
    architecture = Architecture(
        elements=list(elements),
        cutoff_A=3.2,
        cutoff_exponent=exponent,
        max_l=max_l,
        max_nu=max_nu,
        n_rbf=n_rbf,
        n_radial=n_radial,
        n_embedding_neighbor=embedding[0],
        n_embedding_center=embedding[1],
        energy=Readout(hidden=[5, 4]),
        charge=(charge or Readout(hidden=[6, 3])) if "charges" in predicts else None,
        tensor=TensorReadout(hidden=hidden, outputs=outputs) if tensor else None,
        scalar_polarizability=scalar,
        message_passing=list(messages),
    )
    rng = np.random.default_rng(seed)
    arrays = {k: rng.normal(size=shape) / np.sqrt(shape[-1]) for k, shape in array_shapes(architecture).items()}
    arrays["radial/frequencies"] = np.pi / 3.2 * np.arange(1, n_rbf + 1) * rng.uniform(0.9, 1.1, n_rbf)
    for level in range(max_l + 1):
        arrays[f"radial/mixing_{level}"] *= 0.7
    header = Header(
        name="random",
        architecture=architecture,
        predicts=list(predicts),
        scales=Scales(charge=0.3, charge_response=0.2, scalar_polarizability=0.4),
        flags=Flags(**dict.fromkeys(flags, True)),
        electrostatics=Electrostatics(norm_factor=90.0474, sigma_A=0.9, dl_A=1.8, remove_self_interaction=False),
        atomic_energies_eV={str(z): -float(z) for z in elements},
    )
    return Model(header, arrays, "random model")
