"""Calls of compiled drivers from a compiled loop, by address.

A driver that calls another by name contains a copy of it: that doubles the time to compile it, and the copy may differ in
the last bit, optimised where it stands. Through its address a loop runs the same machine code as Python does.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.core.typing.typeof import typeof
from numba.extending import intrinsic

#: What a driver may return: nothing, a number, two numbers.
NOTHING, NUMBER, PAIR = types.none, types.float64, types.UniTuple(types.float64, 2)


def address(driver: Any, arguments: tuple, returns: types.Type) -> int:
    """Address of the machine code of a driver for arguments of these types; compiles it or loads it from the disk first.

    Raises TypeError when the driver returns something else: the caller would misread it; RuntimeError without machine code.
    """
    signature = tuple(typeof(argument) for argument in arguments)
    driver.compile(signature)
    overload = driver.overloads[signature]
    if overload.signature.return_type != returns:
        raise TypeError(f"{driver.py_func.__name__} returns {overload.signature.return_type}, not {returns}")
    found = overload.library.get_pointer_to_function(overload.fndesc.llvm_func_name)
    if not found:
        raise RuntimeError(f"Numba has no machine code of {driver.py_func.__name__}")
    return found


def _calls(returns: types.Type) -> Any:
    """A function ``call(address, arguments)`` for compiled code; the address must be that for a tuple of these very types."""

    @intrinsic
    def call(typing: Any, address: Any, arguments: Any) -> Any:
        taken = tuple(arguments)

        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            number, packed = values
            convention = context.call_conv
            function = builder.inttoptr(number, convention.get_function_type(returns, taken).as_pointer())
            parts = [builder.extract_value(packed, k) for k in range(len(taken))]
            status, result = convention.call_function(builder, function, returns, taken, parts)
            with cgutils.if_unlikely(builder, status.is_error):
                convention.return_status_propagate(builder, status)
            return result

        return returns(types.int64, arguments), generate

    return call


call, call_number, call_pair = _calls(NOTHING), _calls(NUMBER), _calls(PAIR)
