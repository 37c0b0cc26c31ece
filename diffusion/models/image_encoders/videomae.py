"""VideoMAE's encoder: a plain vision transformer over tubelets of clips, patches of two frames each."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.arrays.boxes import space_to_depth
from diffusion.models.image_encoders.image_features import ImageFeatures
from diffusion.models.layers.choices import look_up, sizes
from diffusion.models.layers.clip_layers import layer_norm
from diffusion.models.layers.cross_attention import xavier
from diffusion.models.layers.scan import scanned
from diffusion.models.layers.vision_layers import Layer, VisionTransformer

LAST = ("mean", "tokens", "none")
MOST = 2**23  # numbers of position codes; the largest published encoder has 2.9 million


class VideoMAE(VisionTransformer):
    """VideoMAE's encoder on clips [B, F, S, S, 3] -> `ImageFeatures` of the tubelets; pooled is their mean.

    Position n has the fixed code sin(n / 10000^(2i / D)), cos(...), counted through time, rows and columns, so that
    clips must have the number of frames and the side of the training. Queries and values have a bias, keys none.

    Attributes:
        size: side S of the frames, in pixels.
        patch: side of a tubelet.
        frames: F of a clip.
        tubelet: frames of a tubelet.
        last: place of the last norm: "mean", on the mean of the tokens, in networks that were fine-tuned so;
            "tokens", on each token, before the mean; "none", where the file has none.
        epsilon: epsilon of the norms in the layers: 1e-12 in transformers' configs, 1e-6 in the authors' code.
        last_epsilon: epsilon of the last norm: 1e-5 in transformers' classifier, elsewhere as the others.
        biased: whether queries and values have a bias.

    References: Tong et al., "VideoMAE", 2022; Wang et al., "VideoMAE V2", 2023.
    """

    size: int = 224
    patch: int = 16
    frames: int = 16
    tubelet: int = 2
    last: str = "mean"
    epsilon: float = 1e-12
    last_epsilon: float = 1e-12
    biased: bool = True

    def check_fields(self) -> None:
        super().check_fields()
        look_up(dict.fromkeys(LAST), self.last, "last")
        for field, part in (("size", "patch"), ("frames", "tubelet")):
            if getattr(self, part) < 1 or getattr(self, field) % getattr(self, part):
                raise ValueError(f"{part}={getattr(self, part)} does not divide {field}={getattr(self, field)}")

    @nn.compact
    def __call__(self, clips: jax.Array) -> ImageFeatures:
        """Args:
            clips: [B, frames, size, size, 3] as the weights were trained on: normalised by ImageNet's mean and
                deviation (`vision_layers.normalised`) for those of transformers' processor.

        Returns:
            `ImageFeatures`: tokens [B, N, width], normalised where `last` is "tokens", and the pooled vector
            [B, width].

        Raises:
            ValueError: for clips of another shape or of integers.
        """
        expected = (self.frames, self.size, self.size, 3)
        if clips.ndim != 5 or clips.shape[1:] != expected or not jnp.issubdtype(clips.dtype, jnp.floating):
            raise ValueError(f"this encoder takes floats [B, {', '.join(map(str, expected))}]; got {clips.dtype} "
                             f"{list(clips.shape)}")  # fmt: skip
        tubelets = space_to_depth(clips.astype(self.dtype), (self.tubelet, self.patch, self.patch))
        tubelets = tubelets.reshape(len(clips), -1, tubelets.shape[-1])
        x = nn.Dense(self.width, dtype=self.dtype, kernel_init=xavier, name="patches")(tubelets)
        x = x + jnp.asarray(_positions(x.shape[1], self.width), x.dtype)
        layers = scanned(Layer, self.depth, "none", self.is_initializing(), (nn.broadcast,), kept=())(
            self.heads,
            self.hidden,
            "gelu",
            self.epsilon,
            False,
            ("query", "value") if self.biased else (),
            self.attention,
            self.dtype,
            name="layers",
        )
        x, _ = layers(x, None)
        x = x.astype(jnp.float32)
        norm = layer_norm(self.last_epsilon, "float32", "norm") if self.last != "none" else lambda x: x
        x = norm(x) if self.last == "tokens" else x
        pooled = x.mean(axis=1)
        return ImageFeatures(x, norm(pooled) if self.last == "mean" else pooled)


def _positions(count: int, width: int) -> np.ndarray:
    """Codes [count, width]: the sine at even features, the cosine at odd ones.

    Raises:
        ValueError: for more than `MOST` numbers. A file may state any width, and they are computed while it is read.
    """
    if count * width > MOST:
        raise ValueError(
            f"the position codes of {count:,} tokens of width {width:,} have {count * width:,} numbers. Valid: at "
            f"most {MOST:,}"
        )
    rate = 10_000.0 ** (-(2 * (np.arange(width) // 2)) / width)
    angles = np.arange(count)[:, None] * rate
    return np.where(np.arange(width) % 2, np.cos(angles), np.sin(angles)).astype(np.float32)


PRESETS: dict[str, dict[str, Any]] = {
    "ViT-S/16": {"width": 384, "depth": 12, "heads": 6, "hidden": 1536},
    "ViT-B/16": {"width": 768, "depth": 12, "heads": 12, "hidden": 3072},
    "ViT-L/16": {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096},
    "ViT-H/16": {"width": 1280, "depth": 32, "heads": 16, "hidden": 5120},
    "ViT-g/14": {"width": 1408, "depth": 40, "heads": 16, "hidden": 6144, "patch": 14},
}
"""The published sizes; ViT-g/14 is VideoMAE V2's."""
preset = sizes(VideoMAE, PRESETS)
"""A VideoMAE encoder of a published size. See `layers.choices.sizes`."""
