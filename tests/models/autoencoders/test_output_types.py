"""Autoencoders in bfloat16: their layers compute in it, and the last one in float32, so that no output is rounded."""

import jax
import jax.numpy as jnp
import pytest

from diffusion.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusion.models.autoencoders.autoencoder_kl_asymmetric import AsymmetricAutoencoderKL
from diffusion.models.autoencoders.autoencoder_kl_cogvideox import AutoencoderKLCogVideoX
from diffusion.models.autoencoders.autoencoder_kl_hunyuan_image import AutoencoderKLHunyuanImage
from diffusion.models.autoencoders.autoencoder_kl_hunyuan_video import AutoencoderKLHunyuanVideo
from diffusion.models.autoencoders.autoencoder_kl_hunyuan_video_15 import AutoencoderKLHunyuanVideo15
from diffusion.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTX
from diffusion.models.autoencoders.autoencoder_kl_video import AutoencoderKLVideo
from diffusion.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusion.published.ltx2.sound_autoencoder import LTX2SoundAutoencoder

PICTURES = [
    AutoencoderKL(widths=(4,), layers=1, groups=2, latent_channels=2),
    AsymmetricAutoencoderKL((4,), 1, (4,), 1, 2, groups=2),
    AutoencoderKLHunyuanImage((4,), 1, 2, groups=2),
    AutoencoderTiny(4, (1,), (1,)),
]
CLIPS = [
    AutoencoderKLCogVideoX((4,), 1, 0, 2, groups=2),
    AutoencoderKLHunyuanVideo((4,), 1, 0, 2, groups=2),
    AutoencoderKLHunyuanVideo15((4,), 1, 0, 2),
    AutoencoderKLLTX(
        (4, 4), (1, 1), ("",), (4,), (1, 1), (False,), (1,), (False,), (False,) * 2, latent_channels=2, patch=1
    ),
    AutoencoderKLVideo((4,), 1, (), 2),
]
SOUND = LTX2SoundAutoencoder(4, (1, 1, 1), 1, 2, 2, 4)
CALLS = [(module, (1, *frames, 2, 2, 3), (1, *frames, 2, 2, module.latent_channels))
         for modules, frames in ((PICTURES, ()), (CLIPS, (1,))) for module in modules]  # fmt: skip


def products(jaxpr):
    """The types of the operands of all products of a program, in their order."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            yield equation.invars[0].aval.dtype
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from products(inner)


@pytest.mark.extended
@pytest.mark.parametrize(
    ("module", "x", "z"),
    [*CALLS, (SOUND, (1, 1, 4, 2), (1, 1, 1, 2))],
    ids=lambda value: type(value).__name__ if hasattr(value, "apply") else "",
)
def test_the_last_product_is_in_float32_and_others_are_not(module, x, z):
    half = module.clone(dtype="bfloat16")
    for method, shape in (("encode", x), ("decode", z)):
        run = lambda a, method=method: half.init_with_output(jax.random.key(0), a, method=method)[0]
        program, outputs = jax.make_jaxpr(run, return_shape=True)(jax.ShapeDtypeStruct(shape, jnp.float32))
        assert {leaf.dtype for leaf in jax.tree.leaves(outputs)} == {jnp.dtype("float32")}
        *earlier, last = products(program.jaxpr)
        assert last == jnp.float32 and jnp.bfloat16 in earlier
