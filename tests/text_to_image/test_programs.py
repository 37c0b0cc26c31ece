"""The programs of text to image: what is compiled and called how often, step by step as at once, and how much fits.

The networks are stand-ins that a test can read: an autoencoder of single pixels, and a denoiser of one product.
"""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import editing, guidance, samplers, text_to_image, watermarks
from diffusion.adapters import lora, lora_files
from diffusion.data.transforms import to_uint8
from diffusion.io import limits
from diffusion.models import interchange
from diffusion.models.attachment import Attachment
from diffusion.models.budget import peak_memory
from diffusion.models.image_encoders.image_features import ImageFeatures
from diffusion.models.interchange import schedulers
from diffusion.published.pipeline_kinds import Guidance, Prompts
from diffusion.text_to_image import (
    additions,
    attached,
    model_folder,
    pipelines,
    programs,
    prompt_conditions,
    requests,
    timed_weights,
)
from diffusion.text_to_image.jobs import Job
from diffusion.text_to_image.lora_weights import LoraWeight
from diffusion.text_to_image.memory_check import check_memory
from diffusion.text_to_image.regions import Places
from diffusion.text_to_image.requests import Request
from diffusion.text_to_image.timed_weights import TimedLora
from tests.text_to_image import made_pipelines
from tests.text_to_image.stand_ins import CONFIG, WIDTH, Pixels, Product, made_model


@pytest.fixture
def model():
    return made_model()


@pytest.mark.extended
def test_an_autoencoder_without_a_posterior_is_edited_with_too(model):
    """TAESD gives the latent itself; with next to no variance a posterior gives the same pictures."""

    class Itself(Pixels):
        def apply(self, variables, x, method):
            return x

    bare = dataclasses.replace(model, modules={**model.modules, "vae": Itself()}, _programs={"encoded": []})
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    edit = lambda model: text_to_image.generate(
        model, "a cat", negative="bad", steps=4, sampler="ddim", image=image, strength=0.5
    )
    assert np.abs(edit(bare).astype(int) - edit(model)).max() <= 1


@pytest.mark.extended
def test_what_is_kept_has_one_noise_for_all_steps_where_a_request_says_so(model):
    """The pictures are those of the hook with the noise of the start; the denoiser sees a pixel's neighbour."""

    class Neighbour(Product):
        def apply(self, variables, x, clock, condition):
            return super().apply(variables, x, clock, condition) + 0.5 * jnp.roll(x, 1, axis=2)

    model = dataclasses.replace(model, modules={**model.modules, "unet": Neighbour()})
    mask = np.arange(64).reshape(8, 8) % 5 == 0
    settings = {"image": np.full((8, 8, 3), 160, np.uint8), "mask": mask, "strength": 0.75, "seeds": (1, 2)}
    request = Request.make("a cat", guidance=1, steps=4, sampler="ddim", batch_size=2, kept_noise="one", **settings)
    job = Job.prepare(model, request)
    x, keys, kept, painted, _ = programs.begin(model, job.course, {}, job.keys(), *job.canvas.arrays())
    schedule, (sampler, plan, *_) = model.process.schedule, job.course.trajectory
    alpha, sigma = schedule.alpha(plan.t[0]), schedule.sigma(plan.t[0])
    np.testing.assert_allclose(x, alpha * kept.latents + sigma * kept.noise, rtol=1e-5, atol=1e-6)
    conditional, _ = job.conditions(model, 2)
    hook = editing.replacement_along(schedule, plan, kept.latents, ~painted, kept.noise)
    denoise = text_to_image.denoise(model, model.weights, conditional, None, 1.0)
    expected = samplers.sample(sampler, denoise, schedule, x, plan, keys, after_step=hook)
    expected = job.canvas.with_original(np.asarray(to_uint8(expected)))
    made = text_to_image.make(model, request)
    assert np.abs(made.astype(int) - expected).max() <= 1
    other = text_to_image.make(model, dataclasses.replace(request, kept_noise="fresh"))
    assert np.abs(made.astype(int) - other)[:, mask].max() > 5


@pytest.mark.extended
def test_the_denoiser_of_a_request_receives_the_whole_times_of_its_scheduler(model):
    """A network that adds the fraction of its time adds nothing, though the times of the noise have one."""

    class WithFraction(Product):
        def apply(self, variables, x, clock, condition):
            fraction = jnp.abs(clock - jnp.round(clock))
            return (
                super().apply(variables, x, clock, condition)
                + jnp.where(fraction > 1e-3, fraction, 0)[:, None, None, None]
            )

    config = CONFIG | {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}
    model = dataclasses.replace(model, process=schedulers.read(config))
    other = dataclasses.replace(model, modules={**model.modules, "unet": WithFraction()}, _programs={"encoded": []})
    times = schedulers.trajectory(model.process, "", 5).plan.t * 1000
    assert np.abs(times - np.round(times)).max() > 0.1
    draw = lambda model: text_to_image.generate(model, "a cat", guidance=1, steps=5)
    np.testing.assert_array_equal(draw(other), draw(model))


@pytest.mark.extended
def test_the_text_is_encoded_once_both_branches_are_one_batch_and_the_trajectory_is_one_program(model):
    """Four pictures of one prompt in two batches, six steps each: all of it is traced once."""
    made = text_to_image.generate(model, "a cat", negative="bad", steps=6, seeds=range(4), batch_size=2, sampler="ddim")
    assert made.shape == (4, 8, 8, 3) and len(np.unique(made)) > 50
    assert model._programs["encoded"] == [["a cat", "bad"]]
    pairs = [shape for shape in model.denoiser.traced if shape[0] == 4]
    assert pairs == model.denoiser.traced and len(pairs) == 2  # one of them to count its memory
    text_to_image.generate(model, "a cat", negative="bad", steps=6, seeds=range(4), batch_size=2, sampler="ddim")
    assert len(model.denoiser.traced) == 2


def test_every_setting_of_a_request_chooses_a_function_or_is_declared_a_value(model, tmp_path):
    """A setting that is neither would let two requests share a program that only one of them described."""
    mask = np.arange(64).reshape(8, 8) % 5 == 0
    image = np.full((8, 8, 3), 160, np.uint8)
    request = Request.make("a cat", guidance=2.0, steps=4, sampler="ddim", image=image, mask=mask)
    watermarks.make(tmp_path / "mark.json", "spread_spectrum", bits=4, low=2, high=16)
    functions = {
        "sampler": "ddpm", "resamplings": 2, "kept_noise": "one", "tile": 8, "cache": '{"name": "first_block"}',
        "merge": 0.25,
    }  # fmt: skip
    assert functions.keys() ^ requests.VALUES == requests.settings(Request).keys()
    for name, value in functions.items():
        assert dataclasses.replace(request, **{name: value}).functions != request.functions, name
    key = lambda **changes: Job.prepare(model, dataclasses.replace(request, **changes)).course.key
    held = {
        "guidance": 1.0, "steps": 3, "strength": 0.5, "margins": (8, 0, 0, 0), "regions": ("a dog:0,0,0.5,1",),
        "watermark": str(tmp_path / "mark.json"),
    }  # fmt: skip
    assert len({key(), *(key(**{name: value}) for name, value in held.items())}) == len(held) + 1
    arrays = {
        "prompts": ("a dog", "two"), "negative": "bad", "guidance": 3.0, "seeds": (5, 6), "batch_size": 2,
        "windows": True, "emphasis": "scale", "image": image + 1, "mask": ~mask, "reference": image,
    }  # fmt: skip
    assert {key(**{name: value}) for name, value in arrays.items()} == {key()}


@pytest.mark.extended
@pytest.mark.parametrize("name, steps", [("sd", 16), ("mmdit", 17), ("z_image", 17)])
def test_as_many_steps_are_left_from_a_picture_as_in_diffusers(name, steps, tmp_path):
    """28 * 0.6 = 16.8: Stable Diffusion leaves the begun step out, and flows run it."""
    described = text_to_image.described(made_pipelines.folder(name, tmp_path), weights=False)
    picture = np.zeros((16, 16, 3), np.uint8)
    job = Job.prepare(
        described, Request.make("a cat", image=picture, strength=0.6, steps=28, sampler="" if steps > 16 else "ddim")
    )
    assert len(job.course.trajectory.plan.t) == steps


def test_every_field_of_a_course_is_in_its_key(model):
    """But the cache, a function that the settings and the plan determine."""
    course = Job.prepare(model, Request.make("a cat", steps=4, sampler="ddim")).course
    plan = course.trajectory.plan
    changes = [
        {"size": (8, 16)}, {"noised": True}, {"guided": not course.guided}, {"tile": 8}, {"settings": ("ddpm",)},
        {"watermark": object()}, {"frames": 3}, {"one_noise": True}, {"rate": 8.0}, {"layers": 2},
        {"trajectory": course.trajectory._replace(start=2.0)},
    ]  # fmt: skip
    evaluations = [{"merge": 0.5}, {"places": Places(boxes=(None,))}, {"perturbed": True}, {"apart": True}]
    assert {name for change in evaluations for name in change} == set(course.evaluation._fields) - {"cache"}
    changes += [{"evaluation": course.evaluation._replace(**change)} for change in evaluations]
    assert {name for change in changes for name in change} == set(course._fields)
    plans = [plan._replace(**{part: np.logical_not(getattr(plan, part))}) for part in plan._fields]
    trajectories = [{"plan": plan} for plan in plans] + [{"network_times": np.ones((1, 2))}]
    changes += [{"trajectory": course.trajectory._replace(**change)} for change in trajectories]
    keys = {course._replace(**change).key for change in changes}
    assert len(keys | {course.key}) == len(changes) + 1


# "2" notices what 3 does, a shorter last batch; "8" what 5 does, a single batch.
@pytest.mark.extended
@pytest.mark.parametrize(
    "batch", [1, 2, pytest.param(3, marks=pytest.mark.slow), pytest.param(5, marks=pytest.mark.slow), 8]
)
def test_every_picture_is_that_of_its_own_prompt_and_seed_in_whichever_batch_it_is_made(model, batch):
    """Five pictures of five seeds in batches: each as made alone, the later batches and the last, shorter one too."""
    prompts, seeds = ["a", "a cat", "a cat on a mat", "a dog", "two dogs and a cat"], [7, 3, 2**32 - 1, 0, 5]
    how = {"negative": "bad", "steps": 2, "sampler": "ddpm"}
    alone = [text_to_image.generate(model, prompt, seeds=seed, **how)[0] for prompt, seed in zip(prompts, seeds)]
    made = text_to_image.generate(model, prompts, seeds=seeds, batch_size=batch, **how)
    assert made.shape == (5, 8, 8, 3)
    assert np.abs(made.astype(int) - np.stack(alone)).max() <= 1  # up to the rounding of a sum
    same = text_to_image.generate(model, "a cat", seeds=seeds, batch_size=batch, **how)
    equal = (same[:, None] == same[None]).mean((2, 3, 4))
    assert equal[~np.eye(5, dtype=bool)].max() < 0.5  # no two of one prompt share their noise


def test_pictures_that_are_not_finite_are_counted(model):
    """A prompt of "overflow" has an embedding of NaN; such pictures would be black."""
    condition = lambda texts, **how: {
        "tokens": jnp.stack([jnp.full(WIDTH, jnp.nan if text == "overflow" else 1.0) for text in texts])
    }
    model = dataclasses.replace(
        model, kind=model.kind._replace(prompts=model.kind.prompts._replace(condition=condition))
    )
    how = {"steps": 1, "guidance": 1.0, "sampler": "ddim", "batch_size": 2}
    with pytest.warns(UserWarning, match=r"2 of 3 samples are not finite.*sampler = 'ddim', steps = 1 and guidance"):
        made = text_to_image.generate(model, ["overflow", "a cat", "overflow"], **how)
    assert made[1].max() > 0 == made[[0, 2]].max()
    with pytest.raises(ValueError, match=r"2 of 2 samples are not finite.*in float32 and without quantised weights"):
        text_to_image.generate(model, "overflow", seeds=[1, 2], **how)
    del how["batch_size"]
    with pytest.warns(UserWarning, match=r"1 of 2 samples are not finite.*sampler = 'ddim', steps = 1 and guidance"):
        assert len(list(text_to_image.watch(model, ["overflow", "a cat"], **how))) == 1
    with pytest.raises(ValueError, match=r"2 of 2 samples are not finite"):
        list(text_to_image.watch(model, "overflow", seeds=[1, 2], **how))


@pytest.mark.extended
def test_a_request_without_settings_is_sampled_as_the_model_was_published(model):
    model = dataclasses.replace(model, usual=pipelines.Usual(2, 1.0))
    made = text_to_image.generate(model, "a cat", sampler="lcm")
    assert {shape[0] for shape in model.denoiser.traced} == {1}  # no guidance
    np.testing.assert_array_equal(made, text_to_image.generate(model, "a cat", steps=2, guidance=1.0, sampler="lcm"))
    assert (made != text_to_image.generate(model, "a cat", steps=3, sampler="lcm")).any()
    frames = list(text_to_image.watch(model, "a cat", sampler="lcm"))
    assert [frame.steps for frame in frames] == [2, 2]
    assert np.abs(frames[-1].pictures.astype(int) - made).max() <= 1


def test_a_plain_request_joins_its_conditions_before_the_steps(model):
    """The program is the one of guidance alone, whose branches are made outside of the scan."""
    params = model.params["unet"]
    network = lambda x, clock, condition: model.denoiser.apply({"params": params}, x, clock, condition)
    both = tuple({"tokens": jnp.full((1, WIDTH), value)} for value in (1.0, 2.0))

    def plain():
        branches = guidance.together(network, model.process.schedule, model.process.parameterization, both)
        return guidance.classifier_free(branches, 2.0)

    def program(make):
        def scanned(x, times):
            denoise = make()
            return jax.lax.scan(lambda x, t: (denoise(x, t).x0, None), x, times)

        return str(jax.make_jaxpr(scanned)(jnp.zeros((1, 8, 8, 3)), jnp.ones(3)))

    assert program(lambda: text_to_image.denoise(model, params, *both, 2.0)) == program(plain)


def test_patches_of_a_picture_are_its_tokens_once_for_each(model):
    """Without an image encoder's width or a picture there are none."""

    class Reader:
        size, width = 8, 3

        def apply(self, variables, images):
            return ImageFeatures(images.reshape(len(images), 64, 3)[:, :5], images[:, 0, 0])

    picture = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    sees = dataclasses.replace(
        model, modules={**model.modules, "image_encoder": Reader()}, params={**model.params, "image_encoder": {}}
    )
    assert sees.patches([picture], 2) == {}
    sees.denoiser.picture_width = 3
    assert sees.patches([], 2) == {}
    rows = picture.reshape(64, 3)[:5] / 127.5 - 1
    np.testing.assert_allclose(sees.patches([picture], 2)["patches"], [rows, rows], atol=1e-6)
    two = np.concatenate([rows, -rows])
    np.testing.assert_allclose(sees.patches([picture, 255 - picture], 1)["patches"], [two], atol=1e-6)


def test_each_picture_has_its_prompt_and_all_have_the_negative_one(model):
    """The stand-in's condition ends with the number of letters; each different text is encoded once."""
    letters = lambda condition: condition["tokens"][:, -1].tolist()
    model._programs["encoded"].clear()
    both = prompt_conditions.conditions(model, ["the hill", "a cat", "the hill"], "bad", 2.0, 8, 8)
    assert [letters(condition) for condition in both] == [[8, 5, 8], [3, 3, 3]]
    both = prompt_conditions.conditions(model, ["a cat", "a car on it"], None, 2.0, 8, 8)
    assert [letters(condition) for condition in both] == [[5, 11], [0, 0]]
    assert model._programs["encoded"] == [["the hill", "a cat", "bad"], ["a cat", "a car on it", ""]]


def test_instructed_prompts_and_negative_ones_are_as_long(model):
    """A prompt stands behind an instruction of two tokens, a negative one alone; masks end where the text does."""

    def condition(texts, instructed=True, **how):
        rows = ["II" * instructed + text for text in texts]
        longest = max(map(len, rows))
        numbers = jnp.asarray([[float(ord(letter)) for letter in row.ljust(longest, chr(0))] for row in rows])
        return {"text": jnp.stack([numbers] * 3, axis=-1), "mask": numbers > 0}

    made = dataclasses.replace(model, kind=model.kind._replace(prompts=Prompts((), condition, instructed=True)))
    both = prompt_conditions.conditions(made, ["ab", "c", "ab"], "d", 2.0, 8, 8)
    letters = lambda text: "".join(chr(int(value)) if value else "." for value in text[:, 0])
    assert [letters(text) for text in both[0]["text"]] == ["IIab", "IIc.", "IIab"]
    assert [letters(text) for text in both[1]["text"]] == ["d..."] * 3
    np.testing.assert_array_equal(both[1]["mask"], [[True, False, False, False]] * 3)
    np.testing.assert_array_equal(both[0]["mask"], [[True] * 4, [True, True, True, False], [True] * 4])


def test_the_network_of_a_new_folder_keeps_the_usual_side(tmp_path, monkeypatch):
    """In the folder of its part; a side of our own stays."""

    def save(folder, module, params, **how):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"ours": 1, **how}))

    monkeypatch.setattr(interchange, "save", save)
    (tmp_path / "base" / "unet").mkdir(parents=True)
    (tmp_path / "base" / "unet" / "config.json").write_text(json.dumps({"sample_size": 64, "theirs": 2}))
    for name, how, expected in [("new", {}, 64), ("other", {"sample_size": 32}, 32)]:
        model_folder.save(tmp_path / name, tmp_path / "base", "unet", None, {}, **how)
        written = json.loads((tmp_path / name / "unet" / "config.json").read_text())
        assert written == {"ours": 1, "sample_size": expected}


@pytest.mark.extended
def test_a_reference_is_seen_without_what_attachments_add(model):
    names = []

    class Seeing(Product):
        def apply(self, variables, x, clock, condition, mutable=()):
            names.append(set(condition))
            return (x, {"states": x}) if mutable else x

    seeing = dataclasses.replace(model, modules={**model.modules, "unet": Seeing()})
    added = {name: () for name in ("residuals", "level_residuals", "extra")}
    weight, times = jnp.ones(()), jnp.array([0.0, 1.0])
    one = attached.Attached(Attachment({}, lambda *_: added), (jnp.zeros((1, 2)),) * 2, weight, times)
    condition = {"tokens": jnp.ones((1, WIDTH)), "reference": jnp.zeros((1, 8, 8, 6))}
    text_to_image.denoise(seeing, {}, condition, None, 1.0, (one,))(jnp.zeros((1, 8, 8, 3)), 0.5)
    assert names == [{"tokens"}, {"tokens", *added}]


def test_a_reference_is_counted_before_anything_is_sampled(model):
    """So that a denoiser that takes none refuses it there; one that paints what is masked has no place for it."""

    class Without(Product):
        def apply(self, variables, x, clock, condition, mutable=()):
            self.traced.append(x.shape)
            return (x, {}) if mutable else x

    without = dataclasses.replace(model, modules={**model.modules, "unet": Without()})
    with pytest.raises(ValueError, match="Without has no self-attention that can use a reference"):
        text_to_image.watch(without, "a cat", reference=IMAGE, steps=1, guidance=1, sampler="ddim", seeds=[0, 1])
    assert without.denoiser.traced == [(2, 8, 8, 3)]
    model.denoiser.in_channels = 7
    with pytest.raises(ValueError, match="this model was trained to inpaint and takes no reference"):
        text_to_image.watch(model, "a cat", reference=IMAGE, image=IMAGE, mask=RIGHT, sampler="ddim")


class Editing(Product):
    """A denoiser that sees a picture beside its latents, and adds a part of it."""

    in_channels = 6

    def __init__(self, part):
        super().__init__()
        self.part = part

    def apply(self, variables, x, clock, condition):
        return super().apply(variables, x[..., :3], clock, condition) + self.part * x[..., 3:]


@pytest.mark.extended
def test_a_model_that_edits_has_three_branches_and_two_scales(model):
    """The network is linear in the picture, so that the scale of the picture is a factor of its part."""
    edit = lambda part, **how: text_to_image.generate(
        dataclasses.replace(model, modules={**model.modules, "unet": Editing(part)}, _programs={"encoded": []}),
        "a cat", image=IMAGE, steps=3, sampler="ddim", guidance=1.0, **how,
    )  # fmt: skip
    scaled = edit(0.1, image_guidance=3.0)
    assert np.abs(scaled.astype(int) - edit(0.3, image_guidance=1.0)).max() <= 1
    assert np.abs(scaled.astype(int) - edit(0.1, image_guidance=1.0)).max() > 20
    weaker = edit(0.3, image_guidance=0.5)
    assert np.abs(weaker.astype(int) - edit(0.15, image_guidance=1.0)).max() <= 1
    assert np.abs(weaker.astype(int) - edit(0.3, image_guidance=1.0)).max() > 20
    made = dataclasses.replace(model, modules={**model.modules, "unet": Editing(0.1)}, _programs={"encoded": []})
    text_to_image.generate(made, "a cat", image=IMAGE, image_guidance=1.5, steps=1, sampler="ddim", seeds=[0, 1])
    assert {shape[0] for shape in made.denoiser.traced} == {3}
    for wrong, message in (
        ({"image": None}, "edits a picture by the prompt; name the image"),
        ({"strength": 0.5}, r"strength = 0\.5: this model sees the image and starts from noise"),
        ({"reference": IMAGE}, "takes no reference"),
        ({"regions": ["a dog:0,0,1,0.5"]}, "takes no regions"),
    ):
        with pytest.raises(ValueError, match=message):
            text_to_image.watch(made, "a cat", **{"image": IMAGE, "image_guidance": 1.5, "sampler": "ddim", **wrong})
    with pytest.raises(ValueError, match="image_guidance = 2: this model has only guidance by the text"):
        text_to_image.watch(model, "a cat", image_guidance=2, sampler="ddim")


@pytest.mark.extended
def test_loras_act_in_their_intervals(model, monkeypatch):
    """At each t the network of the LoRAs whose interval holds it, merged; outside of all the base, to the bit."""
    factors = jax.random.normal(jax.random.key(1), (2, WIDTH, 3))
    adapters = [{"kernel": {"down": one[:, :2], "up": one[:2]}} for one in factors]
    merged = lambda *which: lora.merge(
        model.params["unet"], [adapters[k] for k in which], [{"kernel": 0.5}] * len(which)
    )
    times = [(0.5, 1.0), (0.2, 0.7)]
    touching = [TimedLora(adapters[k], {"kernel": 0.5}, one) for k, one in enumerate([(0, 0.3), (0.3 + 1e-9, 1)])]
    assert timed_weights.timed(model.params["unet"], touching).acting == ((False, True), (True, False), (True, True))
    timed = tuple(TimedLora(*one) for one in zip(adapters, [{"kernel": 0.5}] * 2, times))
    model = dataclasses.replace(model, timed=timed)
    condition = {"tokens": jnp.ones((1, WIDTH))}
    x = jax.random.normal(jax.random.key(2), (1, 8, 8, 3))
    denoise = lambda params: text_to_image.denoise(model, params, condition, None, 1.0)
    found = jax.jit(lambda params, t: denoise(params)(x, t).x0)
    for t, which in ((0.9, (0,)), (0.6, (0, 1)), (0.3, (1,))):
        np.testing.assert_allclose(found(model.weights, t), found(merged(*which), t), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found(model.weights, 0.1), found(model.params["unet"], 0.1))
    # A kernel is merged once for each combination that occurs: none, either, both. The program has no product for it.
    assert model.weights.acting == ((False, False), (False, True), (True, False), (True, True))
    assert [len(leaves) for leaves in model.weights.changed] == [0, 1, 1, 1]
    arguments = jax.make_jaxpr(lambda params, t: denoise(params)(x, t).x0)(model.weights, 0.9).jaxpr.invars
    assert len(arguments) == len(jax.tree.leaves(model.params["unet"])) + 3 + 1
    assert np.abs(found(model.weights, 0.9) - found(model.params["unet"], 0.9)).max() > 0.05
    # Two that act are rounded once, and the kernels that no LoRA changes are not in memory again.
    half = {"kernel": model.params["unet"]["kernel"].astype(jnp.bfloat16), "other": jnp.ones(4)}
    both = timed_weights.timed(half, timed)
    exact = np.float32(half["kernel"]) + sum(0.5 * np.float32(one[:, :2] @ one[:2]) for one in factors)
    assert [set(leaves) for leaves in both.changed] == [set(), {"kernel"}, {"kernel"}, {"kernel"}]
    np.testing.assert_array_equal(both.changed[3]["kernel"], exact.astype(jnp.bfloat16))
    # An interval is closed, as a control's is: one of no length acts at its t.
    monkeypatch.setattr(lora_files, "load", lambda *_: {"unet": lora_files.Lora(adapters[0], {"kernel": 1.0})})
    model = dataclasses.replace(model, timed=())
    last = text_to_image.with_loras(model, {"a.safetensors": (0.5, (1, 1))})
    np.testing.assert_allclose(found(last.weights, 1.0), found(merged(0), 1.0), rtol=0, atol=1e-5)
    numbers = 2 * (WIDTH + 3) + 1  # of the factors and the scale: arrays of float32, whose bytes count
    assert peak_memory.held([(one.adapter, one.scale) for one in last.timed]) == 4 * numbers
    np.testing.assert_array_equal(found(last.weights, 0.999), found(model.params["unet"], 0.999))
    assert LoraWeight.read([0.5, [0.25, 1]]) == LoraWeight.read((0.5, (0.25, 1))) == LoraWeight(0.5, (0.25, 1.0))
    for wrong in ((0.5, (0.7, 0.2)), (0.5, (0, 2)), (0.5, 3), "much", (1, 2, 3)):
        with pytest.raises(ValueError, match=r"(times|weight) of a LoRA|a LoRA has"):
            LoraWeight.read(wrong)


@pytest.mark.extended
def test_regions_are_guided_as_the_pipeline_guides(model):
    """One that covers everything is the guided denoiser of its own condition, whatever the guidance."""
    rescaled = lambda branches, schedule, scale: guidance.rescaled(branches, schedule, scale, 0.7)
    kind = model.kind._replace(guidance=Guidance(rescaled))
    params = model.params["unet"]
    rest, region, null = ({"tokens": value * jnp.arange(1.0, 1 + WIDTH)[None]} for value in (1.0, -2.0, 0.3))
    x = jax.random.normal(jax.random.key(2), (1, 8, 8, 3))
    own = dataclasses.replace(model, kind=kind)
    expected = text_to_image.denoise(own, params, region, null, 3.0)(x, 0.5)
    made = lambda mask, other: text_to_image.denoise(
        own, params, {**rest, "regions": (region,)}, other, 3.0, places=Places((mask,))
    )(x, 0.5)
    np.testing.assert_allclose(made(np.ones((8, 8)), null).x0, expected.x0, rtol=0, atol=1e-6)
    plain = text_to_image.denoise(model, params, region, null, 3.0)(x, 0.5)
    assert np.abs(plain.x0 - expected.x0).max() > 0.01
    alone = [text_to_image.denoise(own, params, one, None, 3.0)(x, 0.5).x0 for one in (rest, region)]
    found = made(RIGHT, None).x0  # without a null branch
    np.testing.assert_allclose(found, np.where(RIGHT[..., None], alone[1], alone[0]), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_without_guidance_there_is_one_branch(model):
    text_to_image.generate(model, "a cat", steps=2, guidance=1.0, sampler="ddim")
    assert {shape[0] for shape in model.denoiser.traced} == {1}


IMAGE = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
RIGHT = np.broadcast_to(np.arange(8) >= 4, (8, 8))
EDITS = {
    "a prompt": {},
    "a picture changed": {"image": IMAGE, "strength": 0.5},
    "painted": {"image": IMAGE, "mask": RIGHT},
    "painted, each part twice": {"image": IMAGE, "mask": RIGHT, "resamplings": 2},
    "made wider": {"image": IMAGE[:, 4:], "margins": (0, 0, 4, 0)},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "edit, sampler",
    [*((edit, "dpmpp_2m") for edit in EDITS), *(("painted", sampler) for sampler in ("euler_ancestral", "lcm"))],
)
def test_pictures_seen_step_by_step_are_those_made_at_once(model, edit, sampler):
    same = {"negative": "bad", "steps": 4, "guidance": 3.0, "seeds": [3, 4], "sampler": sampler, **EDITS[edit]}
    frames = list(text_to_image.watch(model, "a cat", **same))
    if edit == "painted, each part twice":  # of one step each; the last is taken once; steps 2, 5 and 8 add noise
        assert [frame.step for frame in frames] == [1, 3, 4, 6, 7, 9, 10] and frames[0].steps == 10
    else:
        steps = 2 if edit == "a picture changed" else 4
        assert [frame.step for frame in frames] == list(range(1, steps + 1)) and frames[0].steps == steps
        assert all(a.t > b.t for a, b in itertools.pairwise(frames))
    assert frames[-1].t < 0.002
    at_once = text_to_image.generate(model, "a cat", batch_size=2, **same)
    assert np.abs(frames[-1].pictures.astype(int) - at_once).max() <= 1
    assert (frames[0].pictures != at_once).any()
    if "mask" in same:
        for frame in frames:
            np.testing.assert_array_equal(frame.pictures[:, ~RIGHT], np.stack([IMAGE[~RIGHT]] * 2))


class Flat:
    """E[x0 | x_t] where all pixels of a picture have one colour, which is N(0, 1): what is kept says what to paint."""

    widths, in_channels = (1,), 3

    def __init__(self, schedule):
        self.schedule, self.clocks = schedule, []

    def apply(self, variables, x, clock, condition):
        jax.debug.callback(lambda clock: self.clocks.append(float(clock)), clock.ravel()[0])
        t = (clock.ravel()[0] + 1) / 1000
        alpha = self.schedule.alpha(t)
        sigma = self.schedule.sigma(t)
        pixels = x.shape[1] * x.shape[2]
        mean = x.mean((1, 2), keepdims=True) * alpha / (alpha**2 + sigma**2 / pixels)
        return jnp.broadcast_to(mean, x.shape)


@pytest.mark.slow
def test_what_is_painted_agrees_with_what_is_kept_the_more_often_it_is_sampled(model):
    flat = model.modules["unet"] = Flat(model.process.schedule)
    image = np.full((8, 8, 3), 200, np.uint8)
    same = {"steps": 20, "guidance": 1.0, "seeds": range(50), "batch_size": 50, "image": image, "sampler": "ddim"}
    off = {}
    for resamplings in (1, 2, 8):
        flat.clocks.clear()
        made = text_to_image.generate(model, "a cat", mask=RIGHT, resamplings=resamplings, **same)
        jax.effects_barrier()
        # Three of the four quarters, of five steps each, are sampled again.
        assert len(flat.clocks) == 20 + 15 * (resamplings - 1)
        np.testing.assert_array_equal(made[:, :, :4], np.broadcast_to(image[:, :4], (50, 8, 4, 3)))
        off[resamplings] = np.abs(made[:, :, 4:].astype(float) - 200).mean()
    assert off[1] > 1.5 * off[2] and off[2] > 1.25 * off[8]


@pytest.mark.slow
def test_a_trajectory_that_is_left_ends(model):
    ran = []
    inner = model.denoiser.apply

    def apply(variables, x, clock, condition):
        jax.debug.callback(lambda: ran.append(1))
        return inner(variables, x, clock, condition)

    model.denoiser.apply = apply
    frames = text_to_image.watch(model, "a cat", steps=100, sampler="ddim")
    assert [next(frames).step, next(frames).step] == [1, 2]
    frames.close()
    jax.effects_barrier()
    assert len(ran) == 2


def test_pictures_that_do_not_fit_into_memory_are_refused_with_the_estimate(model, monkeypatch):
    monkeypatch.setattr(limits, "memory", lambda: 10 * 2**20)
    words = r"4 pictures of 1024 x 1024 .* would need about .* MiB of memory, but only 10 MiB is available: choose"
    for make in (text_to_image.watch, text_to_image.generate):
        count = {"batch_size": 4} if make is text_to_image.generate else {}
        with pytest.raises(limits.Refused, match=words):
            make(model, "a cat", steps=1, seeds=range(4), height=1024, width=1024, sampler="ddim", **count)
    # Kernels that LoRAs of an interval change count, and nothing is merged before.
    adapter = {"kernel": {"down": jnp.ones((WIDTH, 1)), "up": jnp.ones((1, 3))}}
    timed = (TimedLora(adapter, {"kernel": jnp.float32(1.0)}, (0.5, 1.0)),)
    model = dataclasses.replace(model, timed=timed, _programs={})
    held = []
    monkeypatch.setattr(peak_memory, "check", lambda what, needed, instead: held.append(needed))
    course = programs.Course((8, 8), schedulers.trajectory(model.process, "ddim", 1), False, False, 0, ())
    for one in (model, dataclasses.replace(model, timed=())):
        check_memory(one, course, 1, {"tokens": jnp.ones((1, WIDTH))}, {})
    numbers = (WIDTH + 3 + 1) + WIDTH * 3  # of the factors and the scale, and of the kernel in the interval
    assert held[0] - held[2] == 4 * numbers and "weights" not in vars(model)
    # So do the parameters of an attachment, which the decoder's program does not read.
    attachment = Attachment(jnp.zeros(1000), lambda *inputs: {})
    one = attached.Attached(attachment, (jnp.zeros((1, 2)),) * 2, jnp.float32(1.0), jnp.array([0.0, 1.0]))
    check_memory(dataclasses.replace(model, timed=()), course, 1, {"tokens": jnp.ones((1, WIDTH))}, {}, (one,))
    assert held[4] - held[2] == 4 * (1000 + 2 + 2 + 1 + 2)


def test_the_peak_of_a_program_is_counted_by_hand():
    """a [4, 4] and b [4, 8] are inputs, 64 and 128 bytes; c = a b has 128, d = c c' 64, e = d + a 64."""

    def program(a, b):
        c = a @ b
        d = c @ c.T  # holds a, b, c and d, its transpose being a view
        return d + a  # holds a, b, d and e: c is over

    traced = lambda function, *shapes: jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes))
    assert peak_memory.peak(traced(program, (4, 4), (4, 8)).jaxpr) == 64 + 128 + 128 + 64
    inside = lambda a, b: 2 * jax.jit(program)(a, b)
    assert peak_memory.peak(traced(inside, (4, 4), (4, 8)).jaxpr) == 64 + 128 + 128 + 64
    # Of a scan's body once: its carry [1000] in, sin and its sum with the carry out, beside the carry outside.
    loop = lambda x: jax.lax.scan(lambda c, _: (c + jnp.sin(c), None), x, length=50)[0]
    assert peak_memory.peak(traced(loop, (1000,)).jaxpr) == 3 * 4000
    # The rows of 49 other turns lie beside what a turn holds: its carry in, the sine, the cosine and their product.
    stacked = lambda x: jax.lax.scan(lambda c, _: (c + jnp.sin(c) * jnp.cos(c), c), x, length=50)
    assert peak_memory.peak(traced(stacked, (1000,)).jaxpr) == 4 * 4000 + 49 * 4000


@pytest.mark.slow
def test_the_peak_is_near_what_xla_allocates():
    """Of a pair of products with a softmax between, as in attention, XLA's own count of the compiled program."""
    attend = lambda q, k, v: jax.nn.softmax(q @ k.T) @ v
    shapes = [jax.ShapeDtypeStruct((1000, 64), jnp.float32)] * 3
    memory = jax.jit(attend).lower(*shapes).compile().memory_analysis()
    held = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    assert 0.5 * held < peak_memory.peak(jax.make_jaxpr(attend)(*shapes).jaxpr) < 2.5 * held


def test_an_attachment_is_loaded_in_the_type_of_its_model(monkeypatch):
    asked = []
    load = lambda path, denoiser, base, **how: asked.append((path, how)) or Attachment(jnp.float32(1.0), None)
    monkeypatch.setattr(additions.attached, "load", load)
    model = dataclasses.replace(made_model(), dtype="bfloat16")
    assert list(additions.with_attachments(model, {"edges": "folder"}, quantised=True).attachments) == ["edges"]
    assert asked == [("folder", {"dtype": "bfloat16", "quantised": True})]


def test_a_model_with_something_more_has_no_programs_of_the_model_without_it():
    model = made_model()
    model._programs["pictures"] = "compiled before"
    kernel = {"kernel": jnp.ones((8, 8))}
    plain = dataclasses.replace(model, params={**model.params, "unet": {"dense": kernel}})
    for more in (
        additions.with_attachments(model, {"edges": Attachment(jnp.float32(1.0), None)}),
        additions.with_loras(model, {}),
        additions.with_quantised(plain, "int8")[0],
    ):
        assert more._programs == {} and model._programs["pictures"] == "compiled before"
