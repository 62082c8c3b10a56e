"""Torch modules of a checkpoint, each attribute accounted for: what polmd does not know is refused by name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from polmd.errors import InputError
from polmd.model.importers.checkpoint import Checkpoint
from polmd.model.importers.inert_pickle import Name, Record, Tensor

# Attributes of every torch module: bookkeeping, and hooks, which have to be empty.
_BOOKKEEPING = {"training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
_HOOKS = {
    "_backward_pre_hooks", "_backward_hooks", "_is_full_backward_hook", "_forward_hooks", "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_state_dict_hooks",
    "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
}  # fmt: skip
# Class → attributes that polmd knows: read below, or without influence on the energy.
_NN = "torch.nn.modules."
_ATTRIBUTES: dict[str, str] = {
    "cace.models.atomistic.NeuralNetworkPotential": "do_postprocessing required_derivatives model_outputs keep_graph",
    "cace.representations.cace_representation.Cace": (
        "zs nz n_atom_basis cutoff max_l max_nu max_l_out mp_norm_factor keep_node_features_A forward_features "
        "charge_spin_key n_edge_channels n_radial_func n_radial_basis l_list num_message_passing device timeit"
    ),
    "cace.modules.type.NodeEncoder": "num_classes",
    "cace.modules.type.NodeEmbedding": "",
    "cace.modules.type.EdgeEncoder": "directed",
    "cace.modules.radial.BesselRBF": "n_rbf",
    "cace.modules.cutoff.PolynomialCutoff": "",
    "cace.modules.angular.AngularComponent": "l_max lxlylz_dict lxlylz_list lxlylz_index",
    "cace.modules.radial_transform.SharedRadialLinearTransform": "max_l radial_dim radial_embedding_dim channel_dim",
    "cace.modules.symmetrize_basis.Symmetrizer": "max_nu max_l l_list_indices vec_dict_allnu indice_dict_allnu",
    "cace.modules.symmetrize_basis.Symmetrizer_A": "lxlylz_list max_l max_l_out max_nu nu2_combos nu3_combos",
    "cace.modules.interaction.NodeMemory": "max_l radial_embedding_dim channel_dim",
    "cace.modules.interaction.MessageAr": "radial_embedding_dim channel_dim",
    "cace.modules.interaction.MessageBchi": (
        "n_in n_hidden n_layers activation residual use_batchnorm shared_channels shared_l nl nlxlylz nc hnet"
    ),
    "cace.modules.preprocess.Preprocess": "",
    "cace.modules.atomwise.Atomwise": (
        "output_key model_outputs per_atom_output_key descriptor_output_key n_out n_in n_hidden n_layers activation "
        "aggregation_mode residual use_batchnorm add_linear_nn post_process bias feature_key output_scale outnet "
        "linear_nn"
    ),
    "cace.modules.blocks.Dense": "use_batchnorm activation",
    "cace.modules.ewald.EwaldPotential": (
        "dl sigma exponent sigma_sq_half twopi twopi_sq remove_self_interaction feature_key output_key aggregation_mode "
        "model_outputs norm_factor k_sq_max external_field external_field_direction compute_field "
        "charge_neutral_lambda required_derivatives"
    ),
    "cace.modules.feature_mix.FeatureAdd": "feature_keys output_key model_outputs",
    "cace.modules.forces.Forces": (
        "calc_forces calc_stress energy_key forces_key stress_key virial_key model_outputs required_derivatives"
    ),
    "cace.modules.les_wrapper.LesWrapper": (  # output_key: its first version's name of energy_key
        "feature_key energy_key output_key charge_key dipole_key quad_key kappa_key alpha_key atomic_number_key "
        "make_alpha_positive make_kappa_positive make_quad_traceless add_scalar_alpha scaling_factor_scalar_alpha "
        "bec_key bec_output_index compute_energy compute_bec model_outputs required_derivatives"
    ),
    "cace.modules.tensor_readout.TensorReadout": (
        "max_l feature_key l0_key l1_key l2_key l0_output_scale l1_output_scale l2_output_scale n_channel model_outputs "
        "required_derivatives"
    ),
    "cace.modules.tensornet.TensorFeedForward": "lomax",
    "cace.modules.tensornet.TensorLinearMixing": "",
    "cace.modules.tensornet.TensorActivationGate": "lomax",
    "les.les.Les": (
        "n_layers n_hidden add_linear_nn output_scaling_factor sigma dl remove_self_interaction remove_mean epsilon_factor "
        "use_atomwise use_fixed_atomic_charges fixed_atomic_charges_scaling_factor use_atomic_alpha "
        "use_epsilon_r_scaling is_periodic N_max"
    ),
    "les.les._DummyAtomwise": "",
    "les.module.atomwise.Atomwise": (
        "n_in n_out n_hidden n_layers activation add_linear_nn bias output_scaling_factor outnet linear_nn"
    ),
    "les.module.blocks.Dense": "activation",
    "les.module.ewald.Ewald": (
        "dl sigma sigma_sq_half twopi twopi_sq remove_self_interaction norm_factor k_sq_max use_epsilon_r_scaling"
    ),
    "les.module.bec.BEC": "remove_mean epsilon_factor normalization_factor",
    _NN + "container.ModuleList": "",
    _NN + "container.ParameterList": "_size",
    _NN + "container.Sequential": "",
    _NN + "linear.Linear": "in_features out_features",
    _NN + "linear.Identity": "",
    _NN + "activation.SiLU": "inplace",
    _NN + "activation.Sigmoid": "",
}
# Classes that only add outputs beside the energy (polarisation, Born charges): not read, whatever is in them.
BESIDE = {
    "cace.modules.polarization.Polarization", "cace.modules.polarization.Dephase", "cace.modules.grad.Grad",
}  # fmt: skip
# Known, so that the refusal says what it is; polmd cannot evaluate them.
_UNSUPPORTED = {
    "cace.modules.interaction.MessageArMLP", "cace.modules.interaction.MessageBA",
    "cace.modules.radial.GaussianRBF", "cace.modules.radial.GaussianRBFCentered",
    "cace.modules.radial.ExponentialDecayRBF", "cace.modules.cutoff.CosineCutoff", "cace.modules.cutoff.MollifierCutoff",
    "cace.modules.cutoff.SwitchFunction", "cace.modules.blocks.ResidualBlock", _NN + "batchnorm.BatchNorm1d",
    _NN + "linear.LazyLinear", "les.module.fixedcharges.FixedCharges", "les.module.atomicalpha.AtomicAlpha",
    "les.module.ewald_vectorized.Ewald_vectorized",
}  # fmt: skip
SILU = {"torch.nn.functional.silu", "torch._C._nn.silu"}
CONSTANTS = SILU | {
    f"torch.nn.functional.{name}" for name in ("relu", "gelu", "tanh", "sigmoid", "softplus", "elu", "leaky_relu")
}
CLASSES = frozenset(_ATTRIBUTES) | BESIDE | _UNSUPPORTED


class Module:
    """A torch module out of the file, with its place for error messages."""

    def __init__(self, checkpoint: Checkpoint, value: Any, path: str, *kinds: str) -> None:
        self.checkpoint, self.path = checkpoint, path
        if not isinstance(value, Record):
            raise checkpoint.refusal(f"{path} is missing")
        self.kind = value.kind
        self.name = value.kind.rpartition(".")[2]
        if kinds and self.name not in kinds:
            raise self.refusal(f"is a {self.name}; polmd evaluates {' or '.join(kinds)} there")
        self._state = value.state
        for key in ("_parameters", "_buffers", "_modules"):
            if not isinstance(self._state.get(key, {}), dict):
                raise self.refusal(f"has {key} that are not a dictionary")
        if self.kind not in BESIDE:
            self._check()

    def refusal(self, reason: str) -> InputError:
        return self.checkpoint.refusal(f"{self.path} ({self.kind}) {reason}")

    def _check(self) -> None:
        if self.kind not in _ATTRIBUTES:
            raise self.refusal("is something that polmd cannot evaluate")
        for key in self._state.keys() & _HOOKS:
            if self._state[key]:
                raise self.refusal(f"has hooks ({key})")
        unknown = self._state.keys() - _BOOKKEEPING - _HOOKS - set(_ATTRIBUTES[self.kind].split())
        if unknown:
            raise self.refusal(f"has an attribute that polmd does not know: {min(unknown)[:80]!r}")

    def get(self, key: str, default: Any = None) -> Any:
        """A plain attribute."""
        return self._state.get(key, default)

    def require(self, key: str, *values: Any, default: Any = None) -> None:
        """Refuse unless the attribute has one of the values under which polmd evaluates the same function."""
        found = self.get(key, default)
        if not any(type(found) is type(v) and found == v for v in values):
            shown = (
                str(found)[:60] if isinstance(found, (Name, str, int, float, bool, type(None))) else "something else"
            )
            allowed = " or ".join(map(str, values))
            raise self.refusal(f"has {key} = {shown}; polmd evaluates {allowed}")

    def number(self, key: str) -> float:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.refusal(f"has no number {key}")
        return float(value)

    def integer(self, key: str) -> int:
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refusal(f"has no whole number {key}")
        return value

    def boolean(self, key: str, default: bool | None = None) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.refusal(f"has no {key} that is true or false")
        return value

    def text(self, key: str) -> str | None:
        value = self.get(key)
        if value is not None and not isinstance(value, str):
            raise self.refusal(f"has {key} that is not text")
        return value

    def texts(self, key: str) -> list[str]:
        value = self.get(key)
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, (list, tuple)) or len(values) > 100 or not all(isinstance(v, str) for v in values):
            raise self.refusal(f"has {key} that is not a list of names")
        return list(values)

    def has(self, key: str) -> bool:
        return isinstance(self._state.get("_modules", {}).get(key), Record)

    def child(self, key: str, *kinds: str) -> Module:
        return Module(self.checkpoint, self._state.get("_modules", {}).get(key), f"{self.path}.{key}", *kinds)

    def children(self) -> list[Module]:
        """Children of a list, in order; None among them is left out."""
        modules = self._state.get("_modules", {})
        if len(modules) > 100 or list(modules) != [str(k) for k in range(len(modules))]:
            raise self.refusal("is not a list of modules")
        return [self.child(key) for key, value in modules.items() if value is not None]

    def array(self, key: str, optional: bool = False) -> np.ndarray | None:
        """A parameter or buffer."""
        value = self._state.get("_parameters", {}).get(key)
        if value is None:
            value = self._state.get("_buffers", {}).get(key)
        if value is None and optional:
            return None
        if not isinstance(value, Tensor):
            raise self.refusal(f"has no numbers {key}")
        return self.checkpoint.array(value, f"{self.path}.{key}")

    def optional_children(self, *names: str) -> list[Module | None]:
        """Children of a list of fixed places, each of the class given or None."""
        modules = self._state.get("_modules", {})
        if list(modules) != [str(k) for k in range(len(names))]:
            raise self.refusal(f"does not have the places {', '.join(names)}")
        return [self.child(str(k), name) if modules[str(k)] is not None else None for k, name in enumerate(names)]

    def weights(self, key: str, *shape: int | None) -> np.ndarray:
        """A parameter or buffer in floating point, of the shape given (None: any length)."""
        array = self.array(key)
        assert array is not None
        if array.dtype.kind != "f":
            raise self.refusal(f"has {key} of type {array.dtype}, not float32 or float64")
        if array.ndim != len(shape) or any(s not in (None, n) for s, n in zip(shape, array.shape, strict=True)):
            raise self.refusal(f"has {key} of shape {array.shape}, expected {_shape_text(shape)}")
        if not np.isfinite(array).all():
            raise self.refusal(f"has {key} with values that are not finite")
        return array


def _shape_text(shape: Iterable[int | None]) -> str:
    return "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
