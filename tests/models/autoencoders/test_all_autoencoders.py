"""What autoencoders share: a last layer in float32, so that bfloat16 rounds no output, and a clipped log variance."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
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
from tests import numpy_programs

TINY = AutoencoderTiny(4, (1,), (1,))  # has no posterior
PICTURES = [
    AutoencoderKL(widths=(4,), layers=1, groups=2, latent_channels=2),
    AsymmetricAutoencoderKL((4,), 1, (4,), 1, 2, groups=2),
    AutoencoderKLHunyuanImage((4,), 1, 2, groups=2),
    TINY,
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
CALLS = [
    *((module, (1, 2, 2, 3), (1, 2, 2, module.latent_channels)) for module in PICTURES),
    *((module, (1, 1, 2, 2, 3), (1, 1, 2, 2, module.latent_channels)) for module in CLIPS),
    (SOUND, (1, 1, 4, 2), (1, 1, 1, 2)),
]


def products(jaxpr):
    """The types of the operands of all products of a program, in their order."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            yield equation.invars[0].aval.dtype
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from products(inner)


NAMES = lambda value: type(value).__name__ if hasattr(value, "apply") else ""


@pytest.mark.extended
@pytest.mark.parametrize(("module", "x", "z"), CALLS, ids=NAMES)
def test_the_last_product_is_in_float32_and_others_are_not(module, x, z):
    half = module.clone(dtype="bfloat16")
    for method, shape in (("encode", x), ("decode", z)):
        run = lambda a, method=method: half.init_with_output(jax.random.key(0), a, method=method)[0]
        program, outputs = jax.make_jaxpr(run, return_shape=True)(jax.ShapeDtypeStruct(shape, jnp.float32))
        assert {leaf.dtype for leaf in jax.tree.leaves(outputs)} == {jnp.dtype("float32")}
        *earlier, last = products(program.jaxpr)
        assert last == jnp.float32 and jnp.bfloat16 in earlier


@pytest.mark.extended
@pytest.mark.parametrize(
    ("module", "x", "z"), [call for call in CALLS if not hasattr(call[0], "encoder_layers")], ids=NAMES
)
def test_the_log_variance_lies_between_minus_30_and_20(module, x, z):
    """Without kernels the moments are the last bias."""
    x = np.zeros(x, np.float32)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), x, method="encode"))["params"]
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    last = params.get("moments_conv") or params["encoder"]["conv_out"]
    last = last.get("conv", last)
    of_mean = np.arange(len(last["bias"])) < module.latent_channels

    def moments(params, x):
        return module.apply({"params": params}, x, method="encode")

    for number, clipped in ((99, 20), (-99, -30), (3, 3)):
        last["bias"] = np.where(of_mean, 50, number).astype(np.float32)
        mean, log_variance = numpy_programs.outputs(moments, params, x)
        assert mean.shape == log_variance.shape == z[: x.ndim - 1] + (module.latent_channels,)
        assert (mean == 50).all() and (log_variance == clipped).all()
