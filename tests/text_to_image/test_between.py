"""Pictures between two prompts and two noises, of networks that a test can read."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import text_to_image
from diffusion.published.pipeline_kinds import Guidance, Prompts
from diffusion.text_to_image import interpolation, programs
from tests.text_to_image.stand_ins import Product, made_model

HOW = {"guidance": 1.5, "steps": 3}


@pytest.fixture(scope="module")
def model():
    model = made_model()
    return dataclasses.replace(
        model, kind=model.kind._replace(denoiser=model.kind.denoiser._replace(multiple=lambda denoiser: 1))
    )


@pytest.mark.extended
@pytest.mark.parametrize("seeds", [(3, 5), (4, 4)])
def test_the_way_begins_and_ends_at_the_pictures_of_the_prompts(model, seeds):
    prompts = ["a cat", "a dog on a very long leash"]
    way = text_to_image.between(model, prompts, seeds, np.array([0.0, 0.5, 1.0]), **HOW)
    assert way.shape == (3, 8, 8, 3) and way.dtype == np.uint8
    ends = text_to_image.generate(model, prompts, seeds=seeds, **HOW).astype(int)
    assert np.abs(way[0].astype(int) - ends[0]).max() <= 1
    assert np.abs(way[2].astype(int) - ends[1]).max() <= 1
    assert all(np.abs(way[1].astype(int) - end).max() > 1 for end in ends)


@pytest.mark.extended
def test_a_stochastic_sampler_draws_the_same_noise_for_all_weights(model):
    stochastic = dataclasses.replace(model, process=model.process._replace(sampler="ddpm"), _programs={})
    way = text_to_image.between(stochastic, ["a cat", "a cat"], (4, 4), np.array([0.0, 0.5, 1.0]), **HOW)
    (picture,) = text_to_image.generate(stochastic, "a cat", seeds=4, **HOW)
    assert np.abs(way.astype(int) - picture).max() <= 1


def sampled(monkeypatch, model, seeds, finite=(True, False, True)):
    """(pictures, start, conditional, unconditional) of a way between two noises, without its steps."""
    arguments = []

    def compiled(model, course, function):
        if function is programs.begin:
            keys = jax.random.split(jax.random.key(0), 2)
            x = jnp.stack([jnp.eye(3), jnp.eye(3)[::-1]])
            return lambda *_: programs.Start(x, keys, beside={"control": jnp.array([1.0, 2.0])})
        pictures = np.arange(3 * 8 * 8 * 3, dtype=np.uint8).reshape(3, 8, 8, 3)
        decoded = programs.Decoded(pictures, None, np.array(finite))
        return lambda params, *rest: (arguments.append(rest) or decoded, None)

    monkeypatch.setattr(interpolation, "compiled", compiled)
    way = text_to_image.between(model, ["a cat", "a tiger"], seeds, np.array([0.0, 0.5, 1.0]), **HOW)
    ((start, conditional, unconditional, *_),) = arguments
    return way, start, conditional, unconditional


def test_all_weights_begin_between_two_noises_and_step_by_the_keys_of_the_first(model, monkeypatch):
    with pytest.warns(UserWarning, match="1 of 3 .* not finite"):
        way, start, *_ = sampled(monkeypatch, model, (3, 5))
    np.testing.assert_array_equal(way, np.arange(3 * 8 * 8 * 3, dtype=np.uint8).reshape(3, 8, 8, 3))
    first, _ = jax.random.split(jax.random.key(0), 2)
    np.testing.assert_array_equal(jax.random.key_data(start.keys), [jax.random.key_data(first)] * 3)
    np.testing.assert_array_equal(start.beside["control"], [1.0] * 3)
    np.testing.assert_allclose(start.x[0], np.eye(3), atol=1e-6)
    np.testing.assert_allclose(start.x[2], np.eye(3)[::-1], atol=1e-6)
    angle = np.arccos(1 / 3)  # the two have one of three numbers in common
    middle = np.sin(angle / 2) / np.sin(angle) * (np.eye(3) + np.eye(3)[::-1])
    np.testing.assert_allclose(start.x[1], middle, atol=1e-6)


def test_all_weights_begin_at_one_noise_where_the_seeds_are_equal(model, monkeypatch):
    _, start, *_ = sampled(monkeypatch, model, (4, 4), (True,) * 3)
    np.testing.assert_array_equal(start.x, [np.eye(3)] * 3)


def test_the_conditions_of_a_way_are_those_between_the_prompts(model, monkeypatch):
    """The encoder's numbers grow to the length of a text, 5 and 7 letters, and to 0 without a prompt."""
    _, _, conditional, unconditional = sampled(monkeypatch, model, (4, 4), (True,) * 3)
    np.testing.assert_allclose(conditional["tokens"], [np.linspace(0, n, 5) for n in (5, 6, 7)], rtol=1e-6)
    np.testing.assert_array_equal(unconditional["tokens"], np.zeros((3, 5)))


def test_a_way_of_which_no_picture_is_finite_is_refused(model, monkeypatch):
    with pytest.raises(ValueError, match=r"3 of 3 .* not finite"):
        sampled(monkeypatch, model, (4, 4), (False,) * 3)


class Infinite(Product):
    def apply(self, variables, x, clock, condition):
        return jnp.full_like(x, jnp.nan)


@pytest.mark.extended
def test_a_way_without_a_finite_picture_is_refused(model):
    infinite = dataclasses.replace(model, modules={**model.modules, "unet": Infinite()}, _programs={})
    with pytest.raises(ValueError, match=r"2 of 2 .* not finite"):
        text_to_image.between(infinite, ["a cat", "a dog"], (3, 5), np.array([0.0, 1.0]), **HOW)


@pytest.mark.parametrize(
    ("prompts", "seeds", "weights", "message"),
    [
        (["a", "b", "c"], (1, 2, 3), [0.0, 1.0], "3 prompts and 3 seeds. Valid: two of each"),
        ("a cat", (1, 2), [0.5], "1 prompts and 2 seeds"),
        (["a", "b"], (1,), [0.5], "2 prompts and 1 seeds"),
        (["a", "b"], (1, -2), [0.5], r"seeds = \[1, -2\]"),
        (["a", "b"], (1, 2), [0.0, 1.5], r"weights = \[0.0, 1.5\]. Valid: \[N\] numbers in \[0, 1\]"),
        (["a", "b"], (1, 2), 0.5, "weights = 0.5"),
    ],
)
def test_ends_and_weights_of_another_form_are_refused(model, prompts, seeds, weights, message):
    with pytest.raises(ValueError, match=message):
        text_to_image.between(model, prompts, seeds, weights, **HOW)


class Perturbed(Product):
    """A denoiser whose prediction is another one where its attention is perturbed."""

    def apply(self, variables, x, clock, condition):
        perturbed = condition.get("identity", np.zeros((1, 1), bool))
        return super().apply(variables, x, clock, condition) + 0.2 * perturbed[:, :1, None, None]


@pytest.mark.extended
def test_the_way_has_the_other_guidances_of_the_class(model):
    """Of a class with perturbed-attention guidance, whose default scale is 3."""
    plain_condition = model.kind.prompts.condition
    condition = lambda texts, **how: {"text": jnp.zeros((len(texts), 1, 1)), **plain_condition(texts, **how)}
    guidance = Guidance(perturbs=lambda denoiser: np.ones((1, 1), bool), perturbed_scale=3.0)
    kind = model.kind._replace(prompts=Prompts((), condition), guidance=guidance)
    perturbed = dataclasses.replace(model, kind=kind, modules={**model.modules, "unet": Perturbed()}, _programs={})
    way = text_to_image.between(perturbed, ["a cat", "a dog"], (3, 5), np.array([0.0, 1.0]), **HOW).astype(int)
    ends = text_to_image.generate(perturbed, ["a cat", "a dog"], seeds=(3, 5), **HOW).astype(int)
    plain = text_to_image.generate(perturbed, "a cat", seeds=3, perturbed_guidance=0.0, **HOW).astype(int)
    assert np.abs(way - ends).max() <= 1 and np.abs(way[0] - plain[0]).max() > 1


class Controlled(Product):
    """A denoiser that sees a number beside the prompt, as that of VACE its control."""

    def apply(self, variables, x, clock, condition):
        control = condition.get("control", jnp.zeros(len(x)))
        return super().apply(variables, x, clock, condition) + 0.2 * control[:, None, None, None]


@pytest.mark.extended
def test_the_way_has_what_the_denoiser_sees_beside_the_prompts(model, monkeypatch):
    plain = programs.begin

    def begin(*arguments):
        start = plain(*arguments)
        return start._replace(beside={"control": jnp.full(len(start.x), 1.5)})

    monkeypatch.setattr(programs, "begin", begin)
    controlled = dataclasses.replace(model, modules={**model.modules, "unet": Controlled()}, _programs={})
    way = text_to_image.between(controlled, ["a cat", "a dog"], (3, 5), np.array([0.0, 0.5, 1.0]), **HOW).astype(int)
    ends = text_to_image.generate(controlled, ["a cat", "a dog"], seeds=(3, 5), **HOW).astype(int)
    assert np.abs(way[[0, 2]] - ends).max() <= 1


@pytest.mark.extended
def test_the_same_prompt_and_seed_stay_where_they_are(model):
    way = text_to_image.between(model, ["a cat"] * 2, (3, 3), np.array([0.0, 0.3, 1.0]), **HOW).astype(int)
    assert np.abs(way - way[:1]).max() <= 1


def test_conditions_are_mixed_and_masks_have_what_either_has():
    weight = jnp.array([0.0, 0.25, 1.0])
    ends = jnp.array([[[1.0, 2.0]], [[5.0, -2.0]]])
    expected = [[[1, 2]], [[2, 1]], [[5, -2]]]
    np.testing.assert_allclose(interpolation._mixed(ends, weight), expected)
    half = interpolation._mixed(ends.astype(jnp.bfloat16), weight)
    assert half.dtype == jnp.bfloat16
    mask = jnp.array([[True, False, False], [True, True, False]])
    np.testing.assert_array_equal(interpolation._mixed(mask, weight), [[True, True, False]] * 3)
