"""ControlNet: a copy of a U-Net's way down that reads a picture and computes additions to the U-Net's skips.

    hint -- convolutions, / 8 -- + -- the way down and the middle, as the U-Net's
                                 |        |  one convolution of one pixel a skip, all zero at the start
    x_t ------ conv_in ----------+        v
                                      residuals -- the entry "residuals" of the U-Net's condition

Pictures and features are channels last.
"""

__all__ = ["ControlNet"]

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.attachment import Attachment, check_base, weighted_residuals
from diffusion.models.conditional_unet import ConditionalUNet, Layers
from diffusion.models.layers.convolutions import conv


class ControlNet(nn.Module):
    """The additions to a U-Net's skips that make its samples follow a picture: edges, depth, a pose.

        residuals = control_net.apply(variables, x, t, condition, hint)
        output = unet.apply(unet_variables, x, t, {**condition, "residuals": residuals})

    Scaled residuals are a weaker control, summed residuals several controls. The parameters of the way down and the
    middle have the names of the U-Net's, from which training begins.

    Attributes:
        unet: the fields of the U-Net; it is not called, and has no parameters here.
        hint_widths: channels of the convolutions that read the hint; each after the first halves it.
        hint_channels: of the hint.

    Reference: Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models", 2023, sections 3.1 and 3.2.
    """

    unet: ConditionalUNet
    hint_widths: tuple[int, ...] = (16, 32, 96, 256)
    hint_channels: int = 3
    reads_base = False

    @nn.compact
    def __call__(self, x: jax.Array, t: jax.Array, condition: dict, hint: jax.Array) -> tuple[jax.Array, ...]:
        """Args:
            x: [B, H, W, in_channels], as the U-Net's.
            t: its clock, [B] or [].
            condition: its condition, without residuals and extra keys.
            hint: [B, 8H, 8W, hint_channels] with the default widths, in [0, 1].

        Returns:
            One array for each skip and one for the middle, as `conditional_unet.residual_shapes` lists them, float32.

        Raises:
            ValueError: as the U-Net, and for a hint that does not fit.
        """
        inputs = self.unet.checked(x, t, condition)
        factor = 2 ** (len(self.hint_widths) - 1)
        expected = (x.shape[0], factor * x.shape[1], factor * x.shape[2], self.hint_channels)
        if hint.shape != expected:
            raise ValueError(f"the hint has {factor} times the height and width of x, {expected}; got {hint.shape}")
        dtype, widths = self.unet.dtype, self.unet.widths
        seen = nn.silu(conv(self.hint_widths[0], dtype=dtype, name="hint_in")(hint))
        for i, (width, wider) in enumerate(zip(self.hint_widths, self.hint_widths[1:])):
            seen = nn.silu(conv(width, dtype=dtype, name=f"hint_{i}_same")(seen))
            seen = nn.silu(conv(wider, stride=2, dtype=dtype, name=f"hint_{i}_half")(seen))
        seen = conv(widths[0], zero=True, dtype=dtype, name="hint_out")(seen)

        layers = Layers(self.unet, jnp.broadcast_to(t, x.shape[:1]), inputs)
        h, skips = layers.down(x, seen)
        h = layers.middle(h)
        out = lambda h, name: conv(h.shape[-1], 1, zero=True, dtype="float32", name=name)(h.astype(jnp.float32))
        return (*(out(skip, f"residual_{i}") for i, skip in enumerate(skips)), out(h, "residual_middle"))

    def residuals(
        self,
        params: Any,
        denoiser: ConditionalUNet,
        x: jax.Array,
        clock: jax.Array,
        condition: Mapping[str, Any],
        seen: jax.Array,
    ) -> tuple[jax.Array, ...]:
        """The U-Net's entry "residuals"; only a distilled ControlNet receives the guidance strength.

        Args:
            params: of this module.
            denoiser: the U-Net, whose skips have a residual each already.
            x, clock, condition: as the U-Net receives them, without residuals.
            seen: the picture, [B, s H, s W, 3] in [0, 1].
        """
        own = {name: entry for name, entry in condition.items() if name != "strength" or self.unet.strength_width}
        found: Any = self.apply({"params": params}, x, clock, own, seen)
        return tuple(found)

    def attachment(self, params: Any, denoiser: nn.Module, base: Any) -> Attachment:
        """This ControlNet as what sampling attaches to a U-Net, with its compute type.

        Args:
            params: of this module.
            denoiser: the U-Net.
            base: its parameters.

        Raises:
            ValueError: for a denoiser that is no such U-Net, or that differs from the one that it was made for.
        """
        if not isinstance(denoiser, ConditionalUNet):
            raise ValueError(f"this ControlNet is for a ConditionalUNet; the denoiser is a {type(denoiser).__name__}")
        check_base(params, base, "hint_|residual_|conv_in/kernel", "this ControlNet")
        unet = self.unet.clone(dtype=denoiser.dtype, attention=denoiser.attention)
        return Attachment(params, functools.partial(weighted_residuals, self.clone(unet=unet), denoiser))
