"""CACE models with LES electrostatics, from the PyTorch checkpoints of their authors' tools.

Two layouts are read: ``LesWrapper`` (charges from the wrapper's own readout, dipoles, quadrupoles, κ and α from a
``TensorReadout``), and CACE's own ``Atomwise`` charges with ``EwaldPotential``. Every attribute in the file is either
used, or known not to change the energy, or must have the value under which polmd evaluates the same function; anything
else is refused by name. Definitions: Cheng, "Cartesian atomic cluster expansion" (npj Comput. Mater. 2024); Kim et al.,
arXiv 2605.05746.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from polmd.model.architecture import (
    Architecture,
    Chi,
    Electrostatics,
    Flags,
    Header,
    MessagePassing,
    Readout,
    Scales,
    TensorReadout,
    invariant_pairs,
    monomials,
    multinomial,
    products_nu2,
    products_nu3,
    tensor_terms,
)
from polmd.model.file import MAX_WEIGHTS, Model
from polmd.model.importers.checkpoint import Checkpoint
from polmd.model.importers.inert_pickle import Name
from polmd.model.importers.torch_module import BESIDE, CLASSES, CONSTANTS, SILU, Module


def read_checkpoint(
    path: str | os.PathLike, *, name: str | None = None, atomic_energies: dict[str, float] | None = None
) -> Model:
    """Read a PyTorch checkpoint of a CACE + LES model.

    Parameters
    ----------
    path : what ``torch.save`` wrote of the whole model (``best_model.pth``)
    name : of the model; by default that of the file
    atomic_energies : atomic number (text) → eV; the checkpoints hold none

    Raises
    ------
    InputError
        naming the file and what in it is damaged, refused, or beyond what polmd evaluates
    """
    path = Path(path)
    checkpoint = Checkpoint(path, CLASSES, CONSTANTS)
    root = checkpoint.root
    if isinstance(root, dict):
        raise checkpoint.refusal(
            "it holds a dictionary (of weights, or of a training state), not a model: without the model's settings the "
            "weights cannot be evaluated; save the module itself, torch.save(model, ...)"
        )
    try:
        fields, arrays, layout = _model(Module(checkpoint, root, "model", "NeuralNetworkPotential"))
        header = Header(
            name=name or path.stem,
            atomic_energies_eV=atomic_energies or {},
            provenance=f"PyTorch checkpoint {path.name} (sha256 {checkpoint.sha256}), {layout}",
            **fields,
        )
    except ValidationError as error:
        reasons = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise checkpoint.refusal(reasons) from None
    return Model(header, arrays, str(path))


def _model(root: Module) -> tuple[dict[str, Any], dict[str, np.ndarray], str]:
    """Header fields, weights and the name of the layout."""
    root.require("do_postprocessing", False, default=False)
    for module in root.child("input_modules", "ModuleList").children() if root.has("input_modules") else []:
        if module.name != "Preprocess":
            raise module.refusal("changes the input; polmd evaluates Preprocess there")
    arrays: dict[str, np.ndarray] = {}
    descriptor = _representation(root.child("representation", "Cace"), arrays)
    outputs = root.child("output_modules", "ModuleList").children()
    by_name: dict[str, list[Module]] = {}
    for module in outputs:
        if module.kind not in BESIDE:
            by_name.setdefault(module.name, []).append(module)
    unknown = by_name.keys() - {"Atomwise", "LesWrapper", "EwaldPotential", "FeatureAdd", "Forces", "TensorReadout"}
    if unknown:
        module = by_name[min(unknown)][0]
        raise module.refusal("is an output that polmd cannot evaluate")

    if descriptor.message_passing and "TensorReadout" in by_name:
        raise by_name["TensorReadout"][0].refusal("reads tensors after message passing, which polmd does not evaluate")

    terms = _energy_terms(root, by_name)
    energies = [m for m in by_name.get("Atomwise", []) if m.text("output_key") in terms]
    if len(energies) != 1:
        raise root.refusal(f"has {len(energies)} local energies (Atomwise) in its energy {terms}; polmd evaluates one")
    energy = energies[0]
    n_features = descriptor.n_features
    energy.require("aggregation_mode", "sum")
    energy.require("post_process", None)
    scale = 1.0 if energy.get("output_scale") is None else energy.number("output_scale")
    parts: dict[str, Any] = {"energy": _readout(energy, n_features, "energy", arrays, scale)}
    long_range = [t for t in terms if t != energy.text("output_key")]
    if not long_range:
        return _header(descriptor, parts, [], {}, {}, _no_electrostatics()), arrays, "local energies only"
    sources = [
        m
        for m in by_name.get("LesWrapper", []) + by_name.get("EwaldPotential", [])
        if m.text("energy_key" if m.get("energy_key") is not None else "output_key") in long_range
    ]
    if len(sources) != 1 or len(long_range) != 1:
        raise root.refusal(f"has the energy {terms}; polmd evaluates one local and one long-range term")
    before = outputs[: [m.path for m in outputs].index(sources[0].path)]
    if sources[0].name == "EwaldPotential":
        electrostatics = _native(sources[0], before, n_features, parts, arrays)
        header = _header(descriptor, parts, ["charges"], {"charge": 1.0}, {}, electrostatics)
        return header, arrays, "layout Atomwise + EwaldPotential"
    predicts, scales, flags, electrostatics = _wrapper(sources[0], before, descriptor, parts, arrays)
    return _header(descriptor, parts, predicts, scales, flags, electrostatics), arrays, "layout LesWrapper"


def _header(
    descriptor: Architecture,
    parts: dict[str, Any],
    predicts: list[str],
    scales: dict[str, float],
    flags: dict[str, bool],
    electrostatics: Electrostatics,
) -> dict[str, Any]:
    return {
        "architecture": Architecture(**{**descriptor.model_dump(), **{k: v.model_dump() for k, v in parts.items()}}),
        "predicts": predicts,
        "scales": Scales(**scales),
        "flags": Flags(**flags),
        "electrostatics": electrostatics,
    }


def _no_electrostatics() -> Electrostatics:
    """Of a model without charges: no number of it is used."""
    return Electrostatics(norm_factor=90.4756, sigma_A=1.0, dl_A=2.0, remove_self_interaction=True)


def _energy_terms(root: Module, by_name: dict[str, list[Module]]) -> list[str]:
    """Keys whose sum is the energy that the model's forces derive from."""
    forces, sums = by_name.get("Forces", []), by_name.get("FeatureAdd", [])
    keys = {m.text("energy_key") for m in forces} or {m.text("output_key") for m in sums}
    if len(keys) != 1 or None in keys:
        raise root.refusal(f"does not say which output is its energy ({len(forces)} Forces, {len(sums)} FeatureAdd)")
    key = keys.pop()
    assert key is not None
    found = [m for m in sums if m.text("output_key") == key]
    if len(found) > 1:
        raise root.refusal(f"has two sums called {key}")
    terms = found[0].texts("feature_keys") if found else [key]
    if len(set(terms)) != len(terms):
        raise found[0].refusal("adds the same term twice")
    return terms


def _representation(cace: Module, arrays: dict[str, np.ndarray]) -> Architecture:
    """The descriptor: its weights go to ``arrays``; the architecture returned has no readouts yet."""
    elements = cace.get("zs")
    plain = isinstance(elements, (list, tuple)) and 0 < len(elements) <= 118
    if not plain or not all(type(z) is int and 1 <= z <= 118 for z in elements):
        raise cace.refusal("has no list of elements zs")
    cace.require("charge_spin_key", None)
    nz, max_l, max_nu = len(elements), cace.integer("max_l"), cace.integer("max_nu")
    if max_l not in (2, 3) or max_nu not in (2, 3):
        raise cace.refusal(f"has max_l = {max_l}, max_nu = {max_nu}; polmd evaluates 2 and 3 of either")
    cutoff = cace.number("cutoff")

    encoder = cace.child("node_onehot", "NodeEncoder")
    table = encoder.array("index_map")
    expected = [list(elements).index(z) if z in elements else -1 for z in range(max(elements) + 1)]
    if table is None or table.tolist() != expected:
        raise encoder.refusal("numbers the elements otherwise than zs")
    cace.child("edge_coding", "EdgeEncoder").require("directed", True)
    sender = cace.child("node_embedding_sender", "NodeEmbedding").weights("embedding_weights", nz, None)
    receiver = cace.child("node_embedding_receiver", "NodeEmbedding").weights("embedding_weights", nz, None)
    channels = sender.shape[1] * receiver.shape[1]

    radial = cace.child("radial_basis", "BesselRBF")
    frequencies = radial.weights("bessel_weights", None)
    envelope = cace.child("cutoff_fn", "PolynomialCutoff")
    for module, key, value in (
        (radial, "cutoff", cutoff),
        (radial, "prefactor", math.sqrt(2 / cutoff) if cutoff > 0 else 0.0),
        (envelope, "cutoff", cutoff),
    ):
        found = float(module.weights(key))
        if not math.isclose(found, value, rel_tol=1e-6):
            raise module.refusal(f"has {key} = {found:g}, but the model's cutoff of {cutoff:g} Å asks for {value:g}")
    exponent = float(envelope.weights("p"))
    if exponent != int(exponent):
        raise envelope.refusal(f"has p = {exponent:g}; polmd evaluates whole numbers")

    angular = cace.child("angular_basis", "AngularComponent", "AngularComponent_GPU")
    exponents = monomials(max_l)
    if _plain(angular.get("lxlylz_list")) != exponents:
        raise angular.refusal("lists the monomials in another order")
    transform = cace.child("radial_transform", "SharedRadialLinearTransform")
    lists = transform.child("weights", "ParameterList")
    shared = transform.get("channel_dim") is None
    n_radial = 0
    for level in range(max_l + 1):
        shape = (len(frequencies), None) if shared else (len(frequencies), None, channels)
        weight = lists.weights(str(level), *shape)
        n_radial = weight.shape[1]
        if shared:
            if weight.size * channels > MAX_WEIGHTS:
                raise transform.refusal(f"has more than {MAX_WEIGHTS} weights")
            weight = np.repeat(weight[:, :, None], channels, axis=2)
        arrays[f"radial/mixing_{level}"] = weight
    symmetrizer = cace.child("symmetrizer", "Symmetrizer")
    if _program(symmetrizer.get("vec_dict_allnu")) != _expected_program(max_l, max_nu, exponents):
        raise symmetrizer.refusal("combines the descriptor in a way that polmd does not know")

    layers = cace.child("message_passing_list", "ModuleList").children() if cace.has("message_passing_list") else []
    if len(layers) != cace.integer("num_message_passing"):
        raise cace.refusal(f"has {len(layers)} message-passing layers, but says {cace.integer('num_message_passing')}")
    norm = cace.number("mp_norm_factor") if layers else 1.0
    messages = [_message(layer, t, norm, max_l, n_radial, channels, arrays) for t, layer in enumerate(layers)]

    arrays["radial/frequencies"] = frequencies
    arrays["embedding/neighbor"], arrays["embedding/center"] = sender, receiver
    return Architecture(
        elements=list(elements),
        cutoff_A=cutoff,
        cutoff_exponent=int(exponent),
        max_l=max_l,  # type: ignore[arg-type]
        max_nu=max_nu,  # type: ignore[arg-type]
        n_rbf=len(frequencies),
        n_radial=n_radial,
        n_embedding_neighbor=sender.shape[1],
        n_embedding_center=receiver.shape[1],
        energy=Readout(hidden=[1, 1]),
        message_passing=messages,
    )


def _message(
    layer: Module, t: int, norm: float, max_l: int, n_radial: int, channels: int, arrays: dict[str, np.ndarray]
) -> MessagePassing:
    """One layer of messages: memory of the node, decaying A of the neighbours, edges weighted by their B; each or none."""
    memory, decay, chi = layer.optional_children("NodeMemory", "MessageAr", "MessageBchi")
    tables = [
        (memory, "memory_coef", "memory"),
        (decay, "prefactor", "decay_prefactor"),
        (decay, "invr0", "decay_rate"),
    ]
    for module, key, name in tables:
        if module is None:
            continue
        values = module.child(key, "ParameterList")
        for level in range(max_l + 1):
            arrays[f"message_{t}/{name}_{level}"] = values.weights(str(level), n_radial, channels)
    if memory is None and decay is None and chi is None:
        raise layer.refusal("passes nothing")
    return MessagePassing(
        norm=norm,
        memory=memory is not None,
        decay=decay is not None,
        chi=_chi(chi, t, max_l, channels, arrays) if chi is not None else None,
    )


def _chi(module: Module, t: int, max_l: int, channels: int, arrays: dict[str, np.ndarray]) -> Chi:
    """The network of B that weights the edges, per level and channel as the module shares them."""
    module.require("residual", False, default=False)
    module.require("use_batchnorm", False, default=False)
    per_channel = not module.boolean("shared_channels", True)
    per_level = not module.boolean("shared_l", True)
    n_out = (max_l + 1 if per_level else 1) * (channels if per_channel else 1)
    if per_level:
        expected = np.zeros((max_l + 1, len(monomials(max_l))))
        for k, m in enumerate(monomials(max_l)):
            expected[sum(m), k] = 1.0
        if not np.array_equal(module.weights("l_matrix", *expected.shape), expected):
            raise module.refusal("groups the monomials otherwise than by level")
    if not module.has("hnet"):
        raise module.refusal("has no layers: the model was saved before it was evaluated for the first time")
    layers = [_dense(layer) for layer in module.child("hnet", "Sequential").children()]
    if not layers or [name for _, name in layers] != ["silu"] * (len(layers) - 1) + ["Identity"]:
        raise module.refusal(
            f"has layers followed by {[name for _, name in layers]}; polmd evaluates SiLU between them"
        )
    biased = any(linear.array("bias", optional=True) is not None for linear, _ in layers)
    widths: list[int] = []
    for k, (linear, _) in enumerate(layers):
        weight = linear.weights("weight", n_out if k == len(layers) - 1 else None, widths[-1] if widths else None)
        widths.append(weight.shape[0])
        arrays[f"message_{t}/chi_weight_{k}"] = weight
        if biased:
            arrays[f"message_{t}/chi_bias_{k}"] = _bias(linear, weight)
    return Chi(hidden=widths[:-1], bias=biased, per_level=per_level, per_channel=per_channel)


def _readout(
    module: Module, n_features: int, target: str, arrays: dict[str, np.ndarray], scale: float = 1.0
) -> Readout:
    """An Atomwise of CACE or LES: MLP with two hidden layers, plus a linear part; ``scale`` goes into the weights."""
    module.require("feature_key", "node_feats", default="node_feats")
    module.require("n_out", 1)
    module.require("residual", False, default=False)
    module.require("use_batchnorm", False, default=False)
    if not module.has("outnet"):
        raise module.refusal("has no layers: the model was saved before it was evaluated for the first time")
    layers = module.child("outnet", "Sequential").children()
    linear = _dense(module.child("linear_nn", "Dense")) if module.boolean("add_linear_nn", False) else None
    return _mlp(module, [_dense(layer) for layer in layers], linear, n_features, target, arrays, scale)


def _dense(module: Module) -> tuple[Module, str]:
    """The linear map of a Dense layer and the name of what follows it."""
    module.require("use_batchnorm", False, default=False)
    if module.name != "Dense":
        raise module.refusal("is a layer that polmd cannot evaluate")
    activation: Any = module.get("activation")
    if activation is None:
        inner = module.child("activation")
        return module.child("linear", "Linear"), "silu" if inner.name == "SiLU" else inner.name
    if isinstance(activation, Name):
        return module.child("linear", "Linear"), "silu" if str(activation) in SILU else activation.name
    raise module.refusal("has an activation that polmd does not know")


def _mlp(
    owner: Module,
    layers: list[tuple[Module, str]],
    linear: tuple[Module, str] | None,
    n_features: int,
    target: str,
    arrays: dict[str, np.ndarray],
    scale: float = 1.0,
) -> Readout:
    """Weights of Linear → SiLU → Linear → SiLU → Linear (+ linear part) under ``target``."""
    if len(layers) != 3:
        raise owner.refusal(f"has {len(layers)} layers; polmd evaluates 3")
    wanted = ["silu", "silu", "Identity"]
    for (module, activation), want in zip(layers, wanted, strict=True):
        if activation != want:
            raise module.refusal(f"is followed by {activation}; polmd evaluates {want} there")
    widths: list[int | None] = [n_features, None, None, 1]
    biased = any(module.array("bias", optional=True) is not None for module, _ in layers)
    for k, (module, _) in enumerate(layers):
        weight = module.weights("weight", widths[k + 1], widths[k])
        widths[k + 1] = weight.shape[0]
        bias = _bias(module, weight)
        if k == 2 and scale != 1.0:
            weight, bias = weight.astype(np.float64) * scale, bias.astype(np.float64) * scale
        arrays[f"{target}/weight_{k}"] = weight
        if biased:
            arrays[f"{target}/bias_{k}"] = bias
    linear_biased = False
    if linear is not None:
        module, activation = linear
        if activation != "Identity":
            raise module.refusal(f"is followed by {activation}; polmd evaluates Identity there")
        weight = module.weights("weight", 1, n_features)
        linear_biased = module.array("bias", optional=True) is not None
        bias = _bias(module, weight)
        if scale != 1.0:
            weight, bias = weight.astype(np.float64) * scale, bias.astype(np.float64) * scale
        arrays[f"{target}/linear_weight"] = weight
        if linear_biased:
            arrays[f"{target}/linear_bias"] = bias
    hidden = [int(widths[1] or 0), int(widths[2] or 0)]
    return Readout(hidden=hidden, bias=biased, linear=linear is not None, linear_bias=linear is None or linear_biased)


def _bias(module: Module, weight: np.ndarray) -> np.ndarray:
    """The bias of a linear map, zero where it has none."""
    if module.array("bias", optional=True) is None:
        return np.zeros(weight.shape[0], dtype=weight.dtype)
    return module.weights("bias", weight.shape[0])


def _native(
    ewald: Module, before: list[Module], n_features: int, parts: dict[str, Any], arrays: dict[str, np.ndarray]
) -> Electrostatics:
    """CACE's own charges and EwaldPotential."""
    ewald.require("exponent", 1, default=1)
    ewald.require("external_field", None)
    ewald.require("charge_neutral_lambda", None)
    ewald.require("aggregation_mode", "sum")
    parts["charge"] = _atomwise_charges(ewald, ewald.text("feature_key"), before, n_features, arrays)
    return _electrostatics(ewald)


def _atomwise_charges(
    owner: Module, key: str | None, before: list[Module], n_features: int, arrays: dict[str, np.ndarray]
) -> Readout:
    """The Atomwise whose per-atom output is the charge; it enters without any scale."""
    found = [m for m in before if m.name == "Atomwise" and key is not None and m.text("per_atom_output_key") == key]
    if len(found) != 1:
        raise owner.refusal(f"takes charges from {key!r}, which {len(found)} Atomwise modules before it give")
    return _readout(found[0], n_features, "charge", arrays)


def _electrostatics(ewald: Module) -> Electrostatics:
    """Smearing, cutoff and prefactor; the values derived from them in the file have to agree."""
    sigma, dl = ewald.number("sigma"), ewald.number("dl")
    if sigma <= 0 or dl <= 0:
        raise ewald.refusal(f"has sigma = {sigma:g}, dl = {dl:g}")
    reach = 2 * math.pi / dl
    derived = {
        "sigma_sq_half": sigma * sigma / 2,
        "twopi": 2 * math.pi,
        "twopi_sq": 4 * math.pi**2,
        "k_sq_max": reach * reach,
    }
    for key, value in derived.items():
        if ewald.get(key) is not None and not math.isclose(ewald.number(key), value, rel_tol=1e-12):
            raise ewald.refusal(f"has {key} = {ewald.number(key):g}, which sigma and dl do not give ({value:g})")
    return Electrostatics(
        norm_factor=ewald.number("norm_factor"),
        sigma_A=sigma,
        dl_A=dl,
        remove_self_interaction=ewald.boolean("remove_self_interaction"),
    )


def _wrapper(
    wrapper: Module,
    before: list[Module],
    descriptor: Architecture,
    parts: dict[str, Any],
    arrays: dict[str, np.ndarray],
) -> tuple[list[str], dict[str, float], dict[str, bool], Electrostatics]:
    """LesWrapper: charges of its own readout, tensors of a TensorReadout before it."""
    wrapper.require("compute_energy", True, default=True)
    wrapper.require("atomic_number_key", None)
    les = wrapper.child("les", "Les")
    les.require("use_fixed_atomic_charges", False, default=False)
    les.require("is_periodic", None)
    n_features = descriptor.n_features
    scales: dict[str, float] = {}
    flags: dict[str, bool] = {}
    produced = {key for m in before if m.name == "TensorReadout" for r in range(3) for key in m.texts(f"l{r}_key")}
    charge_key = wrapper.text("charge_key")
    if charge_key in produced:
        raise wrapper.refusal(
            f"takes charges {charge_key!r} from a TensorReadout; polmd evaluates charges of an Atomwise"
        )
    if any(m.name == "Atomwise" and m.text("per_atom_output_key") == charge_key for m in before):
        parts["charge"] = _atomwise_charges(wrapper, charge_key, before, n_features, arrays)
        scales["charge"] = 1.0
    else:
        wrapper.require("feature_key", "node_feats")
        les.require("use_atomwise", True, default=True)
        atomwise = les.child("atomwise", "Atomwise")
        parts["charge"] = _readout(atomwise, n_features, "charge", arrays)
        scales["charge"] = atomwise.number("output_scaling_factor")
    predicts = ["charges"]

    keys = {
        name: wrapper.text(key)
        for name, key in (
            ("dipoles", "dipole_key"), ("quadrupoles", "quad_key"), ("charge_responses", "kappa_key"),
            ("polarizabilities", "alpha_key"),
        )
    }  # fmt: skip
    wanted = {name: key for name, key in keys.items() if key is not None}
    if wanted:
        if any(m.name == "LesWrapper" for m in before):
            raise wrapper.refusal("follows another LesWrapper, which changes the tensors")
        parts["tensor"], scale = _tensor_readout(wrapper, before, wanted, descriptor, arrays)
        scales["charge_response"] = scale
        predicts += wanted
    if "polarizabilities" in wanted:
        flags["make_alpha_positive"] = wrapper.boolean("make_alpha_positive", False)
        if wrapper.boolean("add_scalar_alpha", False):
            wrapper.require("feature_key", "node_feats")
            scales["scalar_polarizability"] = wrapper.number("scaling_factor_scalar_alpha")
            parts["scalar_polarizability"] = _scalar_alpha(wrapper, n_features, arrays)
    if "charge_responses" in wanted:
        flags["make_kappa_positive"] = wrapper.boolean("make_kappa_positive", False)
    if "quadrupoles" in wanted:
        flags["make_quad_traceless"] = wrapper.boolean("make_quad_traceless", False)
    return predicts, scales, flags, _electrostatics(les.child("ewald", "Ewald"))


def _scalar_alpha(wrapper: Module, n_features: int, arrays: dict[str, np.ndarray]) -> Readout:
    """The scalar part of α: Linear, SiLU, Linear, SiLU, Linear in a row."""
    layers = wrapper.child("alpha_scalar_mlp", "Sequential").children()
    if [m.name for m in layers] != ["Linear", "SiLU"] * (len(layers) // 2) + ["Linear"]:
        raise wrapper.refusal(f"has alpha_scalar_mlp of {[m.name for m in layers]}; polmd evaluates Linear and SiLU")
    maps = [(m, "silu") for m in layers[:-1:2]] + [(layers[-1], "Identity")]
    return _mlp(wrapper, maps, None, n_features, "scalar_polarizability", arrays)


def _tensor_readout(
    wrapper: Module,
    before: list[Module],
    wanted: dict[str, str],
    descriptor: Architecture,
    arrays: dict[str, np.ndarray],
) -> tuple[TensorReadout, float]:
    """The TensorReadout that gives the tensors; its outputs are put into the order of polmd. Returns also κ's scale."""
    readouts = [m for m in before if m.name == "TensorReadout"]
    if len(readouts) != 1:
        raise wrapper.refusal(f"needs {sorted(wanted.values())}; there are {len(readouts)} TensorReadout before it")
    readout = readouts[0]
    readout.require("feature_key", "node_feats_l")
    readout.require("max_l", 2)
    readout.require("n_channel", 1, default=1)
    _check_l_features(readout.checkpoint, descriptor)
    forward = readout.child("tensor_feed_forward", "TensorFeedForward")
    mix_in, gate, mix_out = forward.child("mix1"), forward.child("gate"), forward.child("mix2")
    lists = [m.child("linear_list", "ModuleList").children() for m in (mix_in, mix_out)]
    gates = gate.child("norm_net_list", "ModuleList").children()
    if [len(x) for x in lists] != [3, 3] or len(gates) != 2:
        raise forward.refusal("does not have the three ranks 0, 1 and 2")
    ranks = {"charge_responses": 0, "dipoles": 1, "polarizabilities": 2, "quadrupoles": 2}
    hidden = outputs = 0
    for rank in range(3):
        terms = 1 if rank == 0 else len(tensor_terms(descriptor.max_l, descriptor.max_nu, rank))
        n_in = descriptor.n_features if rank == 0 else terms * descriptor.n_radial * descriptor.n_channels
        first, last = lists[0][rank], lists[1][rank]
        for m in (first, last):
            if m.name != "Linear" or m.array("bias", optional=True) is not None:
                raise m.refusal("is not a linear map without bias")
        weight = first.weights("weight", hidden or None, n_in)
        hidden = weight.shape[0]
        arrays[f"tensor/mix_in_{rank}"] = weight
        net = gate.child("net0", "Sequential") if rank == 0 else gates[rank - 1]
        layers = net.children()
        if [m.name for m in layers] != ["Linear", "SiLU" if rank == 0 else "Sigmoid"]:
            raise net.refusal("is not the gate that polmd evaluates")
        arrays[f"tensor/gate_weight_{rank}"] = layers[0].weights("weight", hidden, 3 * hidden)
        arrays[f"tensor/gate_bias_{rank}"] = layers[0].weights("bias", hidden)
        weight = last.weights("weight", outputs or None, hidden)
        outputs = weight.shape[0]
        given = readout.texts(f"l{rank}_key")
        used = [
            name for name in ("charge_responses", "dipoles", "polarizabilities", "quadrupoles") if ranks[name] == rank
        ]
        rows = []
        for name in used:
            if name in wanted:
                if given.count(wanted[name]) != 1 or given.index(wanted[name]) >= outputs:
                    raise readout.refusal(f"does not give {wanted[name]!r} (its rank {rank} gives {given})")
                rows.append(given.index(wanted[name]))
        order = rows + [k for k in range(outputs) if k not in rows]
        scale = readout.number(f"l{rank}_output_scale")
        if order != list(range(outputs)):
            weight = np.ascontiguousarray(weight[order])
        if rank > 0 and scale != 1.0:
            weight = weight.astype(np.float64) * scale
        arrays[f"tensor/mix_out_{rank}"] = weight
    claimed = {name for rank in range(3) for name in readout.texts(f"l{rank}_key")}
    missing = [key for key in wanted.values() if key not in claimed]
    if missing:
        raise readout.refusal(f"does not give {missing[0]!r}")
    return TensorReadout(hidden=hidden, outputs=outputs), readout.number("l0_output_scale")


def _check_l_features(checkpoint: Checkpoint, descriptor: Architecture) -> None:
    """The features of rank 1 and 2 have to be formed up to rank 2, from products in the order that polmd assumes."""
    cace = Module(checkpoint, checkpoint.root, "model").child("representation")
    cace.require("max_l_out", 2, default=0)
    products = cace.child("symmetrizer_a", "Symmetrizer_A")
    products.require("max_l_out", 2)
    products.require("max_l", descriptor.max_l)
    products.require("max_nu", descriptor.max_nu)
    if _plain(products.get("lxlylz_list")) != monomials(descriptor.max_l):
        raise products.refusal("lists the monomials in another order")
    if _plain(products.get("nu2_combos")) != products_nu2(descriptor.max_l):
        raise products.refusal("forms other products of two tensors")
    if descriptor.max_nu == 3 and _plain(products.get("nu3_combos")) != products_nu3(descriptor.max_l, 3):
        raise products.refusal("forms other products of three tensors")


def _plain(value: Any) -> list[tuple[int, ...]] | None:
    """A list of short lists of whole numbers; None for anything else."""
    if not isinstance(value, (list, tuple)) or len(value) > 10_000:
        return None
    if not all(isinstance(v, (list, tuple)) and len(v) <= 8 and all(type(n) is int for n in v) for v in value):
        return None
    return [tuple(v) for v in value]


def _program(value: Any) -> Any:
    """ν → [(key, products with their coefficients)] of a Symmetrizer, in its order; None when it is something else."""
    if not isinstance(value, dict) or len(value) > 8:
        return None
    out: dict[Any, list] = {}
    for nu, groups in value.items():
        if not isinstance(groups, dict) or len(groups) > 16:
            return None
        out[nu] = []
        for key, items in groups.items():
            products: Counter = Counter()
            if not isinstance(items, (list, tuple)) or len(items) > 1000:
                return None
            for item in items:
                if not isinstance(item, (list, tuple)) or not item or type(item[-1]) is not int:
                    return None
                factors = _plain(item[:-1])
                if factors is None:
                    return None
                products[tuple(factors), item[-1]] += 1
            out[nu].append((key, products))
    return out


def _expected_program(max_l: int, max_nu: int, exponents: list[tuple[int, int, int]]) -> Any:
    """The same of the invariants that polmd evaluates."""
    by_level = {level: [m for m in exponents if sum(m) == level] for level in range(max_l + 1)}
    out: dict[int, list] = {
        2: [(level, Counter(((m, m), multinomial(m)) for m in by_level[level])) for level in range(1, max_l + 1)]
    }
    if max_nu == 3:
        out[3] = []
        for l1, l2 in invariant_pairs(max_l):
            products: Counter = Counter()
            for m1 in by_level[l1]:
                for m2 in by_level[l2]:
                    m3 = tuple(a + b for a, b in zip(m1, m2, strict=True))
                    products[(m1, m2, m3), multinomial(m1) * multinomial(m2)] += 1
            out[3].append(((l1, l2), products))
    return out
