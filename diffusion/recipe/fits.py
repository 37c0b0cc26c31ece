"""Checks that the parts of a recipe fit each other: calls their checks, and names the config's fields in errors."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from diffusion import parameterizations, samplers, timesteps
from diffusion.flows.flow_maps import FlowMap
from diffusion.guidance import Memory, Product, Unpaired
from diffusion.io import limits
from diffusion.models import facts, network_inputs, token_merging
from diffusion.objectives import Denoises, Moves
from diffusion.parameterizations import Prediction
from diffusion.recipe import extensions
from diffusion.recipe.guides import Steered
from diffusion.recipe.values import blamed_on, built_in_python, plain
from diffusion.samplers.sample_checks import check_plan


def check(recipe: Any) -> None:
    """Refuses a `Recipe` whose parts do not fit each other.

    Raises:
        ConfigError: naming the fields of the config, their values and what is valid.
        ValueError: under the same conditions, without fields, for a recipe that was built in Python.
    """
    config, objective = recipe.config, recipe.objective
    blamed = lambda *fields: blamed_on(config, *fields)
    guided = recipe.sampling.guidance(lambda x, t: None)  # building it checks its arguments, which others read
    if recipe.schedule.trained is not None and "schedule" not in objective.heads:
        with blamed("schedule.name", "objective.name"):
            raise ValueError(
                "the schedule is trainable, but the objective does not train it. Valid: "
                "objectives.with_trained_schedule(objective, schedule.trained)"
            )
    _check_players(recipe)
    if objective.reads is not None:
        with blamed("sample.sampler", "objective.coupling"):
            objective.check_sampler(recipe.sampling.sampler)
    with blamed("model.name", "objective.name"):
        _check_form(recipe.network)
        objective.check_network(recipe.network)
    _check_networks_beside(recipe)
    with blamed("objective.coupling.block", "objective.name", "train.batch_size", "train.accumulate"):
        objective.check_rows(config.train.batch_size // max(config.train.accumulate, 1))
    if recipe.parameterization is not None:
        _check_parameterization(recipe)
    if not _condition_follows(config):
        recipe.check_null()
    with blamed("sample.guidance.scale", "objective.name"):
        objective.check_scale(recipe.scale)
    _check_labels(recipe, guided)
    _check_interval(recipe)
    _check_measured(recipe)
    if objective.process is None:  # `symbol_runs` checks runs on symbols
        _check_way(recipe, guided)
    _check_guidance(recipe, guided)
    for guide in recipe.sampling.guides:
        for run in guide.runs:
            run.check(recipe)


def _check_networks_beside(recipe: Any) -> None:
    """Refuses an encoder, an autoencoder or a network of features that does not fit the objective."""
    objective, companions = recipe.objective, recipe.companions
    blamed = lambda *fields: blamed_on(recipe.config, *fields)
    with blamed("objective.wrappers", "encoder.network.name"):
        objective.check_encoder(companions.encoder is not None)
    with blamed("objective.name", "objective.wrappers", "model.name"):
        objective.check_features(recipe.network)
    with blamed("objective.wrappers", "second_player.objective.name"):
        beside = (objective.blocks.features or objective.heads) and not (objective.second and objective.second.separate)
        if beside and companions.second is not None:
            raise ValueError(
                "with a second player, no other network can be trained with the model, and its features are not "
                "available. Valid: no terms, and no uncertainty"
            )
    with blamed("autoencoder.network.name", "objective.wrappers"):
        if objective.beside.autoencoder != (companions.autoencoder is not None):
            raise ValueError(
                "the objective trains an autoencoder with the model, but the run has none. Valid: an autoencoder"
                if objective.beside.autoencoder
                else (
                    "the run has an autoencoder, but the objective does not train it. Valid: no autoencoder, or "
                    'objectives.end_to_end, in a config {"name": "end_to_end"} among objective.wrappers'
                )
            )
    with blamed("perceptual.network.name", "objective.name"):
        if companions.perceptual is not None and not objective.beside.perceptual:
            raise ValueError("the objective compares no pictures by their features. Valid: no perceptual network")


def _check_parameterization(recipe: Any) -> None:
    """Refuses a parameterization that the objective, the times of sampling or the sampler do not take."""
    parameterization, schedule, sampler = recipe.parameterization, recipe.schedule, recipe.sampling.sampler
    blamed = lambda *fields: blamed_on(recipe.config, *fields)
    with blamed("parameterization.name", "objective.name"):
        recipe.objective.check_parameterization(parameterization, schedule)
    with blamed("parameterization", "sample.grid"):
        times = recipe.sampling.plan.t
        if sampler.frames:  # the time at which the network sees finished frames
            times = np.maximum(times, timesteps.clean_time(schedule))
        parameterizations.check(parameterization, schedule, np.append(times, schedule.t_max))
    with blamed("sample.sampler", "parameterization.name"):
        if sampler.reads_variance and parameterization.channels == 1:
            raise ValueError(
                'the sampler needs a variance, but the network predicts none. Valid: variance = "small" or "large"'
            )


def _check_interval(recipe: Any) -> None:
    """Refuses an interval of the guidance for a network that learned its guidance without one."""
    condition = recipe.objective.condition
    interval = recipe.config["sample"]["guidance"].get("interval")
    trained = FlowMap in recipe.sampling.sampler.takes or condition.strength
    with blamed_on(recipe.config, "sample.guidance.interval", "objective.name"):
        if interval is not None and trained and not condition.interval:
            raise ValueError(
                "guidance is learned in training, and this network does not receive the interval. Valid: "
                "interval = None, or improved_mean_flow, whose guidance has an interval"
            )


def _check_guidance(recipe: Any, guided: Any) -> None:
    """Refuses a guidance that the sampler, the guides, the cache or the network cannot use."""
    sampling, sampler, scale = recipe.sampling, recipe.sampling.sampler, recipe.scale
    blamed = lambda *fields: blamed_on(recipe.config, *fields)
    with blamed("sample.guidance.name"):
        if scale != 1 and isinstance(guided, Unpaired) and Unpaired not in sampler.takes:
            raise ValueError(
                "this guidance changes x0 and eps so that they no longer belong to x_t, which the sampler does not "
                "support. Valid: ddim"
            )
    with blamed("sample.guidance.name", "sample.guidance.scale"):
        if scale == 1 and sampling.conditions is None and isinstance(guided, Unpaired):
            raise ValueError(
                "a run samples without guidance at scale 1, where this guidance would still act, since its eps is "
                "unconditional. Valid: a scale below 1, or classifier_free for no guidance"
            )
    with blamed("sample.guides", "sample.guidance.name", "sample.sampler"):
        if sampling.guides and scale != 1 and isinstance(guided, (Memory, Unpaired)):
            raise ValueError(
                "guides change a plain denoiser, but this guidance is not one. Valid: e.g. classifier_free"
            )
        if (sampling.guides or sampling.conditions) and FlowMap in sampler.takes:
            raise ValueError("a flow map is guided during its training. Valid: guides = (), and classifier_free")
    with blamed("sample.merge", "objective.name", "sample.sampler"):
        if sampling.merge and (isinstance(recipe.objective.reads, Moves) or FlowMap in sampler.takes):
            raise ValueError("tokens are merged only in a denoiser. Valid: merge = 0")
    with blamed("sample.cache", "model.name", "sample.driver", "sample.sampler", "sample.guidance.name"):
        _check_cache(recipe, guided)
    with blamed("sample.guidance.name", "objective.wrappers"):
        if sampling.depths and (recipe.objective.blocks.early is None or _learns_variance(recipe)):
            raise ValueError(
                "the guidance needs a prediction from the middle of the network, but the network has none, or "
                "it learns a variance. Valid: early_prediction among objective.wrappers"
            )
        if sampling.depths and sampling.cache is not None:
            raise ValueError("the guidance needs features that a cache would skip. Valid: no cache")


def check_examples(recipe: Any) -> None:
    """Refuses what does not fit the shape of the examples, once it is known: frames, measurements, merged tokens.

    Raises:
        ConfigError: naming the fields.
    """
    _check_frames(recipe)
    _check_times(recipe)
    _check_measured(recipe)
    _check_merge(recipe)


def _check_measured(recipe: Any) -> None:
    """Refuses a measurement that nothing reads, and an operator that cannot measure the examples of a known shape."""
    shape, sampling = recipe.examples.shape, recipe.sampling
    measured = sampling.measured
    if measured is None:
        return
    steers = isinstance(sampling.driver, Steered) and sampling.driver.measured is not None
    with blamed_on(recipe.config, "sample.measurement.operator", "sample.guides", "sample.driver"):
        if not steers and not any(guide.measured for guide in sampling.guides):
            raise ValueError(
                "pictures are measured, but no guide and no driver reads the measurement. Valid: e.g. the guide "
                "proximal, the driver ddrm, or no operator"
            )
    if shape is None:
        return
    with blamed_on(recipe.config, "sample.measurement.pictures", "data.source"):
        if not measured.from_file and recipe.examples.dtype not in (None, "uint8"):
            raise ValueError(
                f"pictures are measured, but the data hold {recipe.examples.dtype}. Valid: data of pictures, or a .npz "
                "or .npy file of pictures"
            )
    with blamed_on(recipe.config, "sample.measurement.operator"):
        forward = recipe.sampling.measured.build(shape).forward
        try:
            jax.eval_shape(forward, jax.ShapeDtypeStruct((1, *shape), np.float32))
        except (TypeError, ValueError) as error:
            raise ValueError(f"the operator cannot measure examples of {shape}: {error}") from error


def _check_cache(recipe: Any, guided: Any) -> None:
    """Refuses a cache that the network, the driver, the sampler or the guidance cannot use."""
    if recipe.sampling.cache is None:
        return
    recipe.sampling.cache.check(facts.reuses(recipe.network))
    if not recipe.sampling.follows_plan or FlowMap in recipe.sampling.sampler.takes:
        raise ValueError(
            "a cache works only with the driver sample and a sampler of denoisers. Valid: driver sample, e.g. ddim"
        )
    if recipe.scale != 1 and isinstance(guided, Unpaired):
        raise ValueError(
            "a cache needs x0 and eps that belong to x_t, and this guidance changes them. Valid: another guidance, "
            "e.g. classifier_free"
        )


def _frames(recipe: Any) -> tuple[int, ...]:
    """The number of frames of a plan with a time for each; () for one time, or while the examples' shape is unknown."""
    return () if recipe.examples.shape is None else recipe.sampling.plan.t.shape[1:]


def _check_frames(recipe: Any) -> None:
    """Refuses a plan of frames for examples with another number of frames."""
    if not (frames := _frames(recipe)):
        return
    with blamed_on(recipe.config, "sample.plan", "sample.sampler"):
        if recipe.examples.shape[:1] != frames:
            raise ValueError(
                f"the plan is for {frames[0]} frames, but the examples have {recipe.examples.shape[0]}. Valid: the "
                "same number in both"
            )


def _check_times(recipe: Any) -> None:
    """Refuses a plan of frames for a network with one time for all."""
    if not (frames := _frames(recipe)):
        return
    with blamed_on(recipe.config, "model.name", "sample.sampler"):
        x, _, condition = _inputs(recipe)
        jax.eval_shape(
            recipe.network.init, jax.random.key(0), x, jax.ShapeDtypeStruct((1, *frames), np.float32), condition
        )


def _check_merge(recipe: Any) -> None:
    """Refuses merged tokens for a network without tokens to merge; nothing is checked while the shape is unknown."""
    merge = recipe.sampling.merge
    if merge == 0 or recipe.examples.shape is None or recipe.companions.tuned is not None:
        return
    init = token_merging.merged(lambda x, *others: recipe.network.init(jax.random.key(0), x, *others), merge)
    with blamed_on(recipe.config, "sample.merge", "model.name"):
        jax.eval_shape(init, *_inputs(recipe))


def _inputs(recipe: Any) -> Any:
    """Stand-ins for the inputs of the network, for one example."""
    return jax.eval_shape(lambda: network_inputs.inputs(recipe.network, recipe.examples.shape, recipe.examples.null))


def _check_way(recipe: Any, guided: Any) -> None:
    """Refuses a plan that the sampler cannot follow, or a driver that does not take both; it tries them."""
    plan = recipe.sampling.plan
    sampler = recipe.sampling.sampler
    frames = plan.t.shape[1:]
    with blamed_on(recipe.config, "sample.plan", "sample.sampler"):
        check_plan(sampler, plan)
    with blamed_on(recipe.config, "sample.plan", "sample.grid"):
        if np.all(plan.t[0] <= plan.s[-1]):
            raise ValueError(
                f"samples begin as noise, but the plan leads from t = {np.max(plan.t[0]):g} up to "
                f"{np.max(plan.s[-1]):g}. Valid: times that fall from the noise, t_max, to the data, 0"
            )
    _check_frames(recipe)
    if not _condition_follows(recipe.config):
        _check_times(recipe)
    if recipe.sampling.follows_plan:
        return
    denoise = FlowMap(lambda x, t, s: x) if FlowMap in sampler.takes else _on_trial(recipe, guided)
    arguments = {"sampler": sampler, "denoise": denoise, "schedule": recipe.schedule, "plan": plan}
    driver, shape = recipe.sampling.driver, recipe.examples.shape or (*frames, 8, 8, 1)
    if isinstance(driver, Steered):
        if driver.measured is not None and recipe.examples.shape is None:
            return  # the operator may not take another shape than that of the data
        driver, shape = driver.on_trial(recipe.examples.shape)
    with blamed_on(recipe.config, "sample.driver", "sample.sampler", "sample.plan"):
        try:
            driven = jax.eval_shape(
                lambda x, keys: driver(x=x, keys=keys, **arguments),
                jax.ShapeDtypeStruct((1, *shape), np.float32),
                jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)),
            )
        except TypeError as error:  # the trial needs a denoiser of another kind
            raise ValueError(str(error)) from error
        _check_driven(driven, (1, *shape), getattr(recipe.sampling.driver, "numbers", None))


def try_sampling(recipe: Any) -> None:
    """Tries a run's sampler, guidance and guides without its network, so that a mistake in them is named at the start.

    Guides that read other runs or measured pictures are left out, and so are flow maps, manifolds and symbols.

    Args:
        recipe: the recipe for its data.

    Raises:
        ConfigError: naming the parts, and what the trial says; in a user's own code, its line.
    """
    sampling, shape = recipe.sampling, recipe.examples.shape
    denoises = recipe.makes_samples and isinstance(recipe.objective.reads, Denoises)
    if not (denoises and sampling.follows_plan) or shape is None or FlowMap in sampling.sampler.takes:
        return
    condition = np.zeros(1, np.int32) if recipe.examples.null is None else recipe.examples.null_condition(1)

    def trial(x: Any, keys: Any) -> Any:
        denoise: Any = _stand_in(recipe)
        if recipe.scale != 1 and not recipe.objective.condition.strength:
            conditions = sampling.conditions or (lambda network, *both: both)
            number = len(conditions(recipe.network, condition, condition))
            denoise = sampling.guidance(_branches(denoise, number))
        for guide in sampling.guides:
            if not guide.runs and not guide.measured:
                denoise = guide.apply(denoise, {}, condition, None)
        return samplers.sample(sampling.sampler, denoise, recipe.schedule, x, sampling.plan, keys)

    x = jax.ShapeDtypeStruct((1, *shape), np.float32)
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
    try:
        jax.eval_shape(trial, x, keys)
    except (AttributeError, TypeError, ValueError) as error:
        parts = ("sample.sampler", "sample.guidance.name", *(["sample.guides"] if sampling.guides else []))
        with blamed_on(recipe.config, *parts):
            said = extensions.failed_extension(error) or str(error).partition("\n")[0]
            raise ValueError(f"a trial of the sampling failed: {said}") from error


def _check_driven(driven: Any, shape: tuple[int, ...], numbers: type | None) -> None:
    """Refuses what a driver returned on trial if it is not x, or (x, numbers about the batch).

    Args:
        driven: the result of a trial, with shapes in the place of arrays.
        shape: the shape of x.
        numbers: the class of the numbers of a driver that reads pictures or a reward; None: they are left out.
    """
    x, *others = driven if isinstance(driven, tuple) else (driven,)
    if getattr(x, "shape", None) != shape:
        what = f"an array of the shape {x.shape}" if hasattr(x, "shape") else limits.kind(x)
        raise ValueError(f"the driver returns {what} for x of the shape {shape}. Valid: x at the end of the plan")
    if numbers is not None and others and type(others[0]) is not numbers:
        raise ValueError(
            f"the driver returns x with {limits.kind(others[0])}. Valid: a {numbers.__name__}, or a class of your "
            "own that the driver's function names by steering_drivers.numbering"
        )


def _learns_variance(recipe: Any) -> bool:
    return recipe.parameterization is not None and recipe.parameterization.channels > 1


def _stand_in(recipe: Any) -> Callable[[Any, Any], Prediction]:
    """A denoiser for trials, with a variance if the run's network learns one."""
    return lambda x, t: Prediction(x, x, 0 * x if _learns_variance(recipe) else None)


def _branches(denoise: Callable[[Any, Any], Prediction], number: int) -> Callable[[Any, Any], tuple[Prediction, ...]]:
    """A number of branches for a guidance, all of one denoiser."""
    return lambda x, t: (denoise(x, t),) * number


def _on_trial(recipe: Any, guided: Any) -> Any:
    """A stand-in for the guided denoiser: a product of densities where the guidance and the guides make one."""
    stand_in = _stand_in(recipe)

    def without_network(guided: Any) -> Any:
        if not isinstance(guided, Product):
            return stand_in
        return guided._replace(branches=_branches(stand_in, len(guided.exponents)))

    denoise = without_network(guided)
    for guide in recipe.sampling.guides:
        denoise = without_network(guide.on_trial(denoise))
    return denoise


def _check_labels(recipe: Any, guided: Any) -> None:
    """Refuses further classes of the guidance that the network does not have, and exponents without their class."""
    labels = plain(recipe.config["sample"]["guidance"]).get("labels") or ()
    classes = recipe.examples.num_classes
    with blamed_on(recipe.config, "sample.guidance", "model.num_classes"):
        if outside := [label for label in labels if not 0 <= label <= classes]:
            raise ValueError(f"labels has {outside[0]}. Valid: 0 .. {classes}, where {classes} stands for no class")
        if isinstance(guided, Product) and len(guided.exponents) != 1 + len(labels):
            raise ValueError(
                f"{len(guided.exponents)} exponents for the sample's own class and the labels {tuple(labels)}. Valid: "
                f"{1 + len(labels)} exponents"
            )


def _condition_follows(config: Mapping) -> bool:
    """Whether the null condition of a recipe may not be known yet, since only its data say what it is."""
    return not built_in_python(config) and conditions_may_follow(config)


def conditions_may_follow(config: Mapping) -> bool:
    """Whether only the data of a config say what its null condition is: their records may have a "condition".

    Datasets of TFDS have only classes.
    """
    classes = config["model"].get("num_classes", 0)
    return not classes and plain(config["data"]["source"]).get("name") != "tfds"


def _check_form(network: Any) -> None:
    """Refuses a class in the place of a network, and a network without `init` and `apply`.

    Raises:
        ValueError: naming how networks of other libraries get them.
    """
    if isinstance(network, type):
        name = network.__name__
        raise ValueError(f"the network is the class {name}. Valid: an instance, {name}(...)")
    if not (callable(getattr(network, "init", None)) and callable(getattr(network, "apply", None))):
        raise ValueError(
            f"the network is a {type(network).__module__}.{type(network).__qualname__}, which has no init(key, x, "
            "clock, condition) and apply(params, x, clock, condition). Valid: a Linen module, or from "
            "diffusion.models NNX(lambda rngs: ...), Equinox(lambda key: ...) or Functions(init, apply)"
        )


def _check_players(recipe: Any) -> None:
    """Refuses a teacher or a second player that does not fit the objective, or its settings."""
    config = recipe.config
    teacher = recipe.companions.teacher
    learns = recipe.objective.teacher
    second = recipe.companions.second
    tunes = recipe.companions.tuned is not None
    blamed = lambda *fields: blamed_on(config, *fields, "objective.name")
    with blamed("teacher.path", "second_player.objective.name"):
        has_teacher = learns is not None if tunes else teacher is not None  # a base teaches if one is needed
        recipe.objective.check_players(has_teacher, second and second.objective.network.name)
    with blamed("second_player.network.name", "second_player.objective.name"):
        if second is not None and recipe.objective.second.separate != (second.network is not None):
            raise ValueError(
                "the second player needs its own architecture. Valid: patch_discriminator, or feature_heads for "
                "the features of blocks"
                if second.network is None
                else "the second player uses the teacher's architecture. Valid: no network"
            )
    with blamed("second_player.objective.name"):
        theirs = second.objective.shares if second is not None else None
        if theirs is not None and theirs != recipe.objective.shares:
            raise ValueError(
                f"the second player judges examples made with {theirs}, but the objective makes them with "
                f"{recipe.objective.shares}. Valid: rae_critic with rae_decoder, end_to_end_critic with end_to_end, "
                "patch_critic with the other autoencoders; tau, noise and equivariance must agree in both"
            )
    if learns is not None:
        with blamed("teacher.scale", "teacher.pairs.number", "teacher.pairs.sampler"):
            if learns.pairs and tunes:
                raise ValueError(
                    "the objective learns from pairs generated before training, but the base model, which is the "
                    "teacher here, cannot generate them. Valid: e.g. 'consistency_distillation'"
                )
            learns.check(teacher.scale, teacher.pairs)
            teacher.check()
            if teacher.pairs and (recipe.training.augmentations or config.data.buckets.area):
                raise ValueError(
                    "pairs can neither be augmented nor have several sizes. Valid: data.augment = (), "
                    "data.buckets.area = 0"
                )
    if learns is not None and learns.stages is not None:
        with blamed("train.steps", "ema.sigma_rel"):
            learns.stages.check(config.train.steps)
            if config.ema.get("sigma_rel"):
                raise ValueError(
                    "ema.sigma_rel averages over the whole run, but the objective starts again after every "
                    f"{learns.stages.length} steps. Valid: 0"
                )
    if second is not None:
        with blamed("train.log_every", "second_player.updates"):
            if config.train.log_every % second.updates:
                raise ValueError(
                    f"the model is updated only at every {second.updates}-th step. Valid: a log_every that is a "
                    "multiple of it"
                )
