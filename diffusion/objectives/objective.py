"""An objective as a value: its loss, and the facts that training, sampling and the network need."""

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax import Array
from jax.typing import ArrayLike

from diffusion.arrays.arguments import require
from diffusion.flows.flow_maps import FlowMap, TangentField
from diffusion.objectives.objective_facts import RECORDS, Beside, Blocks, Buffer, Condition, Examples, Head, Trained
from diffusion.parameterizations import Network, Parameterization, reads_alike
from diffusion.samplers.sample import Sampler
from diffusion.schedules import NoiseSchedule
from diffusion.timesteps import Density
from diffusion.timesteps.densities import require_density

Batch = Mapping[str, Any]
"""Arrays `[B, ...]` by their names: "x", and further entries that the objective reads."""
Metrics = Mapping[str, Array]
"""Arrays `[B]` by their names, always with "t"."""
Loss = Callable[[Mapping[str, Network], NoiseSchedule, Array, Batch, ArrayLike], tuple[Array, Metrics]]
"""(networks by name, schedule, keys `[B]`, batch, step) -> (losses `[B]`, metrics)."""


def check_objective(objective: Any) -> None:
    """Refuses a value that is not an objective, such as a function of `objectives` that was not called.

    Raises:
        TypeError: if the value is not an objective; the message names it.
    """
    require(objective, Objective, "objective", "an Objective, such as objectives.flow_matching(density)")


class Denoises(NamedTuple):
    """The trained network is a denoiser.

    Attributes:
        parameterization: the network's parameterization; None for the run's.
    """

    parameterization: Parameterization | None = None


DENOISER = Denoises()


class Jumps(NamedTuple):
    """The trained network is a flow map, for the samplers of flow maps.

    Attributes:
        flow_map: (network, schedule, condition=condition) -> the map (x_t, t, s) -> x_s.
        parameterization: the network's parameterization; None for the run's.
        one_step: whether the network is trained only at t_max, and samples in one step.
    """

    flow_map: Callable[..., FlowMap]
    parameterization: Parameterization | None = None
    one_step: bool = False


class Moves(NamedTuple):
    """The trained network is a tangent field on a manifold, for the samplers that stay on the manifold.

    Attributes:
        field: (network, schedule, condition=condition) -> `manifolds.TangentField`.
        prior: `manifolds.Distribution` from which sampling starts.
        manifold: `manifolds.Manifold` on which the samples lie.
        parameterization: the network's parameterization; None for the run's.
    """

    field: Callable[..., Any]
    prior: Any
    manifold: Any
    parameterization: Parameterization | None = None


class Restores(NamedTuple):
    """The trained network predicts clean symbols, for the samplers of symbols.

    Attributes:
        process: `discrete.Process`, `discrete.RateProcess` or `discrete.MetricPath` that corrupts the symbols.
        reading: the meaning of the network's output, (process, output, x_t, t) -> log p(x_0 | x_t).
        parameterization: always None, because networks of symbols have no parameterization.
    """

    process: Any
    reading: Callable[..., Array]
    parameterization: None = None


# The meaning of a network, the type that its samplers take, the words for it in messages, and its samplers.
TAKEN = (
    (Restores, Restores, "a predictor of symbols", "a sampler of symbols, e.g. ancestral"),
    (
        Moves,
        TangentField,
        "a field on a manifold",
        "geodesic_euler, geodesic_heun, geodesic_rk4 or, for a score, geodesic_random_walk",
    ),
    (Jumps, FlowMap, "a flow map", "flow_map, consistency or tcd"),
)


class Stages(NamedTuple):
    """A training in stages: after each stage the student becomes the teacher.

    Attributes:
        length: number of training steps of a stage.
        sampling_steps: number of sampling steps of each stage's student, in order.
    """

    length: int
    sampling_steps: tuple[int, ...]

    def check(self, steps: int) -> None:
        """Refuses a training with more steps than all stages together.

        Raises:
            ValueError: if there are more steps; the message names both numbers.
        """
        most = self.length * len(self.sampling_steps)
        if steps > most:
            raise ValueError(
                f"{steps} training steps are more than the stages allow: {len(self.sampling_steps)} stages of "
                f"{self.length} steps have {most}. Valid: at most {most}"
            )


class Teacher(NamedTuple):
    """An objective's use of the frozen network "teacher".

    Attributes:
        pairs: whether the objective learns from pairs of noise and the teacher's sample from it, the batch's "noise"
            and "x". The run generates the pairs before training, which then needs no teacher.
        scale: guidance scale that the objective itself applies to the teacher; None if the run guides the teacher.
        stages: stages of the training; None for one teacher throughout.
        bidirectional: whether the teacher sees whole examples even if the model is block-causal.
    """

    pairs: bool = False
    scale: float | None = None
    stages: Stages | None = None
    bidirectional: bool = False

    def check(self, scale: float, pairs: int) -> None:
        """Refuses a run whose guidance of the teacher, or whose number of pairs, does not fit the objective.

        Args:
            scale: guidance scale that the run applies to the teacher; 1 for no guidance.
            pairs: number of pairs that the run generates.

        Raises:
            ValueError: if one does not fit; the message names the valid values.
        """
        if self.scale not in (None, scale):
            raise ValueError(
                f"the scale of the teacher is {scale}, but the objective guides its teacher itself. Valid: "
                f"{self.scale:g}"
            )
        if self.pairs != (pairs > 0):
            needs = "learns from pairs. Valid: e.g. 10000" if self.pairs else "learns from none. Valid: 0"
            raise ValueError(f"the run makes {pairs} pairs, but the objective {needs}")


class Second(NamedTuple):
    """The second player, a network that is trained in turn with the model by another objective.

    Attributes:
        network: name of the second player's network.
        logit: whether objectives read one logit for each example from its output.
        by: the factory of its objective; None if the user passes the objective.
        optional: whether the model can train without the second player.
        separate: whether it has a separate architecture; if not, it has the teacher's architecture and initial weights.
        features: indices of the blocks whose features objectives read: blocks of this network, or of the teacher if the
            architecture is separate.
        joined: number of inputs whose features are joined along the channels, for a separate architecture.
    """

    network: str
    logit: bool = False
    by: Callable[..., "Objective"] | None = None
    optional: bool = False
    separate: bool = False
    features: tuple[int, ...] = ()
    joined: int = 1


@dataclasses.dataclass(frozen=True, init=False)
class Objective:
    """A training objective: called as its loss, `objective(networks, schedule, keys, batch, step)`.

    Code that depends on the kind of objective reads these facts. The defaults describe a plain denoising objective.

    Attributes:
        loss: (networks, schedule, keys `[B]`, batch, step) -> (losses `[B]`, metrics); see `objectives.inputs`.
        reads: meaning of the trained network in sampling; None if it is not sampled.
        density: density of the training times, whose state the training carries; None if it carries none.
        buffer: samples that the training carries from step to step; None if it carries none.
        network: the trained network, which receives the gradient.
        condition: how the loss changes the trained network's condition.
        blocks: the blocks of the trained network whose features the loss reads.
        heads: networks that train with the model, by name.
        teacher: the objective's use of a frozen network "teacher"; None if it has no teacher.
        second: the second player; None if the model trains alone.
        shares: settings that must be equal in this objective and the second player's; None for a second player that
            fits any objective.
        beside: the frozen networks, the autoencoder and the texts that the loss needs besides the trained network.
        examples: how the loss uses the examples of a batch.
    """

    loss: Loss
    reads: Denoises | Jumps | Moves | Restores | None
    density: Density | None
    buffer: Buffer | None
    network: Trained
    condition: Condition
    blocks: Blocks
    heads: Mapping[str, Head]
    teacher: Teacher | None
    second: Second | None
    shares: tuple[Any, ...] | None
    beside: Beside
    examples: Examples

    def __init__(
        self,
        loss: Loss,
        reads: Denoises | Jumps | Moves | Restores | None = DENOISER,
        density: Density | None = None,
        network: Trained = Trained(),
        condition: Condition = Condition(),
        blocks: Blocks = Blocks(),
        heads: Mapping[str, Head] | None = None,
        teacher: Teacher | None = None,
        second: Second | None = None,
        shares: tuple[Any, ...] | None = None,
        beside: Beside = Beside(),
        examples: Examples = Examples(),
        buffer: Buffer | None = None,
        **alone: Any,
    ):
        """An objective with these facts. Passing a fact outside of its record, such as `times`, is deprecated.

        Raises:
            TypeError: if a fact is unknown, or the density or `reads` is of another type, such as a schedule.
            ValueError: if there are both a buffer and a second player.
        """
        if density is not None:
            require_density(density)
        if reads is not None:
            valid = "e.g. objectives.Denoises(parameterizations.v()), or None for a network that is not sampled"
            require(reads, (Denoises, Jumps, Moves, Restores), "reads", valid)
        if buffer is not None and second is not None:
            raise ValueError("an objective with a buffer has no second player. Valid: buffer=None, or second=None")
        records: dict[str, Any] = {"network": network, "condition": condition, "blocks": blocks}
        records |= {"beside": beside, "examples": examples}
        players = {"teacher": teacher, "second": second, "shares": shares}
        values = {"loss": loss, "reads": reads, "density": density, "buffer": buffer, "heads": heads or {}} | players
        for name, value in alone.items():
            if name not in RECORDS:
                raise TypeError(f"Objective has no fact {name!r}. Valid: {', '.join(sorted(values | records))}")
            record, field = RECORDS[name]
            place = f"{record}=objectives.{type(records[record]).__name__}({field}={value!r})"
            warnings.warn(_moved(name, place), DeprecationWarning, stacklevel=2)
            records[record] = records[record]._replace(**{field: value})
        for name, value in (values | records).items():
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        """A fact by its name outside of its record, which is deprecated."""
        if name not in RECORDS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
        record, field = RECORDS[name]
        warnings.warn(_moved(name, f"objective.{record}.{field}"), DeprecationWarning, stacklevel=2)
        return getattr(getattr(self, record), field)

    def __call__(
        self, networks: Mapping[str, Network], schedule: NoiseSchedule, keys: Array, batch: Batch, step: ArrayLike
    ) -> tuple[Array, Metrics]:
        return self.loss(networks, schedule, keys, batch, step)

    @property
    def process(self) -> Any:
        """The process of the symbols that the trained network reads; None for a network of numbers."""
        return self.reads.process if isinstance(self.reads, Restores) else self.network.process

    def check_rows(self, rows: int, devices: int = 1) -> None:
        """Refuses a micro-batch that is not a whole number of blocks of consecutive examples.

        Args:
            rows: number of examples of the micro-batch.
            devices: number of devices; a micro-batch has the same number of consecutive examples from each.

        Raises:
            ValueError: if it is not; the message names the block and the number of examples.
        """
        block, consecutive = self.examples.block or 1, rows // devices
        if consecutive % block:
            where = f" that each of {devices} devices has" if devices > 1 else ""
            raise ValueError(
                f"block = {block} does not divide the {consecutive} examples of a micro-batch{where}. Valid: a "
                f"divisor, e.g. {math.gcd(consecutive, block)}"
            )

    def check_players(self, teacher: bool, second: str | None) -> None:
        """Refuses a run that lacks a player of the objective, or has another player.

        Args:
            teacher: whether the run has a teacher.
            second: name of the network that the run's second player trains; None if there is none.

        Raises:
            ValueError: if the players differ; the message names the player.
        """
        if teacher != (self.teacher is not None):
            raise ValueError(
                "the objective uses no teacher. Valid: no teacher; to start from the weights of a run, use init_from"
                if teacher
                else "the objective learns from a teacher. Valid: the folder of a run; its moving average is distilled"
            )
        if self.second is None and second is not None:
            raise ValueError(
                f"the objective has no second player, but the run has one that trains {second!r}. Valid: no second "
                "player"
            )
        alone = self.second is not None and self.second.optional and second is None
        if self.second is not None and second != self.second.network and not alone:
            example = f", e.g. {self.second.by.__name__}" if self.second.by else ""
            raise ValueError(
                f"the objective needs a second player that trains the network {self.second.network!r}, but this one "
                f"trains {second!r}. Valid: a second player that trains {self.second.network!r}{example}"
            )

    def check_real(self) -> None:
        """Refuses examples with a mask of padding if the objective does not support it.

        Raises:
            ValueError: if it does not; the message names objectives that do.
        """
        if not self.examples.real:
            raise ValueError(
                'the condition of the data has the entry "real", a mask of padding, which this objective does not '
                "support: its losses are over all of x, or its coupling compares examples of one size. Valid: e.g. "
                "denoising, flow_matching or variational_bound, without terms on features or a coupling"
            )

    def check_network(self, network: Any) -> None:
        """Refuses a network that lacks an input which the loss passes to it.

        Args:
            network: network with the attributes `kind`, `times`, `strength`, `augmentations`, `masks`, `masks_vary`,
                `hollow` and `last_layer`, which describe its inputs and outputs. Without them, it is taken for a
                backbone that receives only one time.

        Raises:
            ValueError: if it lacks one; the message names it.
        """
        self.network.check(network)
        self.condition.check(network)

    def check_features(self, network: Any) -> None:
        """Refuses a network without the features that the loss reads.

        Args:
            network: network with the attribute `feature_blocks`; without it, the network returns no features.

        Raises:
            ValueError: if a layer is absent; the message names the valid ones.
        """
        number = getattr(network, "feature_blocks", 0)
        targets = tuple(head.target for head in self.heads.values() if head.target)
        second = self.second.features if self.second else ()  # its architecture is the model's
        absent = [layer for layer in (*self.blocks.features, *targets, *second) if layer > number]
        if absent:
            valid = f"1 .. {number}" if number else "a network whose calls take `features`, e.g. dit"
            raise ValueError(
                f"the objective reads the features of layer {absent[0]}, but the network offers only {number} layers. "
                f"Valid: {valid}"
            )

    def check_encoder(self, encoder: bool) -> None:
        """Refuses a missing or unused encoder.

        Args:
            encoder: whether the run has an encoder.

        Raises:
            ValueError: if it does not fit; the message says what is valid.
        """
        if self.beside.encoder and not encoder:
            raise ValueError(
                "the objective aligns features with an encoder's, but the run has no encoder. Valid: an encoder"
            )
        if encoder and not self.beside.encoder:
            raise ValueError("the objective uses no encoder. Valid: no encoder, or a term of alignment")

    def check_parameterization(self, parameterization: Parameterization, schedule: NoiseSchedule) -> None:
        """Refuses a parameterization with which sampling would misread the trained network.

        Args:
            parameterization: the parameterization of sampling.
            schedule: the process.

        Raises:
            ValueError: if it would; the message names what the network predicts.
        """
        reading = self.reads and self.reads.parameterization
        if self.reads is None or (reading is None and parameterization.channels == 1):
            return
        if reading is not None and isinstance(self.reads, Denoises):
            alike = reads_alike(reading, parameterization, schedule)
        else:  # a flow map or a field reads the network itself, with clocks of its own
            alike = reading is not None and reading.name == parameterization.name
        if alike:
            return
        trained = "as many channels as the data has" if reading is None else repr(reading.name)
        others = " of a learned variance, such as hybrid" if parameterization.channels > 1 else ""
        same = reading is not None and reading.name == parameterization.name
        sampled = f"{parameterization.name!r}{' with other arguments or another clock' if same else ''}"
        raise ValueError(
            f"the objective trains a network that predicts {trained}, but sampling would read its output as "
            f"{sampled}. Valid: the prediction that is trained, or another objective{others}"
        )

    def check_sampler(self, sampler: Sampler) -> None:
        """Refuses a sampler of another kind of network.

        Raises:
            ValueError: if the sampler does not fit; the message names samplers that do.
        """
        for kind, taken, what, samplers in TAKEN:
            if (trains := isinstance(self.reads, kind)) != (taken in sampler.takes):
                raise ValueError(
                    f"the objective trains {what}, which this sampler does not take. Valid: {samplers}"
                    if trains
                    else f"the sampler takes {what}, which this objective does not train. Valid: e.g. heun or dpmpp_2m"
                )
        if isinstance(self.reads, Restores):
            return
        # A step of `geodesic_random_walk` checks a field's score.
        if sampler.draws and not self.examples.score and not isinstance(self.reads, Moves):
            raise ValueError(
                "the sampler adds noise and therefore needs the score, which cannot be computed from a network "
                "trained with dependent pairs (a coupling). Valid: a deterministic sampler, e.g. euler, heun or "
                "dpmpp_2m"
            )

    def check_scale(self, scale: float) -> None:
        """Refuses a guidance scale with which the trained network cannot be sampled.

        Args:
            scale: scale of classifier-free guidance; 1 for no guidance.

        Raises:
            ValueError: if it cannot; the message names the valid scales.
        """
        if self.condition.strength is not None:
            low, high = self.condition.strength
            if not low <= scale <= high:
                raise ValueError(
                    f"the objective trains the network for scales from {low:g} to {high:g}. Valid: a scale in this "
                    "range"
                )
        elif scale == 1:
            return
        elif isinstance(self.reads, Jumps | Moves):
            raise ValueError(
                "a flow map is guided during its training, and a field on a manifold cannot be guided. Valid: 1"
            )
        elif self.condition.dropout == 0:
            raise ValueError(
                "the network never sees the null condition in training (condition_dropout = 0). Valid: a scale of 1, "
                "or a dropout of e.g. 0.1"
            )


def _moved(name: str, place: str) -> str:
    return f"the fact {name!r} of an objective stands in a record now: {place}"
