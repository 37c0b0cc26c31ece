"""Qwen-Image-Layered: the fields of its config, and the positions of layers and of the picture that is taken apart."""

import dataclasses
import functools
import pathlib
import tempfile
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, schedules, text_to_image
from diffusion.models.interchange import Refusal, schedulers
from diffusion.parameterizations import Prediction
from diffusion.published.qwen_image import QwenImage, network, pipeline, table
from diffusion.text_to_image import programs
from diffusion.text_to_image.jobs import Job
from diffusion.text_to_image.requests import Request
from tests.peers.made_weights import drawn
from tests.published.qwen_image.facts import LAYERED_TRAJECTORIES
from tests.text_to_image import made_pipelines

PROMPTS = ["a cat", "the red car on a hill"]

LAYERED = {"use_additional_t_cond": True, "use_layer3d_rope": True}
SMALL = QwenImage(4, 24, 1, 2, 12, (4, 4, 4), layered=True)


def test_both_fields_of_layers_are_read_together():
    assert table.CONFIG.build(LAYERED) == QwenImage(layered=True)
    assert {name: table.CONFIG.describe(QwenImage(layered=True))[name] for name in LAYERED} == LAYERED
    assert not LAYERED.keys() & table.CONFIG.describe(QwenImage()).keys()
    for name in LAYERED:
        with pytest.raises(Refusal, match="of these two fields, both or neither must be true"):
            table.CONFIG.build({name: True})


def test_layers_are_counted_the_last_picture_stands_before_them_and_the_text_behind_all():
    """Of three layers and two pictures, each of one patch: the text is behind the four that are counted."""
    found = network._token_positions(2, [(1, 1)] * 5, True)
    assert found[:, 0].tolist() == [4, 5, 0, 1, 2, 3, -1]
    assert network._token_positions(2, [(1, 1)] * 5)[:, 0].tolist() == [0, 1, 0, 1, 2, 3, 4]
    np.testing.assert_array_equal(network._token_positions(1, [(12, 2), (2, 2)], True)[0], [6, 6, 6])


def test_a_pipeline_of_pictures_refuses_a_denoiser_of_layers():
    assert pipeline.QWEN_IMAGE.denoiser.objection(SMALL) == "no layers (use_layer3d_rope)"
    assert pipeline.QWEN_IMAGE.denoiser.objection(QwenImage()) == ""


def test_a_pipeline_of_layers_refuses_a_denoiser_of_pictures():
    assert pipeline.LAYERED.denoiser.objection(QwenImage()) == "layers (use_layer3d_rope)"
    assert pipeline.LAYERED.denoiser.objection(SMALL) == ""


@pytest.mark.parametrize("tokens", [256, 1024, 3600])
def test_the_shift_is_the_root_of_the_number_of_tokens(tokens):
    """The log shift is sqrt(N / 256); the times before it are 1, 2 / 3, 1 / 3 and 0."""
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    process = schedulers.read(config, even=True, by_root=True)
    plan = schedulers.trajectory(process, "", 3, tokens).plan
    t, shift = np.array([1, 2 / 3, 1 / 3, 0]), np.exp(np.sqrt(tokens / 256))
    expected = shift * t / (1 + (shift - 1) * t)
    np.testing.assert_allclose(np.append(plan.t, plan.s[-1]), expected, rtol=1e-6)


@functools.cache
def loaded():
    """The model of the fixture; the picture that it takes apart has fewer pixels than its class gives it."""
    with tempfile.TemporaryDirectory() as place:
        model = text_to_image.load(made_pipelines.folder("qwen_image_layered", pathlib.Path(place)))
    several = model.kind.pictures.several._replace(pixels=640**2 // 128)
    return dataclasses.replace(model, kind=model.kind._replace(pictures=model.kind.pictures._replace(several=several)))


@pytest.mark.slow
def test_layers_end_where_those_of_diffusers_do():
    about, theirs = made_pipelines.fixture("qwen_image_layered")
    model = loaded()
    settings = {"image": theirs["image/0"], "steps": about["steps"]["euler"], "guidance": 7.5, "layers": 2}
    job = Job.prepare(model, Request.make(PROMPTS, negative="bad", **settings))
    assert job.course.size == (32, 64) and job.course.latents(model) == (3, 16, 32, 6)
    both = job.conditions(model, 2)

    @jax.jit
    def end(vae, denoiser, x, keys, image, conditional, unconditional):
        start = programs.begin(model, job.course, vae, keys, None, None, None, image)
        assert start.known is None and start.painted is None
        denoise, _ = programs._guided(model, job.course, denoiser, start, conditional, unconditional, 7.5)
        trajectory = job.course.trajectory
        x = samplers.sample(trajectory.sampler, denoise, model.process.schedule, x, trajectory.plan, keys)
        return x, programs.decoded(model, job.course, vae, x)

    x = jnp.asarray(drawn("latents", 2, 3, 16, 32, 6))
    x, layers = end(model.params["vae"], model.params["transformer"], x, job.keys(), job.images, *both)
    bound = LAYERED_TRAJECTORIES["qwen_image_layered"]["euler"]
    expected = theirs["latents/euler"]
    np.testing.assert_allclose(x, expected, rtol=0, atol=bound * np.abs(expected).max())
    assert layers.shape == (2, 2, 32, 64, 4) and layers.dtype == np.uint8
    first = np.clip(127.5 * theirs["picture"].astype(np.float32) + 127.5, 0, 255)
    assert np.abs(layers[0, 0, ::4] - first).max() <= 2  # the fixture has it in 16 bits


@pytest.mark.slow
def test_layers_follow_from_the_prompt_and_the_picture_and_the_last_frame_has_them():
    model, picture = loaded(), made_pipelines.fixture("qwen_image_layered")[1]["image/0"]
    settings = {"image": picture, "steps": 2, "layers": 1}
    layers = text_to_image.generate(model, "a cat", **settings)
    assert layers.shape == (1, 1, 32, 64, 4) and np.ptp(layers) > 50
    other = text_to_image.generate(model, "a cat", **settings | {"image": picture[::-1]})
    assert (other != layers).mean() > 0.01
    *_, last = text_to_image.watch(model, "a cat", **settings)
    assert np.abs(last.pictures.astype(int) - layers).max() <= 1


class Plain:
    """An autoencoder whose pictures are the latents."""

    factor = latent_channels = scale = 1
    shift = 0.0

    def apply(self, variables, z, method):
        return z


def test_the_layers_are_behind_their_whole_and_each_is_decoded_alone():
    course = programs.Course((2, 2), None, False, True, 0, (), layers=2)
    model = types.SimpleNamespace(modules={"vae": Plain()}, factor=1, channels=4)
    assert course.latents(model) == (3, 2, 2, 4) and course.decoded_latents(model) == (3, 2, 2, 1)
    x = np.random.default_rng(0).uniform(-1, 1, (2, 3, 2, 2, 4)).astype(np.float32)
    layers = programs.decoded(model, course, {}, jnp.asarray(x))
    assert layers.shape == (2, 2, 2, 2, 4)
    np.testing.assert_allclose(layers, 127.5 * x[:, 1:] + 127.5, atol=1)


def test_the_guidance_keeps_no_norm():
    velocity = np.array([[3.0, 4.0]], np.float32), np.array([[1.0, 1.0]], np.float32)
    branches = lambda x, t: tuple(Prediction(x - t * v, x + (1 - t) * v) for v in velocity)
    prediction = pipeline.LAYERED.guidance.guides(branches, schedules.rectified_flow(), 3.0)(jnp.zeros((1, 2)), 0.5)
    np.testing.assert_allclose(prediction.eps - prediction.x0, [[1 + 3 * 2, 1 + 3 * 3]], rtol=1e-6)


REFUSED = [
    ({"prompts": " "}, "reads a prompt that describes the picture"),
    ({"image": None}, "this model edits pictures by the prompt; name the image"),
    ({"strength": 0.5}, "mask, margins and strength: a QwenImageLayeredPipeline takes one picture apart"),
    ({"height": 64}, "leave height and width out"),
    ({"watermark": "key.json"}, "watermark: a QwenImageLayeredPipeline takes one picture apart"),
]


@pytest.mark.parametrize(("changed", "words"), REFUSED)
def test_a_request_that_no_layers_can_follow_is_refused(changed, words):
    model = types.SimpleNamespace(
        name="QwenImageLayeredPipeline",
        kind=pipeline.LAYERED,
        modules={"vae": types.SimpleNamespace(factor=8)},
        process=types.SimpleNamespace(sampler="euler"),
        usual=pipeline.LAYERED.usual,
        distilled=False,
        sees_picture=False,
        sees_mask=False,
        decodes_kept=False,
        boundary=None,
    )
    settings = {"prompts": "a cat", "image": np.zeros((8, 8, 3), np.uint8)} | changed
    with pytest.raises(ValueError, match=words):
        Request.make(**settings).resolved(model).check(model)


def test_a_model_of_pictures_makes_no_layers():
    model = types.SimpleNamespace(
        name="QwenImagePipeline", kind=pipeline.QWEN_IMAGE, modules={"vae": types.SimpleNamespace(factor=8)},
        sees_picture=False, distilled=False, decodes_kept=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="layers = 3: a QwenImagePipeline makes no layers"):
        Request.make("a cat", layers=3).check(model)


@pytest.mark.extended
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"pictures": ()}, "'pictures' must hold the picture that is taken apart"),
        ({"kind": jnp.zeros(1)}, r"'kind' must be integers \[B\] = \(1,\)"),
        ({"kind": jnp.zeros(2, int)}, r"'kind' must be integers \[B\] = \(1,\)"),
    ],
)
def test_layers_need_a_picture_and_kinds_are_integers(changed, words):
    x, text, mask = jnp.zeros((1, 3, 2, 2, 4)), jnp.zeros((1, 2, 12)), jnp.ones((1, 2), bool)
    condition = {"text": text, "text_mask": mask, "pictures": (x[:, 0],)} | changed
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(lambda x: SMALL.init(jax.random.key(0), x, jnp.zeros(1), condition), x)
