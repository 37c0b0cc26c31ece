"""Heads of a discriminator on the features of a frozen backbone: one logit for each block whose features are read."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class FeatureHeads(nn.Module):
    """A small network for each block k: it turns the features at each position into a logit, and averages the logits.

        h_k [B, ..., C] - norm - dense - gelu - dense - mean over positions - logit k of [B, K]

    The features of a denoiser already depend on the time and on the condition, so the heads read neither. The published
    heads are convolutions that also receive the time and the condition.

    Attributes:
        width: number of hidden features of a head.

    Reference: Sauer et al., "Fast High-Resolution Image Synthesis with Latent Adversarial Diffusion Distillation",
    2024.
    """

    width: int = 64

    @nn.compact
    def __call__(self, features: tuple[jax.Array, ...], clock: Any = None, condition: Any = None) -> jax.Array:
        """Args:
        features: K arrays `[B, ..., C]`, the features after K blocks.
        clock: not used; objectives call all networks alike.
        condition: not used.
        """
        return jnp.concatenate([self._head(k, h) for k, h in enumerate(features)], axis=1)

    def _head(self, k: int, h: jax.Array) -> jax.Array:
        h = nn.LayerNorm(name=f"norm_{k}")(h.astype(jnp.float32))
        h = nn.gelu(nn.Dense(self.width, name=f"hidden_{k}")(h))
        logits = nn.Dense(1, name=f"logit_{k}")(h)
        return jnp.mean(logits.reshape(len(h), -1), axis=1, keepdims=True)
