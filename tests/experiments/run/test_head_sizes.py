"""The sizes with which a head begins: of the features that it receives and of those that its output has."""

import types

import jax
import jax.numpy as jnp
import pytest

from diffusion.experiments.run import players, program
from diffusion.objectives.objective_facts import Head

role = types.SimpleNamespace
TOKENS = 3 * 2  # of a picture of 12 x 8, in patches of 4
WIDTHS = {1: 10, 2: 20, 5: 50}


def network(params, x, clock, condition, features=()):
    """Features of each block, of another width in each, on a grid of tokens."""
    assert x.shape == (1, 12, 8, 4)
    return x, tuple(jnp.zeros((1, 3, 2, WIDTHS[block])) for block in features)


def begun(cached: bool = False, **heads: Head) -> dict:
    """What `program` makes of heads; each returns (key, features that it receives, features of its output)."""
    encoder = role(cached=cached, features=lambda: (TOKENS, 64))
    recipe = role(
        companions=role(encoder=encoder),
        network=role(apply=network, latent_channels=7),
        examples=role(shape=(12, 8, 4), null=None),
        example_shape=(12, 8, 4),
        objective=role(heads=heads),
    )
    features = lambda params, x, clock, condition: jnp.zeros((len(x), TOKENS, 32))
    cast = role(apply={players.ENCODER: features})
    return program._heads(recipe, cast, jax.random.key(3), {}, {})


def head(layer, target=None) -> Head:
    return Head(layer, lambda key, *sizes: (jax.random.key_data(key).tolist(), *sizes), lambda *_: None, target)


@pytest.mark.parametrize(
    "layer, target, sizes",
    [
        (1, 5, (10, 50)),
        (5, 2, (50, 20)),
        (2, None, (20, 32)),  # the encoder's
        (1, 0, (10, 12 * 8 * 4 // TOKENS)),  # the values of an example, in a token each
        (0, 1, (7, 10)),  # the latents of an autoencoder
        (0, None, (7, 32)),
        (None, None, (0, 0)),
    ],
)
def test_a_head_has_the_sizes_of_what_it_maps(layer, target, sizes):
    ((_, *found),) = begun(term=head(layer, target)).values()
    assert tuple(found) == sizes


def test_features_that_come_with_the_examples_have_the_size_that_the_encoder_says():
    assert begun(cached=True, term=head(1))["term"][1:] == (10, 64)


def test_each_head_has_a_key_of_its_own():
    keys = [tuple(key) for key, *_ in begun(a=head(1), b=head(1), c=head(None)).values()]
    assert len({*keys}) == 3


@pytest.mark.parametrize("joined", [1, 3])
def test_a_player_that_reads_features_begins_with_their_sizes(joined):
    """A discriminator of `joined` kinds of the teacher's features; without features it begins as any network."""
    shapes = lambda *inputs: [jax.tree.map(jnp.shape, leaf) for leaf in inputs]
    module = role(init=lambda key, *inputs: (jax.random.key_data(key).tolist(), shapes(*inputs)))
    cast = role(modules={"teacher": role(latent_channels=4), "fake": module}, apply={"teacher": network}, second="fake")
    player = role(separate=True, features=(2, 5), joined=joined)
    recipe = role(objective=role(second=player), example_shape=(12, 8, 4), examples=role(null=None))
    key, (features, *others) = program._second(recipe, cast, None, jax.random.key(5), {"teacher": {}})
    assert features == ((1, 3, 2, 20 * joined), (1, 3, 2, 50 * joined)) and key == [0, 5]
    assert others == shapes(*program.inputs(cast.modules["teacher"], (12, 8, 4), None)[1:])
    player.features = ()
    assert program._second(recipe, cast, lambda module: ("as any", module), None, {}) == ("as any", module)
