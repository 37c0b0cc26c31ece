"""A sampler for the frames of residues with new noise in each step."""

__all__ = ["frame_ancestral"]

import jax.numpy as jnp
from jax import Array

from diffusion.arrays.parameters import traced
from diffusion.flows.flow_maps import TangentField
from diffusion.manifolds import rigid_frames
from diffusion.manifolds.manifold import geodesic
from diffusion.manifolds.rotations import from_quaternion
from diffusion.package import public
from diffusion.samplers.sample import Sampler, State


def frame_ancestral(scale: float = 1.0, aligned: bool = True) -> Sampler:
    """Each step follows the velocity to clean frames g, and adds new noise to them up to the time s.

        x_s = geodesic(g, e, s),    g = exp(x_t, -t u(x_t, t)),    e ~ frame_prior(n, scale)

    If a sample has left the training paths, the noise at s hides part of the error, whereas a flow carries the error
    along. Near the data, where only one chain is likely, g is nearly a draw of x_0 given x_t.

    Facts:
        kind: stochastic, single step
        order: none; x_s has the distribution of the process if g is a draw of x_0 given x_t
        nfe: steps
        accepts: tangent fields on frames
        paper: Song et al. 2023, "Consistency Models", algorithm 1, with g in place of the consistency function

    Args:
        scale: standard deviation of the prior's positions, > 0.
        aligned: whether e is rotated to be nearest to g, as in training with `aligned_frames`.

    Raises:
        ValueError: if the scale is not positive.
    """
    if not traced(scale) and not scale > 0:
        raise ValueError(f"frame_ancestral: scale = {scale} must be positive")

    def step(state, field, schedule, plan, i, noise):
        t = plan.t[i]
        manifold = field.manifold
        guess = manifold.exp(state.x, -t * field(state.x, t))
        fresh = _prior_of(noise[0], scale)
        fresh = rigid_frames.aligned(guess, fresh) if aligned else fresh
        return State(geodesic(manifold, guess, fresh, plan.s[i]), guess)

    start = lambda x, schedule, plan: State(x, x)
    return Sampler(start, step, draws=1, nfe=lambda steps: steps, takes=(TangentField,))


def _prior_of(noise: Array, scale: float) -> Array:
    """Frames of the prior from standard normal numbers `[B, n, 3, 4]`; five of the twelve per residue are not used."""
    rotations = from_quaternion(noise[..., :3].reshape(*noise.shape[:-2], 9)[..., :4])
    positions = scale * (noise[..., 3] - noise[..., 3].mean(-2, keepdims=True))
    return jnp.concatenate([rotations, positions[..., None]], -1)


public.declare(__name__)
