"""Perturbed-attention guidance of published models: the latents of diffusers' classes, and what is refused."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from diffusion import samplers, text_to_image
from diffusion.models.interchange import schedulers
from diffusion.text_to_image import canvas, pipelines, programs, request_checks
from diffusion.text_to_image.attached import Attached
from diffusion.text_to_image.picture_controls import Control
from diffusion.text_to_image.requests import Request
from tests.peers.made_weights import drawn
from tests.text_to_image import made_pipelines
from tests.text_to_image.test_attached import net, picture

FIXTURE = made_pipelines.FIXTURES / "perturbed.safetensors"
with safe_open(FIXTURE, framework="numpy") as file:
    CASES = json.loads(file.metadata()["cases"])
    STEPS = int(file.metadata()["steps"])
SAMPLERS = {"sd": "ddim", "xl": "euler", "mmdit": "euler", "pixart": "dpmpp_2m", "sana": "dpmpp_2m"}


def opened(base, name, place):
    """The model whose folder has the class."""
    index = json.loads(made_pipelines.fixture(base)[0]["files"]["model_index.json"]) | {"_class_name": name}
    controlled = "ControlNet" in name
    index |= {"controlnet": ["diffusers", "ControlNetModel"]} if controlled else {}
    folder = made_pipelines.folder(base, place, {"files": {"model_index.json": json.dumps(index)}})
    if controlled:
        net("edges", folder / "controlnet")
    return text_to_image.load(folder)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_six_perturbed_steps_end_where_diffusers_class_does(case, tmp_path):
    base, name, scale = CASES[case]
    model = opened(base, name, tmp_path)
    assert model.kind.guidance.perturbed_scale == 3
    with safe_open(FIXTURE, framework="numpy") as file:
        theirs = file.get_tensor(case)
    prompts, size = ["a cat", "the red car on a hill"], 32 if base == "sana" else 16
    conditional, unconditional = text_to_image.conditions(model, prompts, "bad", scale, size, size)
    ready = []
    if model.attachments:
        ((one, read, _, _),) = canvas.opened_controls(
            [Control("controlnet", picture("edges"))], model.attachments, (16, 16)
        )
        seen = one.encode(one.params, jnp.asarray(read))
        ready = [Attached(one, seen, jnp.float32(1.0), jnp.asarray((0.0, 1.0)))]
    trajectory = schedulers.trajectory(model.process, SAMPLERS[base], STEPS, tokens=16)

    def sampled(params, attached, x, conditional, other):
        scales = jnp.asarray([scale, model.kind.guidance.perturbed_scale])
        clocked = programs.with_clock(model, trajectory)
        denoise = text_to_image.denoise(clocked, params, conditional, other, scales, attached, perturbed=True)
        keys = jax.random.split(jax.random.key(0), 2)
        return samplers.sample(trajectory.sampler, denoise, model.process.schedule, x, trajectory.plan, keys)

    x = trajectory.start * jnp.asarray(drawn("latents", 2, *theirs.shape[1:]))
    other = unconditional if scale > 1 else None
    ours = jax.jit(sampled)(model.params[model.kind.denoiser.folder], tuple(ready), x, conditional, other)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.slow
def test_a_request_for_any_model_may_have_it_and_none_is_neutral(tmp_path):
    """A scale that tends to 0 tends to the pictures without it; a large one does not."""
    model = text_to_image.load(made_pipelines.folder("sd", tmp_path))
    draw = lambda **more: text_to_image.generate(model, "a cat", steps=2, height=16, width=16, **more).astype(int)
    without = draw()
    np.testing.assert_array_equal(draw(perturbed_guidance=0), without)
    assert np.abs(draw(perturbed_guidance=1e-6) - without).max() <= 1
    assert (draw(perturbed_guidance=5) != without).any()
    *_, last = text_to_image.watch(model, "a cat", steps=2, height=16, width=16, perturbed_guidance=5)
    assert np.abs(last.pictures.astype(int) - draw(perturbed_guidance=5)).max() <= 1


def test_layers_are_those_that_diffusers_perturbs_by_default():
    of_depth = lambda name, depth: pipelines.KINDS[name].guidance.perturbs(types.SimpleNamespace(depth=depth))
    for name in ("PixArtSigmaPAGPipeline", "StableDiffusion3PAGPipeline"):
        np.testing.assert_array_equal(np.flatnonzero(of_depth(name, 24)), [1, *range(10, 20)])
    np.testing.assert_array_equal(np.flatnonzero(of_depth("SanaPAGPipeline", 20)), [0])
    middle = types.SimpleNamespace(transformer_blocks=5, middle_blocks=(2, 3))  # of Stable Diffusion's network
    np.testing.assert_array_equal(
        pipelines.KINDS["StableDiffusionPAGPipeline"].guidance.perturbs(middle), [[False, False, True, True, False]]
    )


@pytest.mark.parametrize("name, more, message", [
    ("FluxPipeline", {}, r"^perturbed_guidance = 3: a FluxPipeline has no perturbed-attention guidance; leave it out"),
    ("StableDiffusionPipeline", {"sees_picture": True},
     "a StableDiffusionPipeline that edits pictures has no perturbed-attention guidance"),
    ("StableDiffusionPipeline", {"regions": ["a cat:0,0,1,0.5"]}, r"cannot be combined with regions\. Valid: one"),
])  # fmt: skip
def test_it_is_refused_where_the_model_or_the_request_has_another_guidance(name, more, message):
    regions = more.pop("regions", ())
    fields = {"sees_picture": False, "name": name, "kind": pipelines.KINDS[name], **more}
    with pytest.raises(ValueError, match=message):
        request_checks._check_perturbed(
            Request.make("a cat", perturbed_guidance=3, regions=regions), types.SimpleNamespace(**fields)
        )
