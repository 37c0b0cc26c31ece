"""VideoDiT: DiT's layers over the patches of all frames, with attention in space and in time.

     class, vector   t [B] or [B, F]    x [B, F, H, W, C]         text [B, M, E]
           |            |                     |                         |
       embedding   sinusoid, MLP        patches, dense                dense
           +-----+------+                     |                         |
             silu: c --> [ attention within each frame        ]         |
                 |       [ attention along the frames         ]         |
                 |       [ attention to the text   <----------]---------+
                 |       [ MLP                                ]  x depth
                 |                            |
                 +------> shift, scale -- norm, dense, unpatchify --> [B, F, H, W, C]

With mixing="full" one attention over the patches of all frames takes the place of the first two. A picture is a video
of one frame, so that one network trains on both. With a time for each frame it is the network of diffusion forcing:
frames that are known are at t = 0 (the first frame of image-to-video, both ends of an interpolation), and the others
are sampled (`samplers.per_frame`).
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.boxes import depth_to_space, space_to_depth
from diffusion.io.leaf_names import leaves_of
from diffusion.models.attachment import begun
from diffusion.models.dit import DiT
from diffusion.models.layers import conditions, key_value_memory, layout, network_checks
from diffusion.models.layers.attention import mask_bias
from diffusion.models.layers.block_features import Features
from diffusion.models.layers.blocks import BLOCK_NORMS, MLPS, Attention, Modulation, normalisation, xavier
from diffusion.models.layers.condition_embedding import time_and_class
from diffusion.models.layers.cross_attention import CrossAttention
from diffusion.models.layers.embeddings import rope_angles
from diffusion.models.layers.joint_conditions import check_text
from diffusion.models.layers.network_bases import Backbone, Numbers
from diffusion.models.layers.patches import embedded_patches, picture_output
from diffusion.models.layers.rotary import axis_angles
from diffusion.models.layers.stacks import Layered, Stack
from diffusion.models.sequence_transformer import line_angles

# Fields that DiT lacks, or has for pictures.
OWN = ("mixing", "text_width", "vector_width", "causal", "patch_frames", "shape")
UNKNOWN = {  # fields that only DiT has
    "times": 1,
    "strength": False,
    "interval": False,
    "frequency_shift": 0,
    "own_embeddings": False,
}


def video_angles(frames: int, rows: int, columns: int, head_size: int, theta: float = 10_000.0) -> np.ndarray:
    """Angles of the axial rotary embedding of frame, row and column, in the layout that `embeddings.rotate` reads.

        out[n] = [f w, i u, j u],   w_k = theta^(-2 k / A),   u_k = theta^(-2 k / S)

    n counts the patches frame by frame and row by row. S = 2 floor(D / 6) features of a head of D rotate with the row,
    as many with the column, and the other A = D - 2 S with the frame, as in Wan.

    Args:
        frames, rows, columns: the grid, in patches.
        head_size: number D of features of a head, a multiple of 4 and at least 8.
        theta: base of the frequencies.

    Returns:
        [frames * rows * columns, 2, D / 4] in radians, float32 (computed in float64).

    Raises:
        ValueError: for another head_size.

    Reference: Su et al., "RoFormer", 2021, equation 15; the shares as in Wan Team, "Wan: Open and Advanced Large-Scale
    Video Generative Models", 2025: its code.
    """
    if head_size % 4 or head_size < 8:
        raise ValueError(
            f"rotary positions on three axes need a head width of at least 8 that is a multiple of 4; got {head_size}"
        )
    space = head_size // 6 * 2
    grid = np.stack(np.meshgrid(*map(np.arange, (frames, rows, columns)), indexing="ij"), axis=-1).reshape(-1, 3)
    angles = axis_angles(grid, (head_size - 2 * space, space, space), theta)
    return angles.reshape(len(grid), 2, head_size // 4)


class VideoBlock(nn.Module):
    """One layer: attention within frames and along them (or over all patches at once), to the text, and an MLP.

        x <- x + gate * f((1 + scale) * norm(x) + shift),     f = attention within, attention along, mlp
        x <- x + attention(x, text)

    All gates and the output of the attention to the text start at zero. Its parameters are those of DiT's `Block`,
    "temporal_modulation", "temporal_attention" and "cross_attention".

    Reference: Ma et al., "Latte: Latent Diffusion Transformer for Video Generation", 2024, section 3.2.
    """

    frames: int
    mixing: str
    heads: int
    mlp_ratio: float
    norm: str
    mlp: str
    qk_norm: bool
    attention: str
    dtype: str

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        c: jax.Array,
        angles: tuple,
        text: jax.Array | None,
        bias: jax.Array | None,
        seen: jax.Array | None,
        before: tuple[jax.Array, jax.Array] | None,
    ) -> tuple[jax.Array, None]:
        """Args:
            x: tokens [B, F S, D] of F frames.
            c: condition [B, F or 1, D] after SiLU.
            angles: (rotary angles within a frame or None, rotary angles along the frames), or (rotary angles of all
                patches, None).
            text: tokens of the text [B, M, E]; None for no text.
            bias: bias of the scores of the text's tokens; None for none.
            seen: bias of the scores along the frames; None for none.
            before: keys and values of earlier frames, for the attention along the frames; None for none.

        Returns:
            (x, None), as a scan expects.
        """
        batch, tokens, width = x.shape
        grid = (batch, self.frames, tokens // self.frames, width)

        def vectors(count: int, name: str) -> list[jax.Array]:
            modulation = Modulation(count, self.dtype, width, name=name)(c.reshape(-1, width))
            return [vector.reshape(batch, -1, 1, width) for vector in modulation]

        def entering(scale: jax.Array, shift: jax.Array, norm: str) -> jax.Array:
            return normalisation(self.norm, norm, self.dtype)(x) * (1 + scale) + shift

        def attend(name: str) -> Attention:
            return Attention(self.heads, self.qk_norm, self.attention, self.dtype, name=name)

        x = x.reshape(grid)
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = vectors(6, "modulation")
        read = entering(scale_a, shift_a, "attention_norm")
        rows = read.reshape(-1, grid[2], width) if self.mixing == "factorised" else read.reshape(batch, tokens, width)
        x = x + gate_a * attend("attention")(rows, angles[0], {}).reshape(grid)
        if self.mixing == "factorised":
            shift, scale, gate = vectors(3, "temporal_modulation")
            lines = entering(scale, shift, "temporal_norm").swapaxes(1, 2)
            along = attend("temporal_attention")(lines.reshape(-1, self.frames, width), angles[1], {}, seen, before)
            x = x + gate * along.reshape(lines.shape).swapaxes(1, 2)
        if text is not None:
            cross = CrossAttention(
                self.heads, width // self.heads, True, True, self.attention, self.dtype, name="cross_attention"
            )
            x = x + cross(x.reshape(batch, tokens, width), text, bias).reshape(grid)
        mlp = MLPS[self.mlp](self.mlp_ratio, self.dtype, name="mlp")
        read = entering(scale_m, shift_m, "mlp_norm").reshape(batch, tokens, width)
        x = x + gate_m * mlp(read).reshape(grid)
        return layout.split(x.reshape(batch, tokens, width), "batch", "tokens", None), None


class VideoDiT(Layered, Backbone):
    """The diffusion transformer of videos: `apply(variables, x, t, condition)` is a `Network`.

    Numbers of frames and sides may differ by call. Parameters are float32 whatever the compute type, and so is the
    output. Layers are scanned, as in DiT.

    Attributes:
        patch: side of a patch in pixels; it divides height and width.
        width: number of features of a token, a multiple of `heads`.
        depth: number of layers.
        heads: number of attention heads.
        num_classes: number of classes, whose null class is label `num_classes`; 0 for a network without classes.
        text_width: number E of features of the text's tokens; 0 for a network that receives no text.
        vector_width: number P of values in the condition's "vector", for example the frame rate and the amount of
            motion; 0 for a network that receives none.
        mixing: "factorised" (attention within each frame, then along the frames at each place; cost F S (F + S)) or
            "full" (attention over the patches of all frames; cost (F S)^2).
        causal: number of frames in a chunk, which see only each other and earlier chunks, so that a chunk can be
            evaluated with what `frame_memory` keeps of these; 0 if all frames see each other. It requires "factorised".
        patch_frames: number p of frames of a patch; it divides the number of frames, and F stands for F / p below. The
            embedding of a patch's time is the mean over its frames. Above 1 not with `causal`.
        mlp_ratio: hidden features of the MLP over `width`.
        learn_sigma: whether the output has 2 C channels, as DiT.
        norm, mlp, qk_norm, attention, remat, unroll, dtype: fields as in DiT.
        positions: within a frame, as DiT: "sincos", "rope" or "sincos_rope". Along the frames they are rotary; a
            network of full attention is rotary on three axes, "rope" or "sincos_rope".
        shape: (F, H, W, C) of the videos for which it is made; it takes other F, H and W too. None: the shape of the
            first input.

    Reference: Ma et al., "Latte: Latent Diffusion Transformer for Video Generation", 2024; Peebles & Xie, "Scalable
    Diffusion Models with Transformers", 2023.
    """

    patch: int
    width: int
    depth: int
    heads: int
    num_classes: int = 0
    text_width: int = 0
    vector_width: int = 0
    mixing: str = "factorised"
    mlp_ratio: float = 4.0
    learn_sigma: bool = False
    norm: str = "layernorm"
    mlp: str = "gelu"
    positions: str = "rope"
    qk_norm: bool = False
    unroll: int = 0
    causal: int = 0
    patch_frames: int = 1
    shape: tuple[int, int, int, int] | None = None
    text_inputs = conditions.EMBEDDINGS
    ranks = (4,)
    takes_frames = True
    positive = ("patch", "patch_frames", "width", "depth", "heads", "mlp_ratio")
    choices = Backbone.choices | {
        "mixing": ("factorised", "full"),
        "norm": BLOCK_NORMS,
        "mlp": MLPS,
        "positions": ("sincos", "rope", "sincos_rope"),
    }

    def check_fields(self) -> None:
        network_checks.classes(self)
        network_checks.positive(self, ("text_width", "vector_width", "unroll", "causal"), zero=True)
        network_checks.heads(self, 4)
        if self.mixing == "full" and (self.positions == "sincos" or self.width // self.heads < 8):
            raise ValueError(
                "mixing='full' needs positions 'rope' or 'sincos_rope' and heads of at least 8 features; got "
                f"{self.positions!r} and {self.width // self.heads}"
            )
        if self.mixing == "full" and self.causal:
            raise ValueError(f"causal={self.causal}: frames can see only earlier ones if mixing='factorised'")
        if self.causal and self.patch_frames > 1:
            raise ValueError(
                f"causal={self.causal}: frames can see only earlier ones if patch_frames=1; got {self.patch_frames}"
            )

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        condition: Any = None,
        features: Numbers = None,
        memory: key_value_memory.KeyValueMemory | None = None,
    ) -> Any:
        """One evaluation of the network, see `network_bases.Backbone`.

        Args:
            x: videos [B, F, H, W, C].
            t: the network's clock, [], [B], or [B, F] with a time for each frame; float32 or wider.
            condition: class labels int [B], vectors [B, P], None, or a dict, see `diffusion.models.layers.conditions`:
                "label": int [B], with `num_classes`. "vector": [B, P], with `vector_width`.
                "text": [B, M, E], with `text_width`. "text_mask": Bool [B, M].
            memory: memory of earlier frames, which the frames of x follow; needs `causal`.
            features: blocks whose tokens [B, F S, width] the call returns too, see `layers.block_features`; None: none.

        Returns:
            [B, F, H, W, C], or [B, F, H, W, 2 C] with `learn_sigma`.
        """
        self._check_videos(x, t)
        x = space_to_depth(x, (self.patch_frames, 1, 1))
        if memory is not None and not self.causal:
            raise ValueError(
                "a memory of earlier frames needs a network with causal, in which frames see no later ones"
            )
        batch, frames, height, width, channels = x.shape
        inputs = self._entries(condition, batch)
        recorded = Features(features, self.feature_blocks)
        rows, columns = height // self.patch, width // self.patch
        dense = lambda name: nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name=name)

        pictures = x.reshape(-1, height, width, channels)
        tokens = embedded_patches(pictures, self.patch, self.width, self.dtype, self.positions != "rope")
        tokens = layout.split(tokens.reshape(batch, -1, self.width), "batch", "tokens", None)
        c = self._embedding(t, inputs, batch)
        text = None if inputs["text"] is None else dense("text_embedding")(inputs["text"])
        bias = None if inputs["text_mask"] is None else mask_bias(inputs["text_mask"])

        fields = (self.heads, self.mlp_ratio, self.norm, self.mlp, self.qk_norm, self.attention, self.dtype)
        angles = self._angles(frames, rows, columns, memory)
        along = key_value_memory.causal_bias(frames, self.causal, memory) if self.causal else None
        before = None if memory is None else memory[:2]
        arguments = (c, angles, text, bias, along, before)
        axes = (*(nn.broadcast,) * 5, 0)
        block_fields = (frames, self.mixing, *fields)
        blocks = Stack("blocks", self.depth, VideoBlock, block_fields, arguments, axes, unroll=self.unroll)
        tokens = blocks.run(self, tokens, recorded)

        c = jnp.broadcast_to(c, (batch, frames, self.width)).reshape(-1, self.width)
        norm = normalisation(self.norm, "final_norm", self.dtype)
        tokens = tokens.reshape(batch * frames, -1, self.width)
        output = picture_output(tokens, c, norm, self.patch, pictures.shape, self.dtype, self.learn_sigma)
        return recorded.beside(depth_to_space(output.reshape(*x.shape[:-1], -1), (self.patch_frames, 1, 1)))

    def _embedding(self, t: jax.Array, inputs: dict[str, Any], batch: int) -> jax.Array:
        """silu of the sum of the embeddings of the times, the class and the vector: [B, F or 1, width]."""
        t = jnp.broadcast_to(t, (batch,))[:, None] if jnp.ndim(t) < 2 else t
        times, class_vector = time_and_class(self, t.reshape(-1), inputs["label"], t.size)
        c = times.reshape(*t.shape, self.width)
        if t.shape[1] > 1:
            c = c.reshape(batch, -1, self.patch_frames, self.width).mean(2)
        if class_vector is not None:
            c = c + class_vector[:, None]
        if self.vector_width:
            c = c + nn.Dense(self.width, dtype=self.dtype, name="vector_embedding")(inputs["vector"])[:, None]
        return nn.silu(c)

    def _angles(
        self, frames: int, rows: int, columns: int, memory: key_value_memory.KeyValueMemory | None
    ) -> tuple[jax.Array | None, jax.Array | None]:
        """The angles of the attention within frames and along them, or of the attention over all patches."""
        head_size = self.width // self.heads
        if self.mixing == "full":
            return jnp.asarray(video_angles(frames, rows, columns, head_size)), None
        within = None if self.positions == "sincos" else jnp.asarray(rope_angles(rows, columns, head_size))
        room = frames if memory is None else memory.keys.shape[2]
        angles = jnp.asarray(line_angles(room, head_size))
        return within, key_value_memory.following_positions(angles, frames, memory)

    def _check_videos(self, x: jax.Array, t: jax.Array) -> None:
        network_checks.example(self, x, "videos [B, F, H, W, C]", rank=5)
        if x.shape[2] % self.patch or x.shape[3] % self.patch:
            raise ValueError(f"patch={self.patch} does not divide the height and width of {x.shape[2:4]} pixels")
        if x.shape[1] % self.patch_frames:
            raise ValueError(f"patch_frames={self.patch_frames} does not divide {x.shape[1]} frames")
        network_checks.frame_times(self, x, t)

    def _entries(self, condition: Any, batch: int) -> dict[str, Any]:
        """The entries of the condition, with None for missing ones."""
        required = ("text",) * bool(self.text_width)
        optional = ("label", "vector", *("text_mask",) * bool(self.text_width))
        inputs = {"text": None, "text_mask": None}
        inputs |= conditions.entries(conditions.named(condition), required, optional)
        conditions.check_label(inputs["label"], batch, self.num_classes)
        conditions.check_vector(inputs["vector"], batch, self.vector_width)
        if self.text_width:
            check_text(batch, self.text_width, inputs)
        return inputs


def with_frames(
    network: DiT, params: Mapping[str, Any], key: jax.Array, **options: Any
) -> tuple[VideoDiT, dict[str, Any]]:
    """A network of pictures as one of videos, which begins as the network of pictures on each frame by itself.

    The layers along the frames are new, and add exact zeros at first; the other parameters are the given ones.

    Args:
        network: network of pictures.
        params: its parameters.
        key: random key of the new parameters.
        **options: fields of `VideoDiT` that `DiT` has not: `text_width`, `vector_width`, `shape`.

    Returns:
        (the network, its parameters).

    Raises:
        ValueError: for a DiT with several clocks, a strength, embeddings of each block or a frequency shift, which
            VideoDiT has not, for another option, and for parameters of other names or shapes than the network's.

    Reference: Blattmann et al., "Align your Latents: High-Resolution Video Synthesis with Latent Diffusion Models",
    2023, section 3.1.
    """
    for field, plain in UNKNOWN.items():
        if getattr(network, field) != plain:
            raise ValueError(
                f"{field}={getattr(network, field)!r}: a VideoDiT can only start from a DiT with {field}={plain!r}"
            )
    for option in options:
        if option not in OWN[1:]:
            raise ValueError(f"with_frames has no option {option!r}. Valid: {', '.join(map(repr, OWN[1:]))}")
    shared = {name: getattr(network, name) for name in VideoDiT.__dataclass_fields__ if name not in (*OWN, "parent")}
    video = VideoDiT(**{**shared, "name": None}, **options)
    side = video.patch
    channels = params["patch_embedding"]["kernel"].shape[0] // side**2
    condition = {
        "label": jnp.zeros(1, int) if video.num_classes else None,
        "vector": jnp.zeros((1, video.vector_width)) if video.vector_width else None,
        **({"text": jnp.zeros((1, 1, video.text_width))} if video.text_width else {}),
    }
    new = video.init(key, jnp.zeros((1, 1, side, side, channels)), jnp.zeros(1), condition)["params"]

    _check_parameters(network, params, (1, side, side, channels), condition["label"])
    return video, begun(new, params)


def _check_parameters(network: DiT, params: Mapping[str, Any], shape: tuple[int, ...], label: Any) -> None:
    """Refuses parameters that do not belong to the network, naming the first."""
    expected = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(shape), jnp.zeros(1), label)["params"]
    expected_shapes, given = (
        {name: jnp.shape(leaf) for name, leaf in leaves_of(tree).items()} for tree in (expected, params)
    )
    for name in [*expected_shapes, *given]:
        if expected_shapes.get(name) != given.get(name):
            raise ValueError(
                f"the parameters {name!r} have the shape {given.get(name, 'none')}, but this network needs "
                f"{expected_shapes.get(name, 'none')}"
            )
