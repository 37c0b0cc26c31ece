"""Diffusers' AutoencoderKL: small networks with what they put out, and the published sizes."""

import diffusers
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn
from tests.peers.translated import Translated, under


def run(module, inputs):
    """Moments of a picture, and the picture of a latent."""
    posterior = module.encode(first(inputs["x"])).latent_dist
    decoded = module.decode(first(inputs["z"])).sample
    return {"mean": last(posterior.mean), "log_variance": last(posterior.logvar), "decoded": last(decoded)}


def small(levels, latent, **options):
    """An autoencoder of this many levels."""
    kinds = options.pop("attends", (False,) * levels)
    return diffusers.AutoencoderKL(
        block_out_channels=(16, 32, 32, 48)[:levels],
        norm_num_groups=8,
        latent_channels=latent,
        down_block_types=[f"{'Attn' if one else ''}DownEncoderBlock2D" for one in kinds],
        up_block_types=[f"{'Attn' if one else ''}UpDecoderBlock2D" for one in reversed(kinds)],
        **options,
    )


def layer(inputs, outputs, side):
    """A convolution."""
    return {"weight": (outputs, inputs, side, side), "bias": (outputs,)}


def norm(width):
    """A group norm."""
    return {"weight": (width,), "bias": (width,)}


def original_block(inputs, outputs):
    """ResnetBlock of CompVis/latent-diffusion, ldm/modules/diffusionmodules/model.py."""
    parts = {
        "norm1": norm(inputs),
        "conv1": layer(inputs, outputs, 3),
        "norm2": norm(outputs),
        "conv2": layer(outputs, outputs, 3),
    }
    if inputs != outputs:
        parts["nin_shortcut"] = layer(inputs, outputs, 1)
    return flat(parts)


def flat(parts):
    """One table of several."""
    return {name: shape for part, shapes in parts.items() for name, shape in under(part, shapes).items()}


def original_side(widths, inputs, outputs, blocks, encoder):
    """Encoder or Decoder of the same file; FLUX's autoencoder has the same names."""
    last_width = widths[-1]
    attention = {
        "norm": norm(last_width),
        **{name: layer(last_width, last_width, 1) for name in ("q", "k", "v", "proj_out")},
    }
    block = original_block(last_width, last_width)
    ends = (widths[0], widths[-1]) if encoder else (widths[-1], widths[0])
    parts = {
        "conv_in": layer(inputs, ends[0], 3),
        "norm_out": norm(ends[1]),
        "conv_out": layer(ends[1], outputs, 3),
        "mid": flat({"block_1": block, "attn_1": flat(attention), "block_2": block}),
    }
    before = ends[0]
    for i in range(len(widths)) if encoder else reversed(range(len(widths))):
        for j in range(blocks):
            parts[f"{'down' if encoder else 'up'}.{i}.block.{j}"] = original_block(before, widths[i])
            before = widths[i]
        if encoder and i + 1 < len(widths):
            parts[f"down.{i}.downsample.conv"] = layer(before, before, 3)
        if not encoder and i:
            parts[f"up.{i}.upsample.conv"] = layer(before, before, 3)
    return flat(parts)


class Original(Translated):
    """An autoencoder under the names of latent diffusion, or of FLUX, which diffusers translates."""

    def __init__(self, network):
        config = network.config
        widths, layers, latent = config.block_out_channels, config.layers_per_block, config.latent_channels
        shapes = under("encoder", original_side(widths, 3, 2 * latent, layers, True))
        shapes |= under("decoder", original_side(widths, latent, 3, layers + 1, False))
        if config.use_quant_conv:
            convs = {"quant_conv": layer(2 * latent, 2 * latent, 1), "post_quant_conv": layer(latent, latent, 1)}
            shapes |= flat(convs)
        super().__init__(network, shapes, self.translate)

    def translate(self, left):
        converted = convert_ldm_vae_checkpoint(left, self.config)
        if len(converted) == len(left):
            left.clear()
        return converted

    def encode(self, x):
        return self.network().encode(x)

    def decode(self, z):
        return self.network().decode(z)


CASES = {
    # Stable Diffusion's parts: four levels, convolutions of one pixel, f8 (a picture that is not square)
    "autoencoder_kl_sd": Case(
        lambda: small(4, 4, layers_per_block=2),
        {"x": drawn("autoencoder_kl_sd x", 2, 16, 24, 3), "z": drawn("autoencoder_kl_sd z", 2, 2, 3, 4)},
        run,
    ),
    # Flux's and SD3's: 16 channels, none of those convolutions, a shift
    "autoencoder_kl_flux": Case(
        lambda: small(
            3, 16, use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.3611, shift_factor=0.1159
        ),
        {"x": drawn("autoencoder_kl_flux x", 2, 8, 12, 3), "z": drawn("autoencoder_kl_flux z", 2, 2, 3, 16)},
        run,
    ),
    # latent diffusion's f16: attention at a level; no attention in the middle; one channel; latents scaled by channel
    "autoencoder_kl_attention": Case(
        lambda: small(
            2,
            2,
            attends=(False, True),
            mid_block_add_attention=False,
            in_channels=1,
            out_channels=1,
            latents_mean=[0.5, -0.25],
            latents_std=[2.0, 4.0],
            scaling_factor=1.0,
        ),
        {"x": drawn("autoencoder_kl_attention x", 2, 8, 4, 1), "z": drawn("autoencoder_kl_attention z", 2, 4, 2, 2)},
        run,
    ),
    # a convolution before the decoder alone, and pictures that are decoded with a fourth channel
    "autoencoder_kl_uneven": Case(
        lambda: small(2, 4, use_quant_conv=False, out_channels=4),
        {"x": drawn("autoencoder_kl_uneven x", 2, 8, 4, 3), "z": drawn("autoencoder_kl_uneven z", 2, 4, 2, 4)},
        run,
    ),
    "autoencoder_kl_original": Case(
        lambda: Original(small(3, 4)),
        {"x": drawn("autoencoder_kl_original x", 1, 8, 8, 3), "z": drawn("autoencoder_kl_original z", 1, 2, 2, 4)},
        run,
    ),
}


def published(**options):
    """The published size, which all of them share."""
    return lambda: diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        **options,
    )


LISTINGS = {
    "autoencoder_kl_full_sd15": published(sample_size=512),
    "autoencoder_kl_full_sdxl": published(sample_size=1024, scaling_factor=0.13025),
    "autoencoder_kl_full_sd3": published(
        latent_channels=16, use_quant_conv=False, use_post_quant_conv=False, scaling_factor=1.5305, shift_factor=0.0609
    ),
    "autoencoder_kl_full_flux": published(
        latent_channels=16, use_quant_conv=False, use_post_quant_conv=False, scaling_factor=0.3611, shift_factor=0.1159
    ),
    "autoencoder_kl_full_original": lambda: Original(published()()),
}
