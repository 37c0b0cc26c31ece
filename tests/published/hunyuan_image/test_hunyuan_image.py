"""HunyuanImage 2.1: its config in both directions, its guidance, its prompts, and the guiders of its folder."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import samplers, schedules
from diffusion.models.autoencoders.autoencoder_kl_hunyuan_image import AutoencoderKLHunyuanImage
from diffusion.models.interchange import Refusal, schedulers
from diffusion.parameterizations import Prediction, velocity as velocity_of_flow
from diffusion.published.hunyuan_image import HunyuanImage, autoencoder_table, guidance, pipeline, table
from diffusion.published.hunyuan_image.guidance import Guider
from diffusion.published.pipeline_kinds import Guidance, Usual
from diffusion.text_to_image.guided_denoiser import flow_map
from tests.published.hunyuan_image.facts import SMALL
from tests.published.hunyuan_video_15.facts import quoted

FLOW = schedules.rectified_flow()


def test_the_defaults_are_diffusers():
    assert table.CONFIG.build({}) == HunyuanImage(glyph_width=0)
    assert table.CONFIG.build({"text_embed_2_dim": 1472}) == HunyuanImage()
    config = {"spatial_compression_ratio": 32}
    assert autoencoder_table.CONFIG.build(config) == AutoencoderKLHunyuanImage()


@pytest.mark.parametrize(
    ("build", "field", "words"),
    [
        (table.CONFIG.build, {"use_meanflow": None}, "use_meanflow = None is not supported; supported: False, True"),
        (table.CONFIG.build, {"patch_size": [1, 1, 1]}, "patch_size = .* is not supported"),
        (table.CONFIG.build, {"rope_axes_dim": [64, 32]}, "must be 2 even numbers that sum to 128"),
        (
            autoencoder_table.CONFIG.build,
            {"spatial_compression_ratio": 16},
            "spatial_compression_ratio = 16 is not supported; supported: 32",
        ),
        (
            autoencoder_table.CONFIG.build,
            {"block_out_channels": [32, 96], "spatial_compression_ratio": 2},
            "96 must be a multiple of the 4 pixels of a box, and divide 4 x 32",
        ),
    ],
)
def test_another_value_is_refused(build, field, words):
    with pytest.raises(Refusal, match=words):
        build(field)


def test_a_distilled_network_has_steps_of_its_own_and_needs_the_strength():
    distilled = table.CONFIG.build({"use_meanflow": True, "guidance_embeds": True, "text_embed_2_dim": 1472})
    assert distilled == HunyuanImage(strength=True, times=2)
    kind = pipeline.HUNYUAN_IMAGE.denoiser.variant(pipeline.HUNYUAN_IMAGE, distilled)
    assert kind.denoiser.jumps and kind.usual == Usual(8, 3.25) and not kind.denoiser.objection(distilled)
    assert pipeline.HUNYUAN_IMAGE.denoiser.variant(pipeline.HUNYUAN_IMAGE, HunyuanImage()) == pipeline.HUNYUAN_IMAGE
    assert "guidance_embeds" in kind.denoiser.objection(distilled.clone(strength=False))
    with pytest.raises(ValueError, match="times=3 must be 1, or 2"):
        HunyuanImage(times=3)


@pytest.mark.extended
def test_the_embedding_of_both_times_is_their_mean():
    """A step without length, whose two times have the same layers, has the output of the network of one time."""
    two = SMALL.clone(depth=1, singles=1, times=2)
    x, t = jax.random.normal(jax.random.key(1), (1, 2, 2, 4)), jnp.array([0.3])
    condition = jax.tree.map(lambda leaf: leaf[:1], quoted(2))
    shapes = jax.eval_shape(two.init, jax.random.key(0), x, (t, t), condition)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(np.float32), shapes)
    other = {name: leaf for name, leaf in params.items() if name != "end"}
    output = jax.jit(lambda network, p, t: network.apply({"params": p}, x, t, condition), static_argnums=0)
    expected = output(two.clone(times=1), other, t)
    same = output(two, other | {"end": params["time"]}, (t, t))
    np.testing.assert_allclose(same, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    later = output(two, other | {"end": params["time"]}, (t, t / 2))
    assert np.abs(later - expected).max() > 1e-3 * np.abs(expected).max()


class Stub:
    """A denoiser whose output is three times the end of the step, plus its begin."""

    times = 2

    def apply(self, variables, x, clocks, condition):
        t, end = clocks
        return jnp.zeros_like(x) + jnp.reshape(t, (-1, 1)) + 3 * end


def test_a_step_is_a_jump_with_the_velocity_of_its_begin_and_its_end():
    """x_s = x_t + (s - t) (t + 3 s), with the process's shifted times, the last of which is 0."""
    scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 5.0}
    process = schedulers.read(scheduler, even=True)
    process = process._replace(parameterization=velocity_of_flow(), fields={**process.fields, "jumps": True})
    denoiser = pipeline.HUNYUAN_IMAGE.denoiser._replace(jumps=True)
    kind = pipeline.HUNYUAN_IMAGE._replace(denoiser=denoiser, guidance=Guidance())
    trajectory = schedulers.trajectory(process, "", 3)
    model = types.SimpleNamespace(kind=kind, process=process, denoiser=Stub(), sees_picture=False)
    x, expected = X, np.asarray(X, np.float64)
    evaluated = flow_map(model, {}, {}, None, 1.0)
    keys = jax.random.split(jax.random.key(0), 2)
    x = samplers.sample(trajectory.sampler, evaluated, process.schedule, X, trajectory.plan, keys)
    shifted = lambda t: 5 * t / (1 + 4 * t)
    for t, s in ((1, 2 / 3), (2 / 3, 1 / 3), (1 / 3, 0)):
        t, s = shifted(t), shifted(s)
        expected = expected + (s - t) * (t + 3 * s)
    np.testing.assert_allclose(x, expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"jumps from the begin of a step to its end\. Valid: 'euler'"):
        schedulers.trajectory(process, "heun", 3)


def branches_of(conditional, unconditional, x, t):
    """Branches whose velocities are these at (x, t), where t is the share of the noise."""
    predict = lambda v: Prediction(x - t * v, x + (1 - t) * v)
    return lambda *_: (predict(conditional), predict(unconditional))


def velocity(prediction):
    return np.asarray(prediction.eps - prediction.x0)


X, T = jnp.array([[0.5, -1.0], [2.0, 0.25]]), 0.75
V, V_U = jnp.array([[3.0, 4.0], [3.0, 4.0]]), jnp.array([[2.0, 2.0], [2.0, 2.0]])
PLAIN = Guider(scale=3.0, projected_scale=2.0, momentum=-0.5, norm_threshold=0.0, eta=0.0, start=0)


def guided(plain, quoting, quotes, steps):
    """The velocities after each of some steps, the branches being the same at all of them."""
    memory = guidance.projected_velocity(
        branches_of(V, V_U, X, T), FLOW, plain.scale, plain, quoting, jnp.array(quotes)
    )
    state, found = memory.init(X), []
    for _ in range(steps):
        prediction, state = memory.apply(state, X, T)
        np.testing.assert_allclose((1 - T) * prediction.x0 + T * prediction.eps, X, atol=1e-6)
        found.append(velocity(prediction))
    return found


def test_the_guidance_is_classifier_free_first_and_then_projected_with_momentum():
    """d = (1, 2) at first, then (1, 2) - (1, 2) / 2; its part across (3, 4) is d - (d . v) v / 25."""
    first, second = guided(PLAIN, PLAIN, [False, False], 2)
    np.testing.assert_allclose(first[0], [2 + 3 * 1, 2 + 3 * 2], rtol=1e-6)
    d = np.array([0.5, 1.0])
    across = d - d @ [3, 4] / 25 * np.array([3, 4])
    np.testing.assert_allclose(second[0], 2 + 2 * across, rtol=1e-5)


def test_the_step_has_a_largest_norm_and_keeps_a_share_of_its_parallel_part():
    limited = PLAIN._replace(norm_threshold=0.1, eta=0.5)
    _, second = guided(limited, limited, [False, False], 2)
    d = 0.1 * np.array([1, 2]) / np.sqrt(5)
    along = d @ [3, 4] / 25 * np.array([3, 4])
    np.testing.assert_allclose(second[0], 2 + 2 * (d - 0.5 * along), rtol=1e-5)
    wide = limited._replace(norm_threshold=2.0, eta=1.0)  # below the first step's norm, which the memory keeps whole
    _, second = guided(wide, wide, [False, False], 2)
    np.testing.assert_allclose(second[0], [2 + 2 * 0.5, 2 + 2 * 1.0], rtol=1e-5)


def test_a_projected_scale_of_1_is_the_classifier_free_guidance_throughout():
    """As in `AdaptiveProjectedMixGuidance._is_apg_enabled` of diffusers."""
    one = PLAIN._replace(projected_scale=1.0)
    for velocities in guided(one, one, [False, False], 2):
        np.testing.assert_allclose(velocities[0], [2 + 3 * 1, 2 + 3 * 2], rtol=1e-6)


def test_each_example_has_the_guider_of_its_prompt():
    later = PLAIN._replace(start=1)
    found = guided(PLAIN, later, [False, True], 3)
    alone = guided(PLAIN, PLAIN, [False, False], 3), guided(later, later, [False, False], 3)
    for step in range(3):
        for i in range(2):
            np.testing.assert_allclose(found[step][i], alone[i][step][i], rtol=1e-6)
    assert np.abs(found[1][0] - found[1][1]).max() > 1


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a cat", ""),
        ('a cat with "hé" and “cat”', 'Text "hé". Text "cat". '),
        ("“one” 'two' \"three\" ‘four’ 'two'", 'Text "two". Text "two". Text "three". Text "four". Text "one". '),
    ],
)
def test_words_in_quotes_are_read_by_the_kind_of_quotes(prompt, words):
    assert pipeline._in_quotes(prompt) == words


def written(folder, **fields):
    folder.mkdir()
    (folder / "guider_config.json").write_text(json.dumps({"_class_name": guidance.NAME, **fields}))


def test_the_guidance_is_that_of_the_folders_guiders(tmp_path):
    written(tmp_path / "guider", guidance_scale=4.0, eta=0.5)
    written(tmp_path / "ocr_guider", guidance_scale=4.0, adaptive_projected_guidance_start_step=38)
    every = {"guider": True, "ocr_guider": True}
    plain, quoting = guidance.guiders(tmp_path, every)
    assert plain == Guider(4.0, 10.0, -0.5, 10.0, 0.5, 5) and quoting == Guider(4.0, 10.0, -0.5, 10.0, 0.0, 38)
    assert guidance.guiders(tmp_path, every | {"ocr_guider": False}) == (plain, plain)
    usual = guidance.with_guiders(pipeline.HUNYUAN_IMAGE, tmp_path, lambda part: True, Usual(50, 3.5))[1]
    assert usual == (50, 4.0)
    without = guidance.with_guiders(pipeline.HUNYUAN_IMAGE, tmp_path, lambda part: False, Usual(50, 3.5))[1]
    assert without == (50, 1.0)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"_class_name": "ClassifierFreeGuidance"}, "_class_name = .* is not supported. Valid: 'AdaptiveProjectedMix"),
        ({"stop": 0.5}, r"stop = 0\.5 is not supported. Valid: 1\.0"),
        ({"adaptive_projected_guidance_momentum": 1.0}, r"momentum = 1\.0 must be in \(-1, 1\)"),
        ({"guidance_scale": 2.0}, r"have the guidance_scale 2\.0 and 3\.5. Supported: one scale"),
    ],
)
def test_another_guider_is_refused(fields, words, tmp_path):
    written(tmp_path / "guider", **fields)
    written(tmp_path / "ocr_guider")
    with pytest.raises(Refusal, match=words):
        guidance.guiders(tmp_path, {"guider": True, "ocr_guider": True})
