"""A trained run on the page, which generates pictures or clips for a class from its list, or for a caption."""

import dataclasses
import functools
import inspect
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from ml_collections import ConfigDict

from diffusion import manifolds, samplers, sampling, timesteps
from diffusion.arrays import pytrees
from diffusion.data.sources import DamagedRecord
from diffusion.data.transforms import to_uint8
from diffusion.experiments.evaluation import clip_pictures
from diffusion.experiments.playground.page_request import PageRequest
from diffusion.experiments.run_folder import workdir
from diffusion.experiments.sampling import autoencoder_folders, class_models, generate, run_denoiser
from diffusion.flows import flow_maps
from diffusion.io.leaf_names import checksum
from diffusion.models.budget import peak_memory
from diffusion.models.layers import conditions
from diffusion.objectives import Moves, Restores
from diffusion.recipe import ConfigError, checks, data, kinds, names, null_condition
from diffusion.recipe.extensions import printed
from diffusion.recipe.parts import Resolver
from diffusion.recipe.recipe import Recipe
from diffusion.sampling import caching, editing
from diffusion.text_to_image import Frame, programs
from diffusion.text_to_image.canvas import Canvas
from diffusion.training.checkpointing import checkpoints


class Trained:
    """A trained run, or a published model of classes, as a `Source`.

    Args:
        folder: the run's folder.
        config: the run's config.
        params: the network's parameters.
        step: the training step at which the parameters were saved.
        shape: the shape of one example, (H, W, C) or (F, H, W, C).
        described: the source of the run's data, whose `condition_of` turns a caption into the condition that the
            network receives; None for a run on classes, or without a condition.
    """

    prompts, free, edits, several = False, False, False, False
    attachments: Mapping[str, Any] = {}

    def __init__(
        self, folder: str, config: ConfigDict, params: Any, step: int, shape: tuple[int, ...], described: Any = None
    ):
        if not pytrees.is_shape(shape) or len(shape) not in (3, 4):
            raise _not_shown(folder, f"was trained on examples of shape {shape}")
        self.config, self.params, self.step = config, params, step
        autoencoder = Resolver(config).autoencoder  # the autoencoder that trained with the network
        self.shape = autoencoder.latent_shape(shape) if autoencoder else shape
        self._decoder, self._decode = (
            (params, autoencoder.decode) if autoencoder else autoencoder_folders.decoding(config)
        )
        self.name = pathlib.Path(folder).resolve().name
        self._folder = folder
        self.classes = config.model.get("num_classes", 0)
        sample = config.sample
        sampler = Resolver(config).sampler
        table = sorted(names.SAMPLERS.items())
        self.samplers = tuple(name for name, make in table if name == sample.sampler.name or _fits(name, make, sampler))
        x0 = jax.eval_shape(self._decode, self._decoder, jax.ShapeDtypeStruct((1, *self.shape), jnp.float32))
        if x0.shape[-1] not in (1, 3, 4):
            raise _not_shown(folder, f"makes pictures of {x0.shape[-1]} channels, not of 1, 3 or 4")
        self.size = x0.shape[-3:-1]
        self.clip_rate = _rate_of_data(config) if len(x0.shape) == 5 else 0.0
        self.captions = described is not None
        self._described = described
        try:
            self.usual = PageRequest(
                label=0 if self.classes else -1,
                steps=sample.steps,
                guidance=float(sample.guidance.get("scale", 1.0)),
                sampler=sample.sampler.name,
            )
        except ValueError as error:
            raise ConfigError(f"config.sample of {folder} is beyond the limits of the page: {error}") from error
        self._programs = {}

    @classmethod
    def load(cls, folder: str) -> "Trained":
        """Opens a run, with the moving average of the parameters in its latest checkpoint.

        Raises:
            ConfigError: if the run makes no pictures, or receives text or conditions that no caption describes.
            WorkdirError: if the folder holds no run.
            CheckpointError: if the run has no sound checkpoint.
        """
        config = workdir.read_config(folder)
        refuse_other_kinds(config, folder)
        refuse_other_samples(config, folder)
        described = described_data(config)
        if described is not None and not hasattr(described, "condition_of"):
            raise ConfigError(
                f"--workdir={folder} receives vectors, for which the page has no field. Valid: a run on classes, "
                "without a condition, or one whose source has condition_of. Without the page: "
                f"{printed('sample', f'--workdir={folder}')}"
            )
        params, step = checkpoints.load_ema(folder)
        return cls(folder, config, params, step, workdir.example_shape(config), described)

    @classmethod
    def published(cls, folder: str) -> "Trained":
        """Opens a published class-conditional or unconditional model; raises the errors of `class_models.load`."""
        model = class_models.load(folder)
        return cls(folder, model.config, model.params, 0, model.config.data.shape, described_data(model.config))

    def resolved(self, request: PageRequest) -> PageRequest:
        usual = self.usual
        defaults = {name: getattr(usual, name) for name in ("steps", "guidance") if getattr(request, name) is None}
        return dataclasses.replace(request, sampler=request.sampler or usual.sampler, **defaults)

    def watch(self, request: PageRequest) -> Iterator[Frame]:
        canvas = self._canvas(request)
        recipe = self._configured(request)
        labels = self._labels(request)
        first = request.first_step(len(recipe.sampling.plan.t))
        plan = editing.repaint_quarters(recipe.sampling.plan, first, request.resamplings)
        if recipe.sampling.cache is not None:  # the cache of the remaining steps
            along = caching.evaluations(plan, recipe.sampling.plan)
            cache = kinds.build("cache", recipe.config.sample.cache, "config.sample.cache", **along)
            recipe = recipe.with_parts(cache=cache)
        compiled = self._compiled(request, recipe, plan, request.begins_at_image(first))
        return self._frames(request, recipe, labels, compiled, plan, canvas)

    def record(self, request: PageRequest) -> Mapping[str, Any]:
        return {"workdir": str(self._folder), "step": self.step, "weights": self._checksum, "label": request.label}

    @functools.cached_property
    def _checksum(self) -> str:
        return checksum(self.params)

    def _canvas(self, request: PageRequest) -> Canvas:
        """The request's picture, extended by its margins and with the run's number of channels, and its mask.

        Raises:
            ValueError: if the run makes pictures of another size only, or cannot start from a picture.
        """
        for side, made_side in zip((request.height, request.width), self.size):
            if side not in (0, made_side):
                raise ValueError(
                    f"the request is for {request.height} x {request.width} pixels, but {self.name} makes only "
                    f"pictures of {self.size[0]} x {self.size[1]}"
                )
        canvas = Canvas.open(request.image, request.mask)
        if canvas.image is None:
            return canvas
        if self.clip_rate:
            raise ValueError(
                f"{self.name} makes clips, and the page cannot start a clip from a picture; diffusion film can"
            )
        if self._decoder != ():
            raise ValueError(
                f"{self.name} was trained on latents, so this page can make pictures with it but cannot change a "
                "picture. To change pictures, start the page with a folder that holds model_index.json (--model)."
            )
        height, width = canvas.size_with(request.margins)
        if (height, width) != self.size:
            raise ValueError(
                f"the picture with its margins has {height} x {width} pixels, but {self.name} makes only "
                f"{self.size[0]} x {self.size[1]}: scale or crop it"
            )
        canvas = canvas.extended(request.margins)
        if self.shape[-1] == 1 and canvas.image is not None:
            canvas = canvas._replace(image=np.round(canvas.image.mean(axis=-1, keepdims=True)).astype(np.uint8))
        return canvas

    def _configured(self, request: PageRequest) -> Recipe:
        """The run's recipe with a request's steps, guidance scale and sampler.

        Raises:
            ConfigError: if these settings do not fit the run.
        """
        config = self.config.copy_and_resolve_references()
        config.sample.steps = request.steps
        if "scale" in config.sample.guidance:
            config.sample.guidance.scale = request.guidance
        elif request.guidance != self.usual.guidance:
            name, valid = config.sample.guidance.name, self.usual.guidance
            raise ConfigError(
                f"guidance = {request.guidance:g}: the guidance {name!r} of this run has no scale. Valid: {valid:g}."
            )
        if request.sampler != config.sample.sampler.name:
            if request.sampler not in self.samplers:
                valid = ", ".join(self.samplers)
                raise ConfigError(f"sampler = {request.sampler!r} is not valid for this run. Valid: {valid}.")
            config.sample.sampler = {"name": request.sampler}
        recipe = checks.validate(config)
        recipe = recipe.on(self._described.spec) if self.captions else recipe.at(self.shape)
        return generate.trained(recipe, self.params)

    def _labels(self, request: PageRequest) -> Any:
        """The condition that the network receives: classes, int32 [N], or the caption's condition, a tree of [N, ...].

        Raises:
            ValueError: if the source of the run's data does not understand the caption.
        """
        if not self.captions:
            return jnp.full(request.number, max(request.label, 0), jnp.int32)
        repeated = lambda leaf: jnp.repeat(jnp.asarray(leaf)[None], request.number, axis=0)
        return jax.tree.map(repeated, self._described.condition_of(request.prompts[0]))

    def _compiled(self, request: PageRequest, recipe: Recipe, plan: timesteps.Plan, noised: bool) -> tuple:
        """The compiled functions (begin, run, finish) for some settings; new settings are first checked for memory."""
        times = np.asarray(plan.t).tobytes()  # two strengths may leave as many steps with resamplings
        key = (request.sampler, request.steps, request.guidance, times, request.resamplings, noised)
        if (key, request.number) not in self._programs:
            compiled = self._programs.get(key) or self._made(recipe, plan, noised)
            self._check_memory(request, recipe, plan)
            self._programs |= {key: compiled, (key, request.number): compiled}
        return self._programs[key]

    def _made(self, recipe: Recipe, plan: timesteps.Plan, noised: bool) -> tuple[Callable, Callable, Callable]:
        schedule = recipe.schedule
        network = run_denoiser.build_for_sampler(recipe)

        def begin(seeds: Array, known: Array | None) -> tuple[Array, Array]:
            first, rest = generate.keys(seeds)
            x = samplers.prior(schedule, first, self.shape)
            if noised and known is not None:
                noise = jax.vmap(lambda key: jax.random.normal(key, self.shape))(first)
                x = programs.noised(schedule, plan, known, noise)
            return x, rest

        def loop(params: Any, labels: Array, keys: Array, known: Array | None, painted: Array | None) -> samplers.Loop:
            hook = None if painted is None or known is None else editing.replacement(schedule, plan, known, ~painted)
            return samplers.loop(recipe.sampling.sampler, network(params, labels), schedule, plan, keys, hook)

        def finish(decoder: Any, x: Array) -> tuple[Array, Array]:
            values = self._decode(decoder, x)
            return to_uint8(values), sampling.finite(values)

        return jax.jit(begin), samplers.stepwise(loop), jax.jit(finish)

    def _check_memory(self, request: PageRequest, recipe: Recipe, plan: timesteps.Plan) -> None:
        number = request.number
        network = run_denoiser.build_for_sampler(recipe)

        def pictures(params, decoder, labels, keys, x):
            x = samplers.sample(recipe.sampling.sampler, network(params, labels), recipe.schedule, x, plan, keys)
            return self._decode(decoder, x)

        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), number))
        labels = jax.eval_shape(lambda: self._labels(request))
        x = jax.ShapeDtypeStruct((number, *self.shape), jnp.float32)
        program = jax.make_jaxpr(pictures)(self.params, self._decoder, labels, keys, x)
        what = f"{number} {'clips' if self.clip_rate else 'pictures'} of {self.size[0]} x {self.size[1]}"
        peak_memory.check(what, peak_memory.peak(program.jaxpr), "choose fewer at once")

    def _frames(
        self, request: PageRequest, recipe: Recipe, labels: Any, compiled: tuple, plan: timesteps.Plan, canvas: Canvas
    ) -> Iterator[Frame]:
        begin, run, finish = compiled
        known, painted = canvas.arrays()
        _, seeds = request.rows()
        x, keys = begin(jnp.asarray(np.array(seeds, np.uint32)), known)
        s = np.asarray(plan.s)
        for i, state in enumerate(run(x, len(s), self.params, labels, keys, known, painted)):
            if plan.renoise[i]:
                continue
            pictures, finite = finish(self._decoder, state.x0 if i + 1 < len(s) else state.x)
            if i + 1 == len(s):
                generate.check_finite(recipe.config, request.number, int((~finite).sum()))
            yield Frame(i + 1, len(s), float(s[i]), canvas.with_original(np.asarray(pictures)))


def described_data(config: ConfigDict) -> Any:
    """The source of a run's data if the network reads vectors, else None; its `condition_of` may encode captions."""
    recipe = checks.validate(config)
    return data.open_recipe(recipe) if config.model.get("vector_width", 0) else None


def _rate_of_data(config: ConfigDict) -> float:
    """The frames per second of a run's training clips, or `clip_pictures.RATE` if the data do not state it."""
    try:
        source = data.open_recipe(checks.validate(config))
    except (ConfigError, DamagedRecord):  # the page needs no data
        return clip_pictures.RATE
    return getattr(source, "rate", clip_pictures.RATE)


def refuse_other_kinds(config: ConfigDict, folder: str) -> None:
    """Refuses runs that make no pictures, or that receive text although the folder holds no text model.

    Raises:
        ConfigError: if the run is refused; the message says what to do instead.
    """
    if null_condition.text_inputs(config) == conditions.EMBEDDINGS:
        raise ConfigError(
            f"--workdir={folder} trains a denoiser that receives text, but holds no text model. Make a text-to-image "
            f"model of it: {printed('text_model', f'--workdir={folder}')}"
        )
    if Resolver(config).objective.reads is None:
        raise ConfigError(
            f"--workdir={folder} trains {config.model.name}, which makes no pictures. Valid: the run of a denoiser, or "
            "--model=FOLDER with a text-to-image model."
        )


def refuse_other_samples(config: ConfigDict, folder: str) -> None:
    """Refuses runs whose samples are not pictures, or need more than a class or a caption and a plan of steps.

    Raises:
        ConfigError: if the run is refused; the message says what to do instead.
    """
    recipe = checks.validate(config)
    kind = {Moves: "points of a manifold", Restores: "symbols"}.get(type(recipe.objective.reads), "")
    if not recipe.on_latents and data.known_shape(config) is None and not config.data.shape:
        recipe = recipe.on(data.source(config, config.data.split).spec)
    if kind or not recipe.makes_bytes:
        raise _not_shown(folder, f"makes {kind or 'arrays of numbers'}")
    if not recipe.sampling.follows_plan:
        raise _not_shown(
            folder, f"makes samples by config.sample.driver.name = {config.sample.driver.name!r}", "the steps of sample"
        )
    if any(guide.measured for guide in recipe.sampling.guides):
        raise _not_shown(folder, "has config.sample.guides that read measured pictures", "samples without these")


def _not_shown(folder: str, why: str, shown: str = "pictures and clips") -> ConfigError:
    """The error for a run whose samples the page does not show."""
    other = printed("sample", f"--workdir={folder}")
    return ConfigError(f"--workdir={folder} {why}, and the page shows only {shown}. Without the page: {other}")


def _fits(name: str, make: Callable, mine: samplers.Sampler) -> bool:
    """Whether a sampler needs no arguments, and reads a flow map or a tangent field exactly if `mine` does."""
    needed = [p for p in inspect.signature(make).parameters.values() if p.default is inspect.Parameter.empty]
    motions = (flow_maps.FlowMap, manifolds.TangentField)
    if needed:
        return False
    other = kinds.build("sampler", {"name": name}, "config.sample.sampler")
    return all((motion in other.takes) == (motion in mine.takes) for motion in motions)
