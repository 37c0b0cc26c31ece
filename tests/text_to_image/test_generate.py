"""From a prompt to a picture: the whole pipeline is diffusers', pictures are edited, and wrong settings are refused."""

import dataclasses
import functools
import json
import pathlib
import tempfile
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import editing, flow_maps, samplers, text_to_image
from diffusion.data.transforms import to_model, to_uint8
from diffusion.models import interchange
from diffusion.models.autoencoders import latent_space as autoencoders
from diffusion.models.interchange import folders, schedulers
from diffusion.published.qwen_vl import network as qwen_vl_network
from diffusion.text_to_image import pipelines, programs
from diffusion.text_to_image.guided_denoiser import flow_map
from diffusion.text_to_image.jobs import Job
from diffusion.text_to_image.requests import Request
from tests.peers.made_weights import drawn
from tests.published.family_facts import stated
from tests.text_to_image import made_pipelines

PROMPTS = ["a cat", "the red car on a hill"]
QUOTED = ['a cat with "hé" and “cat”', PROMPTS[1]]
ABOUT, FOUND = made_pipelines.fixture("sd")


EDITS = {  # the sides of the pictures that the denoiser sees, and of the results
    **dict.fromkeys(("flux2_edits", "klein_edits"), ([(64, 64), (64, 72)], 32)),
    "qwen_image_edit": ([(64, 128)], 16),
    "qwen_image_edit_plus": ([(64, 128), (96, 96)], 16),
}
SMALLER = 128  # by which pictures that are scaled have fewer pixels, in the fixtures too


class Compiled:
    """A network, compiled once, that runs inside `jax.disable_jit`: the loop around it is not worth a compilation."""

    def __init__(self, module):
        self._module = module
        self._call = jax.jit(lambda params, *rest: module.apply({"params": params}, *rest))

    def apply(self, variables, x, clock, condition):
        with jax.disable_jit(False):
            clock = jax.tree.map(lambda time: jnp.asarray(time, jnp.float32), clock)
            return self._call(variables["params"], x, clock, dict(condition))

    def __getattr__(self, name):
        return getattr(self._module, name)


@functools.cache
def loaded(name="sd"):
    """The model; pictures that it scales have fewer pixels than its class gives them."""
    with tempfile.TemporaryDirectory() as place:
        model = text_to_image.load(made_pipelines.folder(name, pathlib.Path(place)))
    edits = model.kind.pictures.several
    if edits is None or not edits.divisor:
        return model
    fewer = edits._replace(pixels=edits.pixels // SMALLER, prompt_pixels=edits.prompt_pixels // SMALLER)
    return dataclasses.replace(model, kind=model.kind._replace(pictures=model.kind.pictures._replace(several=fewer)))


def edited(name):
    """The pictures of the fixture."""
    return tuple(made_pipelines.fixture(name)[1][f"image/{i}"] for i in range(len(EDITS[name][0])))


def edit(name, model):
    """The job of the fixture's pictures."""
    sides, result = EDITS[name]
    job = Job.prepare(model, Request(images=edited(name), prompts=PROMPTS, height=result, width=result))
    assert [image.shape[1:3] for image in job.images] == sides
    return job


@functools.cache
def compiled(name):
    """(model, conditional, unconditional): its denoiser is compiled for two pictures with guidance, LCM's own."""
    model = loaded(name)
    scale = model.usual.guidance if name == "lcm" else 7.5
    prompts = QUOTED if name.startswith("hunyuan_image") else PROMPTS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the second prompt is too long for CLIP, there and here
        how = {"pictures": edit(name, model).prompt_images} if model.sight else {}
        conditional, unconditional = text_to_image.conditions(model, prompts, "bad", scale, 16, 16, **how)
    modules = {**model.modules, model.kind.denoiser.folder: Compiled(model.denoiser)}
    return dataclasses.replace(model, modules=modules), conditional, unconditional


# Of each pipeline, the trajectories of its fixture and the largest difference of each, as a part of the largest number
# in the latents: ten times what is measured on one CPU, rounded up to one digit, for another rounds otherwise; 1e-4 at
# most. The first of each is by the sampler of its own folder.
TRAJECTORIES = stated("TRAJECTORIES")
OWN_SAMPLER = {name: next(iter(cases)) for name, cases in TRAJECTORIES.items()} | {"edit_xl": "euler"}
# Whose whole programs other tests run.
ELSEWHERE = ("sd", "inpaint", "edit", "edit_xl", "xl", "mmdit", "t5_mmdit", "pixart", "alpha", "flux", "flux2_edits",
             "klein_edits", "qwen_image_edit")  # fmt: skip


@pytest.mark.parametrize("name", TRAJECTORIES)
def test_every_trajectory_of_a_fixture_is_compared(name):
    assert TRAJECTORIES[name].keys() == made_pipelines.fixture(name)[0]["walks"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("name, case", [(name, case) for name, cases in TRAJECTORIES.items() for case in cases])
def test_thirty_guided_steps_end_where_diffusers_pipeline_does(name, case):
    ours = end_of_trajectory(name, case, *compiled(name))
    theirs = made_pipelines.fixture(name)[1][f"latents/{case}"]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TRAJECTORIES[name][case] * np.abs(theirs).max())


def counted(placeholders, grids):
    """Each token's number three times, that of a picture too."""
    return jnp.broadcast_to(jnp.arange(placeholders.shape[1])[:, None], (*placeholders.shape, 3))


@pytest.mark.slow
def test_a_picture_whose_tokens_are_counted_as_words_is_edited_as_diffusers_does_as_it_is_called(monkeypatch):
    """It does not tell transformers 5 which tokens are a picture's, whose rows and columns are then unknown."""
    fresh = dataclasses.replace(loaded("qwen_image_edit"))  # without compiled programs
    with monkeypatch.context() as patch:
        patch.setattr(qwen_vl_network, "text_positions", counted)
        patch.setattr(f"{__name__}.loaded", lambda name: fresh)
        ours = end_of_trajectory("qwen_image_edit", "euler", *compiled.__wrapped__("qwen_image_edit"))
    found = made_pipelines.fixture("qwen_image_edit")[1]
    np.testing.assert_allclose(ours, found["as_called"], rtol=0, atol=4e-5 * np.abs(found["as_called"]).max())
    assert np.abs(found["as_called"] - found["latents/euler"]).max() > 1e-3 * np.abs(found["as_called"]).max()


def end_of_trajectory(name, case, model, conditional, unconditional):
    """The latents at the end of a fixture's trajectory, by what `compiled` returns."""
    about = made_pipelines.fixture(name)[0]
    process = schedulers.read(about["walks"][case], even=model.kind.flow.even, by_steps=model.kind.flow.by_steps)
    if model.kind.denoiser.jumps:
        process = process._replace(fields={**process.fields, "jumps": True})
    tokens = 64 // model.kind.denoiser.multiple(model.denoiser) ** 2
    trajectory = schedulers.trajectory(
        process, case.partition(",")[0].partition(" ")[0], about["steps"][case], tokens=tokens
    )
    assert model.process.sampler == OWN_SAMPLER[name]
    model = dataclasses.replace(model, process=process._replace(parameterization=_read_as(model, process)))
    model = programs.with_clock(model, trajectory)
    sampler, shape = trajectory.sampler, (2, 8, 8, model.channels)
    if sampler.draws:  # with the noise that theirs received
        step = lambda state, denoise, schedule, plan, i, noise: trajectory.sampler.step(
            state, denoise, schedule, plan, i, jnp.asarray(drawn(f"step {i}", *shape))[None]
        )
        sampler = sampler._replace(step=step)
    part = model.kind.denoiser.folder
    guided = not model.distilled
    if model.sees_mask:
        right = np.broadcast_to(np.arange(8) >= 4, (2, 8, 8))[..., None].astype(np.float32)
        masked = np.repeat(drawn("masked", 1, 8, 8, 4), 2, axis=0)
        parts = [masked, np.repeat(right, 4, axis=-1)] if name == "fill" else [right, masked]
        beside = jnp.concatenate(parts, axis=-1)
        conditional = conditional | {"beside": beside}
        unconditional = unconditional | {"beside": beside}
    scale = 7.5
    if model.sees_picture:
        seen = "picture" if model.kind.pictures.appends else "beside"
        beside = {seen: jnp.asarray(drawn("pictured", 2, 8, 8, 4))}
        conditional, unconditional, scale = conditional | beside, unconditional | beside, jnp.array([7.5, 1.5])
    if name in EDITS:
        job = edit(name, loaded(name))
        with jax.disable_jit(False):
            begin = jax.jit(
                lambda vae, images: programs.begin(model, job.course, vae, job.keys(), None, None, None, images)
            )
            beside = begin(model.params["vae"], job.images)[-1]
        conditional, unconditional = conditional | beside, unconditional | beside
    other = unconditional if guided else None
    evaluate = flow_map if flow_maps.FlowMap in sampler.takes else text_to_image.denoise
    denoise = evaluate(model, model.params[part], conditional, other, scale)
    x = trajectory.start * jnp.asarray(drawn("latents", *shape))
    with jax.disable_jit():
        return samplers.sample(
            sampler, denoise, process.schedule, x, trajectory.plan, jax.random.split(jax.random.key(0), 2)
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "case, within", [("ddim", 4e-5), ("euler", 4e-5), ("dpmpp_2m", 4e-5), ("plms", 4e-5)]
)  # as in TRAJECTORIES
def test_a_picture_is_changed_as_diffusers_changes_it(case, within):
    """60 % of the trajectory, from the same latents and the same noise on them."""
    model, conditional, unconditional = compiled("sd")
    process = schedulers.read(ABOUT["walks"][case])
    model = dataclasses.replace(model, process=process)
    settings = {"image": np.zeros((16, 16, 3), np.uint8), "strength": 0.6, "steps": 30, "sampler": case}
    trajectory = Job.prepare(model, Request.make(PROMPTS, **settings)).course.trajectory
    plan = trajectory.plan
    x = text_to_image.noised(process.schedule, plan, drawn("image", 2, 8, 8, 4), drawn("step 0", 2, 8, 8, 4))
    denoise = text_to_image.denoise(model, model.params["unet"], conditional, unconditional, 7.5)
    with jax.disable_jit():
        ours = samplers.sample(
            trajectory.sampler, denoise, process.schedule, x, plan, jax.random.split(jax.random.key(0), 2)
        )
    theirs = FOUND[f"edited/{case}"]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=within * np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_a_part_is_painted_as_diffusers_paints_it(strength):
    """By DDIM, with one noise on what is kept, from the same latents and the same noise."""
    model, conditional, unconditional = compiled("sd")
    process = schedulers.read(ABOUT["walks"]["ddim"])
    model = dataclasses.replace(model, process=process)
    settings = {"image": np.zeros((16, 16, 3), np.uint8), "strength": strength, "steps": 30, "sampler": "ddim"}
    right = np.broadcast_to(np.arange(16) >= 8, (16, 16))
    job = Job.prepare(model, Request.make(PROMPTS, mask=right, kept_noise="one", **settings))
    sampler, plan = job.course.trajectory.sampler, job.course.trajectory.plan
    known, noise = jnp.asarray(drawn("image", 2, 8, 8, 4)), jnp.asarray(drawn("step 0", 2, 8, 8, 4))
    x = text_to_image.noised(process.schedule, plan, known, noise) if job.course.noised else noise
    kept = np.broadcast_to(np.arange(8) < 4, (8, 8))[None, ..., None]
    hook = editing.replacement_along(process.schedule, plan, known, kept, noise)
    denoise = text_to_image.denoise(model, model.params["unet"], conditional, unconditional, 7.5)
    with jax.disable_jit():
        keys = jax.random.split(jax.random.key(0), 2)
        ours = samplers.sample(sampler, denoise, process.schedule, x, plan, keys, after_step=hook)
    theirs = FOUND[f"painted/{strength}"]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=8e-5 * np.abs(theirs).max())


@pytest.mark.slow
@pytest.mark.parametrize("name, kind, strength", [
    ("qwen_image_edit", "QwenImageEditInpaintPipeline", 1.0), ("qwen_image_edit", "QwenImageEditInpaintPipeline", 0.6),
    ("klein_edits", "Flux2KleinInpaintPipeline", 1.0), ("klein_edits", "Flux2KleinInpaintPipeline", 0.6),
    ("kontext", "FluxKontextInpaintPipeline", 1.0),
])  # fmt: skip
def test_a_part_of_a_picture_that_the_denoiser_sees_is_painted_as_diffusers_paints_it(name, kind, strength):
    """With one noise on what is kept, from the same noise; the kept latents are the means that the denoiser sees."""
    found = made_pipelines.fixture(name)[1]
    picture = found["painted/image"] if "painted/image" in found else found["image/0"]
    model = loaded(name).as_pipeline(kind)
    if model.kind.pictures.several and model.kind.pictures.several.divisor:  # to the size that the picture has
        edits = model.kind.pictures.several._replace(pixels=2048, prompt_pixels=2048)
        model = dataclasses.replace(
            model, kind=model.kind._replace(pictures=model.kind.pictures._replace(several=edits))
        )
    height, width = picture.shape[:2]
    right = np.broadcast_to(np.arange(width) >= width // 2, (height, width))
    negative = "bad" if name == "qwen_image_edit" else ""
    settings = {"image": picture, "mask": right, "kept_noise": "one", "steps": 30, "guidance": 7.5}
    job = Job.prepare(model, Request.make("a cat", negative=negative, strength=strength, **settings))
    conditional, unconditional = job.conditions(model, 1)
    course, plan, schedule = job.course, job.course.trajectory.plan, model.process.schedule
    inputs = model.params["vae"], job.keys(), *job.canvas.arrays(), None, job.images
    _, keys, kept, part, seen = jax.jit(functools.partial(programs.begin, model, course))(*inputs)
    known = seen["pictures"][0] if "pictures" in seen else seen["picture"]
    noise = jnp.asarray(drawn("step 0", 1, *known.shape[1:]))
    assert isinstance(kept, programs.Kept) and course.noised == (strength < 1)
    x = text_to_image.noised(schedule, plan, known, noise) if course.noised else noise

    def painted(params, x, known, noise, *both):
        start = programs.Start(x, keys, programs.Kept(known, noise), part)
        evaluated, hook = programs._guided(model, course, params, start, *both, job.scale(model))
        return samplers.sample(course.trajectory.sampler, evaluated, schedule, x, plan, keys, after_step=hook)

    ours = jax.jit(painted)(model.weights, x, known, noise, conditional | seen, unconditional | seen)
    theirs = found[f"painted/{strength}"]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-5 * np.abs(theirs).max())


@pytest.mark.slow
def test_a_picture_is_changed_in_few_steps_as_diffusers_changes_it():
    """SANA-Sprint, 3 of 4 steps from the latents that its autoencoder gives, with the noise that theirs received."""
    found = made_pipelines.fixture("sprint")[1]
    model = loaded("sprint").as_pipeline("SanaSprintImg2ImgPipeline")
    settings = {"image": found["changed/image"], "strength": 0.6, "steps": 4, "guidance": 7.5}
    job = Job.prepare(model, Request.make("a cat", **settings))
    conditional, _ = job.conditions(model, 1)
    course, plan, schedule = job.course, job.course.trajectory.plan, model.process.schedule
    assert course.noised and len(plan.t) == 3
    vae = model.modules["vae"]
    encode = jax.jit(lambda params, picture: vae.apply({"params": params}, picture, method="encode"))
    known = autoencoders.to_diffusion(encode(model.params["vae"], job.canvas.arrays()[0]), vae.scale, vae.shift)
    noise = lambda i: jnp.asarray(drawn(f"step {i}", 1, *known.shape[1:]))
    x = text_to_image.noised(schedule, plan, known, noise(0))
    sampler = course.trajectory.sampler
    step = lambda state, denoise, schedule, plan, i, _: sampler.step(state, denoise, schedule, plan, i, noise(i)[None])
    compiled_model = dataclasses.replace(model, modules={**model.modules, "transformer": Compiled(model.denoiser)})
    start = programs.Start(x, job.keys())
    evaluated, _ = programs._guided(compiled_model, course, model.weights, start, conditional, {}, job.scale(model))
    with jax.disable_jit():
        ours = samplers.sample(sampler._replace(step=step), evaluated, schedule, x, plan, job.keys())
    theirs = found["changed/0.6"]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-5 * np.abs(theirs).max())


@pytest.mark.slow
def test_pictures_of_bfloat16_are_near_those_of_float32():
    with tempfile.TemporaryDirectory() as place:
        half = text_to_image.load(made_pipelines.folder("sd", pathlib.Path(place)), dtype="bfloat16")
    types = {part: {leaf.dtype.name for leaf in jax.tree.leaves(tree)} for part, tree in half.params.items()}
    assert types == {"unet": {"bfloat16"}, "vae": {"float32"}, "text_encoder": {"bfloat16"}}
    draw = lambda model, seed: text_to_image.generate(model, "a cat", negative="bad", sampler="dpmpp_2m", seeds=seed)
    whole = draw(loaded(), 1)
    other = draw(loaded(), 2)
    found = draw(half, 1)
    distance = lambda a, b: np.abs(a.astype(float) - b).mean()
    assert 0 < distance(found, whole) < 0.1 * distance(other, whole)


def _read_as(model, process):
    """The clock and the channels of the model, with what the process of a trajectory predicts."""
    if model.name == "SanaPipeline" or model.name.startswith("StableDiffusionP"):
        return process.parameterization
    return model.process.parameterization


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, case, within",
    [  # as in TRAJECTORIES
        ("sd", "plms", 4e-6),
        ("playground", "dpmpp_2m", 3e-6),
        ("lcm", "lcm", 5e-6),
    ],
)
def test_the_picture_is_what_the_autoencoder_there_makes_of_the_latents(name, case, within):
    """Of Playground, whose latents have a mean and a deviation for each channel, as its pipeline there decodes them."""
    model = loaded(name)
    found_there = made_pipelines.fixture(name)[1]
    vae = model.modules["vae"]
    z = found_there[f"latents/{case}"]
    found = jax.jit(lambda params, z: vae.apply({"params": params}, z, method="decode"))(
        model.params["vae"], autoencoders.from_diffusion(z, vae.scale, vae.shift)
    )
    expected = found_there["picture"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=within * np.abs(expected).max())


@pytest.mark.extended
@pytest.mark.parametrize("name, usual, levels", [("playground", (50, 5.0), (0.002, 80.0)), ("lcm", (4, 8.5), None)])
def test_the_folder_of_a_pipeline_opens_and_says_how_it_is_sampled(name, usual, levels, tmp_path):
    """A pipeline with EDM's scheduler, and that of latent consistency models, were refused."""
    model = text_to_image.load(made_pipelines.folder(name, tmp_path))
    assert model.usual == usual and model.distilled == (name == "lcm")
    assert model.process.sampler == OWN_SAMPLER[name]
    if levels:
        fields = model.process.fields
        assert (fields["sigma_min"], fields["sigma_max"]) == levels and model.process.parameterization.name == "edm"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TRAJECTORIES if name not in ELSEWHERE])
def test_pictures_of_the_whole_program_follow_from_prompt_and_seed(name):
    seen = {"height": 16, "width": 16} | (
        {"image": picture()[:, :16]} if name in ("kontext", "control", "fill") else {}
    )
    seen |= {"images": edited(name)} if name in EDITS else {}
    seen |= {"mask": np.add.outer(np.arange(16), np.arange(16)) > 12} if name == "fill" else {}
    draw = lambda prompt, seed: text_to_image.generate(loaded(name), prompt, seeds=seed, steps=4, sampler="", **seen)
    first = draw("a cat", 1)
    assert first.shape == (1, 16, 16, loaded(name).modules["vae"].picture_channels) and np.ptp(first) > 50
    assert (draw("a cat", 2) != first).mean() > 0.2 and (draw("a red car", 1) != first).mean() > 0.01


@functools.cache
def picture():
    rng = np.random.default_rng(0)
    return np.kron(rng.integers(0, 255, (4, 6, 3)), np.ones((4, 4, 1))).astype(np.uint8)  # 16 x 24


@pytest.mark.slow
def test_a_picture_depends_on_its_own_prompt_and_seed_alone_and_settings_change_it():
    model = loaded()
    same = {"steps": 2, "negative": "bad", "sampler": "euler_ancestral"}
    first = text_to_image.generate(model, "a cat", seeds=[3, 4, 5], **same)
    assert first.shape == (3, 16, 16, 3) and first.dtype == np.uint8 and np.ptp(first) > 50
    alone = text_to_image.generate(model, ["a cat"], seeds=5, **same)
    np.testing.assert_array_equal(alone[0], first[2])
    assert (first[0] != first[1]).mean() > 0.2
    both = text_to_image.generate(model, ["a dog", "a cat"], seeds=5, batch_size=2, **same)
    assert np.abs(both[1].astype(int) - alone[0]).max() <= 1  # up to the rounding of a sum
    assert (both[0] != both[1]).mean() > 0.02
    scaled = text_to_image.generate(model, "a cat", seeds=5, guidance=2.0, **same)
    assert (scaled != alone).mean() > 0.02


@pytest.mark.slow
def test_pictures_are_changed_repainted_and_made_larger():
    model = loaded()
    image = picture()
    same = {"steps": 10, "sampler": "ddim", "seeds": 1}
    change = lambda strength: text_to_image.generate(model, "a cat", image=image, strength=strength, guidance=1, **same)
    coded = np.asarray(_through_the_autoencoder(model, image, seed=1))
    distance = {strength: np.abs(change(strength)[0].astype(int) - coded).mean() for strength in (0.1, 1.0)}
    # The less strength, the nearer to what the autoencoder keeps.
    assert 4 * distance[0.1] < distance[1.0] and distance[1.0] > 20

    mask = np.zeros(image.shape[:2], bool)
    mask[4:12, 8:] = True
    repainted = text_to_image.generate(model, "a cat", image=image, mask=mask, **same)[0]
    np.testing.assert_array_equal(repainted[~mask], image[~mask])
    assert (repainted[mask] != image[mask]).mean() > 0.9
    wide = text_to_image.generate(model, "a cat", image=image, margins=(0, 4, 8, 0), **same)[0]
    assert wide.shape == (20, 32, 3)
    np.testing.assert_array_equal(wide[:16, 8:], image)
    assert (wide[16:] != np.pad(image, ((0, 4), (8, 0), (0, 0)), mode="edge")[16:]).mean() > 0.9


def _through_the_autoencoder(model, image, seed):
    vae = model.modules["vae"]
    params = {"params": model.params["vae"]}
    moments = vae.apply(params, to_model(image)[None], method="encode")
    encoding = jax.random.split(jax.random.key(seed), 3)[2:]
    z = autoencoders.draw(moments, encoding)
    return to_uint8(vae.apply(params, z, method="decode"))[0]


class Pixels:
    """An autoencoder of single pixels that doubles each side, and records the requested sides."""

    factor, latent_channels, scale, shift = 2, 4, 1.0, 0.0

    def __init__(self):
        self.seen = {"encode": set(), "decode": set()}

    def apply(self, variables, x, method):
        self.seen[method].add(x.shape[1:3])
        if method == "decode":
            return jnp.tanh(x[..., :3]).repeat(2, axis=1).repeat(2, axis=2)
        mean = jnp.concatenate([x[:, ::2, ::2], x[:, 1::2, 1::2, :1]], axis=-1)
        return autoencoders.Moments(mean, jnp.full_like(mean, -20.0))


@pytest.mark.slow  # the trajectories above begin after it
@pytest.mark.parametrize("name", ["fill", "kontext"])
def test_flux_sees_each_pixel_of_the_mask_or_the_picture_as_latents(name):
    image = picture()
    mask = np.add.outer(np.arange(16), np.arange(24)) > 17 if name == "fill" else None
    model = dataclasses.replace(loaded(name), modules={**loaded(name).modules, "vae": Pixels()}, _programs={})
    job = Job.prepare(model, Request(prompts=("a cat",), image=image, mask=mask, steps=2))
    x, _, known, _, seen = programs.begin(model, job.course, {}, job.keys(), *job.canvas.arrays())
    assert x.shape == (1, 8, 12, 4) and known is None
    encoded = lambda image: Pixels().apply({}, to_model(image)[None], "encode").mean[0]
    if name == "kontext":
        np.testing.assert_allclose(seen["picture"][0], encoded(image))
        return
    kept = np.where(mask[..., None], 0, to_model(image))
    np.testing.assert_allclose(seen["beside"][0, ..., :4], Pixels().apply({}, kept[None], "encode").mean[0], atol=1e-3)
    for y, x in np.ndindex(2, 2):
        np.testing.assert_array_equal(seen["beside"][0, ..., 4 + 2 * y + x], mask[y::2, x::2])
    with pytest.raises(ValueError, match="trained to inpaint: name an image and a mask"):
        Job.prepare(model, Request(prompts=("a cat",), image=image))


@pytest.mark.slow
def test_a_large_picture_is_encoded_and_decoded_in_tiles():
    """The tiles of a function of single pixels make the whole; none is larger than requested."""
    image = np.tile(picture(), (2, 2, 1))  # 32 x 48
    found = {}
    seen = {}
    for tile in (0, 16):
        vae = Pixels()
        model = dataclasses.replace(loaded(), modules={**loaded().modules, "vae": vae}, _programs={})
        found[tile] = text_to_image.generate(model, "a cat", image=image, strength=0.5, steps=2, guidance=1, tile=tile)
        seen[tile] = vae.seen
    assert np.abs(found[16].astype(int) - found[0]).max() <= 1 and np.ptp(found[0]) > 50
    assert seen[0] == {"encode": {(32, 48)}, "decode": {(16, 24)}}
    assert seen[16] == {"encode": {(16, 16)}, "decode": {(8, 8)}}


@pytest.mark.slow
def test_a_lora_changes_the_pictures_and_leaves_the_model_as_it_was(tmp_path):
    from diffusion.adapters import lora, lora_files
    from diffusion.adapters.lora_files import Lora

    model = loaded()
    adapter = lora.init(jax.random.key(0), model.params["unet"], 2, "attention/.*kernel")
    adapter = jax.tree.map(lambda leaf: leaf + 0.3, adapter)
    lora_files.save(tmp_path / "a.safetensors", {"unet": Lora(adapter, 1.0)}, {"unet": model.modules["unet"]})
    changed = text_to_image.with_loras(model, {tmp_path / "a.safetensors": 0.5})
    draw = lambda model: text_to_image.generate(model, "a cat", steps=2, guidance=1.0)
    before = draw(model)
    assert (draw(changed) != before).mean() > 0.02
    np.testing.assert_array_equal(draw(model), before)
    np.testing.assert_array_equal(draw(text_to_image.with_loras(model, {tmp_path / "a.safetensors": 0.0})), before)
    during = lambda *times: text_to_image.with_loras(model, {tmp_path / "a.safetensors": (0.5, times)})
    always, moment, half = during(0, 1), during(0.5, 0.5), during(0.5, 1)
    assert always.timed == () and len(moment.timed) == len(half.timed) == 1
    jax.tree.map(np.testing.assert_array_equal, always.params, changed.params)
    jax.tree.map(np.testing.assert_array_equal, moment.params, model.params)
    by_half = draw(half)
    assert (by_half != before).mean() > 0.02 and (by_half != draw(changed)).mean() > 0.02
    with pytest.raises(ValueError, match="a LoRA with an interval of t is kept beside the kernels and merged"):
        text_to_image.with_quantised(half, "int8")


class Reached(Exception):
    """All settings were taken."""


@pytest.fixture
def settings():
    """`generate` of a model without parameters, up to where it would compute."""
    files = ABOUT["files"]
    config = lambda part: json.loads(files[f"{part}/config.json"])
    build = lambda part: interchange.FAMILIES[folders.family_of(config(part), part)].build(config(part))
    modules = {part: build(part) for part in ("unet", "vae")}
    process = schedulers.read(json.loads(files["scheduler/scheduler_config.json"]))

    def reached(*_, **__):
        raise Reached

    kind = pipelines.KINDS["StableDiffusionPipeline"]._replace(
        prompts=pipelines.KINDS["StableDiffusionPipeline"].prompts._replace(condition=reached)
    )
    model = text_to_image.TextToImage("StableDiffusionPipeline", kind, modules, {}, {}, process, 16, False)

    def call(prompts="a cat", replaced=None, **settings):
        with pytest.raises(Reached):
            text_to_image.generate(replaced or model, prompts, **settings)

    call.model = model
    return call


@pytest.mark.parametrize("wrong, message", [
    ({"sampler": "dpmp_2m"}, "sampler='dpmp_2m' is not known.*did you mean 'dpmpp_2m'"),
    ({"height": 18}, r"height = 18 must be a multiple of 4 \(the autoencoder's 2 times the denoiser's 2\)"),
    ({"width": 1}, "width = 1 must be a multiple of 4"),
    ({"steps": 0}, "steps = 0. Valid: a whole number, at least 1 and at most 1000"),
    ({"steps": 1001}, "steps = 1001. Valid"),
    ({"guidance": float("nan")}, "guidance = nan"),
    ({"seeds": -1}, r"seeds = \[-1\]. Valid: .* at least 0 and at most 4294967295"),
    ({"seeds": [1, 2, 3], "prompts": ["a", "b"]}, "2 prompts and 3 seeds"),
    ({"prompts": []}, r"prompts = \[\]. Valid: a list of 1 to"),
    ({"strength": 0.5}, "strength = 0.5.*name the image"),
    ({"resamplings": 2}, "resamplings = 2 makes.*; name a mask or margins"),
    ({"resamplings": 0}, "resamplings = 0. Valid: a whole number, at least 1"),
    ({"tile": 15}, "tile = 15 must be a multiple of 2, the autoencoder's factor, for example 14"),
    ({"mask": np.ones((16, 16), bool)}, "a mask and margins apply to an image"),
    ({"image": np.zeros((16, 16, 4), np.uint8)}, r"uint8 \[H, W, 3\]; got uint8 \[16, 16, 4\]"),
    ({"image": np.zeros((16, 16, 3), np.uint16)}, "got uint16"),
    ({"image": np.zeros((16, 18, 3), np.uint8)}, "width = 18 must be a multiple of 4"),
    ({"image": np.zeros((16, 16, 3), np.uint8), "height": 32}, "the request is for 32 x 0 pixels"),
    ({"image": np.zeros((16, 16, 3), np.uint8), "mask": np.ones((8, 16), bool)}, r"\[16, 16\]; got bool \[8, 16\]"),
    ({"image": np.zeros((16, 16, 3), np.uint8), "mask": np.zeros((16, 16), bool)}, "the mask is False everywhere"),
    ({"image": np.zeros((16, 16, 3), np.uint8), "strength": 0.01}, r"less than one step\..*at least 0\.0333"),
    ({"image": np.zeros((16, 16, 3), np.uint8), "strength": 1.5}, "strength = 1.5. Valid: a number above 0"),
    ({"image": np.zeros((16, 16, 3), np.uint8), "margins": (-4, 0, 0, 0)}, r"margins = \[-4, 0, 0, 0\]. Valid: "),
    ({"image": np.zeros((8, 8, 3), np.uint8), "margins": (40_000, 0, 40_000, 0)},
     r"margins = \(40000, 0, 40000, 0\).*\) make a picture of 40008 x 40008 pixels\..*at most 67,108,864"),
    ({"image": np.zeros((16, 16, 3), np.uint8), "margins": (4, 0, 0, 0), "resamplings": 10**9},
     "resamplings = 1000000000. Valid: .* at most 100"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused_before_anything_is_computed(settings, wrong, message, monkeypatch):
    if max(wrong.get("margins", [0])) > 1000:
        monkeypatch.setattr(np, "pad", lambda *_, **__: pytest.fail("an array was made before its size was checked"))
    with pytest.raises(ValueError, match=message):
        text_to_image.generate(settings.model, **{"prompts": "a cat", **wrong})


@pytest.mark.parametrize(
    "said, message",
    [
        ({"guidance": 1.0, "negative": "blurry"}, "'blurry' has no effect: guidance = 1 is none; it needs one above 1"),
        ({"guidance": 0.5, "negative": "blurry"}, "has no effect"),
        ({"attention": 2.0}, "attention = 2 has no effect: .* words"),
        ({"prompts": ["a cat", "  "]}, "a prompt is empty"),
        ({"prompts": ""}, "a prompt is empty"),
    ],
)
def test_what_has_no_effect_is_said(settings, said, message):
    with pytest.warns(UserWarning, match=message):
        settings(**said)


def test_settings_that_fit_say_nothing(settings, recwarn):
    settings(negative="blurry", sampler="unipc", height=20, width=32)
    settings(image=picture(), strength=0.5, guidance=1.0)
    assert not recwarn.list
