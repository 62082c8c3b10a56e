"""The steps that integrators are composed of: change velocities and positions in place, one pass over the atoms each.

Every driver runs on one thread, atom after atom: these passes are a negligible part of a time step, and a sum in the
order of the atoms is the same bit for bit whatever the number of threads. All arrays are float64 and C-contiguous. An
atom whose inverse mass is zero is fixed: it is never kicked and gets no noise.
"""

import math

import numpy as np
from polmd.kernels.compile import kernel


@kernel()
def kick(velocities, forces, inverse_masses, factor):
    """v_i += factor · F_i / m_i.

    ============== ======= ======= ============ ======
    name           shape   dtype   unit         in/out
    ============== ======= ======= ============ ======
    velocities     (n, 3)  float64 Å/fs         in/out
    forces         (n, 3)  float64 eV/Å         in
    inverse_masses (n,)    float64 1/amu        in
    factor         ()      float64 fs · (amu·Å/fs²)/(eV/Å): duration times ``units.ACCELERATION``, in
    ============== ======= ======= ============ ======
    """
    for i in range(velocities.shape[0]):
        scale = factor * inverse_masses[i]
        for c in range(3):
            velocities[i, c] += scale * forces[i, c]


@kernel()
def drift(positions, velocities, duration):
    """x_i += duration · v_i.

    ============== ======= ======= ============ ======
    name           shape   dtype   unit         in/out
    ============== ======= ======= ============ ======
    positions      (n, 3)  float64 Å            in/out
    velocities     (n, 3)  float64 Å/fs         in
    duration       ()      float64 fs           in
    ============== ======= ======= ============ ======
    """
    for i in range(positions.shape[0]):
        for c in range(3):
            positions[i, c] += duration * velocities[i, c]


@kernel()
def ornstein_uhlenbeck(velocities, normals, masses, inverse_masses, decay, thermal, remove_momentum):
    """v_i ← decay · v_i + √(thermal / m_i) · ξ_i − V, and the kinetic energy that this adds.

    V is zero, or, with ``remove_momentum``, the velocity of the noise's centre of mass, Σ √(thermal m_i) ξ_i / Σ m_i (sums
    over atoms that are not fixed). Subtracting it projects the noise, in the metric of the masses, on the
    3n − 3 directions without total momentum: their Gaussian distribution stays exact and the noise adds no momentum.

    ================ ======= ======= ============ ======
    name             shape   dtype   unit         in/out
    ================ ======= ======= ============ ======
    velocities       (n, 3)  float64 Å/fs         in/out
    normals          (n, 3)  float64 1            in: independent standard normal numbers ξ
    masses           (n,)    float64 amu          in
    inverse_masses   (n,)    float64 1/amu        in
    decay            ()      float64 1            in: exp(−γ Δt)
    thermal          ()      float64 amu·Å²/fs²   in: (1 − decay²) k_B T, times ``units.ACCELERATION``
    remove_momentum  ()      bool                 in
    returned         ()      float64 amu·Å²/fs²   out: Σ ½ m_i (v_i'² − v_i²)
    ================ ======= ======= ============ ======
    """
    n = velocities.shape[0]
    shift = np.zeros(3)
    if remove_momentum:
        total = 0.0
        for i in range(n):
            if inverse_masses[i] > 0.0:
                total += masses[i]
                width = masses[i] * math.sqrt(thermal * inverse_masses[i])
                for c in range(3):
                    shift[c] += width * normals[i, c]
        if total > 0.0:
            for c in range(3):
                shift[c] /= total
    gained = 0.0
    for i in range(n):
        if inverse_masses[i] > 0.0:
            width = math.sqrt(thermal * inverse_masses[i])
            for c in range(3):
                before = velocities[i, c]
                after = decay * before + (width * normals[i, c] - shift[c])
                velocities[i, c] = after
                gained += 0.5 * masses[i] * (after - before) * (after + before)
    return gained


@kernel()
def kinetic_energy(velocities, masses):
    """Σ ½ m_i v_i².

    ============== ======= ======= ============ ======
    name           shape   dtype   unit         in/out
    ============== ======= ======= ============ ======
    velocities     (n, 3)  float64 Å/fs         in
    masses         (n,)    float64 amu          in
    returned       ()      float64 amu·Å²/fs²   out: divide by ``units.ACCELERATION`` for eV
    ============== ======= ======= ============ ======
    """
    total = 0.0
    for i in range(velocities.shape[0]):
        square = 0.0
        for c in range(3):
            square += velocities[i, c] * velocities[i, c]
        total += 0.5 * masses[i] * square
    return total


@kernel()
def total_momentum(velocities, masses, momentum):
    """P = Σ m_i v_i.

    ============== ======= ======= ============ ======
    name           shape   dtype   unit         in/out
    ============== ======= ======= ============ ======
    velocities     (n, 3)  float64 Å/fs         in
    masses         (n,)    float64 amu          in
    momentum       (3,)    float64 amu·Å/fs     out
    ============== ======= ======= ============ ======
    """
    momentum[:] = 0.0
    for i in range(velocities.shape[0]):
        for c in range(3):
            momentum[c] += masses[i] * velocities[i, c]


@kernel()
def largest_norm(vectors):
    """max_i |a_i|: NaN when any component is NaN, infinity when none is NaN but one is infinite.

    ============== ======= ======= ============ ======
    name           shape   dtype   unit         in/out
    ============== ======= ======= ============ ======
    vectors        (n, 3)  float64 any          in
    returned       ()      float64 the same     out: zero without atoms
    ============== ======= ======= ============ ======
    """
    largest = 0.0
    for i in range(vectors.shape[0]):
        square = 0.0
        for c in range(3):
            square += vectors[i, c] * vectors[i, c]
        if math.isnan(square):
            return math.nan
        largest = max(largest, square)
    return math.sqrt(largest)


@kernel()
def fire_step(positions, velocities, forces, factor, mixing, timestep, largest_step):
    """One semi-implicit Euler step of FIRE with unit masses.

    v ← v + factor F;  v ← (1 − mixing) v + mixing |v| F/|F|;  Δx = timestep v, scaled down as a whole when an atom
    would move more than ``largest_step``;  x ← x + Δx. Norms run over all components.

    ============== ======= ======= ============ ======
    name           shape   dtype   unit         in/out
    ============== ======= ======= ============ ======
    positions      (n, 3)  float64 Å            in/out
    velocities     (n, 3)  float64 Å/fs         in/out: FIRE's own, not those of the dynamics
    forces         (n, 3)  float64 eV/Å         in
    factor         ()      float64 Å²/(eV·fs)   in: timestep times ``units.ACCELERATION`` over 1 amu
    mixing         ()      float64 1            in: α of FIRE
    timestep       ()      float64 fs           in
    largest_step   ()      float64 Å            in
    ============== ======= ======= ============ ======
    """
    n = positions.shape[0]
    speed = 0.0
    strength = 0.0
    for i in range(n):
        for c in range(3):
            velocities[i, c] += factor * forces[i, c]
            speed += velocities[i, c] * velocities[i, c]
            strength += forces[i, c] * forces[i, c]
    along = mixing * math.sqrt(speed / strength) if strength > 0.0 else 0.0
    longest = 0.0
    for i in range(n):
        square = 0.0
        for c in range(3):
            velocities[i, c] = (1.0 - mixing) * velocities[i, c] + along * forces[i, c]
            square += velocities[i, c] * velocities[i, c]
        longest = max(longest, square)
    longest = timestep * math.sqrt(longest)
    scale = timestep * (largest_step / longest if longest > largest_step else 1.0)
    for i in range(n):
        for c in range(3):
            positions[i, c] += scale * velocities[i, c]


@kernel()
def power(velocities, forces):
    """Σ F_i · v_i.

    ============== ======= ======= ============ ======
    name           shape   dtype   unit         in/out
    ============== ======= ======= ============ ======
    velocities     (n, 3)  float64 Å/fs         in
    forces         (n, 3)  float64 eV/Å         in
    returned       ()      float64 eV/fs        out
    ============== ======= ======= ============ ======
    """
    total = 0.0
    for i in range(velocities.shape[0]):
        for c in range(3):
            total += velocities[i, c] * forces[i, c]
    return total
