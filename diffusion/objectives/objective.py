"""An objective as a value: its loss, and the facts that training, sampling and the network need."""

__all__ = [
    "Batch",
    "Denoises",
    "Head",
    "Jumps",
    "Loss",
    "Metrics",
    "Moves",
    "Objective",
    "Prior",
    "Second",
    "Stages",
    "Teacher",
]

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax import Array
from jax.typing import ArrayLike

from diffusion.flow_maps import FlowMap
from diffusion.manifolds.tangent_field import TangentField
from diffusion.parameterizations import Network, Parameterization
from diffusion.samplers.sample import Sampler
from diffusion.schedules import NoiseSchedule
from diffusion.timesteps import Density

Batch = Mapping[str, Any]
"""Arrays `[B, ...]` by their names: "x", and further entries that the objective reads."""
Metrics = Mapping[str, Array]
"""Arrays `[B]` by their names; "t" is always there."""
Loss = Callable[[Mapping[str, Network], NoiseSchedule, Array, Batch, ArrayLike], tuple[Array, Metrics]]
"""(networks by name, schedule, keys `[B]`, batch, step) -> (losses `[B]`, metrics)."""


class Denoises(NamedTuple):
    """The trained network is read as a denoiser.

    Attributes:
        parameterization: the network's parameterization; None: the run's.
    """

    parameterization: Parameterization | None = None


DENOISER = Denoises()


class Jumps(NamedTuple):
    """The trained network is read as a flow map, which the samplers of flow maps take.

    Attributes:
        flow_map: (network, schedule, condition=condition) -> the map (x_t, t, s) -> x_s.
        parameterization: the network's parameterization; None: the run's.
        one_step: whether it is trained at t_max alone, and makes its samples in one step.
    """

    flow_map: Callable[..., FlowMap]
    parameterization: Parameterization | None = None
    one_step: bool = False


class Moves(NamedTuple):
    """The trained network is read as a tangent field on a manifold, which the samplers that stay on it take.

    Attributes:
        field: (network, schedule, condition=condition) -> `manifolds.TangentField`.
        prior: `manifolds.Distribution` that samples start from.
        manifold: `manifolds.Manifold` on which the samples lie.
        parameterization: the network's parameterization; None: the run's.
    """

    field: Callable[..., Any]
    prior: Any
    manifold: Any
    parameterization: Parameterization | None = None


class Stages(NamedTuple):
    """A training in stages: after each the student becomes the teacher.

    Attributes:
        length: number of training steps of a stage.
        sampling_steps: number of sampling steps of each stage's student, in order.
    """

    length: int
    sampling_steps: tuple[int, ...]

    def check(self, steps: int) -> None:
        """Refuses a training of more steps than all stages have.

        Raises:
            ValueError: naming both.
        """
        most = self.length * len(self.sampling_steps)
        if steps > most:
            raise ValueError(
                f"{steps} training steps are more than the {len(self.sampling_steps)} stages of {self.length} steps "
                f"have, which are {most}. Valid: at most that"
            )


class Teacher(NamedTuple):
    """An objective's use of the frozen network "teacher".

    Attributes:
        pairs: whether it learns from pairs of a noise and the teacher's sample of it, the batch's "noise" and "x". The
            run makes them before the training, which then needs no teacher.
        scale: scale of the classifier-free guidance that the objective itself applies to the teacher; None: the run
            guides the teacher.
        stages: stages of the training; None: there is one teacher throughout.
    """

    pairs: bool = False
    scale: float | None = None
    stages: Stages | None = None

    def check(self, scale: float, pairs: int) -> None:
        """Refuses a run that guides the teacher otherwise than the objective does, or makes other pairs than it needs.

        Args:
            scale: scale of the classifier-free guidance that the run gives the teacher; 1 is none.
            pairs: number of pairs that the run makes.

        Raises:
            ValueError: naming the value and what is valid.
        """
        if self.scale not in (None, scale):
            raise ValueError(f"the objective guides its teacher itself. Valid: {self.scale:g}, not {scale}")
        if self.pairs != (pairs > 0):
            needs = "learns from pairs. Valid: e.g. 10000" if self.pairs else "learns from none. Valid: 0"
            raise ValueError(f"the run makes {pairs} pairs, and the objective {needs}")


class Second(NamedTuple):
    """The player that trains in turn with the model, by another objective.

    Attributes:
        network: its name among the networks.
        logit: whether objectives read one logit an example in its output.
        by: the function that makes its objective; None: the user gives the objective.
        optional: whether the model can train without it.
        own: whether it has its own architecture; else it has the teacher's, and starts from the teacher's weights.
    """

    network: str
    logit: bool = False
    by: Callable[..., "Objective"] | None = None
    optional: bool = False
    own: bool = False


class Prior(NamedTuple):
    """Pictures of a class beside the examples, which the tuned model makes before the training.

    Attributes:
        prompt: prompt of the class; "": whoever trains puts the examples of the class into the batch.
        number: number of pictures, at least 1.
    """

    prompt: str = ""
    number: int = 200


class Head(NamedTuple):
    """A small network that trains with the model, and whose parameters stand beside the model's.

    Attributes:
        layer: the block of the model whose features it receives; 0: the latents of an autoencoder;
            None: it receives none.
        init: (key, number of these features, number of features of its output) -> parameters; without features both
            numbers are 0.
        apply: (parameters, *inputs) -> output; objectives call it as networks[name](*inputs).
        target: the block of the model whose number of features the output has; 0: the number of an example's values for
            each token; None: the encoder's number of features.
        follow: (parameters after an update, what the loss returns under the head's name among its metrics, `[B, ...]`
            of the whole batch) -> parameters, with the running statistics that follow the batch; None: it has none.
    """

    layer: int | None
    init: Callable[[Array, int, int], Any]
    apply: Callable[..., Any]
    target: int | None = None
    follow: Callable[[Any, Any], Any] | None = None


@dataclasses.dataclass(frozen=True)
class Objective:
    """A training objective: called as its loss, `objective(networks, schedule, keys, batch, step)`.

    All code that depends on the kind of objective reads these facts. The defaults describe a plain denoising
    objective.

    Attributes:
        loss: (networks, schedule, keys `[B]`, batch, step) -> (losses `[B]`, metrics); see `objectives.inputs`.
        reads: meaning of the trained network when it makes samples; None: it makes none.
        density: density of the training times, whose state the training carries; None: it carries none.
        channels: number of the network's output channels for each channel of the data; None: the number that the run's
            parameterization reads.
        times: number of times that the network receives: 1, or 2 for networks that jump from one to the other.
        forward_mode: whether the loss differentiates the network in forward mode (`jax.jvp`), which fused attention
            does not have.
        trains: name of the network that the gradient goes to.
        kind: kind of that network: "backbone", "autoencoder", "decoder", or "towers" of images and texts.
        teacher: its use of a trained network; None: it has no teacher.
        second: the second player; None: the model trains alone.
        shares: the settings that this objective and the second player's must have alike; None, of a second player's
            objective: it goes with any.
        strength: least and largest guidance scale that the network is trained for and receives in its condition; the
            loss calls it with (condition, scale - 1 `[B]`). None: it receives none.
        augmentations: number of values that describe an example's augmentation, which it adds to the condition as
            "augment".
        condition_dropout: share of the examples that are trained on the null condition.
        masks: side of the patches of which it leaves some out, by the entry "keep" of the network's condition; 0: it
            leaves out none.
        masks_vary: whether the number of patches left out varies between examples; "keep" is then padded with -1.
        block: number of consecutive examples that are compared with each other; 1: each stands alone. None: all
            examples of the batch are compared.
        features: blocks of the trained network whose features it reads: it calls the network with `features`.
        terms: names of the terms on features that are added to it, as its metrics have them.
        aligned: names of the terms that align the features with the frozen encoder's.
        heads: networks that train with the model, by name.
        early: (name, layer) of the head whose output has the meaning of the model's, from that block's features; None:
            there is none.
        encoder: whether it reads the frozen network "encoder" of clean pictures.
        autoencoder: whether an autoencoder trains with the model, as its head of that name: the model reads latents,
            and the batch holds pictures.
        perceptual: whether it compares pictures by the frozen network "features", where there is one.
        judges: the trained network as a classifier: (network, schedule, labels `[B]`) -> the function
            (x_t, t) -> log p(y | x_t) `[B]`; None: it is none.
        score: whether the trained denoiser determines the score, as it does where x and its noise are independent.
        prompts: texts by name, whose conditions the run adds to each batch as its "prompts"; beside them the objective
            reads the frozen network "base", which the run tunes.
        prior: pictures of a class, of which each example has one beside it, as the batch's "prior"; None: there are
            none.
        real: whether its losses are means over the real values of x, where the batch has their mask
            (`diffusion.padding`).
        trains_schedule: whether its values under different schedules can be compared, so that it may train one.
    """

    loss: Loss
    reads: Denoises | Jumps | Moves | None = DENOISER
    density: Density | None = None
    channels: int | None = None
    times: int = 1
    forward_mode: bool = False
    trains: str = "model"
    kind: str = "backbone"
    teacher: Teacher | None = None
    second: Second | None = None
    shares: tuple[Any, ...] | None = None
    strength: tuple[float, float] | None = None
    augmentations: int = 0
    condition_dropout: float = 0.0
    masks: int = 0
    masks_vary: bool = False
    block: int | None = 1
    features: tuple[int, ...] = ()
    terms: tuple[str, ...] = ()
    aligned: tuple[str, ...] = ()
    heads: Mapping[str, Head] = dataclasses.field(default_factory=dict)
    early: tuple[str, int] | None = None
    encoder: bool = False
    autoencoder: bool = False
    perceptual: bool = False
    score: bool = True
    judges: Callable[..., Any] | None = None
    prompts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    prior: Prior | None = None
    real: bool = False
    trains_schedule: bool = False

    def __call__(
        self, networks: Mapping[str, Network], schedule: NoiseSchedule, keys: Array, batch: Batch, step: ArrayLike
    ) -> tuple[Array, Metrics]:
        return self.loss(networks, schedule, keys, batch, step)

    def check_rows(self, rows: int) -> None:
        """Refuses a micro-batch that is not a whole number of blocks.

        Args:
            rows: number of examples of the micro-batch.

        Raises:
            ValueError: naming both.
        """
        if rows % (self.block or 1):
            raise ValueError(
                f"block = {self.block} does not divide the {rows} examples of a micro-batch. Valid: a divisor, e.g. "
                f"{math.gcd(rows, self.block or 1)}"
            )

    def check_players(self, teacher: bool, second: str | None) -> None:
        """Refuses a run without the players that the objective needs, and one with others.

        Args:
            teacher: whether the run has a teacher.
            second: name of the network that its second player trains; None without one.

        Raises:
            ValueError: naming the player.
        """
        if teacher != (self.teacher is not None):
            raise ValueError(
                "the objective has no use for a teacher. Valid: none; weights to start from are those of init_from"
                if teacher
                else "the objective learns from a teacher. Valid: the folder of a run; its moving average is distilled"
            )
        if self.second is None and second is not None:
            raise ValueError(f"the objective has no second player, and one trains {second!r}. Valid: none")
        alone = self.second is not None and self.second.optional and second is None
        if self.second is not None and second != self.second.network and not alone:
            example = f", e.g. {self.second.by.__name__}" if self.second.by else ""
            raise ValueError(
                f"the objective plays with one that trains the network {self.second.network!r}, not {second!r}. Valid: "
                f"a second player that does{example}"
            )

    def check_real(self) -> None:
        """Refuses examples with a mask of padding for an objective whose losses do not heed it.

        Raises:
            ValueError: naming objectives that do.
        """
        if not self.real:
            raise ValueError(
                'the condition of the data has the entry "real", a mask of padding, and this objective takes none: its '
                "losses are over all of x, or its coupling over examples of one size. Valid: e.g. denoising, "
                "flow_matching or variational_bound, without terms on features or a coupling"
            )

    def check_network(self, network: Any) -> None:
        """Refuses a network that does not receive what the loss passes to it.

        Args:
            network: network with its `kind`, and the `times`, `strength`, `augmentations`, `masks` and `masks_vary`
                that it receives; without these attributes it is a backbone that receives one time and nothing else.

        Raises:
            ValueError: naming what it receives.
        """
        kind = getattr(network, "kind", "backbone")
        times = getattr(network, "times", 1)
        if kind != self.kind:
            raise ValueError(
                f"the objective trains a network of the kind {self.kind!r}, and this is one of the kind {kind!r}. "
                "Valid: a network of that kind, or another objective"
            )
        if times != self.times:
            raise ValueError(
                f"the network has times = {times}, and the objective passes {self.times}. Valid: a network with "
                f"times = {self.times}, e.g. dit"
            )
        if self.strength and not getattr(network, "strength", False):
            raise ValueError(
                "the network receives no strength of guidance, which the objective passes. Valid: a network with "
                "strength = True, e.g. dit or pixart"
            )
        if self.augmentations and getattr(network, "augmentations", 0) != self.augmentations:
            raise ValueError(
                "the network does not receive the augmentation that the objective passes. Valid: a network with "
                f"augmentations = {self.augmentations}, e.g. song_unet; or an augmentation of the data alone"
            )

        if self.masks and getattr(network, "masks", 0) != self.masks:
            raise ValueError(
                f"the objective leaves out patches of {self.masks} x {self.masks} pixels, which the network does not "
                f'know. Valid: a network with patch = {self.masks} that takes "keep", e.g. mask_dit'
            )
        if self.masks_vary and not getattr(network, "masks_vary", False):
            raise ValueError(
                "the objective leaves out more patches of some examples than of others, and the network needs the same "
                "number of all. Valid: a network with masks_vary = True, e.g. mdt, or least = most"
            )

    def check_features(self, network: Any, encoder: bool) -> None:
        """Refuses a network without the features that the loss reads, and an encoder that is missing or superfluous.

        Args:
            network: network with its `feature_blocks`; without this attribute it gives no features.
            encoder: whether the run has an encoder.

        Raises:
            ValueError: naming what is valid.
        """
        number = getattr(network, "feature_blocks", 0)
        targets = tuple(head.target for head in self.heads.values() if head.target)
        absent = [layer for layer in (*self.features, *targets) if layer > number]
        if absent:
            valid = f"1 .. {number}" if number else "a network whose calls take `features`, e.g. dit"
            raise ValueError(
                f"the objective reads the features of layer {absent[0]}, and the network gives those of {number} "
                f"layers. Valid: {valid}"
            )
        if self.encoder and not encoder:
            raise ValueError("the objective aligns features with an encoder's, and there is none. Valid: an encoder")
        if encoder and not self.encoder:
            raise ValueError("the objective has no use for an encoder. Valid: none, or a term of alignment")

    def check_parameterization(self, parameterization: Parameterization) -> None:
        """Refuses a parameterization by which samples would misread the trained network.

        Raises:
            ValueError: naming what the network predicts.
        """
        reading = self.reads and self.reads.parameterization
        if self.reads is None or (
            parameterization.channels == 1 if reading is None else reading.name == parameterization.name
        ):
            return
        trained = "as many channels as the data has" if reading is None else repr(reading.name)
        others = " of a learned variance, such as hybrid" if parameterization.channels > 1 else ""
        raise ValueError(
            f"the objective trains a network that predicts {trained}, and sampling would read it as "
            f"{parameterization.name!r}. Valid: what it predicts, or another objective{others}"
        )

    def check_sampler(self, sampler: Sampler) -> None:
        """Refuses a sampler that does not take the trained network.

        Raises:
            ValueError: naming which samplers do.
        """
        if isinstance(self.reads, Moves) != (TangentField in sampler.takes):
            raise ValueError(
                "the objective trains a field on a manifold. Valid: geodesic_euler, geodesic_heun, geodesic_rk4 or, of "
                "a score, geodesic_random_walk"
                if isinstance(self.reads, Moves)
                else "the sampler follows fields on manifolds, and the objective trains none. Valid: e.g. heun"
            )
        if isinstance(self.reads, Jumps) != (FlowMap in sampler.takes):
            raise ValueError(
                "the objective trains a flow map. Valid: flow_map, consistency or tcd"
                if isinstance(self.reads, Jumps)
                else "the objective trains a denoiser, which samplers of flow maps do not take. Valid: e.g. heun or "
                "dpmpp_2m"
            )
        if sampler.draws and not self.score and not isinstance(self.reads, Moves):  # a field has a score, or says so
            raise ValueError(
                "the sampler adds noise and needs the score, which a network trained with dependent pairs (a coupling) "
                "does not determine. Valid: a deterministic sampler, e.g. euler, heun or dpmpp_2m"
            )

    def check_scale(self, scale: float) -> None:
        """Refuses a scale of classifier-free guidance with which the trained network cannot make samples.

        Args:
            scale: 1 is no guidance.

        Raises:
            ValueError: naming the valid scales.
        """
        if self.strength is not None:
            low, high = self.strength
            if not low <= scale <= high:
                raise ValueError(f"the objective trains the network for scales of {low:g} to {high:g}. Valid: these")
        elif scale == 1:
            return
        elif isinstance(self.reads, Jumps | Moves):
            raise ValueError(
                "a flow map is guided while it is trained, and a field on a manifold is not guided. Valid: 1"
            )
        elif self.condition_dropout == 0:
            raise ValueError(
                "the network is never trained on the null condition (condition_dropout = 0). Valid: a scale of 1, or "
                "a dropout of e.g. 0.1"
            )
