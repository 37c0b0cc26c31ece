"""One architecture that others publish: their config, their names of tensors, and our module for it."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from diffusion.io import limits, schema
from diffusion.models.interchange.rows import Mismatch, Row
from diffusion.models.interchange.tensor_files import Tensors

# The types of fields whose default does not determine it; see `schema.like` for the others.
SIZE = schema.integer(1)
SIZES = schema.several(SIZE, 1, 16)
MAYBE_SIZE = schema.optional(schema.integer())
DEPTH = schema.integer(0, 512)  # the deepest published network has 57
LAYERS = schema.integer(0, 64)  # layers of each block of an autoencoder or U-Net, all of them traced; published: 10
BLOCKS = schema.integer(1, 512)  # blocks of a level
EPSILON = schema.number(0, 1)  # of a norm
SCALE = schema.number(1e-9, 1e9)  # of latents, which are divided by it
MAYBE_NUMBER = schema.optional(schema.number())
SIDES = schema.optional(schema.either(SIZE, schema.several(SIZE, 2, 2)))


class Refusal(ValueError):
    """A config has a value that our module does not support; the message names the field and the valid values."""


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Puts the name of a file before the refusal of a value in it, unless the message has it.

    Args:
        path: the file or folder that the values are read from.

    Raises:
        Refusal: for any other ValueError, such as the error for a name that is not in a table.
    """
    try:
        yield
    except ValueError as error:
        known = isinstance(error, (Refusal, Mismatch, limits.Refused))
        named = os.fspath(path) in str(error)
        if known and named:
            raise
        raise (type(error) if known else Refusal)(str(error) if named else f"{path}: {error}") from error


class Computed(NamedTuple):
    """A tensor in a file that is computed, not learned.

    Attributes:
        shape: its shape, known before `make` is called: a hostile config may have any size.
        make: () -> the array.
    """

    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]


class Family(NamedTuple):
    """One architecture, in both directions.

    Attributes:
        name: name of the class in the library that publishes it, e.g. "UNet2DConditionModel".
        module: our class.
        build: their config.json, as a mapping -> our module. Unknown or unsupported values are a `Refusal`.
        describe: our module -> their config.json; the inverse of `build` up to fields at their defaults.
        example: our module -> arguments of its call, as arrays or jax.ShapeDtypeStruct, small, to find its parameters.
        tables: (our module -> rows) of each layout ("diffusers", "transformers", "original", ...).
        stem: stem of the name of the weights' file in a folder.
        library: library that opens the folder: "diffusers" or "transformers".
        ignored: regular expressions of whole names of tensors without information, such as position_ids.
        dropped: regular expressions of whole names of tensors that a network needs only in training, each with a text
            that names them; a warning says so where a file has them.
        computed: our module -> their tensors that are computed, not learned; checked when read, written when written.
        published: configs of published checkpoints by name, so that its shapes identify a single file.
        prefixes: prefixes of the names in single files of several networks, "model.diffusion_model.", an average before
            its weights; where several fit, the first is read.
        beside: regular expressions by published config, for configs that names and shapes do not distinguish (the scale
            of latents): the beginning of a name that only files with this config have.
        also: other classes under whose names its networks are published, each with the fields of its config
            that identify this one.
        varied: (our module, tensors of a file) -> our module, if the numbers determine a field that the config lacks.
        other: our class for the configs that describe another network.
        repeated: (our module, its parameters) -> fields of the config that repeat numbers of the tensors; they are
            written, and nothing is read from them but what `build` takes.
        kohya: the layout of `tables` whose names kohya's programs have in LoRA files; "" is the first.
    """

    name: str
    module: type[nn.Module]
    build: Callable[[Mapping[str, Any]], nn.Module]
    describe: Callable[[Any], dict[str, Any]]  # each takes its own class, so that the type is Any here
    example: Callable[[Any], tuple]
    tables: Mapping[str, Callable[[Any], list[Row]]]
    stem: str = "diffusion_pytorch_model"
    library: str = "diffusers"
    ignored: tuple[str, ...] = ()
    dropped: Mapping[str, str] = {}
    computed: Callable[[Any], dict[str, Computed]] | None = None
    published: Mapping[str, Mapping[str, Any]] = {}
    prefixes: tuple[str, ...] = ("",)
    beside: Mapping[str, str] = {}
    also: Mapping[str, Mapping[str, Any]] = {}
    varied: Callable[[Any, Tensors], nn.Module] | None = None
    other: type[nn.Module] | None = None
    repeated: Callable[[Any, Any], dict[str, Any]] | None = None
    kohya: str = ""

    @property
    def first_layout(self) -> str:
        """The layout of the library that publishes it, the first of `tables`."""
        return next(iter(self.tables))


def require(name: str, module: Any, required: Mapping[str, Any]) -> None:
    """Refuses a module if a field has another value than the only one of the published class.

    Args:
        name: name of the published class.
        module: module to be written.
        required: required values by field.

    Raises:
        Refusal: naming the field.
    """
    only(name, module, **{field: (value,) for field, value in required.items()})


def only(name: str, module: Any, **valid: tuple) -> None:
    """Refuses a module if a field has none of the few values of the published class.

    Args:
        name: name of the published class.
        module: module to be written.
        **valid: the valid values of a field.

    Raises:
        Refusal: naming the field.
    """
    for field, values in valid.items():
        if getattr(module, field) not in values:
            raise Refusal(
                f"{name}: {field} = {getattr(module, field)!r} cannot be written in this format. Valid: "
                f"{' and '.join(map(repr, values))}."
            )


def array(*shape: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    """The shape and type of an argument of a network's call, for `Family.example`."""
    return jax.ShapeDtypeStruct(shape, dtype)


def prompted(*grid: int, masked: bool = False) -> Callable[[Any], tuple]:
    """The `Family.example` of a network that receives prompts.

    Args:
        grid: sides of the latents; [patch, patch], the sides of one patch, for a network without latents.
        masked: whether the condition needs "text_mask".

    Returns:
        Module -> latents, times and the condition: "text", and "pooled" and "strength" where its fields say so.
    """

    def example(module: Any) -> tuple:
        condition = {"text": array(1, 1, module.text_width)}
        condition |= {"text_mask": array(1, 1, dtype=bool)} if masked else {}
        condition |= {"pooled": array(1, module.pooled_width)} if getattr(module, "pooled_width", 0) else {}
        condition |= {"strength": array(1)} if getattr(module, "strength", False) else {}
        channels = getattr(module, "in_channels", module.channels)
        return array(1, *(grid or 2 * (module.patch,)), channels), array(1), condition

    return example


def by_layout(table: Callable[..., list[Row]], layouts: Iterable[str]) -> dict[str, Callable[[Any], list[Row]]]:
    """The `Family.tables` of one function, (module, layout=name of the layout) -> rows."""
    return {layout: functools.partial(table, layout=layout) for layout in layouts}


# Fields of every config.json that describe the file; so do those that begin with "_".
ABOUT = ("architectures", "model_type", "transformers_version", "torch_dtype", "dtype")


class Fields:
    """Their config, read field by field, so that no field is ignored by mistake.

    Every field is read, or known to have no effect on the network, or an error: ignoring a field would give other
    pictures.
    """

    def __init__(
        self,
        name: str,
        config: Mapping[str, Any],
        without_effect: tuple[str, ...] = (),
        kinds: Mapping[str, schema.Valid] | None = None,
    ):
        """Args:
        name: name of the architecture, for messages.
        config: their config.json.
        without_effect: fields that do not change what the network computes, such as "sample_size".
        kinds: valid values of fields, if one table has them for all readers.
        """
        self.name, self.config, self.read = name, config, {*ABOUT, *without_effect}
        self.kinds = kinds or {}

    def take(self, field: str, default: Any = None, valid: schema.Valid | None = None) -> Any:
        """The value, or their default if the config lacks it. Lists become tuples.

        Args:
            field: its name.
            default: theirs.
            valid: its valid values; None: as in `kinds`, or a value of the default's type, see `schema.like`.

        Raises:
            Refusal: for a value of another type, or out of range.
        """
        self.read.add(field)
        if field not in self.config:
            return _tuples(default)
        value = self.config[field]
        if why := schema.objection(field, value, valid or self.kinds.get(field) or schema.like(default)):
            raise Refusal(f"{self.name}: {why}")
        return _tuples(value)

    def only(self, field: str, *valid: Any) -> Any:
        """The value of a field; our module supports few values, and the first is their default.

        Raises:
            Refusal: for any other value; true is not 1, and false is not 0.
        """
        self.read.add(field)
        value = _tuples(self.config.get(field, valid[0]))
        for one in valid:
            if value == one and _flags(value) == _flags(one):
                return one
        raise Refusal(
            f"{self.name}: {field} = {limits.short(value)} is not supported; supported: {', '.join(map(repr, valid))}."
        )

    def with_others(self, values: Mapping[str, Any]) -> "Fields":
        """These fields with other values of some; a field that is read from one counts as read in both.

        Args:
            values: the other values by field.
        """
        others = Fields(self.name, {**self.config, **values}, kinds=self.kinds)
        others.read = self.read
        return others

    def end(self) -> None:
        """Checks that every field was read; call it last.

        Raises:
            Refusal: for a field that was not read and has a value.
        """
        for field, value in self.config.items():
            if field.startswith("_") or field in self.read or value in (None, False):
                continue
            raise Refusal(
                f"{self.name}: the config sets {field[:100]} = {limits.short(value)}, which this version does not know."
            )


def _flags(value: Any) -> Any:
    """Whether a value, or each entry of a list, is true or false."""
    return tuple(map(_flags, value)) if isinstance(value, tuple) else isinstance(value, bool)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, (list, tuple)) else value
