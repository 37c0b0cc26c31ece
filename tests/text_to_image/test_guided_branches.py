"""The branches of a guided denoiser, in numbers: which scale weighs which branch, and how words move x_t."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import guidance, sampling
from diffusion.parameterizations import Prediction
from diffusion.published.pipeline_kinds import Guidance, Pictures
from diffusion.text_to_image import guided_denoiser, timed_weights
from diffusion.text_to_image.guided_denoiser import denoise
from diffusion.text_to_image.regions import Places
from tests.text_to_image.stand_ins import Pixels, made_model

X = np.zeros((1, 1, 2, 1), np.float32)
TEXT = {"text": np.ones((1, 2, 3))}
NULL = {"text": np.zeros((1, 2, 3))}
HALF = (0.0, 0.0, 0.5, 1.0)


@pytest.fixture
def passed(monkeypatch):
    """Functions that call `denoise`, and return what it passes on instead of a denoiser of the network."""

    def recorded(network, schedule, parameterization, conditions, guide, **more):
        return types.SimpleNamespace(network=network, conditions=conditions, guide=guide, **more)

    monkeypatch.setattr(sampling, "denoiser", recorded)
    return denoise


def guided(result, *values, t=0.5):
    """x_0 of the guided denoiser where each branch predicts one number everywhere."""
    predictions = tuple(Prediction(np.full_like(X, value), np.zeros_like(X)) for value in values)
    return np.asarray(result.guide(lambda x, t: predictions)(X, t).x0)


def of_kind(**changes):
    model = made_model()
    return dataclasses.replace(model, kind=model.kind._replace(**changes))


def test_an_edited_picture_has_a_scale_and_the_text_has_one(passed):
    """Eq. 3 of Brooks et al. 2023: e_0 + s_I (e_I - e_0) + s_T (e_IT - e_I); the last branch sees no picture."""
    model = of_kind(pictures=Pictures(controlled=True))
    seen = {"beside": np.full((1, 1, 2, 1), 7.0)}
    result = passed(model, {}, TEXT | seen, NULL | seen, [3.0, 2.0])
    assert [float(np.max(one["beside"])) for one in result.conditions] == [7, 7, 0]
    assert [float(np.max(one["text"])) for one in result.conditions] == [1, 0, 0]
    np.testing.assert_allclose(guided(result, 5, 3, 1), 1 + 2 * (3 - 1) + 3 * (5 - 3))


@pytest.mark.parametrize("null, values, expected", [(None, (5, 4), 5 + 2 * (5 - 4)), (NULL, (5, 1, 4), 15)])
def test_perturbed_attention_is_weighed_by_the_second_scale(passed, null, values, expected):
    """With a negative prompt c + 2 (c - p) + (3 - 1) (c - u) = 5 + 2 + 8."""
    model = of_kind(guidance=Guidance(perturbs=lambda denoiser: np.array([[False, True]])))
    result = passed(model, {}, TEXT, null, [3.0, 2.0], perturbed=True)
    assert [one["identity"].tolist() for one in result.conditions] == [[[False, False]]] * (len(values) - 1) + [
        [[False, True]]
    ]
    np.testing.assert_allclose(guided(result, *values), expected)


@pytest.mark.parametrize("t, scale", [(1.0, 2), (0.6, 2), (0.5, 2), (0.4, 4), (0.0, 4)])
def test_each_of_two_denoisers_has_its_scale(passed, t, scale):
    weights = timed_weights.Experts({}, {}, 0.5)
    result = passed(made_model(), weights, TEXT, NULL, jnp.array([2.0, 4.0]))
    np.testing.assert_allclose(guided(result, 5, 1, t=t), 1 + scale * (5 - 1))


@pytest.mark.parametrize("t, value", [(1.0, 30), (0.5, 30), (0.4, 70)])
def test_of_two_denoisers_the_one_whose_part_holds_t_is_evaluated(t, value):
    weights = timed_weights.Experts(jnp.float32(3), jnp.float32(7), 0.5)
    assert float(timed_weights.at(weights, jnp.array([0.0, t]), lambda params: 10 * params)) == value
    assert float(weights.scale(t, 6.0)) == 6  # one for both


def test_a_guidance_by_the_condition_receives_that_of_the_prompt(passed):
    guides = lambda branches, schedule, scale, condition: (scale, condition["text"])
    result = passed(of_kind(guidance=Guidance(guides, by_condition=True)), {}, TEXT, NULL, 3.0)
    scale, text = result.guide(None)
    assert scale == 3.0 and text is TEXT["text"]


def test_regions_without_a_null_branch_are_mixed_by_their_masks(passed):
    masks = (np.array([[0.0, 1.0]], np.float32),)
    result = passed(made_model(), {}, TEXT | {"regions": (NULL,)}, None, 1.0, places=Places(masks))
    assert [float(one["text"].max()) for one in result.conditions] == [1, 0]
    np.testing.assert_allclose(guided(result, 5, 3)[0, 0, :, 0], [5, 3])


def test_words_are_guided_with_the_published_strengths_and_times(monkeypatch):
    """Chefer et al. 2023: 20 sqrt(1 .. 1/2) in the first half; Chen et al. 2024: 30, five times, in the first fifth."""
    calls = []

    def recorded(name):
        return lambda denoise, *arguments, **more: (
            calls.append((denoise, arguments, more)) or types.SimpleNamespace(denoise=name)
        )

    monkeypatch.setattr(guidance, "attend_and_excite", recorded("excited"))
    monkeypatch.setattr(guidance, "layout", recorded("moved"))
    tokens = np.array([[[1], [2], [3]]])
    with_words = lambda *boxes, schedule="schedule": guided_denoiser._with_words(
        "plain", schedule, "maps", tokens[:, : len(boxes)], Places((), boxes, 3.0, 4, (0.5, 0.8))
    )
    assert with_words(None, HALF, None).denoise == "moved"
    (first, (maps, free, fall, interval), more), (second, rest, none) = calls
    assert (first, maps, free.tolist(), interval, more) == ("plain", "maps", [[[1], [3]]], (0.5, 1.0), {"first": 4})
    np.testing.assert_allclose([fall(1.0), fall(0.5), fall(0.0)], 60 * np.sqrt([1, 0.75, 0.5]), rtol=1e-6)
    assert second == "excited" and none == {} and rest[2].tolist() == [[[2]]]
    assert (*rest[:2], *rest[3:]) == ("schedule", "maps", [HALF], 90.0, (0.8, 1.0), 5)
    assert with_words(None).denoise == "excited" and with_words(HALF).denoise == "moved"
    assert [call[0] for call in calls[2:]] == ["plain", "plain"]


def test_words_are_located_in_the_maps_of_the_prompt_at_x_t(passed, monkeypatch):
    """The network records its maps as it evaluates the prompt, and not the negative one."""
    maps = jnp.ones((1, 2, 3, 4))

    class Showing:
        def apply(self, variables, x, clock, condition, mutable=()):
            assert condition["text"].min() == 1 and x.shape == X.shape
            return x, {"attention_maps": {"layer": {"seen": maps}}} if recording and mutable else {}

    model = dataclasses.replace(made_model(), modules={"unet": Showing(), "vae": Pixels()})
    monkeypatch.setattr(guided_denoiser, "_with_words", lambda denoise, schedule, maps, tokens, places: (maps, tokens))
    result = passed(model, {}, TEXT | {"words": "tokens"}, NULL, 2.0)
    (change,) = result.changes
    locate, tokens = change(None)
    recording = True
    (layer,) = locate(X, jnp.float32(0.5))
    assert layer is maps and tokens == "tokens" and all("words" not in one for one in result.conditions)
    recording = False
    with pytest.raises(ValueError, match="maps of cross-attention, which a Showing does not have"):
        locate(X, jnp.float32(0.5))


def test_the_states_of_a_reference_are_of_its_latents_with_their_noise_at_the_time_of_x():
    """alpha(t) x_0 + sigma(t) eps for each branch of each picture, without what attachments add."""
    model = made_model()
    seen = []

    class Recording:
        def apply(self, variables, x, clock, condition, mutable):
            seen.append((x, condition))
            return x, {"states": x}

    model = dataclasses.replace(model, modules={"unet": Recording()})
    reference = np.random.default_rng(0).normal(size=(4, 2, 2, 6)).astype(np.float32)
    t = jnp.array([0.3, 0.8])
    condition = {"text": 1, "extra": 2, "extra_joint": 3, "extra_text": 4, "residuals": 5, "level_residuals": 6}
    guided_denoiser._states(model, {}, reference, np.zeros((4, 2, 2, 3), np.float32), t, t, condition)
    ((x, condition),) = seen
    assert condition == {"text": 1}
    alpha, sigma = (np.tile(np.asarray(jax.vmap(part)(t)), 2)[:, None, None, None] for part in
                    (model.process.schedule.alpha, model.process.schedule.sigma))  # fmt: skip
    np.testing.assert_allclose(x, alpha * reference[..., :3] + sigma * reference[..., 3:], rtol=1e-5, atol=1e-6)
