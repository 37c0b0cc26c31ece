"""Caches and token merging in requests: what is skipped and counted, and what is refused early."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import caching, text_to_image, watermarks
from diffusion.adapters import lora_files
from diffusion.models.dit import DiT
from diffusion.models.interchange import schedulers
from diffusion.published.pipeline_kinds import DenoiserNetwork, Kind, Prompts, Usual
from diffusion.text_to_image import jobs, programs
from diffusion.text_to_image.requests import Request
from tests.text_to_image.stand_ins import CONFIG, Pixels


@pytest.fixture(scope="module")
def model():
    module = DiT(2, 16, 3, 2, 3)
    rng = np.random.default_rng(0)
    x, t = jnp.zeros((1, 8, 8, 3)), jnp.zeros(1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, t, jnp.zeros(1, jnp.int32))["params"]
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape) / 4, jnp.float32), shapes)

    class Denoiser:
        widths, in_channels, reuses, feature_blocks = (1,), 3, ("blocks",), 3

        def apply(self, variables, x, clock, condition, **more):
            return module.apply(variables, x, clock, condition["label"], **more)

    condition = lambda texts, **how: {"label": jnp.array([len(text) % 3 for text in texts])}
    kind = Kind("Made", Prompts((), condition), Usual(), DenoiserNetwork(None, "denoiser", lambda denoiser: 2))
    modules = {"denoiser": Denoiser(), "vae": Pixels()}
    process = schedulers.read(CONFIG)
    return text_to_image.TextToImage("", kind, modules, {"denoiser": params, "vae": {}}, {}, process, 8, False)


def _request(**settings):
    return Request.make("a cat", seeds=[3, 4], **{"steps": 8, "guidance": 2.0, "sampler": "ddim", **settings})


@pytest.mark.slow
def test_a_request_names_a_cache_and_learns_what_it_skipped(model):
    """TaylorSeer runs the steps 0, 1 and 5 of 8."""
    entry = '{"name": "taylor_seer", "interval": 4, "first": 2}'
    pictures, *_, skipped = jobs.results(model, _request(cache=entry))
    assert skipped == pytest.approx(5 / 8)
    assert pictures.shape == (2, 8, 8, 3)


def test_each_batch_is_delivered_when_a_picture_of_it_or_of_an_earlier_one_is_finite(model, monkeypatch):
    """Each picture shows its seed; the batch of seed 5 is held back until that of seed 3 has a finite one."""
    broken = {5}  # the seeds of pictures that are not finite

    def generated(program, rows, size):
        for seed in np.asarray(jax.random.key_data(rows[2])[:, -1]).tolist():
            finite = np.array([seed not in broken])
            yield programs.Decoded(np.full((1, 8, 8, 3), seed, np.uint8), None, finite), np.zeros(2, np.int64)

    monkeypatch.setattr(jobs.sampling, "batches", generated)
    request = Request.make("a cat", seeds=[5, 3, 4], steps=2, guidance=1.0, sampler="ddim", batch_size=1)
    delivered = []
    with pytest.warns(UserWarning, match="1 of 3 samples are not finite"):
        together = jobs.results(model, request, lambda batch: delivered.append(batch.pictures[:, 0, 0, 0].tolist()))
    assert delivered == [[5], [3], [4]] and together.pictures[:, 0, 0, 0].tolist() == [5, 3, 4]
    broken |= {3, 4}
    delivered.clear()
    with pytest.raises(ValueError, match="3 of 3 samples are not finite"):
        jobs.results(model, request, lambda batch: delivered.append(batch))
    assert delivered == []


@pytest.mark.slow
def test_watch_shows_the_pictures_of_generate_with_a_cache_and_merged_tokens(model):
    plain, *_, nothing = jobs.results(model, _request(batch_size=2))
    assert nothing is None
    settings = {"cache": '{"name": "first_block", "threshold": 10.0}', "merge": 0.5, "batch_size": 2}
    pictures, *_, skipped = jobs.results(model, _request(**settings))
    assert 0 < skipped < 2 / 3
    *_, last = text_to_image.frames(model, _request(**settings))
    assert np.abs(last.pictures.astype(int) - pictures).max() <= 1
    assert np.abs(plain.astype(int) - pictures).max() > 1


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"cache": '{"name": "deep_cache", "interval": 2}'}, "the cache needs a network that offers deep"),
        ({"cache": '{"name": "frist_block", "threshold": 0.1}'}, r"cache 'frist_block'\. Valid: deep_cache"),
        ({"cache": '{"name": "first_block"}'}, "needs threshold"),
        ({"cache": '{"name": "first_block", "threshold": 0.1, "interval": 3}'}, "it takes no interval"),
        ({"cache": '{"name": "first_block", "threshold": "a"}'}, r"threshold = 'a'\. Valid: float"),
        ({"cache": '{"name": "first_block", "threshold": -1}'}, "threshold = -1"),
        ({"cache": "first_block"}, "an entry as JSON"),
        ({"cache": "[1]"}, "an entry as JSON"),
        ({"merge": 0.8}, "merge"),
        ({"cache": '{"name": "taylor_seer", "interval": 2}', "sampler": "lcm"}, "which need no cache"),
        (
            {"cache": '{"name": "first_block", "threshold": 0.1}', "reference": np.zeros((8, 8, 3), np.uint8)},
            "holds the states of the reference",
        ),
    ],
)
def test_what_does_not_fit_is_refused(model, settings, message):
    with pytest.raises(ValueError, match=message):
        jobs.Job.prepare(model, _request(**settings))


def test_a_cache_learns_where_the_steps_of_a_request_lie_among_all(model, monkeypatch):
    """The last 4 of 8 steps; with a mask, each but the last once more after a step that renoises."""
    learnt = []
    monkeypatch.setitem(
        caching.CACHES, "own", lambda steps, whole, at: (learnt.append((steps, whole, at)), caching.first_block(0.1))[1]
    )
    image = np.zeros((8, 8, 3), np.uint8)
    settings = {"cache": '{"name": "own"}', "image": image, "strength": 0.5}
    jobs.Job.prepare(model, _request(**settings))
    jobs.Job.prepare(model, _request(**settings, mask=np.eye(8, dtype=bool), resamplings=2))
    assert learnt == [(4, 8, ((4, 5, 6, 7),)), (7, 8, ((4,), (4, 5), (5, 6), (6, 7)))]


def test_a_watermark_in_the_noise_is_refused_where_nobody_could_read_it(model, tmp_path):
    ring = str(tmp_path / "ring.json")
    watermarks.make(ring, "tree_ring", radius=0.5)
    watermarks.make(tmp_path / "post.json", "spread_spectrum", bits=4, low=1, high=8)
    image = np.zeros((8, 8, 3), np.uint8)
    assert jobs.Job.prepare(model, _request(watermark=ring)).course.watermark is not None
    for settings, why in (
        ({"sampler": "ddpm"}, "the sampler adds noise of its own"),
        ({"image": image, "strength": 0.5}, "sampling starts from a picture"),
    ):
        with pytest.raises(ValueError, match=f"tree_ring .*{why}.*spread_spectrum"):
            jobs.Job.prepare(model, _request(watermark=ring, **settings))
        jobs.Job.prepare(model, _request(watermark=str(tmp_path / "post.json"), **settings))


def test_lora_files_are_refused_by_quantised_kernels(model, monkeypatch):
    few, _ = text_to_image.with_quantised(model, "int8")
    file = types.SimpleNamespace(adapter={}, weighted=lambda weight: weight)
    monkeypatch.setattr(lora_files, "load", lambda path, modules: {"denoiser": file})
    with pytest.raises(ValueError, match="the kernels of denoiser are quantised; merge LoRA files before"):
        text_to_image.with_loras(few, {"a.safetensors": 1.0})


def test_a_model_keeps_the_programs_of_its_last_courses():
    model = types.SimpleNamespace(_programs={})
    made = []

    def program(i, name):
        make = lambda *_: made.append((i, name)) or (i, name)
        return jobs.program(model, types.SimpleNamespace(key=(i,)), name, make)

    for i in range(jobs.COURSES):
        assert (program(i, "a"), program(i, "b")) == ((i, "a"), (i, "b"))
    program(0, "a")
    program(jobs.COURSES, "a")  # drops course 1, which was used longest ago
    assert len(made) == 2 * jobs.COURSES + 1 and len(model._programs) == jobs.COURSES
    program(0, "b")
    program(1, "a")
    assert made[2 * jobs.COURSES + 1 :] == [(1, "a")]


def test_a_model_in_another_pipeline_shares_no_program(model):
    """The same request has the same course in both, but another guidance."""
    other = model.as_pipeline("StableDiffusionPAGPipeline")
    program = lambda model: jobs.program(model, types.SimpleNamespace(key=()), "a", lambda model, course: model.kind)
    assert (program(model), program(other)) == (model.kind, other.kind)


@pytest.mark.slow
def test_a_model_with_quantised_kernels_makes_nearly_the_same_pictures(model):
    few, stored = text_to_image.with_quantised(model, "int8")
    assert stored.after < 0.5 * stored.before and 0 < stored.error < 0.01
    assert few._programs is not model._programs
    pictures, plain = (jobs.make(one, _request()).astype(int) for one in (few, model))
    assert 0 < np.abs(pictures - plain).mean() < 8
