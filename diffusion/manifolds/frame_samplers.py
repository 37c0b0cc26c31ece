"""A sampler of the frames of residues that draws new noise in each step."""

__all__ = ["frame_ancestral"]

import jax.numpy as jnp
from jax import Array

from diffusion.flows.flow_maps import TangentField
from diffusion.manifolds import rigid_frames
from diffusion.manifolds.manifold import geodesic
from diffusion.manifolds.rotations import from_quaternion
from diffusion.package import public
from diffusion.samplers.sample import Sampler, State


def frame_ancestral(scale: float = 1.0, aligned: bool = True) -> Sampler:
    """Each step follows the velocity to clean frames g, and puts new noise on them, as much as s has.

        x_s = geodesic(g, e, s),    g = exp(x_t, -t u(x_t, t)),    e ~ frame_prior(n, scale)

    A sample that has left the paths of the training comes back to them, as far as the noise of s hides the error; a
    flow carries the error along. Near the data, where only one chain is likely, g is a draw of x_0 given x_t.

    Facts:
        kind: stochastic, single step
        order: none; x_s has the distribution of the process where g is a draw of x_0 given x_t
        nfe: steps
        accepts: tangent fields on frames
        paper: Song et al. 2023, "Consistency Models", algorithm 1, with g in place of the consistency function

    Args:
        scale: standard deviation of the prior's positions, > 0.
        aligned: whether e is turned towards g, as in a training with `aligned_frames`.

    Raises:
        ValueError: if the scale is not positive.
    """
    if not scale > 0:
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
    """Frames of the prior, of standard normal numbers `[B, n, 3, 4]`: five of the twelve of a residue are not used."""
    rotations = from_quaternion(noise[..., :3].reshape(*noise.shape[:-2], 9)[..., :4])
    positions = scale * (noise[..., 3] - noise[..., 3].mean(-2, keepdims=True))
    return jnp.concatenate([rotations, positions[..., None]], -1)


public.declare(__name__)
