"""A whole tiny LTX-2 beside diffusers': latents, clips and sounds; its sizes, and what it refuses."""

import json

import numpy as np
import pytest

from diffusion.models.autoencoders import latent_space
from diffusion.models.interchange import Refusal
from diffusion.published.ltx2 import pipeline
from diffusion.published.ltx2.guidance import ALONE, SCALES, Scales
from diffusion.text_to_image import pipelines
from tests.peers.made_weights import drawn
from tests.text_to_image import made_pipelines

GUIDED = {"video": Scales(3.5, 1.2, 2.5, 0.6), "sound": Scales(6.0, 0.8, 3.0, 0.3)}
PROMPTS = ["a cat", "the red car on a hill"]
NOISE = {"video": drawn("latents", 2, 3, 4, 8, 8), "sound": drawn("sound latents", 2, 9, 8)}
SIZES = {"frames": 9, "size": (32, 64), "rate": 24.0, "steps": 6, "perturbed": (1,)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return pipeline.load(made_pipelines.folder("ltx2", tmp_path_factory.mktemp("ltx2")), length=16)


@pytest.mark.slow
def test_latents_clips_and_sounds_are_diffusers(model):
    """Six steps of LTX2Pipeline with all its guidances and with none, from the same noise."""
    _, arrays = made_pipelines.fixture("ltx2")
    with pytest.warns(UserWarning, match="this part is left out: 'ill'"):  # of more than 16 tokens
        both = pipeline.condition(model, [*PROMPTS, "bad", "bad"])
    positive, negative = ({name: array[i : i + 2] for name, array in both.items()} for i in (0, 2))
    vae, of_sound = model.modules["vae"], model.modules["audio_vae"]
    for name, scales, within in (("alone", ALONE, 6e-5), ("guided", GUIDED, 4e-5)):
        course = pipeline.course(model, scales=scales, **SIZES)
        z = pipeline.latents(model, course, NOISE, positive, negative)
        video = latent_space.from_diffusion(z["video"], vae.scale, vae.shift)
        for key, ours in (("latents", video), ("sound_latents", of_sound.latents(z["sound"]))):
            expected = arrays[f"{name}/{key}"]
            np.testing.assert_allclose(ours, expected, rtol=0, atol=within * np.abs(expected).max())
    frames, waveform = pipeline.decoded(model, z)
    np.testing.assert_allclose(frames[:1, ::4] / 255, arrays["clip"], rtol=0, atol=0.5 / 255 + 1e-4)
    expected = arrays["waveform"]
    np.testing.assert_allclose(waveform, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
def test_a_clip_depends_on_its_own_prompt_and_seed_alone(model):
    sizes = SIZES | {"steps": 2}
    two = pipeline.generate(model, ["a cat", "a red car"], negative="bad", seeds=[3, 4], **sizes)
    one = pipeline.generate(model, ["a red car"], negative="bad", seeds=[4], **sizes)
    assert two.clips.shape == (2, 9, 32, 64, 3) and two.sounds.shape == (2, 33 * 6, 2)
    assert (two.rate, two.sample_rate) == (24.0, 24000)
    programs = set(model.programs)
    again = pipeline.generate(model, ["a red car"], negative="bad", seeds=[4], **sizes)
    assert set(model.programs) == programs and np.array_equal(again.clips, one.clips)
    np.testing.assert_allclose(np.int16(two.clips[1:]), one.clips, rtol=0, atol=1)
    np.testing.assert_allclose(two.sounds[1:], one.sounds, rtol=0, atol=1e-4)


@pytest.mark.extended
def test_sizes_of_a_clip_and_its_sound(model):
    """A latent of the clip is 8 x 8 pixels and 4 frames here; one of the sound 40 ms."""
    course = pipeline.course(model, 25, (16, 32), 25.0)
    assert course.shape == {"video": (7, 2, 4, 8), "sound": (25, 8)} and course.scales is SCALES
    assert pipeline.course(model, 9, (16, 16), 24.0).shape["sound"] == (9, 8)  # of 9.375
    with pytest.raises(ValueError, match=r"frames = 10\. Valid: 1 \+ 4 n, such as 9"):
        pipeline.course(model, 10, (16, 16))
    with pytest.raises(ValueError, match=r"size = \(16, 20\) must be multiples of 8, at least 16"):
        pipeline.course(model, 9, (16, 20))
    with pytest.raises(ValueError, match="with one seed or one for each; got 3 seeds"):
        pipeline.generate(model, PROMPTS, seeds=[1, 2, 3])


def test_another_pipeline_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "LTX2ImageToVideoPipeline"}))
    with pytest.raises(Refusal, match="is a LTX2ImageToVideoPipeline; this opens a LTX2Pipeline"):
        pipeline.load(tmp_path)


def test_text_to_image_names_the_function_that_opens_it(tmp_path):
    words = r"is a LTX2Pipeline, which makes clips with their sound\. Open it .*: diffusion\.published\.ltx2\.pipeline"
    with pytest.raises(Refusal, match=words):
        pipelines.kind_of("LTX2Pipeline", tmp_path)
