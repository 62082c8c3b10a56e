"""The GPUs there are, for ``polmd info``."""

from __future__ import annotations

from collections.abc import Iterator

from numba import cuda

from polmd.kernels.cuda.compile import SIMULATED


def devices() -> Iterator[str]:
    """A line for the driver and one for every GPU."""
    if SIMULATED:
        yield "cuda: Numba's simulator (NUMBA_ENABLE_CUDASIM is set): for tests, nothing runs on a GPU"
        return
    from cuda.bindings import driver, runtime

    _, number = driver.cuDriverGetVersion()
    _, toolkit = runtime.cudaRuntimeGetVersion()
    yield f"cuda: driver for CUDA {number // 1000}.{number % 1000 // 10}, runtime {toolkit // 1000}.{toolkit % 1000 // 10}"
    for gpu in cuda.gpus:
        name = gpu.name.decode() if isinstance(gpu.name, bytes) else gpu.name
        with gpu:
            free, total = cuda.current_context().get_memory_info()
        major, minor = gpu.compute_capability
        yield (
            f"cuda:{gpu.id}: {name}, compute capability {major}.{minor}, {gpu.MULTIPROCESSOR_COUNT} multiprocessors, "
            f"{total / 2**30:.1f} GiB of memory, {free / 2**30:.1f} free"
        )
