"""Drivers for NVIDIA GPUs, with the modules of ``kernels.cpu`` and the scalar physics of ``kernels.scalar``.

Modules hold factories: a kernel is built for a precision, the sizes of a model and a block size (``compile.Kernel``).
Nothing here needs a device to be imported, compiled to machine code, or run in Numba's simulator
(``NUMBA_ENABLE_CUDASIM=1``); what cannot be used is said by ``compile.unavailable``.
"""
