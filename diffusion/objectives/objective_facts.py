"""The facts of an objective, grouped in records, and their deprecated names outside of the records."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax import Array


class Prior(NamedTuple):
    """Pictures of a class for prior preservation, which the tuned model generates before the training.

    Attributes:
        prompt: prompt of the class; "" if the caller puts the examples of the class into the batch.
        number: number of pictures, at least 1.
    """

    prompt: str = ""
    number: int = 200


class Trained(NamedTuple):
    """The trained network, and how the loss calls it.

    Attributes:
        name: name of the network.
        kind: kind of the network: "backbone", "autoencoder", "decoder", or "towers" of images and texts.
        channels: the network's output channels divided by the channels of the data; None for the number of the run's
            parameterization.
        times: number of times that the network receives: 1, or 2 for networks that jump from one time to another.
        forward_mode: whether the loss differentiates the network in forward mode (`jax.jvp`), which fused attention
            does not support.
        judges: the network as a classifier: (network, schedule, labels `[B]`) -> the function (x_t, t) -> log p(y |
            x_t) `[B]`; None for a network that is not a classifier.
        schedule: whether losses under different schedules are comparable, so that the objective may train the schedule.
        hollow: whether the network's output at a position must depend only on the other positions.
        last_layer: whether the loss evaluates the last layer itself, on the states that a call with `states=True`
            returns.
        causal: number of positions in a block, if the loss trains blocks given clean earlier blocks; a block-causal
            network must have the same number. 0 if the loss trains whole examples, which excludes block-causal
            networks. None if any network fits.
        process: the process of the symbols, for a classifier of noised symbols; None for other networks.
    """

    name: str = "model"
    kind: str = "backbone"
    channels: int | None = None
    times: int = 1
    forward_mode: bool = False
    judges: Callable[..., Any] | None = None
    schedule: bool = False
    hollow: bool = False
    last_layer: bool = False
    causal: int | None = None
    process: Any = None

    def check(self, network: Any) -> None:
        """Refuses a network of another kind, or one with another call signature; see `Objective.check_network`.

        Raises:
            ValueError: if it does not fit; the message names the valid values.
        """
        kind = getattr(network, "kind", "backbone")
        times = getattr(network, "times", 1)
        if kind != self.kind:
            raise ValueError(
                f"the objective trains a network of the kind {self.kind!r}, but this network is of the kind "
                f"{kind!r}. Valid: a network of the kind that is trained, or another objective"
            )
        if times != self.times:
            raise ValueError(
                f"the network has times = {times}, but the objective passes {self.times}. Valid: a network with "
                f"times = {self.times}, e.g. dit"
            )
        if self.hollow and not getattr(network, "hollow", False):
            raise ValueError(
                "the objective predicts each position from the others, but in this network a position sees itself. "
                "Valid: a network with hollow = True, e.g. symbol_transformer"
            )
        if self.last_layer and not getattr(network, "last_layer", False):
            raise ValueError(
                "the objective computes the last layer a few positions at a time, but this network does not return "
                "what that layer reads. Valid: chunk = 0, or a network whose calls take states, e.g. symbol_transformer"
            )
        causal = getattr(network, "causal", 0)
        if self.causal == 0 and causal:
            raise ValueError(
                f"the objective trains all positions at one time, but the network sees blocks of {causal} (its "
                "causal) and samples them given clean earlier blocks, which this objective does not train. "
                f"Valid: causal = 0, or block_diffusion with block = {causal}"
            )
        if self.causal and causal not in (0, self.causal):
            raise ValueError(
                f"the objective trains blocks of {self.causal} positions (its block), but the network sees blocks of "
                f"{causal} (its causal). Valid: block = {causal}, causal = {self.causal}, or causal = 0, in which all "
                "positions see each other"
            )


class Condition(NamedTuple):
    """The changes that the loss makes to the network's condition.

    Attributes:
        dropout: share of the examples that are trained on the null condition.
        null: the null condition of the dropout, as `with_condition_dropout` received it; None for zeros.
        strength: smallest and largest guidance scale that the network receives in training; the loss calls it with
            (condition, scale - 1 `[B]`). None if the network receives no scale.
        interval: whether the network also receives the interval of times with guidance; the loss calls it with
            (condition, scale - 1 `[B]`, interval `[B, 2]`).
        augmentations: number of values that describe an example's augmentation, which the loss adds as "augment".
        masks: side of the patches in pixels, if the loss leaves out patches by the entry "keep"; 0 if it leaves out
            none.
        masks_vary: whether the number of patches left out varies between examples; "keep" is then padded with -1.
    """

    dropout: float = 0.0
    strength: tuple[float, float] | None = None
    interval: bool = False
    augmentations: int = 0
    masks: int = 0
    masks_vary: bool = False
    null: Any = None

    def check(self, network: Any) -> None:
        """Refuses a network that does not receive this condition; see `Objective.check_network`.

        Raises:
            ValueError: if it does not fit; the message names the valid values.
        """
        examples = {"strength": "dit or pixart", "interval": "dit or mit, or guidance with interval = False"}
        for name, valid in examples.items():
            if getattr(self, name) and not getattr(network, name, False):
                raise ValueError(
                    f"the objective passes the {name} of guidance, but the network does not receive it. Valid: a "
                    f"network with {name} = True, e.g. {valid}"
                )
        if self.augmentations and getattr(network, "augmentations", 0) != self.augmentations:
            raise ValueError(
                "the objective passes the augmentation, but the network does not receive it. Valid: a network with "
                f"augmentations = {self.augmentations}, e.g. song_unet; or augment only the data"
            )
        side = self.masks
        if side and getattr(network, "masks", 0) != side:
            raise ValueError(
                f"the objective leaves out patches of {side} x {side} pixels, which this network does not support. "
                f'Valid: a network with patch = {side} that takes "keep", e.g. mask_dit'
            )
        if self.masks_vary and not getattr(network, "masks_vary", False):
            raise ValueError(
                "the objective leaves out different numbers of patches in different examples, but the network needs "
                "the same number in all. Valid: a network with masks_vary = True, e.g. mdt, or least = most"
            )


class Blocks(NamedTuple):
    """The blocks of the trained network whose features the loss reads.

    Attributes:
        features: indices of the blocks, with which the loss calls the network as `features`.
        terms: names of the added terms on features, as in the metrics.
        aligned: names of the terms that align the features with the frozen encoder's.
        early: (name, layer) of the head that predicts like the model from the features of this block; None if there is
            none.
    """

    features: tuple[int, ...] = ()
    terms: tuple[str, ...] = ()
    aligned: tuple[str, ...] = ()
    early: tuple[str, int] | None = None


class Beside(NamedTuple):
    """The further networks and texts that the loss needs.

    Attributes:
        encoder: whether the loss reads the frozen network "encoder" of clean pictures.
        autoencoder: whether an autoencoder is trained with the model, as the head "autoencoder"; the model then reads
            latents, and the batch holds pictures.
        perceptual: whether the loss compares pictures by the frozen network "features", if there is one.
        prompts: texts by name; the run adds their conditions to each batch as "prompts", and the loss also reads the
            frozen network "base", the model before tuning.
        prior: pictures of a class; the batch's "prior" has one for each example. None if there are none.
        pictures: whether the loss reads samples as pictures; a run that tunes a latent model then adds the frozen
            network "pictures", x_0 -> pictures, which decodes latents.
        metadata: caption -> {name: number or array}, facts of each example's caption, which the run adds to each batch
            as "metadata", {name: `[B, ...]`}; None if the loss reads none.
    """

    encoder: bool = False
    autoencoder: bool = False
    perceptual: bool = False
    prompts: Mapping[str, str] = {}
    prior: Prior | None = None
    pictures: bool = False
    metadata: Callable[[str], Mapping[str, Any]] | None = None


class Examples(NamedTuple):
    """How the loss uses the examples of a batch.

    Attributes:
        block: number of consecutive examples that are compared with each other; 1 if examples are independent, None if
            all examples of the batch are compared.
        real: whether the losses are means over the real values of x, if the batch has a mask of padding
            (`diffusion.padding`).
        score: whether the trained denoiser determines the score, which it does if data and noise are independent.
        pairs: whether each example comes with a less preferred one, in the batch's "rejected".
    """

    block: int | None = 1
    real: bool = False
    score: bool = True
    pairs: bool = False


class Buffer(NamedTuple):
    """Samples, and values computed from them, that the training carries from one step to the next.

    The loss reads them as the batch's "buffer". If that is absent, it generates new samples.

    Attributes:
        init: () -> the buffer before the first step, a pytree of arrays.
        update: (the buffer, the loss's metric "buffer", a pytree of arrays `[B, ...]` of the whole batch, step) -> the
            buffer.
    """

    init: Callable[[], Any]
    update: Callable[[Any, Any, Any], Any]


class Head(NamedTuple):
    """A small network that is trained with the model, and whose parameters are stored with the model's.

    Attributes:
        layer: index, from 1, of the model's block whose features the head receives; 0 for the latents of an
            autoencoder; None if it receives no features.
        init: (key, width of the input features, width of the output) -> parameters; without features both widths are 0.
        apply: (parameters, *inputs) -> output; objectives call it as networks[name](*inputs).
        target: index of the model's block whose width is the output's width; 0 for the number of values of an example
            in a token; None for the width of the encoder.
        follow: (parameters after an update, the loss's metric with the head's name, `[B, ...]` of the whole batch) ->
            parameters with updated running statistics; None if the head has none.
    """

    layer: int | None
    init: Callable[[Array, int, int], Any]
    apply: Callable[..., Any]
    target: int | None = None
    follow: Callable[[Any, Any], Any] | None = None


RECORDS: dict[str, tuple[str, str]] = {  # deprecated name of a fact -> its record and its name there
    "trains": ("network", "name"),
    "kind": ("network", "kind"),
    "channels": ("network", "channels"),
    "times": ("network", "times"),
    "forward_mode": ("network", "forward_mode"),
    "judges": ("network", "judges"),
    "trains_schedule": ("network", "schedule"),
    "hollow": ("network", "hollow"),
    "last_layer": ("network", "last_layer"),
    "condition_dropout": ("condition", "dropout"),
    "strength": ("condition", "strength"),
    "interval": ("condition", "interval"),
    "augmentations": ("condition", "augmentations"),
    "masks": ("condition", "masks"),
    "masks_vary": ("condition", "masks_vary"),
    "features": ("blocks", "features"),
    "terms": ("blocks", "terms"),
    "aligned": ("blocks", "aligned"),
    "early": ("blocks", "early"),
    "encoder": ("beside", "encoder"),
    "autoencoder": ("beside", "autoencoder"),
    "perceptual": ("beside", "perceptual"),
    "prompts": ("beside", "prompts"),
    "prior": ("beside", "prior"),
    "pictures": ("beside", "pictures"),
    "metadata": ("beside", "metadata"),
    "block": ("examples", "block"),
    "real": ("examples", "real"),
    "score": ("examples", "score"),
    "pairs": ("examples", "pairs"),
}


def flat(objective: Any) -> dict[str, Any]:
    """The facts of an objective by their names without records, as in config.json."""
    alone = ("loss", "reads", "density", "buffer", "heads", "teacher", "second", "shares")
    within = {name: getattr(getattr(objective, record), field) for name, (record, field) in RECORDS.items()}
    within["prompts"] = dict(within["prompts"])  # any mapping is valid
    return {name: getattr(objective, name) for name in alone} | within
