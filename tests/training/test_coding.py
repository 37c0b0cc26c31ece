"""Autoencoders as networks that are trained: a linear one, whose reconstructions are products of two matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.models.autoencoders.latent_space import Moments
from diffusion.training import coding

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 3, 2)).astype(np.float32)
IN, OUT, CODES = (RNG.standard_normal(shape).astype(np.float32) for shape in ((2, 4), (4, 2), (5, 4)))
KEYS = jax.random.split(jax.random.key(0), 2)
PARAMS = {"encoder": {"conv_out": {"kernel": IN}}, "decoder": {"conv_out": {"kernel": OUT}}}


class Linear:
    """z = x IN, x = z OUT; a posterior of the standard deviation `std`, or whole numbers for finite levels."""

    std = 1e-12
    patch = 2

    def apply(self, variables, x, method="decode", quantize=True):
        weights = variables["params"]
        if method == "quantize":
            return jnp.round(x), None
        if method == "encode":
            mean = x @ weights["encoder"]["conv_out"]["kernel"]
            return mean if self.std is None else Moments(mean, jnp.full_like(mean, 2 * np.log(self.std)))
        kernel = weights["out"]["kernel"] if "out" in weights else weights["decoder"]["conv_out"]["kernel"]
        return (jnp.round(x) if quantize and self.std is None else x) @ kernel


def test_a_posterior_is_drawn_and_decoded():
    module = Linear()
    params = coding.parameters(PARAMS, log_variance=-1.5)
    coded = coding.kl_network(module)(params, X, KEYS)
    z = X @ IN
    np.testing.assert_allclose(coded.latents, z, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(coded.x, z @ OUT, rtol=1e-4, atol=1e-5)
    variance = module.std**2
    kl = 0.5 * (z**2 + variance - 1 - np.log(variance)).sum((1, 2, 3))
    np.testing.assert_allclose(coded.penalties["kl"], kl, rtol=1e-5)
    assert coded.penalties.keys() == {"kl"} and float(coded.log_variance) == -1.5
    assert coded.last is OUT and coded.first is IN
    module.std = 0.5
    drawn = coding.kl_network(module)(params, X, KEYS)
    assert np.std(drawn.latents - z) == pytest.approx(0.5, rel=0.3)  # of 72 values
    np.testing.assert_allclose(drawn.x, drawn.latents @ OUT, rtol=1e-4, atol=1e-5)
    x, z = drawn.recode(IN)  # by the same draws
    np.testing.assert_array_equal(z, drawn.latents)
    np.testing.assert_array_equal(x, drawn.x)


def test_other_kernels_of_the_last_layers_take_their_place():
    module = Linear()
    network = coding.kl_network(module)
    coded = network(coding.parameters(PARAMS), X, KEYS)
    np.testing.assert_allclose(coded.redo(2 * OUT), 2 * X @ IN @ OUT, rtol=1e-4, atol=1e-5)
    x, z = coded.recode(3 * IN)
    np.testing.assert_allclose(z, 3 * X @ IN, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(x, 3 * X @ IN @ OUT, rtol=1e-4, atol=1e-4)
    doubled = network(coding.parameters(PARAMS), X, KEYS, transform=lambda z: 2 * z)
    np.testing.assert_allclose(doubled.x, 2 * X @ IN @ OUT, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(doubled.redo(OUT), 2 * X @ IN @ OUT, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(doubled.latents, X @ IN, rtol=1e-5, atol=1e-6)


def test_an_encoder_of_another_form_has_no_first_kernel():
    module = Linear()
    names = ("encoder", "conv_out", "kernel")
    assert coding.kl_network(module, first=("front", "kernel"))(coding.parameters(PARAMS), X, KEYS).first is None
    assert coding.kl_network(module, first=names)(coding.parameters(PARAMS), X, KEYS).first is IN


def test_vectors_become_their_nearest_codes():
    module = Linear()
    module.std = None
    z = X @ IN
    codes = CODES[np.square(z[..., None, :] - CODES).sum(-1).argmin(-1)]
    coded = coding.vq_network(module)(coding.parameters({**PARAMS, "codebook": CODES}, 0.5), X)
    np.testing.assert_allclose(coded.x, codes @ OUT, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(coded.redo(2 * OUT), 2 * codes @ OUT, rtol=1e-4, atol=1e-4)
    assert coded.penalties.keys() == {"codebook", "commitment"} and float(coded.log_variance) == 0.5
    off = np.square(z - codes).mean((1, 2, 3))
    for penalty in coded.penalties.values():
        np.testing.assert_allclose(penalty / off, np.full(2, float(penalty[0] / off[0])), rtol=1e-4)
    levels = coding.vq_network(module)(coding.parameters(PARAMS), X)
    np.testing.assert_allclose(levels.x, np.round(z) @ OUT, rtol=1e-4, atol=1e-4)
    assert levels.penalties == {} and levels.last is OUT


def test_features_of_patches_are_decoded_in_their_places():
    weights = {"out": {"kernel": OUT}}
    features = RNG.standard_normal((2, 6, 4)).astype(np.float32)
    network = coding.decoder_network(Linear())
    coded = network({"params": weights}, features, size=(4, 6))
    grid = features.reshape(2, 2, 3, 4)
    np.testing.assert_allclose(coded.x, grid @ OUT, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(coded.redo(2 * OUT), 2 * grid @ OUT, rtol=1e-5, atol=1e-5)
    assert coded.penalties == {} and coded.last is OUT
    for size in ((4, 4), (5, 6), (4, 7)):
        with pytest.raises(ValueError, match=rf"has 6 patches for a picture, .* {size[0]} x {size[1]} from patches"):
            network({"params": weights}, features, size=size)


def test_the_loss_of_the_codebook_moves_codes_and_that_of_commitment_the_encoder():
    module = Linear()
    module.std = None
    params = coding.parameters({**PARAMS, "codebook": CODES})
    slopes = jax.jacrev(lambda params: coding.vq_network(module)(params, X).penalties)(params)
    parts = lambda tree: {part for part, leaves in tree.items() if any(map(np.any, jax.tree.leaves(leaves)))}
    moved = {name: parts(slope["autoencoder"]) for name, slope in slopes.items()}
    assert moved == {"codebook": {"codebook"}, "commitment": {"encoder"}}
