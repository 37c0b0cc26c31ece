"""The transformer of HiDream-I1: AuraFlow's two kinds of layers, each with a text of its own and a mixture of experts.

    text [B, M, T + S E]: T5's tokens, and S states of each of Llama's
           |
    T5, the last layer's Llama --- dense                          x [B, H, W, C]
           |                                                           |
           |       the layer's Llama --- dense                 patches of 2 x 2, dense
           |              |                                            |
    t ---> [ joint layer: attention over all three, experts for the picture, an MLP for the text ]  x depth
    pooled                |                                            |
           |       the layer's Llama --- dense                         |
    t ---> [ single layer: attention over all three in one stream, experts for all ]                x singles
    pooled                                                             |
                                                norm, shift, scale, dense, unpatchify --> [B, H, W, C]

Llama's tokens of a layer are dropped after the layer. Pictures and features are channels last.
"""

import functools
import itertools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.boxes import patchify
from diffusion.models.layers import layout, network_checks
from diffusion.models.layers.blocks import Modulation, SwiGlu, xavier
from diffusion.models.layers.conditions import entries
from diffusion.models.layers.joint_blocks import Conditioning, Projections, attend, modulated, to_tokens
from diffusion.models.layers.joint_conditions import check_text
from diffusion.models.layers.network_bases import Backbone, Entries, Numbers, Through
from diffusion.models.layers.norms import layer_norm
from diffusion.models.layers.patches import picture_output
from diffusion.models.layers.rotary import axis_angles, grid_positions
from diffusion.models.layers.scan import scanned
from diffusion.models.layers.stacks import Layered, Stack, several_stacks

MULTIPLE = 256  # of the hidden features of an MLP
LLAMA_LAYERS = (*range(32), *(31,) * 16)
"""Number of Llama's layer, 0 for the first, whose states each of the published layers reads."""


def _hidden(size: int) -> int:
    """Number of hidden features of a gated MLP that has the parameters of an MLP of `size`."""
    return MULTIPLE * math.ceil(int(2 * size / 3) / MULTIPLE)


class Expert(nn.Module):
    """total + weight mlp(x): one turn of the scan over experts; x [B, N, D], weight [B, N]."""

    hidden: int
    dtype: str

    @nn.compact
    def __call__(self, total: jax.Array, x: jax.Array, weight: jax.Array) -> tuple[jax.Array, None]:
        mlp = SwiGlu(4.0, self.dtype, bias=False, hidden=self.hidden, name="mlp")
        return total + weight[..., None].astype(total.dtype) * mlp(x), None


class Experts(nn.Module):
    """An MLP for all tokens, and several experts, a few for each token, [B, N, D] -> [B, N, D].

        shared(x) + sum_e w_e expert_e(x),     w = softmax(router(x)), and 0 but for its `active` largest

    The weights are not normalised again. Every expert computes every token, so that all devices do the same work; the
    router computes in float32.

    Attributes:
        experts: number of experts.
        active: number of experts that a token is sent to.
        dtype: compute type.

    Reference: Dai et al., "DeepSeekMoE: Towards Ultimate Expert Specialization in Mixture-of-Experts Language Models",
    2024.
    """

    experts: int
    active: int
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        scores = nn.Dense(self.experts, use_bias=False, dtype=jnp.float32, kernel_init=init, name="router")(x)
        values, chosen = jax.lax.top_k(nn.softmax(scores), self.active)
        weights = (values[..., None] * jax.nn.one_hot(chosen, self.experts)).sum(-2)
        shared = SwiGlu(4.0, self.dtype, bias=False, hidden=_hidden(2 * width), name="shared")(x)
        experts = scanned(Expert, self.experts, "none", self.is_initializing(), (nn.broadcast, 0))
        total, _ = experts(_hidden(4 * width), self.dtype, name="experts")(shared, x, jnp.moveaxis(weights, -1, 0))
        return total


class HiDreamStream(nn.Module):
    """One stream's part of a layer: adaLN, projections to and from the attention, and experts or an MLP.

    Queries and keys are RMS-normalised over the features of all heads. Fields are those of `HiDreamBlock`; a stream
    without experts has one MLP.
    """

    width: int
    heads: int
    experts: int
    active: int
    dtype: str

    def setup(self):
        self.modulation = Modulation(6, self.dtype)
        self.attention = Projections(self.width, self.heads, False, self.dtype)
        axes = (-2, -1)
        norm = functools.partial(nn.RMSNorm, 1e-5, dtype=self.dtype, reduction_axes=axes, feature_axes=axes)
        self.query_norm, self.key_norm = norm(), norm()
        if self.experts:
            self.mlp = Experts(self.experts, self.active, self.dtype)
        else:
            self.mlp = SwiGlu(4.0, self.dtype, bias=False, hidden=_hidden(4 * self.width))

    def read(self, x: jax.Array, c: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        """What the attention reads of x [B, N, D], and the stream's six vectors [B, 1, D]."""
        vectors = self.modulation(c)
        return modulated(x, *vectors[:2]), vectors

    def enter(self, x: jax.Array, c: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
        """x [B, N, D] -> ([q, k, v], the vectors)."""
        read, vectors = self.read(x, c)
        q, k, v = self.attention.enter(read)
        return [self.query_norm(q), self.key_norm(k), v], vectors

    def leave(self, x: jax.Array, mixed: jax.Array, vectors: list[jax.Array]) -> jax.Array:
        """x [B, N, D] and the output of attention [B, N, H, D / H] -> x after the layer."""
        x = x + vectors[2] * self.attention.leave(to_tokens(mixed))
        return layout.split(x + vectors[5] * self.mlp(modulated(x, *vectors[3:5])), "batch", "tokens", None)


class HiDreamBlock(nn.Module):
    """A layer of streams, each with its parameters, whose tokens attend to all tokens of all streams.

        x <- x + gate * f((1 + scale) * norm(x) + shift),     f = attention, MLP

    Attributes:
        streams: names of the streams; "text" has no experts.
        picture: number of the picture's tokens, which are the last ones of the first stream.
        padding: number of padding tokens that the one token before the picture's represents, see `HiDream`; 0 for none.
        heads: number H of attention heads.
        experts: number of experts.
        active: number of experts that a token is sent to.
        attention: implementation, see `diffusion.models.layers.attention`.
        dtype: compute type.
    """

    streams: tuple[str, ...]
    picture: int
    padding: int
    heads: int
    experts: int
    active: int
    attention: str
    dtype: str

    @nn.compact
    def __call__(
        self, streams: tuple[jax.Array, ...], c: jax.Array, angles: jax.Array, text: jax.Array, entering: bool = False
    ) -> tuple[Any, None]:
        """Args:
            streams: tokens [B, N, D] of each stream.
            c: condition [B, D] after SiLU.
            angles: rotary angles of all tokens, in the order text, last stream, .., first stream.
            text: this layer's text [B, M, D], which precedes the last stream in this layer only.
            entering: whether to return only the attention's input at the picture's tokens.

        Returns:
            (streams, None), as a scan expects; with `entering`, (the input [B, picture, D], None).
        """
        fields = (streams[0].shape[-1], self.heads)
        parts = [
            HiDreamStream(*fields, self.experts * (name != "text"), self.active, self.dtype, name=name)
            for name in self.streams
        ]
        if entering:
            return parts[0].read(streams[0], c)[0][:, -self.picture :], None
        staying = streams[-1].shape[1]
        streams = (*streams[:-1], jnp.concatenate([text, streams[-1]], axis=1))
        entered, vectors = zip(*(part.enter(x, c) for part, x in zip(parts, streams)))
        q, k, v = (jnp.concatenate(arrays[::-1], axis=1) for arrays in zip(*entered))
        bias = None
        if self.padding:  # a key of zeros, which counts as often as there are tokens of padding
            padding = np.arange(k.shape[1]) == k.shape[1] - self.picture - 1
            k = jnp.where(padding[:, None, None], 0, k)
            bias = jnp.asarray(math.log(self.padding) * padding, jnp.float32)[None, None, None]
        ends = list(itertools.accumulate(x.shape[1] for x in streams[::-1]))
        mixed = jnp.split(attend(q, k, v, angles, self.attention, bias=bias), ends[:-1], axis=1)[::-1]
        left = [part.leave(x, m, vector) for part, x, m, vector in zip(parts, streams, mixed, vectors)]
        return (*left[:-1], left[-1][:, -staying:]), None


class HiDream(Layered, Backbone):
    """The transformer of HiDream-I1: `apply(variables, x, t, condition)` is a `Network`.

    Its clock is 1000 t, and its output the velocity eps - x0. A patch has the position (0, row, column), and all of the
    text (0, 0, 0). A picture that is not square is padded by further tokens, up to the number of the
    largest picture, as in training: their keys are zero, but they are attended to. They are equal, so one stands for
    all of them.

    Attributes:
        channels: C of the latents.
        patch: side of a patch in pixels of the latents.
        width: number of features of a token, a multiple of `heads`.
        depth: number of layers of two streams.
        singles: number of layers of one stream.
        heads: number of attention heads.
        experts: number of experts of a layer.
        active: number of experts that a token is sent to, at most `experts`.
        t5_width: number T of features of T5's tokens.
        llama_width: number E of features of Llama's states.
        llama_layers: number of the Llama layer whose states each layer reads, one for each layer; 0 is the first.
        pooled_width: number P of features of the pooled text.
        axes: features of a head that rotate with each of the three coordinates; they sum to width / heads.
        largest: height and width of latents with the largest number of pixels.

    Reference: Cai et al., "HiDream-I1: A High-Efficient Image Generative Foundation Model with Sparse Diffusion
    Transformer", 2025.
    """

    channels: int = 16
    patch: int = 2
    width: int = 2560
    depth: int = 16
    singles: int = 32
    heads: int = 20
    experts: int = 4
    active: int = 2
    t5_width: int = 4096
    llama_width: int = 4096
    llama_layers: tuple[int, ...] = LLAMA_LAYERS
    pooled_width: int = 2048
    axes: tuple[int, int, int] = (64, 32, 32)
    largest: tuple[int, int] = (128, 128)
    depths = ("depth", "singles")
    ranks = (3,)
    reuses = ("blocks",)
    positive = (
        "channels", "patch", "width", "depth", "singles", "heads", "experts", "active", "t5_width", "llama_width",
        "pooled_width",
    )  # fmt: skip

    def check_fields(self) -> None:
        network_checks.rotary_axes(self, 3)
        if self.active > self.experts:
            raise ValueError(f"active={self.active} is more than experts={self.experts}")
        if len(self.llama_layers) != self.depth + self.singles or min(self.llama_layers) < 0:
            raise ValueError(
                f"llama_layers={self.llama_layers} must be a number of at least 0 for each of depth + singles = "
                f"{self.depth + self.singles} layers"
            )

    @property
    def states(self) -> tuple[int, ...]:
        """Numbers of Llama's layers whose states the text holds, in order."""
        return tuple(sorted(set(self.llama_layers)))

    @property
    def text_width(self) -> int:
        """The number of features of a text's token: T5's, and Llama's states one after the other."""
        return self.t5_width + len(self.states) * self.llama_width

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Entries, features: Numbers = None, through: Through = None
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: noised latents [B, H, W, C]; H and W multiples of the patch.
            t: times in [0, 1000], [B] or [], float32 or wider.
            condition: inputs by name, see `diffusion.models.layers.conditions`:
                "text": [B, M, text_width], of T5 and Llama. "pooled": [B, pooled_width], of both CLIPs.
            features, through: the options of every backbone, see `network_bases.Backbone`.

        Returns:
            [B, H, W, C].
        """
        inputs = entries(condition, ("text", "pooled"))
        network_checks.latents(self, x, t, self.channels)
        check_text(x.shape[0], self.text_width, inputs, self.pooled_width)
        _, height, width, _ = x.shape
        number, padding = height * width // self.patch**2, self._padding(height, width)
        patches = jnp.pad(patchify(x, self.patch), ((0, 0), (int(padding > 0), 0), (0, 0)))
        image = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="patch_embedding")(patches)
        text, llama = self._texts(inputs["text"])
        c = Conditioning(self.width, self.dtype, name="conditioning")(t, inputs["pooled"])

        others = image.shape[1] - number + text.shape[1] + llama.shape[2]
        positions = np.pad(grid_positions(height // self.patch, width // self.patch), [(others, 0), (1, 0)])
        angles = jnp.asarray(axis_angles(positions, self.axes))
        streams = layout.split(image, "batch", "tokens", None), layout.split(text, "batch", "tokens", None)
        picture = lambda streams: streams[0][:, -number:]
        fields = (number, padding, self.heads, self.experts, self.active, self.attention, self.dtype)
        stacks = (
            Stack(
                "blocks",
                self.depth,
                HiDreamBlock,
                (("image", "text"), *fields),
                (c, angles, llama[: self.depth]),
                picture=picture,
            ),
            Stack(
                "single_blocks",
                self.singles,
                HiDreamBlock,
                (("tokens",), *fields),
                (c, angles, llama[self.depth :]),
                enter=lambda streams: (jnp.concatenate(streams[::-1], axis=1),),
                picture=picture,
            ),
        )
        output = lambda tokens: -picture_output(tokens, c, layer_norm, self.patch, x.shape, self.dtype)
        return several_stacks(self, stacks, streams, output, features, through, picture)

    def _padding(self, height: int, width: int) -> int:
        """The number of tokens of padding beside the patches of latents [H, W]; a square has none."""
        padding = (math.prod(self.largest) - height * width) // self.patch**2 if height != width else 0
        if padding < 0:
            raise ValueError(
                f"latents of {height} x {width}, which are not square, have more pixels than largest={self.largest}"
            )
        return padding

    def _texts(self, text: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The text that stays, T5's and the last layer's [B, 2 M, D], and the layers' own [layers, B, M, D]."""
        dense = functools.partial(nn.DenseGeneral, self.width, use_bias=False, dtype=self.dtype, kernel_init=xavier)
        t5 = dense(name="t5_embedding")(text[..., : self.t5_width])
        states = jnp.split(text[..., self.t5_width :], len(self.states), axis=-1)
        states = jnp.stack([states[self.states.index(layer)] for layer in self.llama_layers])
        llama = dense(batch_dims=(0,), name="llama_embeddings")(states)
        return jnp.concatenate([t5, llama[-1]], axis=1), llama


MODELS = {"hidream": HiDream}  # by its name in configs
