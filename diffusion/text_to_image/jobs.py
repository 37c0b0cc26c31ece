"""Generates pictures from prompts with the published models that `diffusion.text_to_image.pipelines` supports.

    from diffusion import text_to_image
    model = text_to_image.load("stable-diffusion-v1-5")
    pictures = text_to_image.generate(model, ["a cat on a mat"] * 4, negative="blurry", seeds=range(4))
    for frame in text_to_image.watch(model, "a cat on a mat"): show(frame.pictures)

A picture depends only on its prompt, seed and settings; with `windows`, also on the number of windows of the longest
prompt of its request. `image` and `strength` edit a picture, `mask` repaints a part of it, and `margins` extend it.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion import samplers, sampling, timesteps
from diffusion.flows import flow_maps
from diffusion.guidance import Stepwise, Unpaired
from diffusion.models import facts
from diffusion.models.interchange import schedulers
from diffusion.sampling import caching, watermarks
from diffusion.text import Tokenizer
from diffusion.text_to_image import programs, request_checks, second_stage, video_models
from diffusion.text_to_image.attached import Attached
from diffusion.text_to_image.canvas import Canvas, OpenedControl, opened_controls
from diffusion.text_to_image.guided_denoiser import Evaluation
from diffusion.text_to_image.memory_check import check_memory
from diffusion.text_to_image.model import TextToImage
from diffusion.text_to_image.planned_steps import planned_steps
from diffusion.text_to_image.programs import Course
from diffusion.text_to_image.prompt_conditions import conditions
from diffusion.text_to_image.regions import Places, ends, on_latents, token_places
from diffusion.text_to_image.requested_images import network_pictures, open_images, sized_picture
from diffusion.text_to_image.requests import Request

COURSES = 32  # number of courses whose programs a model keeps; a program has masks, boxes and times as constants


def generate(model: TextToImage, prompts: str | Sequence[str], **settings: Any) -> np.ndarray:
    """Makes pictures of prompts.

    Args:
        model: a model that `load` returned.
        prompts: one text, or N.
        **settings: the other fields of a `Request`, which documents each: seeds (one number, or N; one prompt with N
            seeds makes N pictures), negative, steps, guidance, sampler, height, width, frames, frame_rate,
            late_guidance, dynamic_guidance, image_guidance, perturbed_guidance, sound_guidance, modality_guidance,
            layers, image, images, mask, margins, strength, resamplings, kept_noise, batch_size, tile, windows,
            watermark, cache, merge, emphasis, controls, regions, words, attention and reference.

    Returns:
        The pictures, uint8 [N, H, W, 3]; for a model that makes clips [N, F, H, W, 3]; for one that takes pictures
        apart, the layers [N, L, H, W, 4], the last channel alpha, from the back to the front. `results` also returns
        the sounds of clips.

    Raises:
        TypeError: for a setting that is not known.
        ValueError: for settings that do not fit, before anything is computed; or if no picture is finite.
        limits.Refused: for pictures that do not fit into memory; the message has the memory that they need.
    """
    return make(model, Request.make(prompts, **settings))


class Frame(NamedTuple):
    """The pictures of a trajectory after one of its steps.

    Attributes:
        step: number of steps that are done.
        steps: number of steps of the whole trajectory.
        t: the time after this step, plan.s.
        pictures: the prediction of x_0, uint8 [N, H, W, 3], or [N, F, H, W, 3] for clips; after the last step the
            pictures that `generate` returns.
        sounds: waveforms of the clips after the last step, as in `Results`; otherwise None.
        sample_rate: samples of these in a second.
    """

    step: int
    steps: int
    t: float
    pictures: np.ndarray
    sounds: np.ndarray | None = None
    sample_rate: int = 0


def watch(model: TextToImage, prompts: str | Sequence[str], **settings: Any) -> Iterator[Frame]:
    """Yields the pictures of `generate` after each step, all N in one frame; a step runs when its frame is requested.

    Steps that only add noise again (`resamplings`) have no frame. The steps are compiled one by one
    (`samplers.stepwise`), so that closing the iterator ends the work. The last pictures equal those of `generate` with
    `batch_size` N, up to rounding.

    Args:
        model: a model that `load` returned.
        prompts: one text, or N.
        **settings: the other arguments of `generate`; `batch_size` is always N.

    Returns:
        An iterator of frames. Requests that `generate` refuses are refused before it is returned.
    """
    return frames(model, Request.make(prompts, **settings))


def make(model: TextToImage, request: Request) -> np.ndarray:
    """Makes the pictures of a request, uint8 [N, H, W, 3]; errors as in `generate`.

    Args:
        model: a model that `load` returned.
        request: the request for N pictures.
    """
    return results(model, request).pictures


class Results(NamedTuple):
    """The results of a request.

    Attributes:
        pictures: uint8 [N, H, W, 3]; clips [N, F, H, W, 3]; layers [N, L, H, W, 4].
        sounds: waveforms of the clips, float32 [N, L, K] in [-1, 1]; None for a model that makes none.
        rate: frames of a clip in a second; 0 for pictures.
        sample_rate: samples of a waveform in a second; 0 without sounds.
        skipped: share of the denoiser's blocks that the cache has skipped; None without a cache.
    """

    pictures: np.ndarray
    sounds: np.ndarray | None = None
    rate: float = 0.0
    sample_rate: int = 0
    skipped: float | None = None

    def sound(self, i: int) -> tuple[np.ndarray, int] | None:
        """The waveform of clip i and its samples in a second, as `clips.write_mp4` takes them; None without sounds."""
        return None if self.sounds is None else (self.sounds[i], self.sample_rate)


def results(model: TextToImage, request: Request, done: Callable[[Results], None] = lambda batch: None) -> Results:
    """Makes the pictures of a request, or its clips with their sounds; errors as in `generate`.

    Args:
        model: a model that `load` returned.
        request: the request for N pictures.
        done: function that receives the results of each batch, in order, as soon as one picture of this or of an
            earlier batch is finite. Without any, the request is refused.
    """
    job = Job.prepare(model, request)
    size = request.batch_size
    attached = job.attached(model)
    conditional, unconditional = job.conditions(model, size, attached)
    pictures = compiled(model, job.course, programs.pictures)
    params = model.drawing
    fixed = (*job.canvas.arrays(), attached, job.reference, job.images)
    one_batch = lambda rows: pictures(params, *rows[:2], job.scale(model), rows[2], *fixed)
    course, trajectory = job.course, job.course.trajectory
    batches: list[Results] = []
    delivered, infinite, work = 0, 0, np.zeros(2, np.int64)
    for decoded, counts in sampling.batches(one_batch, (conditional, unconditional, job.keys()), size):
        sounds = None if decoded.sounds is None else np.asarray(decoded.sounds, np.float32)
        batches.append(Results(job.finished(decoded.pictures), sounds, course.rate, model.sample_rate))
        infinite, work = infinite + int((~decoded.finite).sum()), work + counts
        if infinite < sum(len(batch.pictures) for batch in batches):
            for batch in batches[delivered:]:
                done(batch)
            delivered = len(batches)
    check_finite(job.request, job.request.number, infinite)
    skipped = sampling.skipped(work, model.denoiser, trajectory.sampler, trajectory.plan)
    all_sounds = [batch.sounds for batch in batches if batch.sounds is not None]
    all_pictures = np.concatenate([batch.pictures for batch in batches])
    sounds = np.concatenate(all_sounds) if all_sounds else None
    return batches[0]._replace(pictures=all_pictures, sounds=sounds, skipped=skipped)


def check_finite(request: Request, number: int, infinite: int) -> None:
    """Warns of pictures that are not finite, `infinite` of `number`; refuses a request without a finite picture."""
    settings = f"sampler = {request.sampler!r}, steps = {request.steps} and guidance = {request.guidance}"
    advice = "a smaller guidance, more steps, another sampler, or the model in float32 and without quantised weights"
    sampling.check_finite(number, infinite, settings, advice)


def frames(model: TextToImage, request: Request) -> Iterator[Frame]:
    """Yields the pictures of a request after each step, see `watch`.

    Args:
        model: a model that `load` returned.
        request: the request for N pictures; its `batch_size` has no effect.
    """
    job = Job.prepare(model, request)
    attached = job.attached(model)
    return _frames(model, job, *job.conditions(model, request.number, attached), attached)


def _frames(
    model: TextToImage, job: "Job", conditional: dict, unconditional: dict, attached: tuple[Attached, ...]
) -> Iterator[Frame]:
    begin = compiled(model, job.course, programs.begin)
    run = program(model, job.course, programs.stepwise, programs.stepwise)
    finer = lambda params, x, *_: x
    if model.kind.second_stage is not None:
        finer = compiled(model, job.course, second_stage.finer)
    decoded = compiled(model, job.course, programs.decoded_pictures)
    params = model.weights
    vae = model.params["vae"]
    image, mask = job.canvas.arrays()
    start = begin(vae, job.keys(), image, mask, job.reference, job.images)
    plan = job.course.trajectory.plan
    s = np.asarray(plan.s)
    states = run(start.x, len(s), params, start, conditional, unconditional, job.scale(model), attached)
    for i, state in enumerate(states):
        if plan.renoise[i]:
            continue
        x = finer(model.drawing, state.x0 if i + 1 < len(s) else state.x, conditional, start.keys)
        pictures, finite = decoded(vae, job.course.pictured(model, x), start.known, image, mask)
        if i + 1 == len(s):
            check_finite(job.request, job.request.number, int((~finite).sum()))
        sounds = None
        if model.kind.sound is not None and i + 1 == len(s):
            sounds = np.asarray(compiled(model, job.course, programs.sounds)(model.drawing, x), np.float32)
        yield Frame(i + 1, len(s), float(s[i]), job.finished(np.asarray(pictures)), sounds, model.sample_rate)


class Job(NamedTuple):
    """A request that has been checked against a model, with what follows from both before any computation.

    Attributes:
        request: the request for N pictures, with the model's own steps, guidances and sampler if it names none.
        canvas: the image with its margins, and the mask of the part that is painted.
        course: the facts that programs are compiled for.
        controls: the controls, with their pictures read.
        reference: a picture whose tokens self-attention reads, float32 [1, H, W, 3] in [-1, 1]; None without one.
        images: the images that the denoiser sees, each float32 [1, h, w, 3] in [-1, 1]; of a clip the last frame.
        prompt_images: the images that the text encoder sees in the prompts, likewise.
    """

    request: Request
    canvas: Canvas
    course: Course
    controls: tuple[OpenedControl, ...] = ()
    reference: np.ndarray | None = None
    images: tuple[np.ndarray, ...] = ()
    prompt_images: tuple[np.ndarray, ...] = ()

    @classmethod
    def prepare(cls, model: TextToImage, request: Request) -> "Job":
        """The job of a request.

        Raises:
            FileNotFoundError, ValueError: if the request does not fit the model.
        """
        request = request.resolved(model)
        request.check(model)
        video_models.check(request, model)
        images = open_images(model, request)
        size = request.size(model, images.canvas.image, images.edited)
        controls = opened_controls(request.controls, model.attachments, size)
        frames = video_models.frames(request, model)
        rate = video_models.frame_rate(request, model)
        video_models.check_learned(model, size, frames)
        steps = planned_steps(model, request, size, frames)
        trajectory = steps.trajectory
        request_checks.warn_of_intervals(request.controls, model.timed, trajectory)
        cache = cache_of(model, request.cache, trajectory, steps.complete_plan)
        _check_words(model, request, trajectory.sampler, cache)
        _check_reference(request, cache)
        request, places = _placed(model, request, size, trajectory.plan)
        mark = watermarks.load(request.watermark) if request.watermark else None
        if mark is not None:
            draws = trajectory.sampler.draws > 0 or bool(np.any(trajectory.plan.renoise))
            draws = draws or model.kind.second_stage is not None  # which begins at noise of its own
            mark.check_readable(draws, steps.noised or request.keeps)
        reference = None if request.reference is None else sized_picture("the reference", request.reference, size)
        apart = request.modality_guidance not in (None, 1)
        evaluation = Evaluation(cache, request.merge, places, bool(request.perturbed_guidance), apart)
        course = Course(
            size=size,
            trajectory=trajectory,
            noised=steps.noised,
            guided=request.guided(model),
            tile=request.tile,
            settings=request.functions,
            watermark=mark,
            evaluation=evaluation,
            frames=frames,
            layers=request.layers or model.kind.pictures.layers,
            one_noise=request.kept_noise == "one",
            rate=rate,
        )
        in_prompt = network_pictures(images.in_prompt)
        return cls(request, images.canvas, course, controls, reference, images.denoiser_images(size), in_prompt)

    @property
    def guidance(self) -> float:
        """The guidance scale of the request, or the strength that a distilled model receives."""
        assert self.request.guidance is not None  # the request is resolved
        return self.request.guidance

    def attached(self, model: TextToImage) -> tuple[Attached, ...]:
        """The attachments of the controls, with the inputs that they read from the pictures."""
        if not self.controls:
            return ()
        encode = compiled(model, self.course, programs.control_inputs)
        result = []
        for attachment, picture, control, mask in self.controls:
            inputs = encode(model.params["vae"], attachment, picture)
            if control.mode is not None:
                mode = jnp.full(1, control.mode, jnp.int32)
                inputs = (inputs[0], mode), (inputs[1], mode)
            weight = jnp.float32(control.weight)
            mask = None if mask is None else jnp.asarray(mask)
            result.append(Attached(attachment, inputs, weight, jnp.asarray(control.times), mask))
        return tuple(result)

    def conditions(
        self, model: TextToImage, batch: int, attached: tuple[Attached, ...] = ()
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """The conditions of the denoiser's branches, after a check that `batch` pictures at once fit into memory.

        Raises:
            limits.Refused: if they do not fit.
        """
        request = self.request
        prompts, _ = request.rows()
        how = {"windows": request.windows, "emphasis": request.emphasis, "frames": self.course.frames}
        how |= {"pictures": self.prompt_images, "rate": self.course.rate}
        encode = lambda prompts: conditions(model, prompts, request.negative, self.guidance, *self.course.size, **how)
        both: tuple[Any, Any] = encode(prompts)
        frames = [] if self.canvas.image is None else [self.canvas.image]
        if self.course.frames and self.request.images:
            frames.append(np.asarray(Canvas.open(self.request.images[-1], None).image))
        if patches := model.patches(frames, len(prompts)):
            both = both[0] | patches, both[1] | patches
        if request.regions:
            both[0]["regions"] = tuple(encode([region.prompt] * len(prompts))[0] for region in request.regions)
        if request.words:
            both[0]["words"] = jnp.asarray(token_places(request.words, prompts, _tokenizer(model)))
        reference = self.reference is not None
        images = [] if self.course.frames else [image.shape[1:3] for image in self.images]
        masked = self.canvas.mask is not None
        check = lambda *_: check_memory(model, self.course, batch, *both, attached, reference, images, masked)
        names = tuple(one.control.attachment for one in self.controls)
        program(model, self.course, ("memory", batch, names, reference, masked, *images), check)
        return both

    def scale(self, model: TextToImage) -> Any:
        """The scale of the guidance: [], or [2] for text and picture, or for the first and the second denoiser.

        With perturbed-attention guidance it is [2], by text and by that; a dynamic guidance has one for each step. For
        clips with a sound it is what `Sound.guides` takes.

        A scale of 1 or less means no guidance. If the other scale makes the model evaluate the negative prompt all the
        same, the scale is therefore 1.
        """
        request, guidance = self.request, self.guidance
        if model.kind.sound is not None:
            others = {"perturbed": request.perturbed_guidance, "apart": request.modality_guidance}
            scales = {
                "video": {"text": max(guidance, 1.0), **others},
                "sound": {"text": request.sound_guidance, **others},
            }
            return jax.tree.map(jnp.float32, scales)
        if self.course.evaluation.perturbed:
            return jnp.asarray([guidance, request.perturbed_guidance], jnp.float32)
        if model.sees_picture:
            return jnp.asarray([guidance, request.image_guidance], jnp.float32)
        if model.boundary is not None:
            late = request.late_guidance
            scales = (guidance, guidance if late is None else late)
            return jnp.maximum(jnp.asarray(scales, jnp.float32), 1)
        if request.dynamic_guidance and model.kind.guidance.dynamic_scales is not None:
            assert request.steps is not None  # the request is resolved
            times = np.asarray(self.course.trajectory.plan.t, np.float64)
            trained = np.rint(times * model.process.T) - 1  # the plan may be rounded to float32
            scales = model.kind.guidance.dynamic_scales(guidance, trained, request.steps)
            return Stepwise(jnp.asarray(times, jnp.float32), jnp.asarray(scales, jnp.float32))
        return jnp.float32(guidance)

    def finished(self, pictures: np.ndarray) -> np.ndarray:
        """The pictures with the kept part of the image pasted back, and with a watermark of pictures."""
        return sampling.marked(self.course.watermark, "pictures", self.canvas.with_original(pictures))

    def keys(self) -> Array:
        """One random key for each picture, by its seed."""
        _, seeds = self.request.rows()
        return jax.vmap(jax.random.key)(jnp.asarray(np.asarray(seeds), jnp.uint32))


def cache_of(
    model: TextToImage, text: str, trajectory: schedulers.Trajectory, plan: timesteps.Plan
) -> caching.Cache | None:
    """The cache that a request names, or None.

    Args:
        model: the model whose denoiser the cache reads.
        text: the cache's entry in the request, as JSON.
        trajectory: the trajectory that the request takes.
        plan: the complete plan; the trajectory's plan is its end, or repeats some of its steps.

    Raises:
        ValueError: for an unknown name or argument, or one that the denoiser or the sampler cannot use.
    """
    if not text:
        return None
    cache = caching.named(json.loads(text), **caching.evaluations(trajectory.plan, plan))
    try:
        cache.check(facts.reuses(model.denoiser))
    except ValueError as error:
        raise ValueError(f"cache = {text}: {error}") from None
    if flow_maps.FlowMap in trajectory.sampler.takes:
        raise ValueError(
            f"cache = {text}: the sampler is for flow maps with a few steps, which need no cache. Leave the cache out"
        )
    return cache


def _tokenizer(model: TextToImage) -> Tokenizer:
    """The vocabulary of the first text encoder; the condition begins with the tokens of that encoder."""
    return model.tokenizers[model.kind.prompts.readers[0].folder]


def _check_words(model: TextToImage, request: Request, sampler: samplers.Sampler, cache: caching.Cache | None) -> None:
    """Refuses words with a place where the sampler, the prompts or the cache do not allow their guidance."""
    if not request.words:
        return
    if Unpaired not in sampler.takes:
        raise ValueError(
            f"words are guided by moving x_t, which the sampler {request.sampler} does not support. Valid: ddim, ddpm"
        )
    if model.kind.prompts.instructed:
        raise ValueError(
            f"words are located only in the prompt, but in a {model.name} the prompt follows an instruction; "
            "leave words out"
        )
    if cache is not None:
        raise ValueError(
            "words are guided by gradients through the network, which no cache supports; leave the cache out"
        )


def _check_reference(request: Request, cache: caching.Cache | None) -> None:
    """Refuses a reference with a cache that leaves out the layers that read it."""
    if request.reference is not None and cache is not None and cache.reads == "blocks" and not cache.idle:
        raise ValueError(
            f"cache = {request.cache}: its blocks do not run the self-attention that holds the states of the "
            "reference. Leave out the cache or the reference"
        )


def _placed(
    model: TextToImage, request: Request, size: tuple[int, int], plan: timesteps.Plan
) -> tuple[Request, Places]:
    """The request, and the places on the latents of its regions, from their masks, and of its words.

    One region that covers the pictures becomes the prompt of a request without regions, whose program is the usual one.
    """
    masks = [region.mask(size) for region in request.regions]
    if len(masks) == 1 and masks[0].all():
        alone = (request.regions[0].prompt,) * len(request.prompts)
        request = dataclasses.replace(request, prompts=alone, regions=())
        masks = []
    small = tuple(on_latents(mask, model.modules["vae"].factor) for mask in masks)
    if not request.words:
        return request, Places(small)
    boxes = tuple(word.box for word in request.words)
    return request, Places(small, boxes, request.attention, len(_tokenizer(model).start), ends(plan))


def compiled(model: TextToImage, course: Course, function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(model, course, ...)` as a function of its other arguments, which is compiled when it is first called.

    It is kept as `program` describes.
    """
    return program(model, course, function, lambda *first: jax.jit(functools.partial(function, *first)))


def program(model: TextToImage, course: Course, name: Any, make: Callable[[TextToImage, Course], Any]) -> Any:
    """`make(model, course)`, or the result of the last call with an equal course and name.

    The results for the `COURSES` courses that were used last are kept.
    """
    courses = model._programs
    programs_of_course = courses[course.key] = courses.pop(course.key, {})
    while len(courses) > COURSES:
        del courses[next(iter(courses))]
    if name not in programs_of_course:
        programs_of_course[name] = make(model, course)
    return programs_of_course[name]
