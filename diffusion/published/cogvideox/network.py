"""The transformer of CogVideoX: one stream of text and video, whose layers scale and shift the two differently.

text [B, M, E] -- dense --+-- tokens -- patches (by choice of two frames), dense -- x [B, F, H, W, C + given]
                          |             (+ sin-cos or learned positions)
t [B] -- c [B, T] --> [ attention over both, with rotary positions of the video    ]
                      [ MLP                                                        ]  x depth
                          |
         norm, norm, shift, scale, dense, unpatchify -- [B, F, H, W, C]
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.boxes import depth_to_space, space_to_depth
from diffusion.models.layers import layout, network_checks
from diffusion.models.layers.attention import attention
from diffusion.models.layers.blocks import Gelu, Modulation, xavier, zeros
from diffusion.models.layers.conditions import EMBEDDINGS, entries
from diffusion.models.layers.embeddings import TimestepEmbedding
from diffusion.models.layers.heads import Heads
from diffusion.models.layers.joint_conditions import check_text
from diffusion.models.layers.network_bases import Backbone, Entries, Numbers
from diffusion.models.layers.rotary import axis_angles, turn
from diffusion.models.layers.stacks import Layered, single_stack

EPSILON = 1e-5
OFFSET = 2.0  # the value of all published networks that embed it


def _norm(dtype: str, name: str, epsilon: float = EPSILON) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon, dtype=dtype, use_fast_variance=False, name=name)


class CogVideoXBlock(nn.Module):
    """Attention over text and video, then an MLP, with one set of parameters but for the shifts, scales and gates.

        x <- x + gate * f(norm(x) (1 + scale) + shift),   f = attention, mlp

    Attributes:
        words: number M of the text's tokens.
        heads: number H of heads.
        attention: implementation, see `diffusion.models.layers.attention`.
        dtype: compute type.
    """

    words: int
    heads: int
    attention: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array, c: jax.Array, angles: jax.Array | None) -> tuple[jax.Array, None]:
        """Args:
            x: tokens [B, M + N, D], first the text's, then the video's.
            c: condition [B, T] after SiLU.
            angles: rotary angles [M + N, D / (2 H)], zeros for the text; None for no rotation.

        Returns:
            (tokens, None), as a scan expects.
        """
        width = x.shape[-1]

        def parts(name: str) -> list[jax.Array]:
            """Shift, scale and gate of each token, [B, M + N, D]."""
            vectors = Modulation(6, self.dtype, width, name=f"{name}_modulation")(c)
            spread = lambda video, text: jnp.concatenate(
                [jnp.repeat(text, self.words, 1), jnp.repeat(video, x.shape[1] - self.words, 1)], axis=1
            )
            return [spread(*pair) for pair in zip(vectors[:3], vectors[3:])]

        shift, scale, gate = parts("attention")
        read = _norm(self.dtype, "attention_norm")(x) * (1 + scale) + shift
        q, k, v = Heads(self.heads, width // self.heads, self.dtype, name="qkv")(read)
        q, k = (_norm(self.dtype, f"{name}_norm", 1e-6)(one) for name, one in (("query", q), ("key", k)))
        if angles is not None:
            q, k = turn(q, angles), turn(k, angles)
        mixed = layout.split(layout.attended(attention(q, k, v, self.attention)), "batch", "tokens", "heads", None)
        out = nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, kernel_init=xavier, name="out")
        x = x + gate * out(mixed)
        shift, scale, gate = parts("mlp")
        read = _norm(self.dtype, "mlp_norm")(x) * (1 + scale) + shift
        x = x + gate * Gelu(4.0, self.dtype, name="mlp")(read)
        return layout.split(x, "batch", "tokens", None), None


class CogVideoX(Layered, Backbone):
    """The transformer of CogVideoX: `apply(variables, x, t, condition)` is a `Network`.

    Attributes:
        channels: C of the latents.
        in_channels: number of channels of the network's input: the latents', and those of a first frame if it receives
            one.
        width: number of features of a token, a multiple of `heads`.
        depth: number of layers.
        heads: number of attention heads.
        text_width: number E of features of the text's tokens.
        time_width: number T of features of the condition.
        patch: side of a patch in pixels of the latents.
        frames: frames of the latents in a patch; 1 (CogVideoX) or 2 (CogVideoX 1.5).
        positions: "sincos" (2b), added to the video's tokens, or "rope" (5b), rotary in each head.
        grid: rows and columns of latents of the training. Rotary positions of one frame in a patch are scaled to it.
        spacing: divisors of the sin-cos positions, (for frames, for rows and columns).
        words: number M of the text's tokens if the positions of all tokens are learned; 0 if they are not.
        learned: number F of frames with learned positions, where x has the sides of `grid`; 0 if positions are not
            learned.
        offset: whether an embedding of the number 2 is added to the time's (CogVideoX 1.5 from a picture).

    Reference: Yang et al., "CogVideoX: Text-to-Video Diffusion Models with An Expert Transformer", 2024, section 2.2.
    """

    channels: int = 16
    in_channels: int = 16
    width: int = 1920
    depth: int = 30
    heads: int = 30
    text_width: int = 4096
    time_width: int = 512
    patch: int = 2
    frames: int = 1
    positions: str = "sincos"
    grid: tuple[int, int] = (60, 90)
    spacing: tuple[float, float] = (1.0, 1.875)
    words: int = 0
    learned: int = 0
    offset: bool = False
    text_inputs = EMBEDDINGS
    ranks = (4,)
    takes_frames = True
    positive = ("channels", "in_channels", "width", "depth", "heads", "text_width", "time_width", "patch", "frames")
    choices = Backbone.choices | {"positions": ("sincos", "rope")}

    def check_fields(self) -> None:
        step = 16 * self.heads if self.positions == "rope" else 16
        if self.width % self.heads or self.width % step:
            raise ValueError(
                f"width={self.width}: positions={self.positions!r} need a width that is a multiple of {step}"
            )
        if min(*self.grid, *self.spacing) <= 0:
            raise ValueError(f"grid={self.grid} and spacing={self.spacing} must be positive")
        if min(self.words, self.learned) < 0 or bool(self.words) != bool(self.learned):
            raise ValueError(
                f"words={self.words} and learned={self.learned}: a network with learned positions needs both to be "
                "positive, the numbers of words and frames; otherwise both must be 0"
            )

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: Entries, features: Numbers = None) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: noised latents [B, F, H, W, in_channels]; `frames` divides F, and `patch` H and W.
            t: the network's clock [B] or [], float32 or wider; 0 .. 999 for the published ones.
            condition: inputs by name, see `diffusion.models.layers.conditions`: "text": [B, M, text_width], of T5.
            features: numbers of blocks, from 1, whose features the call returns too, see `network_bases.Backbone`.

        Returns:
            [B, F, H, W, C].
        """
        inputs = entries(condition, ("text",))
        self._check(x, t, inputs)
        batch, frames, height, width, _ = x.shape
        grid = (frames // self.frames, height // self.patch, width // self.patch)
        box = (self.frames, self.patch, self.patch)
        words = inputs["text"].shape[1]
        dense = lambda name: nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name=name)

        video = dense("patch_embedding")(space_to_depth(x, box).reshape(len(x), int(np.prod(grid)), -1))
        angles = None
        if self.positions == "sincos" and not self.learned:
            video = video + jnp.asarray(self._added(grid), video.dtype)
        elif self.positions == "rope":
            angles = jnp.asarray(np.pad(self._angles(grid), [(words, 0), (0, 0)]))
        tokens = jnp.concatenate([dense("text_embedding")(inputs["text"]), video], axis=1)
        if self.learned:
            tokens = tokens + self.param("positions_of_all", self._start, tokens.shape[1:]).astype(tokens.dtype)
        tokens = layout.split(tokens, "batch", "tokens", None)
        t = jnp.broadcast_to(t, (batch,))
        time = TimestepEmbedding(self.time_width, self.dtype, features=self.width, name="timestep_embedding")
        c = time(t)
        if self.offset:
            embed = TimestepEmbedding(self.time_width, self.dtype, features=self.time_width, name="offset_embedding")
            c = c + embed(jnp.full(batch, OFFSET))
        c = nn.silu(c)

        only_video = lambda tokens: tokens[:, words:]

        def output(video: jax.Array) -> jax.Array:
            shift, scale = Modulation(2, self.dtype, self.width, name="final_modulation")(c)
            video = _norm(self.dtype, "norm_out")(_norm(self.dtype, "norm")(video)) * (1 + scale) + shift
            # In float32: bfloat16 would round the output to 8 bits.
            final = nn.Dense(
                math.prod(box) * self.channels, dtype=jnp.float32, kernel_init=zeros, bias_init=zeros, name="final"
            )
            return depth_to_space(final(video).reshape(len(x), *grid, -1), box)

        fields = (words, self.heads, self.attention, self.dtype)
        axes = (nn.broadcast, nn.broadcast)
        return single_stack(
            self, CogVideoXBlock, fields, tokens, (c, angles), axes, output, features, picture=only_video
        )

    def _start(self, key: jax.Array, shape: tuple[int, int]) -> jax.Array:
        """Initial values of the learned positions: zeros of the words, and sin-cos positions."""
        rows, columns = (side // self.patch for side in self.grid)
        video = self._added((self.learned // self.frames, rows, columns))
        return jnp.asarray(np.pad(video, [(shape[0] - len(video), 0), (0, 0)]), jnp.float32)

    def _added(self, grid: tuple[int, int, int]) -> np.ndarray:
        """Sin-cos positions [N, D]: a quarter of the features of the frame, the others of column and row."""
        frame, row, column = (axis.reshape(-1) for axis in np.indices(grid))
        quarter = self.width // 4
        parts = ((frame / self.spacing[0], quarter),)
        parts += tuple((axis / self.spacing[1], 3 * quarter // 2) for axis in (column, row))
        angles = [axis_angles(axis[:, None], (size,)) for axis, size in parts]
        return np.concatenate([f(one) for one in angles for f in (np.sin, np.cos)], axis=1)

    def _angles(self, grid: tuple[int, int, int]) -> np.ndarray:
        """Rotary angles [N, D / (2 H)]: a quarter of a head's features turn with the frame, three with the place.

        Patches of one frame have the positions of a picture of the training's size that this one is fitted into.
        """
        head = self.width // self.heads
        axes: list[np.ndarray] = [np.arange(size, dtype=np.float64) for size in grid]
        if self.frames == 1:
            axes[1:] = _fitted(grid[1:], (self.grid[0] // self.patch, self.grid[1] // self.patch))
        positions = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
        return axis_angles(positions, (head // 4, 3 * head // 8, 3 * head // 8))

    def _check(self, x: jax.Array, t: jax.Array, inputs: dict[str, Any]) -> None:
        network_checks.latents(self, x, t, self.in_channels, video=True)
        if self.learned and (x.shape[1:4], inputs["text"].shape[1]) != ((self.learned, *self.grid), self.words):
            raise ValueError(
                f"this CogVideoX has learned positions of {self.words} words and {self.learned} frames of "
                f"{self.grid[0]} x {self.grid[1]}; got {inputs['text'].shape[1]} words and latents {x.shape}"
            )
        if x.shape[1] % self.frames or x.shape[2] % self.patch or x.shape[3] % self.patch:
            raise ValueError(
                f"frames={self.frames} and patch={self.patch} do not divide latents of {x.shape[1]} frames of "
                f"{x.shape[2]} x {x.shape[3]}"
            )
        check_text(x.shape[0], self.text_width, inputs)


def _fitted(sides: tuple[int, int], training: tuple[int, int]) -> list[np.ndarray]:
    """Positions of rows and columns of a picture that is fitted into a picture of the training size, in its patches."""
    ratio = min(trained / side for trained, side in zip(training, sides))
    fitted = [round(ratio * side) for side in sides]
    starts = [round((trained - side) / 2) for trained, side in zip(training, fitted)]
    return [
        np.linspace(start, (start + side) * (count - 1) / count, count)
        for start, side, count in zip(starts, fitted, sides)
    ]


MODELS = {"cogvideox": CogVideoX}  # by its name in configs
