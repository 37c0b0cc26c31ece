"""The formula for operations against XLA's own count and the paper's table."""

import jax
import jax.numpy as jnp
import pytest

from configs import imagenet256_dit
from diffusion.experiments.run import program
from diffusion.models.budget.flops import flops, hidden, recomputed_flops, train_flops
from diffusion.models.dit import DiT, dit_preset
from diffusion.recipe import Recipe
from diffusion.recipe.parts import Resolver
from diffusion.training import sharding


@pytest.mark.extended
@pytest.mark.parametrize(
    "fields",
    [
        {"num_classes": 10},
        {"num_classes": 0, "mlp": "swiglu", "positions": "rope", "qk_norm": True, "learn_sigma": True},
    ],
)
def test_xla_counts_the_same(fields):
    # XLA counts a scanned body once: the scan is unrolled. It also counts additions and the like, some per cent.
    model = DiT(patch=2, width=256, depth=2, heads=4, unroll=2, **fields)
    x = jax.ShapeDtypeStruct((1, 16, 16, 4), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    labels = jax.ShapeDtypeStruct((1,), jnp.int32) if model.num_classes else None
    variables = jax.eval_shape(model.init, jax.random.key(0), x, t, labels)
    counted = jax.jit(model.apply).lower(variables, x, t, labels).cost_analysis()["flops"]
    formula = flops(model, (16, 16, 4))
    assert formula < counted < 1.06 * formula


@pytest.mark.parametrize(
    ("size", "giga_multiply_adds"),
    [("S/8", 0.36), ("S/4", 1.41), ("S/2", 6.06), ("B/8", 1.42), ("B/4", 5.56), ("B/2", 23.01),
     ("L/8", 5.01), ("L/4", 19.70), ("L/2", 80.71), ("XL/8", 7.39), ("XL/4", 29.05), ("XL/2", 118.64)],
)  # fmt: skip
def test_published_figures(size, giga_multiply_adds):
    # Table 4 of the paper: 32 x 32 x 4 latents, learned sigma.
    model = dit_preset(size, num_classes=1000, learn_sigma=True)
    assert flops(model, (32, 32, 4)) / 2e9 == pytest.approx(giga_multiply_adds, rel=2e-3, abs=0.01)


def test_two_thirds_of_the_hidden_width_are_not_rounded_down():
    assert hidden(DiT(2, 36, 1, 3, 0, mlp_ratio=2.5, mlp="swiglu")) == 60  # of 90


def step_flops(**fields):
    """XLA's count of a whole train step of 4 images, with optimizer and moving average; the formulas'; parameters."""
    shape, images = (16, 16, 4), 4
    config = imagenet256_dit.get_config()
    config.model.update(
        {"width": 256, "depth": 2, "heads": 4, "unroll": 2, "attention": "xla", "remat": "none", **fields}
    )
    config.train.batch_size, config.train.dtype = images, "float32"
    run = program.build(Recipe.from_config(config, shape), sharding.make_mesh({"data": 1}, jax.devices()[:1]))
    counted = run.step.lower(run.target, run.batch, run.seed).cost_analysis()["flops"]
    model = Resolver(config).model(shape)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(run.target.params))
    return counted, images * train_flops(model, shape), images * recomputed_flops(model, shape), parameters


@pytest.mark.slow
def test_xla_counts_the_same_in_a_train_step(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")  # on CPU, means are matrix products too
    counted, model, again, parameters = step_flops()
    # What is not of matrix products: some 25 operations a parameter (AdamW, moving average, the gradient's norm), 2.7 %
    # here, and elementwise functions of the activations.
    assert again == 0
    assert model < counted - 20 * parameters < 1.02 * model
    swiglu, model, _, parameters = step_flops(mlp="swiglu", qk_norm=True, positions="rope")
    assert model < swiglu - 20 * parameters < 1.02 * model
    full, _, again, _ = step_flops(remat="full")
    assert again < full - counted < 1.02 * again  # elementwise functions are computed again too
