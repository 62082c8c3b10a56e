"""Forces and the steps of integrators on a GPU, all in float64.

Positions, velocities and forces stay on the device. What changes from step to step is read from arrays there too (the
number of the step, the thermostat's target), so that every step is the same launches with the same arguments.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numba import cuda, types
from polmd.kernels.cuda.compile import Kernel, array, real, scalars
from polmd.kernels.cuda.descriptor import BAD
from polmd.kernels.cuda.moments import FORCE

#: Constants of a step: half kick (½ Δt in units of eV/Å per amu), drift, decay of the velocities, largest force² and speed².
HALF_KICK, DRIFT, DECAY, MAX_FORCE, MAX_SPEED = range(5)
N_CONSTANTS = 5
#: Blocks of the kernels that add up momenta: their number fixes the order of the sum.
BLOCKS = 64
_DOUBLE = np.dtype(np.float64)
_F, _F2 = array(types.float64), array(types.float64, 2)
_I, _I2, _L = array(types.int32), array(types.int32, 2), array(types.int64)


@functools.cache
def gather_forces(dtype: np.dtype, block: int = 32) -> Kernel:
    """Forces: an atom's own part of the network, what it is to its neighbours, and the long-range force. One block an atom.

    name                        shape              dtype    unit  in/out
    counts, neighbors, mirrors                                    in, from neighbors.find_pairs and find_mirrors
    edge_of                     (n, capacity)      int32          in, from descriptor.find_edges
    slopes                      (n, capacity, 3)   network  eV/Å  in, from network.reverse
    own                         (n, 3)             float64  eV/Å  in, from network.reverse
    results                     (n, 11)            float64  eV/Å  in, from moments.finish
    forces                      (n, 3)             float64  eV/Å  out
    """
    threads, room = block, 3 * block

    def gather_forces(counts, neighbors, mirrors, edge_of, slopes, own, results, forces):
        s = cuda.shared.array(room, types.float64)
        i, thread = cuda.blockIdx.x, cuda.threadIdx.x
        x, y, z = nothing, nothing, nothing
        for p in range(thread, counts[i], threads):
            j, mirror = neighbors[i, p], mirrors[i, p]
            e = edge_of[j, mirror] if mirror >= 0 else -1
            if e >= 0:
                x, y, z = x + slopes[j, e, 0], y + slopes[j, e, 1], z + slopes[j, e, 2]
        s[3 * thread], s[3 * thread + 1], s[3 * thread + 2] = x, y, z
        cuda.syncthreads()
        for c in range(thread, 3, threads):
            total = own[i, c] + results[i, FORCE + c]
            for k in range(threads):
                total += s[3 * k + c]
            forces[i, c] = total

    nothing = np.float64(0)
    return Kernel(
        gather_forces, (_I, _I2, _I2, _I2, array(real(dtype), 3), _F2, _F2, _F2), np.dtype(dtype), block, occupancy=0.45,
        sums="the force on an atom",
    )  # fmt: skip


@functools.cache
def kick_drift(block: int = 128) -> Kernel:
    """v += ½Δt F/m; x += Δt v: positions, velocities (n, 3) in/out; forces (n, 3), inverse_masses (n,), constants in."""

    def kick_drift(positions, velocities, forces, inverse_masses, constants):
        for i in range(cuda.grid(1), len(positions), cuda.gridsize(1)):
            scale = constants[HALF_KICK] * inverse_masses[i]
            for c in range(3):
                velocities[i, c] += scale * forces[i, c]
                positions[i, c] += constants[DRIFT] * velocities[i, c]

    return Kernel(kick_drift, (_F2, _F2, _F2, _F, _F), _DOUBLE, block, occupancy=0.5)


@functools.cache
def kick_drift_noise(block: int = 128) -> Kernel:
    """The first half of BAOAB: v += ½Δt F/m; x += ½Δt v; noise √(thermal/m) ξ and the momentum that it carries.

    name                                                  shape       dtype    unit          in/out
    positions, velocities                                 (n, 3)      float64                in/out
    forces, masses, inverse_masses, constants                                                in; the drift is half a step's
    thermal                                               (chunk,)    float64  amu Å²/fs²    in, (1 − c²) k_B T of each step
    key                                                   (2,)        int64                  in, two words of 32 bits
    counter                                               (2,)        int64                  in, steps done, steps of the chunk
    noise                                                 (n, 3)      float64  Å/fs          out
    partial                                               (blocks, 4) float64                out, Σ m·noise, Σ m of free atoms

    ξ of atom i in step t: normal numbers from philox(i, t, 0) under the key.
    """
    p, threads, room = scalars(_DOUBLE), block, 4 * block
    philox, normal_pair = p.philox, p.normal_pair

    def kick_drift_noise(
        positions, velocities, forces, masses, inverse_masses, constants, thermal, key, counter, noise, partial
    ):
        s = cuda.shared.array(room, types.float64)
        thread, step = cuda.threadIdx.x, counter[0]
        x, y, z, mass = 0.0, 0.0, 0.0, 0.0
        for i in range(cuda.grid(1), len(positions), cuda.gridsize(1)):
            scale = constants[HALF_KICK] * inverse_masses[i]
            for c in range(3):
                velocities[i, c] += scale * forces[i, c]
                positions[i, c] += constants[DRIFT] * velocities[i, c]
                noise[i, c] = 0.0
            if inverse_masses[i] > 0.0:
                width = math.sqrt(thermal[counter[1]] * inverse_masses[i])
                w0, w1, w2, w3 = philox(i, step & 0xFFFFFFFF, step >> 32, 0, key[0], key[1])
                g0, g1 = normal_pair(w0, w1)
                g2, _ = normal_pair(w2, w3)
                noise[i, 0], noise[i, 1], noise[i, 2] = width * g0, width * g1, width * g2
                m = masses[i]
                x, y, z, mass = x + m * noise[i, 0], y + m * noise[i, 1], z + m * noise[i, 2], mass + m
        s[4 * thread], s[4 * thread + 1], s[4 * thread + 2], s[4 * thread + 3] = x, y, z, mass
        cuda.syncthreads()
        for c in range(thread, 4, threads):
            total = 0.0
            for k in range(threads):
                total += s[4 * k + c]
            partial[cuda.blockIdx.x, c] = total

    return Kernel(kick_drift_noise, (_F2, _F2, _F2, _F, _F, _F, _F, _L, _L, _F2, _F2), _DOUBLE, block, occupancy=0.25)


@functools.cache
def ornstein_uhlenbeck(block: int = 128) -> Kernel:
    """The second half: v ← c v + noise − V; x += ½Δt v. V: velocity of the noise's centre of mass, or zero.

    name                                   shape        dtype    unit        in/out
    positions, velocities                  (n, 3)       float64              in/out
    noise, partial                                                           in, from kick_drift_noise
    masses, inverse_masses, constants                                        in
    remove                                 (1,)         float64              in, one to take V out, zero to leave it
    gained                                 (n, 1)       float64  amu Å²/fs²  in/out, kinetic energy that this added, summed up
    """

    def ornstein_uhlenbeck(positions, velocities, noise, partial, masses, inverse_masses, constants, remove, gained):
        shift = cuda.shared.array(4, types.float64)
        thread = cuda.threadIdx.x
        for c in range(thread, 4, cuda.blockDim.x):
            total = 0.0
            for k in range(len(partial)):
                total += partial[k, c]
            shift[c] = total
        cuda.syncthreads()
        for i in range(cuda.grid(1), len(positions), cuda.gridsize(1)):
            if inverse_masses[i] > 0.0:
                for c in range(3):
                    before = velocities[i, c]
                    after = constants[DECAY] * before + (noise[i, c] - remove[0] * (shift[c] / shift[3]))
                    velocities[i, c] = after
                    gained[i, 0] += 0.5 * masses[i] * (after - before) * (after + before)
                    positions[i, c] += constants[DRIFT] * after

    return Kernel(ornstein_uhlenbeck, (_F2, _F2, _F2, _F2, _F, _F, _F, _F, _F2), _DOUBLE, block, occupancy=0.25)


@functools.cache
def kick(block: int = 128) -> Kernel:
    """The last half kick; marks the step as failed when a force or a speed is not finite or beyond the limits.

    name            shape   dtype    in/out
    velocities      (n, 3)  float64  in/out
    forces, inverse_masses, constants  in
    counter         (2,)    int64    in/out, one more step is done
    flags           (6,)    int32    in/out
    """

    def kick(velocities, forces, inverse_masses, constants, counter, flags):
        start = cuda.grid(1)
        if start == 0:
            counter[0] += 1
            counter[1] += 1
        for i in range(start, len(velocities), cuda.gridsize(1)):
            scale, force, speed = constants[HALF_KICK] * inverse_masses[i], 0.0, 0.0
            for c in range(3):
                velocities[i, c] += scale * forces[i, c]
                force += forces[i, c] * forces[i, c]
                speed += velocities[i, c] * velocities[i, c]
            if inverse_masses[i] == 0.0:
                force = 0.0 * force  # NaN stays
            if not (force <= constants[MAX_FORCE] and speed <= constants[MAX_SPEED]):
                flags[BAD] = 1

    return Kernel(kick, (_F2, _F2, _F, _F, _L, _I), _DOUBLE, block, occupancy=0.5)
