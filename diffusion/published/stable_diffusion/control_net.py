"""ControlNet: a copy of a U-Net's way down that reads a picture and computes additions to the U-Net's skips.

    hint -- convolutions, / 8 -- + -- the way down and the middle, as the U-Net's
                                 |        |  one convolution of one pixel a skip, all zero at the start
    x_t ------ conv_in ----------+        v
                                      residuals -- the entry "residuals" of the U-Net's condition

A union ControlNet knows several kinds of control. The kind is embedded together with the time. A transformer with one
token, the mean of the hint plus an embedding of its kind, computes a vector that is added to the hint. In the authors'
code, the tokens of all pictures of a batch attend to each other, and both branches of guidance of a picture have the
same token. Here each token attends only to itself, so that a picture does not depend on other pictures of its batch.

Pictures and features are channels last.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from diffusion.models.attachment import ControlNetBeside
from diffusion.models.layers.clip_layers import Layers as Tokens
from diffusion.models.layers.convolutions import conv
from diffusion.models.layers.embeddings import sinusoid
from diffusion.published.stable_diffusion.network import ConditionalUNet, Layers


class ControlNet(ControlNetBeside, nn.Module):
    """The additions to a U-Net's skips that make its samples follow a picture: edges, depth, a pose.

        residuals = control_net.apply(variables, x, t, condition, hint)
        output = unet.apply(unet_variables, x, t, {**condition, "residuals": residuals})

    Residuals times a factor below 1 are a weaker control, and the sum of several ControlNets' residuals is a
    combination of controls. The parameters of the way down and the middle have the same names as the parameters of the
    U-Net with which training begins.

    Attributes:
        unet: a U-Net, of which only the fields are used; it is not called, and has no parameters here.
        hint_widths: channels of the convolutions that read the hint; each width after the first halves the sides.
        hint_channels: number of channels of the hint.
        modes: number of kinds of control that a union ControlNet knows, or 0.
        kind_depth, kind_heads: numbers of layers and of heads of a union's transformer.

    Reference: Zhang et al., "Adding Conditional Control to Text-to-Image Diffusion Models", 2023, sections 3.1 and 3.2;
    for unions the code of diffusers' ControlNetUnionModel.
    """

    unet: ConditionalUNet
    hint_widths: tuple[int, ...] = (16, 32, 96, 256)
    hint_channels: int = 3
    modes: int = 0
    kind_depth: int = 1
    kind_heads: int = 8
    base_class = ConditionalUNet
    added_names = "hint_|residual_|kind_|conv_in/kernel"

    @nn.compact
    def __call__(
        self, x: jax.Array, t: jax.Array, condition: dict, hint: jax.Array, mode: jax.Array | None = None
    ) -> tuple[jax.Array, ...]:
        """Args:
            x: the input of the U-Net, [B, H, W, in_channels].
            t: the clock of the U-Net, [B] or [].
            condition: the condition of the U-Net, without residuals and extra keys.
            hint: the picture that controls, [B, 8 H, 8 W, hint_channels] with the default widths, in [0, 1].
            mode: the kind of control, int [B] in 0..modes - 1; None if `modes` is 0.

        Returns:
            One array for each skip and one for the middle, float32, in the shapes of `network.residual_shapes`.

        Raises:
            ValueError: under the conditions of the U-Net; if the hint does not fit x; if the mode is missing although
                the ControlNet has `modes`, or is given although it has none.
        """
        if (mode is None) != (self.modes == 0):
            valid = f"int [B] below {self.modes}" if self.modes else "None"
            raise ValueError(f"a ControlNet with modes = {self.modes} has no mode = {mode}. Valid: {valid}")
        inputs = self.unet.checked(x, t, condition)
        factor = 2 ** (len(self.hint_widths) - 1)
        expected = (x.shape[0], factor * x.shape[1], factor * x.shape[2], self.hint_channels)
        if hint.shape != expected:
            raise ValueError(
                f"the hint must have {factor} times the height and width of x, {expected}; got {hint.shape}"
            )
        dtype, widths = self.unet.dtype, self.unet.widths
        read = nn.silu(conv(self.hint_widths[0], dtype=dtype, name="hint_in")(hint))
        for i, (width, wider) in enumerate(zip(self.hint_widths, self.hint_widths[1:])):
            read = nn.silu(conv(width, dtype=dtype, name=f"hint_{i}_same")(read))
            read = nn.silu(conv(wider, stride=2, dtype=dtype, name=f"hint_{i}_half")(read))
        read = conv(widths[0], zero=True, dtype=dtype, name="hint_out")(read)

        layers = Layers(self.unet, jnp.broadcast_to(t, x.shape[:1]), inputs)
        if mode is not None:
            layers.embedding = layers.embedding + self._embedded(mode)
            read = read + self._of_kind(mode, read)
        h, skips = layers.down(x, read)
        h = layers.middle(h)
        out = lambda h, name: conv(h.shape[-1], 1, zero=True, dtype="float32", name=name)(h.astype(jnp.float32))
        return (*(out(skip, f"residual_{i}") for i, skip in enumerate(skips)), out(h, "residual_middle"))

    def _embedded(self, mode: jax.Array) -> jax.Array:
        """The vector [B, 4 widths[0]] that the kind adds to the embedding of the time.

        It is computed from sinusoids of 1 for the kind and of 0 for each other kind.
        """
        unet = self.unet
        dense = lambda name: nn.Dense(4 * unet.widths[0], dtype=unet.dtype, name=name)
        numbers = jax.nn.one_hot(mode, self.modes)
        features = sinusoid(numbers.reshape(-1), unet.size_width).reshape(len(numbers), -1)
        return dense("kind_out")(nn.silu(dense("kind_hidden")(features)))

    def _of_kind(self, mode: jax.Array, seen: jax.Array) -> jax.Array:
        """The vector [B, 1, 1, D] that the kind adds to the hint [B, H, W, D], zero at the start."""
        dtype, width = self.unet.dtype, seen.shape[-1]
        task = nn.Embed(self.modes, width, dtype=dtype, name="kind_embedding")(mode)
        layers = Tokens(
            self.kind_depth, self.kind_heads, 4 * width, "quick_gelu", 1e-5, "auto", "none", dtype, name="kind_tokens"
        )
        token, _ = layers((seen.mean((1, 2)) + task)[:, None], None, 0)
        out = nn.Dense(width, dtype=dtype, kernel_init=nn.initializers.zeros, name="kind_added")
        return out(token)[:, None]

    def residuals(
        self,
        params: Any,
        denoiser: ConditionalUNet,
        x: jax.Array,
        clock: jax.Array,
        condition: Mapping[str, Any],
        seen: Any,
    ) -> tuple[jax.Array, ...]:
        """The entry "residuals" for the U-Net; only a distilled ControlNet receives the strength of the guidance."""
        read = {name: entry for name, entry in condition.items() if name != "strength" or self.unet.strength_width}
        hint = seen if isinstance(seen, tuple) else (seen,)
        outputs: Any = self.apply({"params": params}, x, clock, read, *hint)
        return tuple(outputs)

    def fitted(self, denoiser: ConditionalUNet) -> tuple[Any, dict[str, Any]]:
        """See `ControlNetBeside`."""
        unet = self.unet.clone(dtype=denoiser.dtype, attention=denoiser.attention)
        return self.clone(unet=unet), {"modes": self.modes}
