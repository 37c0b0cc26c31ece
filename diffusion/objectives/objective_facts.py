"""Facts of an objective that belong together: records, and the names of before records held them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax import Array


class Prior(NamedTuple):
    """Pictures of a class beside the examples, which the tuned model makes before the training.

    Attributes:
        prompt: prompt of the class; "": whoever trains puts the examples of the class into the batch.
        number: number of pictures, at least 1.
    """

    prompt: str = ""
    number: int = 200


class Trained(NamedTuple):
    """The network that the gradient goes to, as the loss calls it.

    Attributes:
        name: its name among the networks.
        kind: its kind: "backbone", "autoencoder", "decoder", or "towers" of images and texts.
        channels: number of its output channels for each channel of the data; None: the number that the run's
            parameterization reads.
        times: number of times that it receives: 1, or 2 for networks that jump from one to the other.
        forward_mode: whether the loss differentiates it in forward mode (`jax.jvp`), which fused attention does not
            have.
        judges: the network as a classifier: (network, schedule, labels `[B]`) -> the function
            (x_t, t) -> log p(y | x_t) `[B]`; None for a network that is no classifier.
        schedule: whether values under different schedules can be compared, so that the objective may train one.
        hollow: whether its output at each position must depend on the other positions alone.
        last_layer: whether the loss computes the last layer itself, from what a call with `states=True` returns.
        causal: number of positions of a block that is trained beside clean earlier ones, which a block-causal network
            must have too; 0: no block is, so that no block-causal network serves. None: any network serves.
        process: the process of the symbols that a classifier of noised symbols takes; None for others.
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
        """Refuses a network of another kind, or one that is called otherwise, as `Objective.check_network`.

        Raises:
            ValueError: naming what is valid.
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
                "the objective asks of each position what the others tell of it, but in this network a position sees "
                "itself. Valid: a network with hollow = True, e.g. symbol_transformer"
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
                "causal), so that samples are made block by block beside clean earlier ones, which are not trained. "
                f"Valid: causal = 0, or block_diffusion with block = {causal}"
            )
        if self.causal and causal not in (0, self.causal):
            raise ValueError(
                f"the objective trains blocks of {self.causal} positions (its block), but the network sees blocks of "
                f"{causal} (its causal). Valid: block = {causal}, causal = {self.causal}, or causal = 0, in which all "
                "positions see each other"
            )


class Condition(NamedTuple):
    """The loss's changes of the network's condition.

    Attributes:
        dropout: share of the examples that are trained on the null condition.
        strength: least and largest guidance scale that the network is trained for and receives in its condition; the
            loss calls it with (condition, scale - 1 `[B]`). None: it receives none.
        interval: whether it also receives the times from and to which it is guided; the loss calls it with
            (condition, scale - 1 `[B]`, interval `[B, 2]`).
        augmentations: number of values that describe an example's augmentation, which the loss adds as "augment".
        masks: side of the patches, if the loss leaves out some of them by the entry "keep"; 0: it leaves out no patch.
        masks_vary: whether the number of patches left out varies between examples; "keep" is then padded with -1.
    """

    dropout: float = 0.0
    strength: tuple[float, float] | None = None
    interval: bool = False
    augmentations: int = 0
    masks: int = 0
    masks_vary: bool = False

    def check(self, network: Any) -> None:
        """Refuses a network that does not receive this condition, as `Objective.check_network`.

        Raises:
            ValueError: naming what is valid.
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
        features: their indices: the loss calls the network with `features`.
        terms: names of the terms on features that are added to the objective, as its metrics have them.
        aligned: names of the terms that align the features with the frozen encoder's.
        early: (name, layer) of the head whose output has the meaning of the model's, from that block's features; None:
            there is none.
    """

    features: tuple[int, ...] = ()
    terms: tuple[str, ...] = ()
    aligned: tuple[str, ...] = ()
    early: tuple[str, int] | None = None


class Beside(NamedTuple):
    """The networks and texts beside the trained network of a run.

    Attributes:
        encoder: whether the loss reads the frozen network "encoder" of clean pictures.
        autoencoder: whether an autoencoder trains with the model, as its head of that name: the model reads latents,
            and the batch holds pictures.
        perceptual: whether the loss compares pictures by the frozen network "features", where there is one.
        prompts: texts by name, whose conditions the run adds to each batch as its "prompts"; beside them the loss reads
            the frozen network "base", which the run tunes.
        prior: pictures of a class, of which each example has one beside it, as the batch's "prior"; None: there are
            none.
        pictures: whether the loss reads samples as pictures: a run that tunes a base of latents adds the frozen network
            "pictures", x_0 -> pictures, which decodes them.
        metadata: caption -> {name: number or array}, facts of each example's caption, which the run adds to each batch
            as its "metadata", {name: `[B, ...]`}; None: the loss reads none.
    """

    encoder: bool = False
    autoencoder: bool = False
    perceptual: bool = False
    prompts: Mapping[str, str] = {}
    prior: Prior | None = None
    pictures: bool = False
    metadata: Callable[[str], Mapping[str, Any]] | None = None


class Examples(NamedTuple):
    """How the loss takes the examples of a batch.

    Attributes:
        block: number of consecutive examples that are compared with each other; 1: each stands alone. None: all
            examples of the batch are compared.
        real: whether the losses are means over the real values of x, where the batch has their mask
            (`diffusion.padding`).
        score: whether the trained denoiser determines the score, as it does where x and its noise are independent.
        pairs: whether each example has beside it one that was preferred less, the batch's "rejected".
    """

    block: int | None = 1
    real: bool = False
    score: bool = True
    pairs: bool = False


class Buffer(NamedTuple):
    """Samples, and what was computed from them, that the training carries from one step to the next.

    The loss finds them as the batch's "buffer". Where they are absent, it makes new ones.

    Attributes:
        init: () -> the buffer before the first step, a pytree of arrays.
        update: (the buffer, the loss's metric "buffer", a pytree of arrays `[B, ...]` of the whole batch, step) -> the
            buffer.
    """

    init: Callable[[], Any]
    update: Callable[[Any, Any, Any], Any]


class Head(NamedTuple):
    """A small network that trains with the model, and whose parameters stand beside the model's.

    Attributes:
        layer: the block of the model whose features it receives; 0: the latents of an autoencoder;
            None: it receives none.
        init: (key, number of these features, number of features of its output) -> parameters; without features both
            numbers are 0.
        apply: (parameters, *inputs) -> output; objectives call it as networks[name](*inputs).
        target: the block of the model whose number of features the output has; 0: the output has an example's values
            per token; None: the encoder's number of features.
        follow: (parameters after an update, the loss's metric of the head's name, `[B, ...]` of the whole batch) ->
            parameters with updated running statistics; None: the head has none.
    """

    layer: int | None
    init: Callable[[Array, int, int], Any]
    apply: Callable[..., Any]
    target: int | None = None
    follow: Callable[[Any, Any], Any] | None = None


RECORDS: dict[str, tuple[str, str]] = {  # a fact by itself -> its record and its name there
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
    """The facts of an objective by their single names, as config.json describes them."""
    alone = ("loss", "reads", "density", "buffer", "heads", "teacher", "second", "shares")
    within = {name: getattr(getattr(objective, record), field) for name, (record, field) in RECORDS.items()}
    within["prompts"] = dict(within["prompts"])  # any mapping is valid
    return {name: getattr(objective, name) for name in alone} | within
