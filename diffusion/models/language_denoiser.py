"""A language model for masked diffusion: the layers of a decoder, in which every token attends to all the others.

ids [B, L] -> DecoderEncoder(causal=False) -> head -> logits [B, L, K]
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.layers.network_bases import CheckedNetwork
from diffusion.models.text_encoders.decoder import DecoderEncoder


class LanguageDenoiser(CheckedNetwork):
    """The network of LLaDA and Dream: `apply(variables, x_t, t, None)` is a network of `discrete.predictor`.

    It reads no time, since the number of masks shows it. `models.interchange.language_tables` reads the published
    files.

    Attributes:
        size: number K of symbols, the mask among them.
        width: number of features of a token.
        depth: number of layers.
        heads: number of heads of the queries.
        key_heads: number of heads of keys and values, a divisor of `heads`.
        hidden: number of features inside the MLP.
        epsilon: epsilon of the norms.
        theta: base of the rotary frequencies.
        biased: whether queries, keys and values have biases.
        shifted: whether the state at a token predicts the next token, as in the decoder from which Dream was trained;
            the first token is then predicted from its own state.
        tied: whether the table of symbols is also the last layer.
        remat: the parts to compute again in the backward pass, see `DiT`.

    References: Nie et al., "Large Language Diffusion Models", 2025 (LLaDA); Ye et al., "Dream 7B: Diffusion Large
    Language Models", 2025; the numbers and the shift come from the authors' code.
    """

    size: int
    width: int
    depth: int
    heads: int
    key_heads: int
    hidden: int
    epsilon: float = 1e-5
    theta: float = 500_000.0
    biased: bool = False
    shifted: bool = False
    tied: bool = False
    remat: str = "none"
    takes_symbols = True
    ranks = (1,)
    positive = ("size", "width", "depth", "heads", "key_heads", "hidden", "epsilon", "theta")

    def check_fields(self) -> None:
        if self.width % (2 * self.heads):
            raise ValueError(
                f"width={self.width}: rotary positions need a width that 2 heads = {2 * self.heads} divides"
            )

    @property
    def decoder(self) -> DecoderEncoder:
        """The layers, as a module without a parent."""
        return DecoderEncoder(
            self.size,
            self.width,
            self.depth,
            self.heads,
            self.key_heads,
            self.width // self.heads,
            self.hidden,
            epsilon=self.epsilon,
            theta=self.theta,
            biased=self.biased,
            causal=False,
            attention=self.attention,
            dtype=self.dtype,
            remat=self.remat,
            parent=None,
        )

    @nn.compact
    def __call__(self, x: jax.Array, t: Any = None, condition: None = None) -> jax.Array:
        """One evaluation of the network.

        Args:
            x: symbols int [B, L], 0 .. K - 1.
            t: times, which are not read.
            condition: None.

        Returns:
            logits float32 [B, L, K].

        Raises:
            ValueError: for a condition, or symbols of another shape.
        """
        del t
        if condition is not None:
            raise ValueError("LanguageDenoiser takes no condition; write a prompt into known positions of the text")
        decoder = self.decoder.clone(parent=self, name="decoder")
        states = decoder(x).tokens
        if self.tied:
            logits = states @ decoder.variables["params"]["tokens"]["embedding"].T
        else:
            logits = nn.Dense(self.size, use_bias=False, dtype=jnp.float32, name="head")(states)
        return jnp.concatenate([logits[:, :1], logits[:, :-1]], axis=1) if self.shifted else logits
