"""ChatGLM 3 as text encoder: the layers of a language model's decoder, with positions in half of each head.

    ids [B, N] -> tokens -> depth x layer -> states [B, N, D] after one of the layers, and the last token's last state

    layer:  x = x + out(attention(turn(q), turn(k), v));  x = x + out(silu(gate(norm(x))) * linear(norm(x)))

Tokens are the second axis, features the last.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.layers import layout, network_checks
from diffusion.models.layers.attention import mask_bias
from diffusion.models.layers.network_bases import Backbone
from diffusion.models.layers.scan import scanned
from diffusion.models.text_encoders.clip import Encoded
from diffusion.models.text_encoders.decoder import Layer, RmsNorm, frequencies, visible


class ChatGLM(Backbone):
    """ChatGLM's states of a text: ids [B, N] -> tokens [B, N, width], pooled [B, width].

    Padding stands on the left. A token of the text sees itself and the text before it; padding sees all tokens, which
    matters where a network attends to the padding.

    Attributes:
        vocabulary: number of token ids.
        width: number of features of a token.
        depth: number of layers.
        heads: number of heads of the queries.
        key_heads: number of heads of keys and values, a divisor of `heads`.
        head_size: number of features of a head, a multiple of 4; half of them turn with the position.
        hidden: number of features inside the MLP.
        epsilon: epsilon of the norms, > 0.

    Reference: Team GLM, "ChatGLM: A Family of Large Language Models from GLM-130B to GLM-4 All Tools", 2024, and its
    code.
    """

    vocabulary: int = 65024
    width: int = 4096
    depth: int = 28
    heads: int = 32
    key_heads: int = 2
    head_size: int = 128
    hidden: int = 13696
    epsilon: float = 1e-5
    positive = ("vocabulary", "width", "depth", "heads", "key_heads", "head_size", "hidden", "epsilon")

    def check_fields(self) -> None:
        network_checks.key_heads(self)
        if self.head_size % 4:
            raise ValueError(
                f"head_size={self.head_size} must be a multiple of 4, because positions turn half of its features in "
                "pairs"
            )

    @nn.compact
    def __call__(self, ids: jax.Array, mask: jax.Array | None = None, *, skip: int = 0, norm: bool = True) -> Encoded:
        """Args:
            ids: integers [B, N], 0 .. vocabulary - 1.
            mask: Bool [B, N], False for padding, which stands first; None: there is none.
            skip: number of the last layers that are left out, 0 .. depth.
            norm: whether the tokens pass the final norm.

        Returns:
            `Encoded`: tokens [B, N, width]; pooled [B, width], the last token's state after all layers, not normalised.

        Raises:
            ValueError: for shapes that do not fit, or more layers than there are.
        """
        network_checks.ids(ids, mask)
        if not 0 <= skip <= self.depth:
            raise ValueError(f"skip={skip} of a network with {self.depth} layers. Valid: 0 to {self.depth}")
        text = jnp.ones(ids.shape, bool) if mask is None else jnp.asarray(mask)
        embedding = nn.Embed(self.vocabulary, self.width, embedding_init=nn.initializers.normal(0.02), name="tokens")
        x = layout.split(embedding(ids).astype(jnp.float32), "batch", "tokens", None)
        last = self.depth - skip
        states = {0: x}

        attended = visible(ids.shape[1], text) | ~text[..., None]
        positions = jnp.maximum(jnp.cumsum(text, axis=1) - 1, 0)
        still = np.zeros(self.head_size // 4)  # the half of the features that does not turn
        turns = np.concatenate([frequencies(self.head_size // 2, 10_000.0), still]).astype(np.float32)
        inner = [last] if 0 < last < self.depth else []
        stack = scanned(Layer, self.depth, self.remat, self.is_initializing(), (*(nn.broadcast,) * 3, 0), kept=inner)
        fields = (self.heads, self.key_heads, self.head_size, True, False, False, 0.0, self.head_size, self.epsilon,
                  self.attention, self.dtype)  # fmt: skip
        stack = stack(self.hidden, "silu", fields, self.epsilon, False, self.dtype, name="layers")
        arguments = (positions[..., None] * turns,), (mask_bias(attended),), (jnp.ones((1, 1, 1), bool),)
        x, features = stack(x, *arguments, np.zeros(self.depth, bool))
        states |= dict(zip(inner, features or ())) | {self.depth: x}
        final = RmsNorm(self.epsilon, False, "float32", name="final_norm")(states[last])
        return Encoded(final if norm else states[last], x[:, -1])
