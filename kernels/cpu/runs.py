"""Vector arithmetic on short runs of arrays, spelled out for LLVM.

The compiler vectorises a loop only where it can prove, or check at run time, that the arrays do not overlap, and it does
not check for runs as short as a line of a mesh patch. :func:`combine` says it outright.
"""

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

#: Numbers that one call works on.
LANES = 12
#: Of these, the numbers in one vector.
_WIDTH = 4


@intrinsic
def combine(typing_context, keep, target, position, factors, source, offsets):
    """target[position + k] = keep · target[position + k] + Σ_i factors[i] · source[offsets[i] + k] for k < LANES.

    ``keep`` is the literal 1 (add) or 0 (overwrite); target, source: C-ordered 1-D float64 arrays, the same or not;
    factors, offsets: tuples of equal length. Nothing is checked.
    """
    if not isinstance(keep, types.IntegerLiteral):
        return None
    count = len(offsets)
    signature = types.void(keep, target, position, factors, source, offsets)

    def codegen(context, builder, sig, args):
        _, target_value, position_value, factor_values, source_value, offset_values = args
        pointer = cgutils.create_struct_proxy(target)(context, builder, target_value).data
        origin = cgutils.create_struct_proxy(source)(context, builder, source_value).data
        vector = ir.VectorType(ir.DoubleType(), _WIDTH)

        def address(base, index, lane):
            index = builder.add(index, ir.Constant(index.type, lane))
            return builder.bitcast(builder.gep(base, [index]), vector.as_pointer())

        def load(base, index, lane):
            value = builder.load(address(base, index, lane))
            value.align = 8
            return value

        splats = []
        for i in range(count):
            single = builder.insert_element(
                ir.Constant(vector, ir.Undefined),
                builder.extract_value(factor_values, i),
                ir.Constant(ir.IntType(32), 0),
            )
            mask = ir.Constant(ir.VectorType(ir.IntType(32), _WIDTH), [0] * _WIDTH)
            splats.append(builder.shuffle_vector(single, ir.Constant(vector, ir.Undefined), mask))
        for lane in range(0, LANES, _WIDTH):
            total = load(pointer, position_value, lane) if keep.literal_value else None
            for i in range(count):
                term = load(origin, builder.extract_value(offset_values, i), lane)
                product = builder.fmul(splats[i], term, flags=["contract"])
                total = product if total is None else builder.fadd(total, product, flags=["contract"])
            builder.store(total, address(pointer, position_value, lane), align=8)
        return context.get_dummy_value()

    return signature, codegen
