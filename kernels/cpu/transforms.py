"""Fourier transforms between the mesh and the modes that a truncated sum keeps.

The transforms themselves are DUCC's, through rocket-fft, which makes ``numpy.fft`` callable from compiled code (the same
library that ``scipy.fft`` runs): called by the threads of the parallel loops, plane by plane, they find their data in the
cache and need no threads of their own, which would wait for those of the loops.

Modes are kept after each axis: n0 from −a to a and n1 from −b to b, negative ones last, n2 from 0 to c.
"""

import numba
import numpy as np
from polmd.kernels.compile import kernel
from polmd.kernels.cpu.mesh import LANES


@kernel(parallel=True)
def to_modes(mesh, planes, spectrum):
    """Transform of a real mesh at the modes of a box, without a factor.

    name      shape                    dtype       unit  in/out
    mesh      (Nx, Ny, Nz + 12)        float64           in, its first Nz columns
    planes    (Nx, 2b + 1, c + 1)      complex128        scratch
    spectrum  (2a + 1, 2b + 1, c + 1)  complex128        out
    """
    nx, ny, nz = mesh.shape[0], mesh.shape[1], mesh.shape[2] - LANES
    a, b, c = spectrum.shape[0] // 2, spectrum.shape[1] // 2, spectrum.shape[2] - 1
    for x in numba.prange(nx):
        lines = np.fft.rfft(mesh[x, :, :nz])
        modes = np.fft.fft(lines[:, : c + 1], None, 0)
        planes[x, : b + 1] = modes[: b + 1]
        planes[x, b + 1 :] = modes[ny - b :]
    for y in numba.prange(2 * b + 1):
        modes = np.fft.fft(planes[:, y], None, 0)
        spectrum[: a + 1, y] = modes[: a + 1]
        spectrum[a + 1 :, y] = modes[nx - a :]


@kernel(parallel=True)
def to_mesh(spectrum, induced, influence, planes, mesh):
    """Inverse transform of influence · (spectrum + induced), with the factor 1/(Nx Ny Nz).

    name       shape                    dtype       unit  in/out
    spectrum   (2a + 1, 2b + 1, c + 1)  complex128        in, of a real mesh
    induced    the same, or (0, 0, 0)   complex128        in
    influence  the same                 float64           in
    planes     (Nx, 2b + 1, c + 1)      complex128        scratch
    mesh       (Nx, Ny, Nz + 12)        float64           out, every line goes on with its own beginning
    """
    nx, ny, nz = mesh.shape[0], mesh.shape[1], mesh.shape[2] - LANES
    a, b, c = spectrum.shape[0] // 2, spectrum.shape[1] // 2, spectrum.shape[2] - 1
    for y in numba.prange(2 * b + 1):
        modes = np.zeros((nx, c + 1), np.complex128)
        for x in range(2 * a + 1):
            to = x if x <= a else nx - 2 * a - 1 + x
            for z in range(c + 1):
                modes[to, z] = influence[x, y, z] * spectrum[x, y, z]
            if len(induced) > 0:
                for z in range(c + 1):
                    modes[to, z] += influence[x, y, z] * induced[x, y, z]
        planes[:, y] = np.fft.ifft(modes, None, 0)
    for x in numba.prange(nx):
        modes = np.zeros((ny, c + 1), np.complex128)
        modes[: b + 1] = planes[x, : b + 1]
        modes[ny - b :] = planes[x, b + 1 :]
        values = np.fft.irfft(np.fft.ifft(modes, None, 0), nz)
        for y in range(ny):
            for z in range(nz):
                mesh[x, y, z] = values[y, z]
            for k in range(LANES):
                mesh[x, y, nz + k] = values[y, k if k < nz else k % nz]  # divisions are slow


@kernel()
def mode_energies(structure, induced, place, weight, energies):
    """w Re[S* (S + 2 S̃)] of every wave vector: structure S (modes,) and induced S̃, the same or of length 0, complex, place
    (nk,) of the wave vectors among the modes, weight (nk,) in; energies (nk,) out."""
    for k in range(len(place)):
        s = structure[place[k]]
        energy = s.real * s.real + s.imag * s.imag
        if len(induced) > 0:
            more = induced[place[k]]
            energy += 2.0 * (s.real * more.real + s.imag * more.imag)
        energies[k] = weight[k] * energy
