"""Diffusers' AsymmetricAutoencoderKL: small networks, with and without a kept picture, and the published sizes."""

import diffusers

from tests.peers.cases import Case, first, last
from tests.peers.made_weights import drawn


def run(module, inputs):
    """Moments of a picture, the picture of a latent, and that picture with a kept part."""
    posterior = module.encode(first(inputs["x"])).latent_dist
    z = first(inputs["z"])
    outputs = {"mean": posterior.mean, "log_variance": posterior.logvar, "decoded": module.decode(z).sample}
    if "mask" in inputs:
        kept = {"image": first(inputs["picture"]), "mask": first(inputs["mask"])}
        outputs["painted"] = module.decode(z, **kept).sample
    return {name: last(output) for name, output in outputs.items()}


def asymmetric(widths, up_widths, layers, up_layers, latent=4, **options):
    return diffusers.AsymmetricAutoencoderKL(
        down_block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        layers_per_down_block=layers,
        up_block_out_channels=up_widths,
        up_block_types=("UpDecoderBlock2D",) * len(up_widths),
        layers_per_up_block=up_layers,
        latent_channels=latent,
        **options,
    )


def inputs(name, channels=3, latent=4, masked=True):
    """A picture that is not square, latents, and for these a picture whose mask changes at odd pixels."""
    arrays = {"x": drawn(f"{name} x", 2, 16, 8, channels), "z": drawn(f"{name} z", 2, 2, 3, latent)}
    if masked:
        arrays["picture"] = drawn(f"{name} picture", 2, 16, 24, channels)
        arrays["mask"] = (drawn(f"{name} mask", 2, 16, 24, 1) > 0).astype("float32")
    return arrays


CASES = {
    # as published: the channels double up to the last
    "autoencoder_kl_asymmetric": Case(
        lambda: asymmetric((8, 16, 16, 16), (12, 24, 48, 48), 1, 2, norm_num_groups=4),
        inputs("autoencoder_kl_asymmetric"),
        run,
    ),
    # equal channels, of which the features at the picture's side have one shape; grey pictures
    "autoencoder_kl_asymmetric_equal": Case(
        lambda: asymmetric(
            (8,) * 4, (8,) * 4, 1, 1, 3, norm_num_groups=4, in_channels=1, out_channels=1, scaling_factor=0.5
        ),
        inputs("autoencoder_kl_asymmetric_equal", 1, 3),
        run,
    ),
    # a decoder of more levels, whose pictures are larger; it cannot see a kept part
    "autoencoder_kl_asymmetric_larger": Case(
        lambda: asymmetric((8, 16), (8, 8, 16), 1, 1, norm_num_groups=4),
        inputs("autoencoder_kl_asymmetric_larger", masked=False),
        run,
    ),
}
LISTINGS = {
    f"autoencoder_kl_asymmetric_full_{name}": lambda widths=widths, layers=layers: asymmetric(
        (128, 256, 512, 512), widths, 2, layers
    )
    for name, widths, layers in (("x1_5", (192, 384, 768, 768), 3), ("x2", (256, 512, 1024, 1024), 5))
}
