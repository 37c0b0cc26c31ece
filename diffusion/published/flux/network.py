"""The transformer of Flux and Chroma: layers of two streams, then layers of one, with rotary positions over three axes.

                 text [B, M, E]        x [B, H, W, C]
                      |                      |
                    dense              patches of 2 x 2, dense
                      |                      |
    t, pooled --> [ joint layer: attention over both, an MLP each ]   x depth
    (strength)        |                      |
         c            +------ [text, picture] ------+
                                  |
              --> [ single layer: attention beside an MLP ]           x singles
                                  |  picture's tokens
                   norm, shift, scale, dense, unpatchify
                                  |
                           [B, H, W, C]

Chroma has neither the pooled text nor the strength: one network makes the vectors of all layers from t
(`layers.approximator`), and it sees only the text's tokens in "text_mask" (`chroma.pipeline.chroma`).

Pictures and features are channels last.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.boxes import patchify
from diffusion.models.layers import extra_attention, layout, network_checks
from diffusion.models.layers.approximator import Approximator
from diffusion.models.layers.blocks import xavier
from diffusion.models.layers.conditions import entries
from diffusion.models.layers.extra_attention import ExtraLayer
from diffusion.models.layers.joint_blocks import Conditioning
from diffusion.models.layers.joint_conditions import check_residuals, check_strength, check_text, lengthened
from diffusion.models.layers.joint_stacks import joint_then_single
from diffusion.models.layers.network_bases import Backbone, Entries, Numbers, Through
from diffusion.models.layers.norms import layer_norm
from diffusion.models.layers.patches import picture_output
from diffusion.models.layers.rotary import axis_angles, grid_positions
from diffusion.models.layers.stacks import Layered

PATCH = 2


class Flux(Layered, Backbone):
    """The transformer of FLUX.1 and Chroma: `apply(variables, x, t, condition)` is a `Network`.

    Its clock is t itself, in [0, 1], and its strength is the scale of the guidance itself, 3.5 for example; the network
    multiplies both by 1000. The position of a text token is (0, 0, 0), that of a patch (0, row, column), and that of a
    patch of the picture that is edited (1, row, column).

    Attributes:
        channels: C of the input: the latents' 16, and the channels of inputs concatenated to them (fill, depth).
        out_channels: C of the output, the velocity.
        width: number of features of a token, a multiple of `heads`.
        depth: number of joint layers.
        singles: number of single layers.
        heads: number of attention heads.
        text_width: number E of features of the text's tokens.
        pooled_width: number P of features of the pooled text.
        axes: features of a head that rotate with each of the three coordinates; they sum to width / heads.
        strength: whether the network receives the scale of the guidance that it imitates (Flux-dev).
        approximator: (features, hidden features, layers) of the network that makes the vectors of all layers (Chroma),
            without a strength and with a `pooled_width` of 0; (): each layer makes its own, of t, the pooled text and
            the strength.

    Reference: the code of FLUX.1 (Black Forest Labs, 2024); Esser et al., 2024, for the joint layers; the model card of
    Chroma (Lodestone Rock, 2025).
    """

    channels: int = 16
    out_channels: int = 16
    width: int = 3072
    depth: int = 19
    singles: int = 38
    heads: int = 24
    text_width: int = 4096
    pooled_width: int = 768
    axes: tuple[int, int, int] = (16, 56, 56)
    strength: bool = False
    approximator: tuple[int, ...] = ()
    depths = ("depth", "singles")
    ranks = (3,)
    reuses = ("blocks",)
    positive = ("channels", "out_channels", "width", "depth", "singles", "heads", "text_width")

    def check_fields(self) -> None:
        network_checks.rotary_axes(self, 3)
        if self.approximator:
            self._check_approximator()
        else:
            network_checks.positive(self, ("pooled_width",))

    def _check_approximator(self) -> None:
        if len(self.approximator) != 3 or min(self.approximator) < 1 or self.approximator[0] % 8:
            raise ValueError(
                f"approximator={self.approximator} must be (features, hidden features, layers), with features a "
                "multiple of 8"
            )
        if self.strength or self.pooled_width:
            raise ValueError(
                f"approximator={self.approximator} takes no strength (strength={self.strength}) and no pooled text "
                f"(pooled_width={self.pooled_width}). Valid: False and 0"
            )

    def extra_layers(self, height: int, width: int) -> tuple[ExtraLayer, ...]:
        """The widths and grids of the joint layers, for image prompts ("extra"); arguments are the sides of x."""
        return (ExtraLayer(self.width, height // PATCH, width // PATCH),) * self.depth

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: Entries, features: Numbers = None, through: Through = None
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: noised latents [B, H, W, C]; H and W even.
            t: times in [0, 1], [B] or [], float32 or wider.
            condition: inputs by name, see `diffusion.models.layers.conditions`:
                "text": [B, M, text_width]. "pooled": [B, pooled_width]; with an approximator "text_mask" in its place.
                "strength": [B], required where the network receives it, refused elsewhere.
                "residuals": a pair of tuples, for the joint and for the single layers, either of them empty or of K
                arrays [B, N, width] over the N patches, row by row; the k-th is added to the picture's tokens after
                each of the layers i with floor(i / ceil(L / K)) = k, of L layers of the kind.
                "extra": image prompts, see `extra_attention`.
                "extra_text": a tuple of pairs, further tokens of the text [B, K, text_width], and Bool [B, K] which of
                them are seen (Redux).
                "picture": latents [B, h, w, channels] of a picture that is edited (FLUX.1 Kontext); h and w even.
                Residuals and the weights [B, N] of image prompts are zero for its patches.
            features, through: the options of every backbone, see `network_bases.Backbone`.

        Returns:
            [B, H, W, out_channels].
        """
        required = ("text", "pooled", "strength") if self.strength else ("text", "pooled")
        required = ("text", "text_mask") if self.approximator else required
        inputs = entries(condition, required, ("residuals", "extra", "picture", "extra_text"))
        self._check(x, t, inputs)
        _, height, width, _ = x.shape

        patches = patchify(x, PATCH)
        picture_count = patches.shape[1]
        edited = inputs["picture"]
        if edited is not None:
            patches = jnp.concatenate([patches, patchify(edited, PATCH).astype(patches.dtype)], axis=1)
        image = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="patch_embedding")(patches)
        words, words_seen = lengthened(inputs["text"], inputs.get("text_mask"), inputs["extra_text"] or ())
        text = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="text_embedding")(words)
        strength = 1000 * inputs["strength"] if self.strength else None
        t = jnp.asarray(t)
        c, last, per_layer, single_inputs = None, None, {}, {}
        if self.approximator:
            last, per_layer["vectors"], single_inputs["vectors"] = self._vectors(jnp.broadcast_to(t, x.shape[:1]))
        else:
            c = Conditioning(self.width, self.dtype, name="conditioning")(1000 * t, inputs["pooled"], strength)
        if words_seen is not None:
            seen_tokens = jnp.concatenate([words_seen, jnp.ones((x.shape[0], image.shape[1]), bool)], axis=1)
            per_layer["seen"], single_inputs["seen"] = (
                jnp.broadcast_to(seen_tokens, (depth, *seen_tokens.shape)) for depth in (self.depth, self.singles)
            )
        positions = self.token_positions(text.shape[1], height, width)
        if edited is not None:
            positions = np.concatenate([positions, self.token_positions(0, *edited.shape[1:3]) + [1, 0, 0]])
        angles = jnp.asarray(axis_angles(positions, self.axes))

        joint, single = self.spread(inputs["residuals"] or ((), ()))
        further = ((0, 0), (0, 0), (0, image.shape[1] - picture_count), (0, 0))  # zeros for the edited picture
        per_layer |= {"residual": jnp.pad(jnp.stack(joint), further)} if joint else {}
        if inputs["extra"] is not None:
            extra = extra_attention.stacked(inputs["extra"], 0, self.depth)
            per_layer["extra"] = extra_attention.lengthened(extra, picture_count, image.shape[1])
        streams = layout.split(image, "batch", "tokens", None), layout.split(text, "batch", "tokens", None)
        single_inputs |= {"residual": jnp.pad(jnp.stack(single), further)} if single else {}
        fields = (self.attention, self.dtype)
        joint = (self.heads, True, False, False, *fields), (c, angles, per_layer)
        single = (self.heads, *fields), (c, angles, single_inputs)
        shape = (*x.shape[:3], self.out_channels)
        output = lambda tokens: picture_output(tokens, c, layer_norm, PATCH, shape, self.dtype, vectors=last)
        return joint_then_single(self, streams, joint, single, picture_count, output, features, through)

    def _vectors(self, t: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array], jax.Array]:
        """(output's shift and scale, joint layers' vectors by stream [L, B, 6, D], single layers' vectors)."""
        count = 3 * self.singles + 12 * self.depth + 2
        features, hidden, layers = self.approximator
        network = Approximator(count, self.width, features, hidden, layers, self.dtype, name="approximator")
        vectors = network(1000 * t)
        single, picture, text, last = jnp.split(
            vectors, np.cumsum([3 * self.singles, 6 * self.depth, 6 * self.depth]), 1
        )
        by_layers = lambda vectors, depth: vectors.reshape(len(t), depth, -1, self.width).swapaxes(0, 1)
        both = by_layers(picture, self.depth), by_layers(text, self.depth)
        return tuple(jnp.split(last, 2, axis=1)), both, by_layers(single, self.singles)

    def spread(self, residuals: Sequence[tuple[jax.Array, ...]]) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
        """Residuals of joint and of single layers, K arrays each, over all layers, as evenly as diffusers does."""
        repeats = [math.ceil(depth / max(len(group), 1)) for group, depth in zip(residuals, (self.depth, self.singles))]
        joint, single = residuals
        return (
            tuple(joint[i // repeats[0]] for i in range(self.depth) if joint),
            tuple(single[i // repeats[1]] for i in range(self.singles) if single),
        )

    def token_positions(self, words: int, height: int, width: int) -> np.ndarray:
        """Rotary positions of M words and of the patches of latents [height, width]: [M + N, 3]."""
        return np.pad(grid_positions(height // PATCH, width // PATCH), [(words, 0), (1, 0)])

    def _check(self, x: jax.Array, t: jax.Array, inputs: dict[str, Any]) -> None:
        network_checks.latents(self, x, t, self.channels)
        edited = inputs["picture"]
        if edited is not None and (
            edited.ndim != 4 or (edited.shape[0], edited.shape[3]) != (x.shape[0], self.channels)
            or edited.shape[1] % PATCH or edited.shape[2] % PATCH
        ):  # fmt: skip
            raise ValueError(
                f"the condition's 'picture' must be [B, h, w, C] = ({x.shape[0]}, h, w, {self.channels}) with even h "
                f"and w; got {edited.shape}"
            )
        check_text(x.shape[0], self.text_width, inputs, self.pooled_width)
        check_strength(x.shape[0], inputs)
        tokens = (x.shape[0], x.shape[1] * x.shape[2] // PATCH**2, self.width)
        if inputs["residuals"] is not None and len(inputs["residuals"]) != 2:
            raise ValueError(
                "the condition's 'residuals' must be a pair of tuples, for the joint and the single layers; got "
                f"{len(inputs['residuals'])}"
            )
        for residuals, depth in zip(inputs["residuals"] or (), (self.depth, self.singles)):
            check_residuals(residuals or None, tokens, depth)
        extra_attention.check(inputs["extra"], x.shape[0], self.extra_layers(*x.shape[1:3]))


MODELS = {"flux": Flux}  # by its name in configs
