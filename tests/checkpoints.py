"""Checkpoints as ``torch.save`` writes them, made by hand: a description of the objects, its pickle, the zip archive.

Nothing here needs torch. ``Raw`` puts any opcodes in place of a value, which is how tests plant payloads.
"""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from polmd.kernels.reference.network import monomials, multinomial

from polmd import Model
from polmd.model.architecture import invariant_pairs, products_nu2, products_nu3


@dataclass
class Raw:
    """Opcodes that leave one value on the stack."""

    code: bytes


@dataclass
class Symbol:
    """A global that is only named."""

    module: str
    name: str


@dataclass
class Obj:
    """An object of a class, with its state."""

    module: str
    name: str
    state: Any = field(default_factory=dict)


@dataclass
class Param:
    """A tensor, or a parameter."""

    array: np.ndarray
    parameter: bool = True


class Ordered(dict):
    """An OrderedDict."""


_TORCH = {"f4": "FloatStorage", "f8": "DoubleStorage", "i8": "LongStorage", "f2": "HalfStorage", "i4": "IntStorage"}


class Writer:
    """Protocol 2, as torch writes it, without memo."""

    def __init__(self) -> None:
        self.storages: list[np.ndarray] = []

    def dump(self, value: Any) -> bytes:
        return b"\x80\x02" + self.value(value) + b"."

    def value(self, v: Any) -> bytes:
        if isinstance(v, Raw):
            return v.code
        if isinstance(v, Symbol):
            return f"c{v.module}\n{v.name}\n".encode()
        if isinstance(v, Obj):
            return f"c{v.module}\n{v.name}\n)\x81".encode("latin1") + self.value(v.state) + b"b"
        if isinstance(v, Param):
            return self.parameter(v)
        if v is None:
            return b"N"
        if isinstance(v, bool):
            return b"\x88" if v else b"\x89"
        if isinstance(v, int):
            return b"J" + struct.pack("<i", v)
        if isinstance(v, float):
            return b"G" + struct.pack(">d", v)
        if isinstance(v, str):
            return b"X" + struct.pack("<I", len(v.encode())) + v.encode()
        if isinstance(v, tuple):
            return b"(" + b"".join(map(self.value, v)) + b"t"
        if isinstance(v, list):
            return b"](" + b"".join(map(self.value, v)) + b"e"
        if isinstance(v, dict):
            head = b"ccollections\nOrderedDict\n)R" if isinstance(v, Ordered) else b"}"
            return head + b"(" + b"".join(self.value(k) + self.value(x) for k, x in v.items()) + b"u"
        raise TypeError(type(v))

    def parameter(self, p: Param) -> bytes:
        array = np.asarray(p.array)
        key, kind = str(len(self.storages)), _TORCH[array.dtype.str[1:]]
        self.storages.append(array)
        storage = b"(" + self.value("storage") + f"ctorch\n{kind}\n".encode() + self.value(key) + self.value("cpu")
        strides = tuple(s // array.itemsize for s in np.ascontiguousarray(array).strides) if array.ndim else ()
        call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + self.value(array.size) + b"tQ" + self.value(0)
        call += self.value(tuple(array.shape)) + self.value(strides) + b"\x89" + b"ccollections\nOrderedDict\n)RtR"
        if p.parameter:
            call = b"ctorch._utils\n_rebuild_parameter\n(" + call + b"\x88ccollections\nOrderedDict\n)RtR"
        return call


def archive(root: Any, *, pickled: bytes | None = None, prefix: str = "best_model", extra: dict | None = None) -> bytes:
    """The file of an object; ``pickled`` in place of its pickle, ``extra`` further members (name → bytes)."""
    writer = Writer()
    data = writer.dump(root) if pickled is None else pickled
    members = {"data.pkl": data, "byteorder": b"little"}
    members |= {f"data/{k}": np.ascontiguousarray(a).tobytes() for k, a in enumerate(writer.storages)}
    members |= {"version": b"3\n"}
    members |= extra or {}
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as file:
        for name, content in members.items():
            file.writestr(f"{prefix}/{name}", content)
    return out.getvalue()


def module(
    path: str, modules: dict | None = None, parameters: dict | None = None, buffers: dict | None = None, **state
):
    """A torch module with the bookkeeping of nn.Module."""
    owner, _, name = path.rpartition(".")
    base = {
        "training": True,
        "_parameters": Ordered({k: v if v is None else Param(v) for k, v in (parameters or {}).items()}),
        "_buffers": Ordered({k: Param(v, parameter=False) for k, v in (buffers or {}).items()}),
        "_non_persistent_buffers_set": Raw(b"c__builtin__\nset\n(]tR"),
        "_backward_hooks": Ordered(),
        "_forward_hooks": Ordered(),
        "_is_full_backward_hook": None,
        "_modules": Ordered(modules or {}),
    }
    return Obj(owner, name, base | state)


_NN = "torch.nn.modules."
SILU = Symbol("torch.nn.functional", "silu")


def _linear(weight, bias=None):
    out, into = weight.shape
    return module(
        _NN + "linear.Linear", parameters={"weight": weight, "bias": bias}, in_features=into, out_features=out
    )


def _dense(library, weight, bias, last):
    state = {"use_batchnorm": False} if library.startswith("cace") else {}
    modules = {"linear": _linear(weight, bias)}
    if last:
        modules["activation"] = module(_NN + "linear.Identity")
    else:
        state["activation"] = SILU
    return module(f"{library}.blocks.Dense", modules, **state)


def _sequence(kind, items):
    return module(_NN + "container." + kind, {str(k): item for k, item in enumerate(items)})


def _atomwise(library, arrays, name, readout, **state):
    layers = [
        _dense(library, arrays[f"{name}/weight_{k}"], arrays.get(f"{name}/bias_{k}"), last=k == 2) for k in range(3)
    ]
    modules = {"outnet": _sequence("Sequential", layers)}
    if readout.linear:
        linear = arrays[f"{name}/linear_weight"], arrays.get(f"{name}/linear_bias")
        modules["linear_nn"] = _dense(library, *linear, last=True)
    common = {
        "n_in": arrays[f"{name}/weight_0"].shape[1], "n_out": 1, "n_hidden": readout.hidden, "n_layers": 3,
        "activation": SILU, "add_linear_nn": readout.linear, "bias": readout.bias,
    }  # fmt: skip
    return module(f"{library}.atomwise.Atomwise", modules, **common, **state)


def _cace_atomwise(arrays, name, readout, output, per_atom=None):
    return _atomwise(
        "cace.modules", arrays, name, readout, output_key=output, model_outputs=[output], per_atom_output_key=per_atom,
        descriptor_output_key=None, aggregation_mode="sum", residual=False, use_batchnorm=False, post_process=None,
        feature_key="node_feats",
    )  # fmt: skip


def _message(model: Model, t: int) -> Obj:
    """One layer of messages: NodeMemory, MessageAr, MessageBchi, or None in their places."""
    a, w, layer = model.header.architecture, model.arrays, model.header.architecture.message_passing[t]
    places: list = [None, None, None]

    def tables(name):
        weights = {str(L): w[f"message_{t}/{name}_{L}"] for L in range(a.max_l + 1)}
        return module(_NN + "container.ParameterList", parameters=weights, _size=len(weights))

    i = "cace.modules.interaction."
    sizes = {"radial_embedding_dim": a.n_radial, "channel_dim": a.n_channels}
    if layer.memory:
        places[0] = module(i + "NodeMemory", {"memory_coef": tables("memory")}, max_l=a.max_l, **sizes)
    if layer.decay:
        lists = {"prefactor": tables("decay_prefactor"), "invr0": tables("decay_rate")}
        places[1] = module(i + "MessageAr", lists, **sizes)
    if layer.chi is not None:
        n = len(layer.chi.hidden) + 1
        steps = [(w[f"message_{t}/chi_weight_{k}"], w.get(f"message_{t}/chi_bias_{k}")) for k in range(n)]
        net = _sequence("Sequential", [_dense("cace.modules", *x, last=k == n - 1) for k, x in enumerate(steps)])
        exponents = monomials(a.max_l)
        groups = np.array([[float(sum(m) == L) for m in exponents] for L in range(a.max_l + 1)])
        places[2] = module(
            i + "MessageBchi", {"hnet": net}, buffers={"l_matrix": groups} if layer.chi.per_level else {},
            n_layers=n, activation=SILU, residual=False, use_batchnorm=False, shared_l=not layer.chi.per_level,
            shared_channels=not layer.chi.per_channel,
        )  # fmt: skip
    return _sequence("ModuleList", places)


def representation(model: Model, *, tensors: bool) -> Obj:
    a, w = model.header.architecture, model.arrays
    dtype = w["radial/frequencies"].dtype
    exponents = monomials(a.max_l)
    levels = {level: [m for m in exponents if sum(m) == level] for level in range(a.max_l + 1)}
    table = np.array([a.elements.index(z) if z in a.elements else -1 for z in range(max(a.elements) + 1)])
    program: dict = {
        2: {L: [(list(m), list(m), multinomial(m)) for m in reversed(levels[L])] for L in range(1, a.max_l + 1)}
    }
    if a.max_nu == 3:
        program[3] = {
            (l1, l2): [
                (list(m), list(n), [x + y for x, y in zip(m, n, strict=True)], multinomial(m) * multinomial(n))
                for m in levels[l1]
                for n in levels[l2]
            ]
            for l1, l2 in invariant_pairs(a.max_l)
        }
    numbers = np.array(a.cutoff_A, dtype=dtype)
    mixing = [w[f"radial/mixing_{level}"] for level in range(a.max_l + 1)]
    m = "cace.modules."
    modules = {
        "node_onehot": module(m + "type.NodeEncoder", buffers={"index_map": table}, num_classes=len(a.elements)),
        "node_embedding_sender": module(
            m + "type.NodeEmbedding", parameters={"embedding_weights": w["embedding/neighbor"]}
        ),
        "node_embedding_receiver": module(
            m + "type.NodeEmbedding", parameters={"embedding_weights": w["embedding/center"]}
        ),
        "edge_coding": module(m + "type.EdgeEncoder", directed=True),
        "radial_basis": module(
            m + "radial.BesselRBF",
            parameters={"bessel_weights": w["radial/frequencies"]},
            buffers={"cutoff": numbers, "prefactor": np.sqrt(np.array(2, dtype) / numbers)},
            n_rbf=a.n_rbf,
        ),
        "cutoff_fn": module(
            m + "cutoff.PolynomialCutoff",
            buffers={"p": np.array(a.cutoff_exponent, dtype=dtype), "cutoff": numbers},
        ),
        "angular_basis": module(m + "angular.AngularComponent", l_max=a.max_l, lxlylz_list=exponents),
        "radial_transform": module(
            m + "radial_transform.SharedRadialLinearTransform",
            {
                "weights": module(
                    _NN + "container.ParameterList",
                    parameters={str(k): weight for k, weight in enumerate(mixing)},
                    _size=len(mixing),
                )
            },
            max_l=a.max_l,
            radial_dim=a.n_rbf,
            radial_embedding_dim=a.n_radial,
            channel_dim=a.n_channels,
        ),
        "symmetrizer": module(
            m + "symmetrize_basis.Symmetrizer", max_nu=a.max_nu, max_l=a.max_l, vec_dict_allnu=program
        ),
        "message_passing_list": _sequence("ModuleList", [_message(model, t) for t in range(len(a.message_passing))]),
    }
    state: dict = {}
    if tensors:
        state["max_l_out"] = 2
        modules["symmetrizer_a"] = module(
            m + "symmetrize_basis.Symmetrizer_A",
            lxlylz_list=exponents,
            max_l=a.max_l,
            max_l_out=2,
            max_nu=a.max_nu,
            nu2_combos=products_nu2(a.max_l),
            nu3_combos=products_nu3(a.max_l, 3),
        )
    return module(
        "cace.representations.cace_representation.Cace", modules, zs=a.elements, nz=len(a.elements),
        n_atom_basis=a.n_embedding_neighbor, cutoff=a.cutoff_A, max_l=a.max_l, max_nu=a.max_nu,
        num_message_passing=len(a.message_passing),
        mp_norm_factor=next((x.norm for x in a.message_passing), 10**-0.5),
        l_list=exponents, device=Raw(b"ctorch\ndevice\n(X\x03\x00\x00\x00cputR"), **state,
    )  # fmt: skip


def _model(model: Model, outputs: list, *, tensors: bool = False) -> Obj:
    total = module(
        "cace.modules.feature_mix.FeatureAdd", feature_keys=["SR_energy", "ewald_potential"], output_key="CACE_energy"
    )
    forces = module("cace.modules.forces.Forces", energy_key="CACE_energy", forces_key="CACE_forces", calc_forces=True)
    return module(
        "cace.models.atomistic.NeuralNetworkPotential",
        {
            "representation": representation(model, tensors=tensors),
            "input_modules": _sequence("ModuleList", [module("cace.modules.preprocess.Preprocess")]),
            "output_modules": _sequence("ModuleList", [*outputs, total, forces]),
        },
        do_postprocessing=False,
        keep_graph=False,
        model_outputs=["CACE_energy"],
    )


def _ewald(path: str, model: Model, **state) -> Obj:
    e = model.header.electrostatics
    return module(
        path, dl=e.dl_A, sigma=e.sigma_A, sigma_sq_half=e.sigma_A**2 / 2, twopi=2 * np.pi, norm_factor=e.norm_factor,
        k_sq_max=(2 * np.pi / e.dl_A) ** 2, remove_self_interaction=e.remove_self_interaction, **state,
    )  # fmt: skip


def native(model: Model) -> Obj:
    """CACE's own charges and EwaldPotential."""
    a, w = model.header.architecture, model.arrays
    ewald = _ewald(
        "cace.modules.ewald.EwaldPotential", model, exponent=1, feature_key="q", output_key="ewald_potential",
        aggregation_mode="sum", external_field=None, compute_field=False, charge_neutral_lambda=None,
    )  # fmt: skip
    energy = _cace_atomwise(w, "energy", a.energy, "SR_energy")
    return _model(model, [energy, _cace_atomwise(w, "charge", a.charge, "tot_q", "q"), ewald])


_KEYS = {"charge_responses": "kappas", "dipoles": "dipoles", "polarizabilities": "alphas", "quadrupoles": "quads"}


def les(model: Model, *, l2_key: list[str] | None = None) -> Obj:
    """LesWrapper, with a TensorReadout where the model has tensors; ``l2_key`` orders the outputs of rank 2."""
    h, w = model.header, model.arrays
    a, outputs = h.architecture, []
    keys = {q: key for q, key in _KEYS.items() if q in h.predicts}
    if a.tensor is not None:
        ours = [keys[q] for q in ("polarizabilities", "quadrupoles") if q in keys]
        theirs = l2_key or ours or ["unused"]
        rows = [ours.index(k) if k in ours else len(ours) for k in theirs]
        rows += [k for k in range(a.tensor.outputs) if k not in rows]
        mixing = {rank: w[f"tensor/mix_out_{rank}"] for rank in range(3)}
        mixing[2] = np.ascontiguousarray(mixing[2][rows])
        gates = [
            _sequence(
                "Sequential",
                [
                    _linear(w[f"tensor/gate_weight_{rank}"], w[f"tensor/gate_bias_{rank}"]),
                    module(_NN + "activation." + ("Sigmoid" if rank else "SiLU")),
                ],
            )
            for rank in range(3)
        ]
        t = "cace.modules.tensornet."
        mix_in = _sequence("ModuleList", [_linear(w[f"tensor/mix_in_{rank}"]) for rank in range(3)])
        forward = module(
            t + "TensorFeedForward",
            {
                "mix1": module(t + "TensorLinearMixing", {"linear_list": mix_in}),
                "gate": module(
                    t + "TensorActivationGate",
                    {"net0": gates[0], "norm_net_list": _sequence("ModuleList", gates[1:])},
                    lomax=2,
                ),
                "mix2": module(
                    t + "TensorLinearMixing",
                    {"linear_list": _sequence("ModuleList", [_linear(mixing[rank]) for rank in range(3)])},
                ),
            },
            lomax=2,
        )
        outputs.append(
            module(
                "cace.modules.tensor_readout.TensorReadout", {"tensor_feed_forward": forward}, max_l=2,
                feature_key="node_feats_l", l0_key=["kappas"], l1_key=["dipoles"], l2_key=theirs, n_channel=1,
                l0_output_scale=h.scales.charge_response, l1_output_scale=1.0, l2_output_scale=1.0,
            )
        )  # fmt: skip
    modules = {
        "les": module(
            "les.les.Les",
            {
                "atomwise": _atomwise("les.module", w, "charge", a.charge, output_scaling_factor=h.scales.charge),
                "ewald": _ewald("les.module.ewald.Ewald", model, use_epsilon_r_scaling=False),
                "bec": module("les.module.bec.BEC", remove_mean=True, epsilon_factor=1.0, normalization_factor=1.0),
            },
            use_atomwise=True,
        )
    }
    if a.scalar_polarizability is not None:
        name = "scalar_polarizability"
        layers = []
        for k in range(3):
            layers.append(_linear(w[f"{name}/weight_{k}"], w.get(f"{name}/bias_{k}")))
            if k < 2:
                layers.append(module(_NN + "activation.SiLU", inplace=False))
        modules["alpha_scalar_mlp"] = _sequence("Sequential", layers)
    wrapper = module(
        "cace.modules.les_wrapper.LesWrapper", modules, feature_key="node_feats", energy_key="ewald_potential",
        charge_key="LES_charge", bec_key="LES_BEC", compute_energy=True, compute_bec=False, bec_output_index=None,
        dipole_key=keys.get("dipoles"), quad_key=keys.get("quadrupoles"), kappa_key=keys.get("charge_responses"),
        alpha_key=keys.get("polarizabilities"), atomic_number_key=None,
        add_scalar_alpha=a.scalar_polarizability is not None,
        scaling_factor_scalar_alpha=h.scales.scalar_polarizability, **h.flags.model_dump(),
    )  # fmt: skip
    return _model(
        model,
        [*outputs, wrapper, _cace_atomwise(w, "energy", a.energy, "SR_energy")],
        tensors=a.tensor is not None,
    )


def payload(module_name: str, name: str, argument: str) -> bytes:
    """Opcodes of a call, in the oldest protocol."""
    return f"c{module_name}\n{name}\n(V{argument}\ntR".encode()
