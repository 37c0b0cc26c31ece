"""PatchGAN: a convolutional network with one logit for each patch of a picture."""

import flax.linen as nn
import jax

from diffusion.models.layers import layout
from diffusion.models.layers.convolutions import GroupNorm


class PatchDiscriminator(nn.Module):
    """Logits for the patches of pictures; with three layers each covers 70 x 70 pixels.

        x [B, H, W, C] - conv 4x4 /2 - leaky - [conv 4x4 /2 - norm - leaky] x (layers - 1)
          - conv 4x4 - norm - leaky - conv 4x4 - logits [B, h, w, 1],  h = H / 2^layers - 2

    The norm is a group norm, not the papers' batch norm: without statistics over the batch, an example's logits depend
    only on that example, on any number of devices. With as many groups as channels it is the instance norm that Isola
    et al. use at a batch of one.

    Attributes:
        width: channels of the first layer; they double up to eight times as many.
        layers: number of layers that halve the sides, >= 1.
        groups: number of groups of the norms.
        dtype: compute type; the logits are float32.

    Raises:
        ValueError: when called, for pictures too small to have a patch.

    Reference: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", 2017, appendix 6.1.2;
    as Esser et al. 2021 use it for VQGAN.
    """

    width: int = 64
    layers: int = 3
    groups: int = 32
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, clock: jax.Array | None = None, condition: jax.Array | None = None) -> jax.Array:
        """Args:
        x: pictures [B, H, W, C] in [-1, 1].
        clock: not used; objectives call all networks alike.
        condition: not used.
        """
        least = 3 * 2**self.layers
        if min(x.shape[1:3]) < least:
            raise ValueError(
                f"a discriminator of {self.layers} layers needs pictures of at least {least} x {least} pixels; got "
                f"{x.shape[1]} x {x.shape[2]}. Use fewer layers"
            )
        for i in range(self.layers + 1):
            width = self.width * min(2**i, 8)
            last = i == self.layers
            x = self._conv(x, width, 1 if last else 2, f"conv_{i}", bias=i == 0)
            if i:
                x = GroupNorm(min(self.groups, width), name=f"norm_{i}")(x)
            x = layout.split(nn.leaky_relu(x, 0.2), "batch", None, None, None)
        return self._conv(x, 1, 1, "conv_out", dtype="float32")

    def _conv(self, x: jax.Array, features: int, stride: int, name: str, bias: bool = True, dtype: str = ""):
        start = nn.initializers.normal(0.02)
        return nn.Conv(
            features,
            (4, 4),
            (stride, stride),
            ((1, 1), (1, 1)),
            use_bias=bias,
            dtype=dtype or self.dtype,
            kernel_init=start,
            name=name,
        )(x)
