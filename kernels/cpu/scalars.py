"""The scalar physics of ``kernels.scalar``, compiled for the CPU."""

from polmd.kernels.compile import compile_scalars
from polmd.kernels.cpu import simd
from polmd.kernels.scalar import elementary, multipole, primitives, radial, smearing, tensor

_CONTRACT = frozenset({"contract"})  # fused multiply-add only: range reductions forbid reassociation

_primitives = {name: getattr(simd, name) for name in primitives.__all__}
_elementary = compile_scalars(elementary, _CONTRACT, _primitives)
sigmoid = _elementary["sigmoid"]
silu = _elementary["silu"]
sincos = _elementary["sincos"]

_radial = compile_scalars(radial, _CONTRACT, _elementary)
cutoff_function = _radial["cutoff_function"]
radial_basis = _radial["radial_basis"]

_tensor = compile_scalars(tensor, _CONTRACT)
double = _tensor["double"]
add3 = _tensor["add3"]
add6 = _tensor["add6"]
add10 = _tensor["add10"]
scale3 = _tensor["scale3"]
scale6 = _tensor["scale6"]
dot = _tensor["dot"]
cross = _tensor["cross"]
trace_product = _tensor["trace_product"]
matrix_vector = _tensor["matrix_vector"]
tensor_vector = _tensor["tensor_vector"]
tensor_matrix = _tensor["tensor_matrix"]
outer_self = _tensor["outer_self"]
outer_symmetric = _tensor["outer_symmetric"]
outer_mean = _tensor["outer_mean"]
square = _tensor["square"]
tensor_square = _tensor["tensor_square"]
matrix_product = _tensor["matrix_product"]
symmetric_part = _tensor["symmetric_part"]
axial_part = _tensor["axial_part"]
general_matrix = _tensor["general_matrix"]
general_symmetric_product = _tensor["general_symmetric_product"]
transpose = _tensor["transpose"]
gradient_matrix = _tensor["gradient_matrix"]
gradient_square_norm = _tensor["gradient_square_norm"]
gradient_vector_matrix = _tensor["gradient_vector_matrix"]
gradient_tensor_square = _tensor["gradient_tensor_square"]

_multipole = compile_scalars(multipole, _CONTRACT, _tensor)
row_factors = _multipole["row_factors"]
potential_derivatives = _multipole["potential_derivatives"]
force_on = _multipole["force_on"]

_smearing = compile_scalars(smearing, _CONTRACT, {**_elementary, **_primitives})
boys = _smearing["boys"]
smeared_coulomb = _smearing["smeared_coulomb"]
point_coulomb = _smearing["point_coulomb"]
