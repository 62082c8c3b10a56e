"""Slow twin of ``cpu/integrate.py``: the same functions, the same arguments, in plain NumPy."""

import numpy as np


def kick(velocities, forces, inverse_masses, factor):
    """v_i += factor · F_i / m_i."""
    velocities += factor * forces * inverse_masses[:, None]


def drift(positions, velocities, duration):
    """x_i += duration · v_i."""
    positions += duration * velocities


def ornstein_uhlenbeck(velocities, normals, masses, inverse_masses, decay, thermal, remove_momentum):
    """v_i ← decay · v_i + √(thermal / m_i) · ξ_i, without the noise's centre-of-mass velocity if asked."""
    mobile = inverse_masses > 0
    before = velocities[mobile]
    weights = masses[mobile, None]
    noise = np.sqrt(thermal / weights) * normals[mobile]
    if remove_momentum and mobile.any():
        noise -= (weights * noise).sum(axis=0) / weights.sum()
    after = decay * before + noise
    velocities[mobile] = after
    return np.sum(0.5 * weights * after**2) - np.sum(0.5 * weights * before**2)


def kinetic_energy(velocities, masses):
    """Σ ½ m_i v_i²."""
    return np.sum(0.5 * masses[:, None] * velocities**2)


def total_momentum(velocities, masses, momentum):
    """P = Σ m_i v_i."""
    momentum[:] = masses @ velocities


def largest_norm(vectors):
    """max_i |a_i|, NaN if any component is NaN."""
    return np.max(np.linalg.norm(vectors, axis=1), initial=0.0)


def fire_step(positions, velocities, forces, factor, mixing, timestep, largest_step):
    """Semi-implicit Euler step of FIRE with the longest move capped."""
    velocities += factor * forces
    strength = np.linalg.norm(forces)
    direction = forces / strength if strength > 0 else np.zeros_like(forces)
    velocities[:] = (1 - mixing) * velocities + mixing * np.linalg.norm(velocities) * direction
    step = timestep * velocities
    longest = largest_norm(step)
    positions += step * min(1.0, largest_step / longest) if longest > 0 else step


def power(velocities, forces):
    """Σ F_i · v_i."""
    return np.sum(velocities * forces)
