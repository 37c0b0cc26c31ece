"""The decoder of a language model as text encoder: Llama, Mistral, Qwen 2.5 and 3, Gemma 2 and 3, by its fields.

    ids [B, N] -> tokens -> depth x layer -> states [B, N, D] after any of the layers

    layer:  x = x + out(attention(turn(q), turn(k), v));  x = x + out(act(gate(norm(x))) * linear(norm(x)))

    q, k, v of norm(x); each key and value serves heads / key_heads queries; a token sees itself and those before it

| model        | fields beside the sizes                                                                  |
|--------------|------------------------------------------------------------------------------------------|
| Llama        | `scaling` of version 3.1 and later                                                       |
| Mistral      | `window` of version 0.1: all layers see the last 4096 tokens                             |
| Qwen 2, 2.5  | `biased`                                                                                 |
| Qwen 3       | `qk_norm`                                                                                |
| Gemma 2      | `gemma`, `cap`, `window` of every other layer                                            |
| Gemma 3      | `gemma`, `qk_norm`, `window` of five layers in six, whose frequencies are `near_theta`'s |

Tokens are the second axis, features the last.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.layers import layout, network_checks
from diffusion.models.layers.attention import attention, mask_bias
from diffusion.models.layers.embeddings import rotate_halves
from diffusion.models.layers.network_bases import Backbone
from diffusion.models.layers.norms import rms_norm
from diffusion.models.layers.scan import scanned
from diffusion.models.text_encoders.clip import Encoded

ACTIVATIONS = {"silu": nn.silu, "gelu": lambda x: nn.gelu(x, approximate=True)}
init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")


def frequencies(size: int, theta: float, scaling: Sequence[float] = ()) -> np.ndarray:
    """Radians by which the pairs of a head's features turn from one token to the next, float64 [size / 2].

        w_i = theta^(-2 i / size)

        scaled by (f,):              w_i / f
        scaled by (f, low, high, n): w_i (1 - s) / f + w_i s,   s = clip((n w_i / 2 pi - low) / (high - low), 0, 1)

    Args:
        size: features of a head, even.
        theta: base of the frequencies.
        scaling: scaling for longer texts than in training: () none; (factor,) for all frequencies (Gemma 3 from 4 B
            on); (factor, low, high, context) only for the frequencies that turn fewer than `low` to `high` times in the
            first context (Llama 3.1).

    Reference: Su et al., "RoFormer", 2021, equation 15; Chen et al., "Extending Context Window of Large Language Models
    via Positional Interpolation", 2023; the last of Llama 3.1's code (Meta, 2024).
    """
    plain = theta ** (-np.arange(0, size, 2) / size)
    if not scaling:
        return plain
    factor, *bounds = scaling
    if not bounds:
        return plain / factor
    low, high, context = bounds
    share = np.clip((context * plain / (2 * np.pi) - low) / (high - low), 0, 1)
    return plain * ((1 - share) / factor + share)


def visible(length: int, mask: jax.Array | None = None, window: int = 0, causal: bool = True) -> jax.Array:
    """The mask of the tokens (columns) that each token (row) sees, Bool [B or 1, N, N].

    Token i sees the tokens j <= i that the mask shows, and with a window w only those with i - j < w. Padding on the
    left sees no token. Without causality a token also sees later tokens.

    Args:
        length: N tokens.
        mask: Bool [B, N], True where other tokens may see a token; None: everywhere.
        window: w; 0: no limit.
        causal: whether a token sees no later token.
    """
    back = np.arange(length)[:, None] - np.arange(length)
    near = ((back >= 0) | (not causal)) & ((np.abs(back) < window) | (window == 0))
    if mask is None:
        return jnp.asarray(near[None])
    return jnp.asarray(near) & mask[:, None]


class RmsNorm(nn.Module):
    """scale * x / sqrt(mean(x^2) + epsilon), or (1 + scale) * ... with `offset`, in float32: [..., D] -> [..., D]."""

    epsilon: float
    offset: bool
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        start = nn.initializers.zeros_init() if self.offset else nn.initializers.ones_init()
        scale = self.param("scale", start, (x.shape[-1],)).astype(jnp.float32) + float(self.offset)
        return (scale * rms_norm(x.astype(jnp.float32), self.epsilon)).astype(self.dtype)


class Attention(nn.Module):
    """Causal self-attention whose keys and values each serve several heads: [B, N, D] -> [B, N, D].

    The arguments of the call are x, the angles [N, head_size / 2] of the tokens, and the bias [B or 1, 1, N, N] that
    hides tokens. Fields are `DecoderEncoder`'s.

    Reference: Ainslie et al., "GQA", 2023; Gemma Team, "Gemma 2", 2024, for the cap c tanh(score / c) of the scores.
    """

    heads: int
    key_heads: int
    head_size: int
    biased: bool
    qk_norm: bool
    gemma: bool
    cap: float
    score_size: int
    epsilon: float
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, angles: jax.Array, bias: jax.Array) -> jax.Array:
        def project(heads: int, name: str) -> jax.Array:
            dense = nn.DenseGeneral(
                (heads, self.head_size), use_bias=self.biased, dtype=self.dtype, kernel_init=init, name=name
            )
            return layout.split(dense(x), "batch", "tokens", "heads", None)

        norm = lambda name: RmsNorm(self.epsilon, self.gemma, self.dtype, name=name)
        q, k, v = project(self.heads, "query"), project(self.key_heads, "key"), project(self.key_heads, "value")
        if self.qk_norm:
            q = norm("query_norm")(q)
            k = norm("key_norm")(k)
        q = rotate_halves(q, angles) * (self.head_size / self.score_size) ** 0.5  # `attention` divides by head_size's
        k = rotate_halves(k, angles)
        k, v = (jnp.repeat(a, self.heads // self.key_heads, axis=2) for a in (k, v))
        q, k, v = (layout.attended(a) for a in (q.astype(v.dtype), k, v))
        out = self._capped(q, k, v, bias) if self.cap else attention(q, k, v, self.attention, bias)
        out = layout.split(out, "batch", "tokens", "heads", None)
        return nn.DenseGeneral(
            x.shape[-1], axis=(-2, -1), use_bias=False, dtype=self.dtype, kernel_init=init, name="out"
        )(out)

    def _capped(self, q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
        """No kernel caps scores: the definition."""
        scores = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32) / self.head_size**0.5
        weights = jax.nn.softmax(self.cap * jnp.tanh(scores / self.cap) + bias)
        return jnp.einsum("bhnm,bmhd->bnhd", weights.astype(v.dtype), v)


class Mlp(nn.Module):
    """out(act(gate(x)) * linear(x)), [gate, linear] = hidden(x) (Shazeer, "GLU Variants Improve Transformer", 2020)."""

    hidden: int
    activation: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dense = lambda features, name: nn.DenseGeneral(
            features, use_bias=False, dtype=self.dtype, kernel_init=init, name=name
        )
        both = layout.split(dense((2, self.hidden), "hidden")(x), "batch", "tokens", None, "hidden")
        return dense(x.shape[-1], "out")(ACTIVATIONS[self.activation](both[:, :, 0]) * both[:, :, 1])


class Layer(nn.Module):
    """One layer; `near` (Bool) selects the second of two kinds of angles, biases and sight, if there are two.

    A token that attends to no token, such as padding on the left, receives nothing from attention (`sighted`
    [B or 1, N, 1] is False). The sum stays in float32 whatever the compute type, as in T5: a few of the states are so
    large that bfloat16 would lose the summands. Returns (x, None), as a scan expects.
    """

    hidden: int
    activation: str
    attention_fields: tuple
    epsilon: float
    gemma: bool
    dtype: str

    @nn.compact
    def __call__(
        self, x: jax.Array, angles: tuple, biases: tuple, sighted: tuple, near: jax.Array
    ) -> tuple[jax.Array, None]:
        norm = lambda name, dtype=self.dtype: RmsNorm(self.epsilon, self.gemma, dtype, name=name)
        select = lambda pair: pair[0] if len(pair) == 1 else jnp.where(near, pair[1], pair[0])
        attended = Attention(*self.attention_fields, name="attention")
        h = attended(norm("norm_1")(x), select(angles), select(biases))
        h = jnp.where(select(sighted), h, 0)
        x = x + (norm("after_1", "float32")(h) if self.gemma else h)
        h = Mlp(self.hidden, self.activation, self.dtype, name="mlp")(norm("norm_2")(x))
        x = x + (norm("after_2", "float32")(h) if self.gemma else h)
        return layout.split(x, "batch", "tokens", None), None


class DecoderEncoder(Backbone):
    """The decoder of a language model, whose states encode a text: ids [B, N] -> tokens [B, N, K width].

    Attributes:
        vocabulary: number of token ids.
        width: number of features of a token.
        depth: number of layers.
        heads: number of heads of the queries.
        key_heads: number of heads of keys and values, a divisor of `heads`.
        head_size: number of features of a head, even; heads * head_size need not be the width.
        hidden: number of features inside the MLP.
        activation: "silu" (SwiGLU) or "gelu" (GeGLU).
        epsilon: epsilon of the norms, > 0.
        theta: base of the rotary frequencies.
        scaling: scaling of these frequencies, see `frequencies`.
        biased: whether queries, keys and values have biases.
        qk_norm: whether queries and keys are RMS-normalised.
        gemma: whether there are norms after attention and MLP too, norms multiply by 1 + scale, and embeddings are
            multiplied by sqrt(width).
        cap: bound c of the scores, which become c tanh(score / c); 0 for no bound.
        score_size: number by whose square root the scores are divided; 0 for head_size.
        window: number of tokens that a layer of `near` sees.
        near: whether each layer sees only a window; () for no layer.
        near_theta: base of these layers' frequencies; 0: the others' frequencies, scaling included.
        causal: whether a token sees no later token; False in language models that diffuse masks.
        attention: implementation, see `diffusion.models.layers.attention`; scores with a cap have their own.

    Reference: Touvron et al., "LLaMA", 2023; Jiang et al., "Mistral 7B", 2023; Qwen Team, "Qwen2.5 Technical Report",
    2024, and "Qwen3 Technical Report", 2025; Gemma Team, "Gemma 2", 2024, and "Gemma 3 Technical Report", 2025.
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    key_heads: int
    head_size: int
    hidden: int
    activation: str = "silu"
    epsilon: float = 1e-6
    theta: float = 10_000.0
    scaling: tuple[float, ...] = ()
    biased: bool = False
    qk_norm: bool = False
    gemma: bool = False
    cap: float = 0.0
    score_size: int = 0
    window: int = 0
    near: tuple[bool, ...] = ()
    near_theta: float = 0.0
    causal: bool = True
    positive = ("vocabulary", "width", "depth", "heads", "key_heads", "head_size", "hidden", "epsilon", "theta")
    choices = Backbone.choices | {"activation": ACTIVATIONS}

    def check_fields(self) -> None:
        network_checks.key_heads(self)
        if self.head_size % 2:
            raise ValueError(
                f"head_size={self.head_size} must be even, because rotary positions turn its features in pairs"
            )
        if len(self.scaling) not in (0, 1, 4):
            raise ValueError(f"scaling={self.scaling}. Valid: (), (factor,) or (factor, low, high, context)")
        if self.near and (len(self.near) != self.depth or self.window < 1):
            raise ValueError(
                f"near={self.near} must say for each of depth={self.depth} layers whether it sees only "
                f"window={self.window} tokens, and the window must be at least 1"
            )

    @nn.compact
    def __call__(
        self,
        ids: jax.Array,
        mask: jax.Array | None = None,
        *,
        layers: Sequence[int] | None = (-1,),
        norm: bool = True,
        replaced: tuple[jax.Array, jax.Array] | None = None,
        angles: jax.Array | None = None,
    ) -> Encoded:
        """Args:
            ids: integers [B, N], 0 .. vocabulary - 1.
            mask: Bool [B, N], True where other tokens may attend to a token, with padding on the left or on the right;
                None: True for all. Positions count the padding, too.
            layers: indices of the states that are returned, their features one after the other, numbered as
                transformers' hidden states: 0 is the embedding, i the state after layer i, `depth` or -1 the state
                after the last layer and the final norm, -2 the state before it. None: all states, the embedding first.
            norm: whether the state after the last layer is normalised.
            replaced: Bool [B, N], True where a token of a picture stands, and these tokens [B, N, width], which replace
                the embeddings there; None for a text without pictures.
            angles: the angles [B, N, head_size / 2] of the tokens, where a position has several coordinates; None: a
                token's number times the frequencies.

        Returns:
            `Encoded`: tokens [B, N, K width]; pooled is None.

        Raises:
            ValueError: for shapes that do not fit, or a layer that is not there.
        """
        network_checks.ids(ids, mask)
        layers = tuple(range(self.depth + 1)) if layers is None else layers
        if not layers or any(not -self.depth - 1 <= layer <= self.depth for layer in layers):
            valid = f"{-self.depth - 1} to {self.depth}"
            raise ValueError(f"layers={tuple(layers)} of a network with {self.depth} layers. Valid: {valid}")
        wanted = [layer % (self.depth + 1) for layer in layers]
        length = ids.shape[1]
        embedding = nn.Embed(self.vocabulary, self.width, embedding_init=nn.initializers.normal(0.02), name="tokens")
        x = layout.split(embedding(ids).astype(jnp.float32), "batch", "tokens", None)
        x = x * self.width**0.5 if self.gemma else x
        x = x if replaced is None else jnp.where(replaced[0][..., None], replaced[1], x)
        states = {0: x}

        turns = [frequencies(self.head_size, self.theta, self.scaling)]
        views = [visible(length, mask, causal=self.causal)]
        if any(self.near):
            turns.append(frequencies(self.head_size, self.near_theta) if self.near_theta else turns[0])
            views.append(visible(length, mask, self.window, self.causal))
        counted = tuple(jnp.asarray(np.outer(np.arange(length), turn), jnp.float32) for turn in turns)
        inner = sorted({layer for layer in wanted if 0 < layer < self.depth})
        stack = scanned(Layer, self.depth, self.remat, self.is_initializing(), (*(nn.broadcast,) * 3, 0), kept=inner)
        fields = (self.heads, self.key_heads, self.head_size, self.biased, self.qk_norm, self.gemma, self.cap,
                  self.score_size or self.head_size, self.epsilon, self.attention, self.dtype)  # fmt: skip
        stack = stack(self.hidden, self.activation, fields, self.epsilon, self.gemma, self.dtype, name="layers")
        biases = tuple(mask_bias(tokens) for tokens in views)
        sighted = tuple(tokens.any(-1)[..., None] for tokens in views)
        turned = counted if angles is None else (angles,) * len(turns)
        x, features = stack(x, turned, biases, sighted, np.array(self.near or (False,) * self.depth))
        states |= dict(zip(inner, features or ()))
        normalised = RmsNorm(self.epsilon, self.gemma, "float32", name="final_norm")(x)
        states[self.depth] = normalised if norm else x
        return Encoded(jnp.concatenate([states[layer] for layer in wanted], axis=-1), None)
