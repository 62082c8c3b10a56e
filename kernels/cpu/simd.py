"""Short vectors as a Numba type: LANES numbers worked on by one instruction.

A kernel written with them says itself what is vectorised: nothing is left to LLVM's loop vectoriser, which takes half
the register width of AVX-512 and gives up on long bodies, and compiling takes a fraction of the time. Values are
immutable; + − * / with each other and with numbers work, numbers being converted to the vector's precision, so that the
functions of ``kernels.scalar`` take vectors as they are. Where registers are shorter LLVM splits every operation.
"""

import operator

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import PrimitiveModel, register_default
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin

#: One register of AVX-512; 8 numbers in float64, 16 in float32.
BYTES = 64


class Vector(types.Type):
    """BYTES of float64 or float32."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.lanes = BYTES // (dtype.bitwidth // 8)
        super().__init__(name=f"Vector({dtype})")


@register_default(Vector)
class VectorModel(PrimitiveModel):
    def __init__(self, manager, fe_type):
        super().__init__(manager, fe_type, ir.VectorType(manager[fe_type.dtype].get_value_type(), fe_type.lanes))


def _is_scalar(t):
    return isinstance(t, types.Float | types.Integer)


class _Binary(AbstractTemplate):
    def generic(self, args, kws):
        if len(args) != 2:
            return None
        a, b = args
        for vector, other in ((a, b), (b, a)):
            if isinstance(vector, Vector) and (other == vector or _is_scalar(other)):
                return signature(vector, a, b)
        return None


def _splat(context, builder, value, source, vector):
    value = context.cast(builder, value, source, vector.dtype)
    kind = context.get_value_type(vector)
    lane0 = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), vector.lanes), [0] * vector.lanes)
    return builder.shuffle_vector(lane0, ir.Constant(kind, ir.Undefined), mask)


def _operands(context, builder, sig, args):
    vector = sig.return_type
    return [
        value if source == vector else _splat(context, builder, value, source, vector)
        for source, value in zip(sig.args, args, strict=True)
    ]


def _register(op, instruction):
    @infer_global(op)
    class Typing(_Binary):
        pass

    def lower(context, builder, sig, args):
        a, b = _operands(context, builder, sig, args)
        return getattr(builder, instruction)(a, b)

    for left, right in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(op, left, right)(lower)


_register(operator.add, "fadd")
_register(operator.sub, "fsub")
_register(operator.mul, "fmul")
_register(operator.truediv, "fdiv")


@infer_global(operator.neg)
class _Unary(AbstractTemplate):
    def generic(self, args, kws):
        return signature(args[0], args[0]) if len(args) == 1 and isinstance(args[0], Vector) else None


@lower_builtin(operator.neg, Vector)
def _negate(context, builder, sig, args):
    return builder.fneg(args[0])


def _address(context, builder, array, data, index):
    return builder.gep(context.make_array(array)(context, builder, data).data, [index], inbounds=True)


def _is_plain(array):
    return isinstance(array, types.Array) and array.layout == "C" and array.ndim == 1


@intrinsic
def lanes(typingctx, array):
    """How many numbers of an array's precision make a vector: a constant of the compiled code."""
    if not isinstance(array, types.Array):
        return None
    count = Vector(array.dtype).lanes
    return types.intp(array), lambda context, builder, sig, args: context.get_constant(types.intp, count)


@intrinsic
def load(typingctx, array, index):
    """The numbers of a contiguous array from ``index`` on; bounds are not checked."""
    if not _is_plain(array):
        return None

    def codegen(context, builder, sig, args):
        pointer = _address(context, builder, array, args[0], args[1])
        kind = context.get_value_type(sig.return_type)
        return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=array.dtype.bitwidth // 8)

    return Vector(array.dtype)(array, types.intp), codegen


@intrinsic
def store(typingctx, array, index, value):
    """Write a vector to ``index`` and the places after it; bounds are not checked."""
    if not _is_plain(array) or value != Vector(array.dtype):
        return None

    def codegen(context, builder, sig, args):
        pointer = _address(context, builder, array, args[0], args[1])
        pointer = builder.bitcast(pointer, context.get_value_type(value).as_pointer())
        builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(array, types.intp, value), codegen


@intrinsic
def load_many(typingctx, array, index, step, count):
    """A tuple of ``count`` (a literal) vectors, their first numbers ``step`` apart in the array."""
    if not _is_plain(array) or not isinstance(count, types.IntegerLiteral):
        return None
    vector, number = Vector(array.dtype), count.literal_value

    def codegen(context, builder, sig, args):
        kind, at, vectors = context.get_value_type(vector), args[1], []
        for k in range(number):
            pointer = builder.bitcast(_address(context, builder, array, args[0], at), kind.as_pointer())
            vectors.append(builder.load(pointer, align=array.dtype.bitwidth // 8))
            at = builder.add(at, args[2]) if k + 1 < number else at
        return context.make_tuple(builder, sig.return_type, vectors)

    return types.UniTuple(vector, number)(array, types.intp, types.intp, count), codegen


@intrinsic
def store_many(typingctx, array, index, step, values):
    """Write a tuple of vectors, their first numbers ``step`` apart in the array."""
    if not _is_plain(array) or not isinstance(values, types.UniTuple) or values.dtype != Vector(array.dtype):
        return None

    def codegen(context, builder, sig, args):
        kind, at = context.get_value_type(values.dtype).as_pointer(), args[1]
        for k in range(values.count):
            pointer = builder.bitcast(_address(context, builder, array, args[0], at), kind)
            builder.store(builder.extract_value(args[3], k), pointer, align=array.dtype.bitwidth // 8)
            at = builder.add(at, args[2])
        return context.get_dummy_value()

    return types.none(array, types.intp, types.intp, values), codegen


@intrinsic
def add_scaled(typingctx, sums, x, values):
    """sums[k] + x values[k] for tuples of vectors."""
    if not isinstance(sums, types.UniTuple) or sums != values or x != sums.dtype:
        return None

    def codegen(context, builder, sig, args):
        out = [
            builder.fadd(builder.extract_value(args[0], k), builder.fmul(args[1], builder.extract_value(args[2], k)))
            for k in range(sums.count)
        ]
        return context.make_tuple(builder, sums, out)

    return sums(sums, x, values), codegen


@intrinsic
def add_weighted(typingctx, sums, x, weights, index):
    """sums[k] + x weights[index + k] for a tuple of vectors and a contiguous array of numbers."""
    if not isinstance(sums, types.UniTuple) or x != sums.dtype or not _is_plain(weights):
        return None

    def codegen(context, builder, sig, args):
        out = []
        for k in range(sums.count):
            at = builder.add(args[3], context.get_constant(types.intp, k))
            weight = builder.load(_address(context, builder, weights, args[2], at))
            term = builder.fmul(args[1], _splat(context, builder, weight, weights.dtype, x))
            out.append(builder.fadd(builder.extract_value(args[0], k), term))
        return context.make_tuple(builder, sums, out)

    return sums(sums, x, weights, types.intp), codegen


@intrinsic
def item(typingctx, array, index):
    """One number of a contiguous array, without the test for negative indices."""
    if not _is_plain(array):
        return None
    return array.dtype(array, types.intp), lambda context, builder, sig, args: builder.load(
        _address(context, builder, array, *args)
    )


@intrinsic
def zeros(typingctx, array):
    """A vector of zeros in the precision of ``array``."""
    vector = Vector(array.dtype)
    return vector(array), lambda context, builder, sig, args: ir.Constant(
        context.get_value_type(vector), [0.0] * vector.lanes
    )


@intrinsic
def total(typingctx, value):
    """Sum of a vector's numbers, as float64, in their order."""
    if not isinstance(value, Vector):
        return None

    def codegen(context, builder, sig, args):
        result = context.get_constant(types.float64, 0.0)
        for k in range(value.lanes):
            lane = builder.extract_element(args[0], ir.Constant(ir.IntType(32), k))
            result = builder.fadd(result, context.cast(builder, lane, value.dtype, types.float64))
        return result

    return types.float64(value), codegen


def _elementwise(name):
    """A function of LLVM that takes numbers and vectors alike."""

    def typer(typingctx, x):
        if not isinstance(x, types.Float | Vector):
            return None

        def codegen(context, builder, sig, args):
            kind, dtype = args[0].type, x.dtype if isinstance(x, Vector) else x
            suffix = f"f{dtype.bitwidth}" if kind.is_pointer or dtype is x else f"v{x.lanes}f{dtype.bitwidth}"
            function = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(kind, [kind]), f"llvm.{name}.{suffix}"
            )
            return builder.call(function, args)

        return x(x), codegen

    return intrinsic(typer)


square_root = _elementwise("sqrt")
nearest = _elementwise("rint")


@intrinsic
def below(typingctx, x, limit, value, otherwise):
    """``value`` where x < limit, else ``otherwise`` (NaN included); all but x may be numbers."""
    vector = x
    if not isinstance(x, Vector):
        return None

    def codegen(context, builder, sig, args):
        x, limit, value, otherwise = _operands(context, builder, sig, args)
        return builder.select(builder.fcmp_ordered("<", x, limit), value, otherwise)

    return vector(x, limit, value, otherwise), codegen


@intrinsic
def bits_below(typingctx, x, limit):
    """Where x < limit (false for NaN), as bits of a whole number, lane 0 the lowest."""
    if not isinstance(x, Vector) or not _is_scalar(limit):
        return None
    vector = x

    def codegen(context, builder, sig, args):
        limit_vector = _splat(context, builder, args[1], sig.args[1], vector)
        smaller = builder.fcmp_ordered("<", args[0], limit_vector)
        bits = builder.bitcast(smaller, ir.IntType(vector.lanes))
        return builder.zext(bits, ir.IntType(64))

    return types.uint64(x, limit), codegen


@intrinsic
def count_bits(typingctx, bits):
    """How many bits of a uint64 are set."""
    if bits != types.uint64:
        return None
    return types.uint64(bits), lambda context, builder, sig, args: builder.ctpop(args[0])


@intrinsic
def times_power_of_two(typingctx, x, n):
    """x 2^n for vectors, n whole numbers, as long as neither x nor the result is subnormal or too large."""
    if not isinstance(x, Vector) or x != n:
        return None
    bits, fraction = x.dtype.bitwidth, {64: 52, 32: 23}[x.dtype.bitwidth]

    def codegen(context, builder, sig, args):
        kind = ir.VectorType(ir.IntType(bits), x.lanes)
        magic = ir.Constant(args[1].type, [1.5 * 2.0**fraction] * x.lanes)  # the last bits of n + magic are n
        n = builder.bitcast(builder.fadd(args[1], magic), kind)
        exponent = builder.shl(n, ir.Constant(kind, [fraction] * x.lanes))
        return builder.bitcast(builder.add(builder.bitcast(args[0], kind), exponent), args[0].type)

    return x(x, n), codegen
