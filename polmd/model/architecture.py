"""What a model is made of: the header of a model file, and from it the name and shape of every weight array."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Quantity = Literal["charges", "dipoles", "quadrupoles", "charge_responses", "polarizabilities"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Width = Annotated[int, Field(ge=1, le=4096)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Readout(_Strict):
    """``MLP(f) + linear(f)``; the MLP is Linear → SiLU → Linear → SiLU → Linear."""

    hidden: Annotated[list[Width], Field(min_length=2, max_length=2)]
    bias: bool = True
    linear: bool = True
    linear_bias: bool = True


class TensorReadout(_Strict):
    """Widths of the equivariant readout: ``hidden`` gated features of each rank, ``outputs`` mixed from them."""

    hidden: Width
    outputs: Width


class Chi(_Strict):
    """The network h of a message-passing layer: Linear, with SiLU between; one output per level and channel, or shared."""

    hidden: Annotated[list[Width], Field(max_length=8)] = []
    bias: bool = True
    per_level: bool
    per_channel: bool


class MessagePassing(_Strict):
    """One layer of messages (polmd/model/message_passing.py states the formulas)."""

    norm: Positive
    memory: bool
    decay: bool
    chi: Chi | None


class Architecture(_Strict):
    """The local network (kernels/reference/network.py states the formulas)."""

    elements: Annotated[list[Annotated[int, Field(ge=1, le=118)]], Field(min_length=1, max_length=118)]
    cutoff_A: Annotated[float, Field(gt=0, le=50, allow_inf_nan=False)]
    cutoff_exponent: Annotated[int, Field(ge=2, le=64)] = 6
    max_l: Literal[2, 3]
    max_nu: Literal[2, 3]
    n_rbf: Width
    n_radial: Width
    n_embedding_neighbor: Width
    n_embedding_center: Width
    energy: Readout
    charge: Readout | None = None
    tensor: TensorReadout | None = None
    scalar_polarizability: Readout | None = None
    message_passing: Annotated[list[MessagePassing], Field(max_length=8)] = []

    @property
    def n_channels(self) -> int:
        """Species channels c = (a, b), flattened a·n_embedding_center + b."""
        return self.n_embedding_neighbor * self.n_embedding_center

    @property
    def n_invariants(self) -> int:
        """Invariants per radial function and channel: A, one per L (ν = 2), one per pair (L1, L2) (ν = 3)."""
        return 1 + self.max_l + (len(invariant_pairs(self.max_l)) if self.max_nu == 3 else 0)

    @property
    def n_features(self) -> int:
        """Inputs of the readouts: the invariants of the descriptor and of every layer of messages."""
        return self.n_layer_features * (1 + len(self.message_passing))

    @property
    def n_layer_features(self) -> int:
        return self.n_radial * self.n_invariants * self.n_channels


def monomials(max_l: int) -> list[tuple[int, int, int]]:
    """Exponents (lx, ly, lz) of the angular functions, in the order of the weights: within a level x, then y, then z of
    each member of the level before is raised, first occurrences kept."""
    level = [(0, 0, 0)]
    every = list(level)
    for _ in range(max_l):
        raised = [m for x, y, z in level for m in ((x + 1, y, z), (x, y + 1, z), (x, y, z + 1))]
        level = list(dict.fromkeys(raised))
        every += level
    return every


def multinomial(m: tuple[int, int, int]) -> int:
    """(lx+ly+lz)! / (lx! ly! lz!)."""
    return math.factorial(sum(m)) // math.prod(math.factorial(x) for x in m)


def invariant_pairs(max_l: int) -> list[tuple[int, int]]:
    """Pairs (L1, L2) of the ν = 3 invariants, in the order of the features."""
    return [(a, b) for a in range(1, max_l + 1) for b in range(a, max_l + 1) if a + b <= max_l]


def _coupled_ranks(l1: int, l2: int) -> list[int]:
    return [l3 for l3 in range(abs(l1 - l2), l1 + l2 + 1) if (l1 + l2 + l3) % 2 == 0 and l3 > 0]


def products_nu2(max_l: int) -> list[tuple[int, int, int]]:
    """(l1, l2, l3) of the products T_l1 T_l2 → l3, in the order of the weights."""
    levels = range(1, max_l + 1)
    return [(a, b, c) for a in levels for b in range(a, max_l + 1) for c in _coupled_ranks(a, b) if c <= max_l]


def products_nu3(max_l: int, max_nu: int) -> list[tuple[int, int, int]]:
    """(l1, l2, l3) of the products X_l1 T_l2 → l3, X every ν = 2 product of rank l1, in the order of the weights."""
    if max_nu < 3:
        return []
    levels = range(1, max_l + 1)
    return [(a, b, c) for a in levels for b in levels for c in _coupled_ranks(a, b) if c <= 2]


def tensor_terms(max_l: int, max_nu: int, rank: int) -> list[tuple]:
    """Terms of the l-features of ``rank`` in the order of the weights, each of n_radial · n_channels features.

    () is T_rank itself, (l1, l2) the product T_l1 T_l2, ((l1, l2, l), l3) the product of T_l1 T_l2 → l with T_l3.
    """
    nu2 = products_nu2(max_l)
    terms: list[tuple] = [()] + [(a, b) for a, b, c in nu2 if c == rank]
    for l1, l2, l3 in products_nu3(max_l, max_nu):
        if l3 == rank:
            terms += [((a, b, c), l2) for a, b, c in nu2 if c == l1]
    return terms


class Flags(_Strict):
    """Options applied to the predicted tensors, in this order."""

    make_alpha_positive: bool = False
    make_kappa_positive: bool = False
    make_quad_traceless: bool = False


class Scales(_Strict):
    """Constant factors of the readouts."""

    charge: Finite = 0.1
    charge_response: Finite = 0.1
    scalar_polarizability: Finite = 0.001


class Electrostatics(_Strict):
    """The long-range energy the weights were trained with. norm_factor = 1/(2 ε0) in eV Å/e²."""

    norm_factor: Positive
    sigma_A: Positive
    dl_A: Positive
    remove_self_interaction: bool


class Units(_Strict):
    energy: Literal["eV"] = "eV"
    length: Literal["angstrom"] = "angstrom"
    charge: Literal["e"] = "e"


class Header(_Strict):
    """Everything about a model that is not a weight."""

    format: Literal["polmd-model"] = "polmd-model"
    version: Literal[1] = 1
    name: Annotated[str, Field(min_length=1, max_length=200)]
    units: Units = Units()
    architecture: Architecture
    predicts: list[Quantity]
    scales: Scales = Scales()
    flags: Flags = Flags()
    electrostatics: Electrostatics
    atomic_energies_eV: dict[str, Finite]
    provenance: str = ""
    licence: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Header:
        a, wanted = self.architecture, set(self.predicts)
        if len(wanted) != len(self.predicts) or len(set(a.elements)) != len(a.elements):
            raise ValueError("predicts and elements must not repeat an entry")
        if ("charges" in wanted) != (a.charge is not None):
            raise ValueError("'charges' is predicted exactly when the architecture has a charge readout")
        tensors = wanted - {"charges"}
        if bool(tensors) != (a.tensor is not None):
            raise ValueError(f"{sorted(tensors) or 'no tensors'} predicted, but tensor readout is {a.tensor}")
        if a.tensor is not None and a.tensor.outputs < len(wanted & {"quadrupoles", "polarizabilities"}):
            raise ValueError("the tensor readout has too few outputs for α and Q")
        if a.scalar_polarizability is not None and "polarizabilities" not in wanted:
            raise ValueError("a scalar polarisability readout without predicted polarisabilities")
        if a.message_passing and tensors:
            raise ValueError("message passing with tensors (dipoles, quadrupoles, κ, α) is not evaluated")
        unknown = set(self.atomic_energies_eV) - {str(z) for z in a.elements}
        if unknown:
            raise ValueError(f"atomic energies for elements that the model does not have: {sorted(unknown)}")
        return self


def array_shapes(a: Architecture) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight array of an architecture."""
    nz, nc, nf = len(a.elements), a.n_channels, a.n_features
    shapes: dict[str, tuple[int, ...]] = {
        "radial/frequencies": (a.n_rbf,),
        "embedding/neighbor": (nz, a.n_embedding_neighbor),
        "embedding/center": (nz, a.n_embedding_center),
    }
    for level in range(a.max_l + 1):
        shapes[f"radial/mixing_{level}"] = (a.n_rbf, a.n_radial, nc)
    for name in ("energy", "charge", "scalar_polarizability"):
        readout: Readout | None = getattr(a, name)
        if readout is None:
            continue
        widths = [nf, *readout.hidden, 1]
        for k in range(3):
            shapes[f"{name}/weight_{k}"] = (widths[k + 1], widths[k])
            if readout.bias:
                shapes[f"{name}/bias_{k}"] = (widths[k + 1],)
        if readout.linear:
            shapes[f"{name}/linear_weight"] = (1, nf)
            if readout.linear_bias:
                shapes[f"{name}/linear_bias"] = (1,)
    for t, layer in enumerate(a.message_passing):
        for level in range(a.max_l + 1):
            if layer.memory:
                shapes[f"message_{t}/memory_{level}"] = (a.n_radial, nc)
            if layer.decay:
                shapes[f"message_{t}/decay_prefactor_{level}"] = (a.n_radial, nc)
                shapes[f"message_{t}/decay_rate_{level}"] = (a.n_radial, nc)
        if layer.chi is not None:
            n_out = (a.max_l + 1 if layer.chi.per_level else 1) * (nc if layer.chi.per_channel else 1)
            widths = [a.n_layer_features, *layer.chi.hidden, n_out]
            for k in range(len(widths) - 1):
                shapes[f"message_{t}/chi_weight_{k}"] = (widths[k + 1], widths[k])
                if layer.chi.bias:
                    shapes[f"message_{t}/chi_bias_{k}"] = (widths[k + 1],)
    if a.tensor is not None:
        h, out = a.tensor.hidden, a.tensor.outputs
        shapes["tensor/mix_in_0"] = (h, nf)
        for rank in (1, 2):
            shapes[f"tensor/mix_in_{rank}"] = (h, len(tensor_terms(a.max_l, a.max_nu, rank)) * a.n_radial * nc)
        for rank in range(3):
            shapes[f"tensor/gate_weight_{rank}"] = (h, 3 * h)
            shapes[f"tensor/gate_bias_{rank}"] = (h,)
            shapes[f"tensor/mix_out_{rank}"] = (out, h)
    return shapes
