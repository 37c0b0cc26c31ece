"""Additional loss terms on a network's features, from the same forward pass as the objective.

    objective = added(flow_matching(density), alignment(layer=8))

The network "model" is called with `features=(8,)` and returns (output, features); the objective uses the output, and
the term uses the features.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require_shape
from diffusion.arrays.broadcasting import flattened
from diffusion.arrays.parameters import is_number, traced
from diffusion.objectives import projectors
from diffusion.objectives.entry import entry
from diffusion.objectives.few_step import mix, player, with_fixed_parameters
from diffusion.objectives.inputs import apart, in_blocks
from diffusion.objectives.objective import Batch, Objective, check_objective
from diffusion.objectives.objective_facts import Blocks, Head
from diffusion.objectives.projectors import Projector, tokens
from diffusion.parameterizations import Network, Parameterization
from diffusion.schedules import NoiseSchedule, left_broadcast


class Seen(NamedTuple):
    """The inputs of a term.

    Attributes:
        features: features of the blocks in `Term.layers`, in this order.
        project: features -> tokens `[B, N, D]`, by the projector; the identity if there is none.
        judge: tokens `[B, N, D]` -> logits `[B, N]`, by the critic; None if there is none.
        x: the network's input, x_t after the input scaling.
        t: times `[B]`.
        networks: networks by name.
        schedule: the process.
        batch: the objective's batch.
        keys: `[B]` random keys, used only by the term.
    """

    features: tuple[Array, ...]
    project: Callable[[Array], Array]
    x: Array
    t: Array
    networks: Mapping[str, Network]
    schedule: NoiseSchedule
    batch: Batch
    keys: Array
    judge: Callable[[Array], Array] | None = None

    def encoded(self) -> Array:
        """The frozen encoder's features `[B, N, D]` of the clean data, from the batch or computed."""
        if "features" in self.batch:
            return self.batch["features"]
        return player(self.networks, "encoder")(self.batch["x"], None, None)


@dataclasses.dataclass(frozen=True)
class Term:
    """A loss on the features of the network that an objective trains.

    Attributes:
        loss: `Seen` -> losses `[B]`.
        layers: indices, from 1, of the blocks whose features the term reads, in the order in which they run.
        weight: factor of the term.
        until: training step from which the term has no weight; None for no end.
        decay: (start, steps): from the training step `start` on, the weight falls tenfold in every `steps` steps; None
            for a constant weight.
        projector: projector of the features of the first layer; None if the term reads the features directly.
        critic: discriminator between the projected features and the encoder's, trained with the model, or None.
        encoder: whether the term reads the network "encoder", to align the features with it.
        target: index of the block whose width is the projector's output width; 0 for the number of values of x in a
            token; None for the encoder's width.
        predicts: whether the projector's output, as a picture, is a prediction in the network's parameterization.
        block: number of consecutive examples that the term compares, as in `Objective.block`.
    """

    loss: Callable[[Seen], Array]
    layers: tuple[int, ...]
    weight: float
    until: int | None = None
    decay: tuple[int, int] | None = None
    projector: Projector | None = None
    critic: Projector | None = None
    encoder: bool = False
    target: int | None = None
    predicts: bool = False
    block: int = 1


def added(objective: Objective, *terms: Term) -> Objective:
    """An objective plus terms on the features of the network "model".

        loss = objective + sum of weight term(features),    (output, features) = model(x_t, clock, condition, features=)

    Facts:
        loss: the objective's plus weight times the term
        networks: the objective's and the terms'; model returns (output, features) when it is called with `features`
        optimum: the objective's, as far as the term does not constrain the output
        paper: Yu et al. 2025, for `alignment`; Wang and He 2025, for `dispersive`; Jiang et al. 2025, for
            `self_alignment`

    Args:
        objective: objective that evaluates the network once, outside of any derivative, such as `denoising` or
            `flow_matching`.
        *terms: terms on the network's features.

    Returns:
        An objective; see `diffusion.objectives.inputs`. Metrics: the objective's, and the unweighted terms: "term"
        `[B]`, "term_2" `[B]` and so on.

    Raises:
        ValueError: if the objective differentiates the network in forward mode, or augments the examples that a term
            reads; when called, if the objective calls the network more than once, or the network returns no features.
    """
    check_objective(objective)
    if objective.network.forward_mode:
        raise ValueError(
            "a term on features needs an objective that calls its network once, outside any derivative, but this one "
            "differentiates it. Valid: e.g. flow_matching or denoising"
        )
    for term in terms:
        objective = _with_term(objective, term)
    return objective


def _with_term(objective: Objective, term: Term) -> Objective:
    reads_data = term.encoder or term.predicts or term.target is not None
    if reads_data and objective.condition.augmentations:
        raise ValueError(
            "added: the network reads augmented examples, but the term around the augmentation would read the "
            "examples without it. Valid: with_augmentation(added(objective, term), augment)"
        )
    number = 1 + sum(name.startswith("term") for name in objective.blocks.terms)
    name = "term" if number == 1 else f"term_{number}"
    heads = {}
    if term.projector is not None:
        heads[name] = Head(term.layers[0], term.projector.init, term.projector.apply, term.target)
    if term.critic is not None:
        init_critic = lambda key, features, width, init=term.critic.init: init(key, width, 1)
        heads[f"{name}_critic"] = Head(term.layers[0], init_critic, term.critic.apply, term.target)

    @entry(entries=None)
    def total(networks, schedule, keys, batch, step):
        calls: list[tuple[Array, tuple[Array, ...]]] = []

        def model(x, clock, condition, features=()):
            returned = player(networks, "model")(x, clock, condition, features=(*term.layers, *features))
            if not isinstance(returned, tuple) or len(returned) != 2:
                raise ValueError(
                    'added: the network "model" must return (output, features) when it is called with `features`; it '
                    f"returned {type(returned).__name__}"
                )
            output, features_read = returned
            calls.append((x, tuple(features_read[: len(term.layers)])))
            return (output, tuple(features_read[len(term.layers) :])) if features else output

        losses, metrics = objective({**networks, "model": model}, schedule, keys, batch, step)
        if len(calls) != 1:
            raise ValueError(
                f'added: the objective called the network "model" {len(calls)} times, but a term on features needs '
                "an objective that calls it once"
            )
        x, features = calls[0]
        shape = batch["x"].shape[1:]
        project = lambda h: player(networks, name)(h, shape) if name in heads else tokens(h)
        judge = lambda h: player(networks, f"{name}_critic")(h, shape)[..., 0]
        term_keys = apart(keys, number)  # the objective's draws do not change
        known = (networks, schedule, batch, term_keys, judge if term.critic else None)
        extra = term.loss(Seen(features, project, x, metrics["t"], *known))
        require_shape(extra, losses.shape, "added: the losses of the term, one for each example,")
        return losses + _weight(term, step) * extra, {**metrics, name: extra}

    known, examples = objective.blocks, objective.examples
    blocks = Blocks(
        features=(*known.features, *term.layers),
        terms=(*known.terms, name),
        aligned=(*known.aligned, *((name,) if term.encoder else ())),
        early=(name, term.layers[0]) if term.predicts else known.early,
    )
    block = examples.block and math.lcm(examples.block, term.block)
    return dataclasses.replace(
        objective,
        loss=total,
        blocks=blocks,
        heads={**objective.heads, **heads},
        beside=objective.beside._replace(encoder=objective.beside.encoder or term.encoder),
        examples=examples._replace(block=block, real=False),  # terms are means over all tokens, padding included
    )


def _weight(term: Term, step: ArrayLike) -> ArrayLike:
    step = jnp.asarray(step)
    weight = term.weight
    if term.decay is not None:
        start, steps = term.decay
        weight = weight * 0.1 ** (jnp.maximum(step - start, 0) / steps)
    return weight if term.until is None else jnp.where(step < term.until, weight, 0.0)


def alignment(
    layer: int = 8,
    weight: float = 0.5,
    until: int | None = None,
    projector: Projector | None = None,
    normalisation: float | None = None,
) -> Term:
    """Representation alignment (REPA): minus the cosine between projected features and a frozen encoder's.

        term = -mean over tokens of cos(project(h), y),    y = encoder(x_0) of the clean data

    iREPA has a convolution as the projector, and normalises y with `normalisation` = a: each feature becomes (y - a
    mean) / standard deviation, with the statistics over a picture's tokens, so that the differences between positions
    remain.

    Facts:
        loss: -cos(project(h), y), averaged over tokens
        networks: model, which returns (output, features); encoder
        optimum: project(h) along E[y / |y| | x_t, condition]
        paper: Yu et al. 2025, "Representation Alignment for Generation: Training Diffusion Transformers Is Easier Than
            You Think" (layer 8, weight 0.5); Singh et al. 2025, "What matters for Representation Alignment: Global
            Information or Spatial Structure?", for iREPA

    Args:
        layer: index of the block whose features are h; 8 in the paper.
        weight: weight of the term.
        until: training step at which the term ends (early stopping); None for no end.
        projector: projector of h; `projectors.mlp()`, as in the paper, if None.
        normalisation: factor a of the mean, 0.6 by default in the training of iREPA's authors; None for no
            normalisation.

    Returns:
        A term. The encoder's features `[B, N, D]` are the batch's entry "features", if there is one. Otherwise
        networks["encoder"] is called with the clean data, clock None and condition None, without a gradient.

    Raises:
        ValueError: if layer is below 1; when called, if there is no encoder, or its number of tokens is not the
            network's.
    """
    _check_layer("alignment", layer)

    def loss(seen):
        y = _targets("alignment", seen, layer)
        h = seen.features[0]
        return -_mean_cosine(seen.project(h), y if normalisation is None else _spatially_normalised(y, normalisation))

    return Term(loss, (layer,), weight, until, projector=projector or projectors.mlp(), encoder=True)


def structured_alignment(
    structure: float,
    adversarial: float,
    layer: int = 8,
    weight: float = 0.5,
    until: int | None = None,
    projector: Projector | None = None,
    critic: Projector | None = None,
) -> Term:
    """Structural and adversarial alignment (SARA): aligns features, relations between tokens, and distributions.

        term = -mean cos(p, y) + structure mean_ij (A(p) - A(y))^2 + adversarial (softplus(-D(p)) + L_D)
        p = project(h),    y = encoder(x_0),    A(p)_ij = cos(p_i, p_j),
        L_D = (softplus(-D(y)) + softplus(D(stop p))) / 2

    A is the autocorrelation of a picture's tokens; the second term is the squared Frobenius norm of the difference,
    divided by the number of pairs. D classifies each token. Its loss L_D trains only D, and the term softplus(-D(p))
    trains only p. This follows the paper's abstract and summaries, not its full text: the norm, D's architecture and
    loss, and both weights are our choice.

    Facts:
        loss: -cos(p, y) + structure |A(p) - A(y)|^2 + adversarial (softplus(-D(p)) + L_D)
        networks: model, which returns (output, features); encoder
        optimum: project(h) along E[y / |y| | x_t, condition] without the last two parts; with them none in closed form
        paper: Chen et al. 2025, "SARA: Structural and Adversarial Representation Alignment for Training-efficient
            Diffusion Models"

    Args:
        structure: weight of the autocorrelations, >= 0.
        adversarial: weight of the adversarial part, >= 0.
        layer: index of the block whose features are h.
        weight: weight of the whole term.
        until: training step at which the term ends; None for no end.
        projector: projector of h; `projectors.mlp()` if None.
        critic: discriminator D, with one output for each token; `projectors.mlp(512)` if None.

    Returns:
        A term, as by `alignment`; D is trained with the model.

    Raises:
        ValueError: if layer is below 1 or a part's weight is negative; when called, under the conditions of
            `alignment`.
    """
    _check_layer("structured_alignment", layer)
    for name, value in (("structure", structure), ("adversarial", adversarial)):
        if not traced(value) and not value >= 0:
            raise ValueError(f"structured_alignment: {name} = {value} must not be negative")

    def loss(seen):
        y = _targets("structured_alignment", seen, layer)
        p = seen.project(seen.features[0])
        value = -_mean_cosine(p, y)
        if not is_number(structure, 0):
            value += structure * jnp.mean(jnp.square(_autocorrelation(p) - _autocorrelation(y)), axis=(1, 2))
        if not is_number(adversarial, 0):
            soft = lambda logits: jnp.mean(jax.nn.softplus(logits), axis=1)
            fooled = with_fixed_parameters(lambda p: soft(-seen.judge(p)), p)
            critic_loss = soft(-seen.judge(y)) + soft(seen.judge(jax.lax.stop_gradient(p)))
            value += adversarial * (fooled + 0.5 * critic_loss)
        return value

    judge = (critic or projectors.mlp(512)) if not is_number(adversarial, 0) else None
    return Term(loss, (layer,), weight, until, projector=projector or projectors.mlp(), critic=judge, encoder=True)


def self_alignment(
    parameterization: Parameterization,
    layer: int = 8,
    teacher_layer: int = 20,
    interval: float = 0.2,
    beta: float = 0.05,
    weight: float = 0.2,
    until: int | None = None,
    projector: Projector | None = None,
    decay: tuple[int, int] | None = None,
) -> Term:
    """Self-representation alignment (SRA): aligns features with a later layer of the averaged model at lower noise.

        term = mean of huber(project(h(x_t, t)) - h'(x_s, s)),    s = max(t - interval u, t_min),    u ~ U(0, 1)

    h' are the features of the network "target", the moving average of the model, and x_s has the same noise eps as x_t.
    huber is the smooth L1 distance: e^2 / (2 beta) for |e| <= beta, and |e| - beta / 2 beyond.

    Facts:
        loss: smooth L1(project(h), h'), averaged over tokens and features
        networks: model, which returns (output, features); target, likewise
        optimum: project(h) predicts the features of the later layer from x_t
        paper: Jiang et al. 2025, "No Other Representation Component Is Needed: Diffusion Transformers Can Provide
            Representation Guidance by Themselves"

    Args:
        parameterization: the network's parameterization, which defines its input.
        layer: index of the model's block.
        teacher_layer: index of the averaged model's block; a later block than `layer` in the paper.
        interval: largest difference t - s, > 0.
        beta: width of the distance's quadratic part, > 0.
        weight: weight of the term.
        until: training step at which the term ends; None for no end.
        projector: projector of h; `projectors.mlp()` if None.
        decay: (start, steps): from the training step `start` on, the weight falls tenfold in every `steps` steps; None
            for a constant weight. In the authors' code for ImageNet at 256 it falls from epoch 149 on, tenfold in 1000
            epochs and once an epoch.

    Raises:
        ValueError: if layer is below 1, interval or beta is not positive, or decay is invalid.
    """
    _check_layer("self_alignment", layer)
    _check_layer("self_alignment", teacher_layer)
    for name, value in (("interval", interval), ("beta", beta)):
        if not traced(value) and not value > 0:
            raise ValueError(f"self_alignment: {name} = {value} must be positive")
    if decay is not None and not (len(decay) == 2 and decay[0] >= 0 and decay[1] > 0):
        raise ValueError(
            f"self_alignment: decay = {tuple(decay)} must be a first step and a positive number of steps, such as "
            "(750_600, 5_004_000)"
        )

    def loss(seen):
        schedule = seen.schedule
        x_0 = seen.batch["x"]
        u = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(seen.keys)
        s = jnp.maximum(seen.t - interval * u, schedule.t_min)
        x_t = seen.x / left_broadcast(parameterization.input_scale(schedule, seen.t), x_0)
        sigma = left_broadcast(schedule.sigma(seen.t), x_0)
        eps = (x_t - left_broadcast(schedule.alpha(seen.t), x_0) * x_0) / sigma
        x_s = left_broadcast(parameterization.input_scale(schedule, s), x_0) * mix(schedule, s, x_0, eps)
        target = player(seen.networks, "target")
        clock = parameterization.clock(schedule, s)
        _, (theirs,) = target(x_s, clock, seen.batch.get("condition"), features=(teacher_layer,))
        error = seen.project(seen.features[0]) - jax.lax.stop_gradient(tokens(theirs))
        size = jnp.abs(error)
        return jnp.mean(jnp.where(size < beta, 0.5 * jnp.square(error) / beta, size - 0.5 * beta), axis=(1, 2))

    return Term(loss, (layer,), weight, until, decay, projector or projectors.mlp(), target=teacher_layer)


def dispersive(layer: int, block: int, temperature: float = 1.0, weight: float = 0.5, until: int | None = None) -> Term:
    """The dispersive loss (InfoNCE with squared distances): features repel each other within a block of the batch.

        term = log mean_{i, j} exp(-|h_i - h_j|^2 / (D temperature)),    i, j in the block, i = j included

    D is the number of entries of h, by which the authors' code divides.

    Facts:
        loss: log mean exp(-|h_i - h_j|^2 / (D temperature))
        networks: model, which returns (output, features)
        optimum: features as far apart as the other losses allow
        paper: Wang and He 2025, "Diffuse and Disperse: Image Generation with Representation Regularization",
            InfoNCE with L2 distances, as in the authors' code, whose temperature is 1

    Args:
        layer: index of the block whose features are h; after a quarter of all blocks in the paper.
        block: number of consecutive examples that repel each other, >= 2; it divides the batch.
        temperature: temperature of the loss, > 0.
        weight: weight of the term; 0.5 in the paper.
        until: training step at which the term ends; None for no end.

    Returns:
        A term; all examples of a block have the block's value.

    Raises:
        ValueError: if layer, block or temperature is out of range; when called, if block does not divide the batch.
    """
    _check_layer("dispersive", layer)
    if block < 2:
        raise ValueError(
            f"dispersive: block = {block} must be at least 2, so that there are examples that repel each other"
        )
    if not traced(temperature) and not temperature > 0:
        raise ValueError(f"dispersive: temperature = {temperature} must be positive")

    def loss(seen):
        h = in_blocks(flattened(tokens(seen.features[0])), block)
        distance = jnp.mean(jnp.square(h[:, :, None] - h[:, None]), axis=-1)
        value = jax.nn.logsumexp(-distance / temperature, axis=(1, 2)) - 2 * jnp.log(block)
        return jnp.repeat(value, block)

    return Term(loss, (layer,), weight, until, block=block)


def _check_layer(name: str, layer: int) -> None:
    if layer < 1:
        raise ValueError(f"{name}: layer = {layer} must be at least 1, the first block of the network")


def _targets(name: str, seen: Seen, layer: int) -> Array:
    """The encoder's features `[B, N, D]` of the clean data, without a gradient, one for each token of the network."""
    y = tokens(jax.lax.stop_gradient(seen.encoded()))
    number = tokens(seen.features[0]).shape[1]
    if y.shape[1] != number:
        raise ValueError(
            f"{name}: the encoder has {y.shape[1]} tokens for a picture, but layer {layer} of the network has "
            f"{number}. Valid: a size of pictures, a patch or an encoder.size that makes both grids equal"
        )
    return y


def _autocorrelation(features: Array) -> Array:
    """`[B, N, N]` cosines of the tokens of each picture, of features `[B, N, D]`."""
    unit = unit_vectors(features)
    return jnp.einsum("bnd,bmd->bnm", unit, unit)


def _spatially_normalised(y: Array, a: float) -> Array:
    """(y - a mean) / standard deviation over the tokens `[B, N, D]`, with Bessel's correction, as in PyTorch."""
    mean = jnp.mean(y, axis=1, keepdims=True)
    return (y - a * mean) / (jnp.std(y, axis=1, keepdims=True, ddof=1) + 1e-6)


def _mean_cosine(a: Array, b: Array) -> Array:
    """`[B]`, the mean over tokens of the cosine of features `[B, N, D]`."""
    return jnp.mean(jnp.sum(unit_vectors(a) * unit_vectors(b), axis=-1), axis=1)


def unit_vectors(features: Array) -> Array:
    """Features `[..., D]` divided by their norm; a small constant in the root keeps the gradient finite at zero."""
    return features * jax.lax.rsqrt(jnp.sum(jnp.square(features), axis=-1, keepdims=True) + 1e-12)
