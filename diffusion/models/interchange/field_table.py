"""The fields of a published config as one table, read in both directions: their config -> our module, and back.

CONFIG = FieldTable("Their2DModel", Ours, (
    Follows("patch_size", 2),                                        # always 2: another value is refused
    *width_of_heads(24, 128),                                        # num_attention_heads, attention_head_dim
    Field("in_channels", "channels", 4),
    Follows("out_channels", lambda module: module.channels, optional=True),
    Choice("qk_norm", "qk_norm", {None: False, "rms_norm": True}),
), unread={"axes_lens": [300, 512, 512]})
CONFIG.build(config), CONFIG.describe(module)                        # the two directions
FAMILY = CONFIG.family(example, {"diffusers": table}, published={"Theirs, 1 B": {}})
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn

from diffusion.io import schema
from diffusion.models.interchange.family import MAYBE_SIZE, Family, Fields, Refusal, require
from diffusion.models.interchange.rows import Row

A_TABLE = schema.Valid("a table of fields", lambda value: isinstance(value, Mapping))
AS_IT_FOLLOWS: Any = object()
ABSENT: Any = object()
"""The value that `write` of a row returns for a field that is not written."""


class Field(NamedTuple):
    """A field of their config that corresponds to one of our fields.

    Attributes:
        theirs: name in their config.
        ours: name of our module's field.
        default: value where their config lacks it.
        valid: valid values; None: values like the default, see `schema.like`.
        read: (their value, our fields of the rows above) -> our value; None: the same value. A ValueError refuses it.
        write: our module -> their value, or `ABSENT`; None: the same value. A ValueError refuses the module.
    """

    theirs: str
    ours: str
    default: Any = None
    valid: schema.Valid | None = None
    read: Callable[[Any, Mapping[str, Any]], Any] | None = None
    write: Callable[[Any], Any] | None = None

    def taken(self, fields: Fields, ours: Mapping[str, Any]) -> dict[str, Any]:
        """Our field, read from their config."""
        value = fields.take(self.theirs, self.default, self.valid)
        return {self.ours: self.read(value, ours) if self.read else value}

    def written(self, module: Any) -> dict[str, Any]:
        """Their field, read from our module."""
        return {self.theirs: self.write(module) if self.write else getattr(module, self.ours)}


class Choice(NamedTuple):
    """A field of their config with few values; a table maps each value to ours.

    Attributes:
        theirs: name in their config.
        ours: name of our module's field.
        values: {their value: ours}, their default first; if several map to one of ours, the first is written.
    """

    theirs: str
    ours: str
    values: Mapping[Any, Any]

    def taken(self, fields: Fields, ours: Mapping[str, Any]) -> dict[str, Any]:
        """Our field, read from their config."""
        return {self.ours: self.values[fields.only(self.theirs, *self.values)]}

    def written(self, module: Any) -> dict[str, Any]:
        """Their field, read from our module."""
        value = getattr(module, self.ours)
        if value not in self.values.values():
            valid = ", ".join(map(repr, dict.fromkeys(self.values.values())))
            raise ValueError(f"{self.ours} = {value!r} cannot be written in this format. Valid: {valid}.")
        return {self.theirs: next(theirs for theirs, ours in self.values.items() if ours == value)}


class Group(NamedTuple):
    """Several fields of their config that together correspond to one or more of our fields.

    Attributes:
        theirs: {name in their config: (default, valid values)}; the valid values are a schema, None for values like
            the default, or a list of the supported values.
        read: (their values by name, our fields of the rows above) -> our fields by name. A ValueError refuses them.
        write: our module -> their values by name. A ValueError refuses the module.
    """

    theirs: Mapping[str, tuple[Any, schema.Valid | list | None]]
    read: Callable[[dict[str, Any], Mapping[str, Any]], dict[str, Any]]
    write: Callable[[Any], dict[str, Any]]

    def taken(self, fields: Fields, ours: Mapping[str, Any]) -> dict[str, Any]:
        """Our fields, read from their config."""
        values = {
            name: fields.only(name, *valid) if isinstance(valid, list) else fields.take(name, default, valid)
            for name, (default, valid) in self.theirs.items()
        }
        return self.read(values, ours)

    def written(self, module: Any) -> dict[str, Any]:
        """Their fields, read from our module."""
        return self.write(module)


class Follows(NamedTuple):
    """A field of their config whose value follows from our module: that value is written, and any other is refused.

    Attributes:
        theirs: name in their config.
        value: the value, or our module -> the value.
        default: value where their config lacks it; without one, the value that follows.
        optional: whether null stands for the value.
        silent: whether the field is not written; or a function of our module that says so.
    """

    theirs: str
    value: Any
    default: Any = AS_IT_FOLLOWS
    optional: bool = False
    silent: bool | Callable[[Any], bool] = False

    def check(self, fields: Fields, module: Any) -> None:
        """Refuses a config with another value."""
        fields.only(self.theirs, self._value(module), *[None] * self.optional)

    def written(self, module: Any) -> dict[str, Any]:
        """Their field, with the value that follows from our module."""
        silent = self.silent(module) if callable(self.silent) else self.silent
        return {} if silent else {self.theirs: self._value(module)}

    def _value(self, module: Any) -> Any:
        return self.value(module) if callable(self.value) else self.value


class Inline(NamedTuple):
    """A part that is a module in this library, while its fields stand directly in their config.

    Attributes:
        ours: name of our module's field.
        table: the part's fields.
        given: {field of the part: (fields of theirs, our fields of the rows above) -> its value}, for fields that are
            neither read from their config nor written.
        unwritten: further fields of the part that are read and not written.
    """

    ours: str
    table: "FieldTable"
    given: Mapping[str, Callable[[Fields, Mapping[str, Any]], Any]] = {}
    unwritten: Sequence[str] = ()

    def taken(self, fields: Fields, ours: Mapping[str, Any]) -> dict[str, Any]:
        """Our part, read from their config."""
        given = {name: value(fields, ours) for name, value in self.given.items()}
        return {self.ours: self.table.read(fields.with_others(given))}

    def written(self, module: Any) -> dict[str, Any]:
        """The part's fields, read from our module."""
        config = self.table.describe(getattr(module, self.ours))
        return {name: value for name, value in config.items() if name not in (*self.given, *self.unwritten)}


class FieldTable(NamedTuple):
    """All fields of one config: `build` and `describe` of a `Family` are its two directions.

    Attributes:
        name: name of their class, for messages.
        module: our class.
        rows: their fields, in the order in which they are read and written.
        unread: {field of theirs without effect: the value that is written, or None for none}.
        required: {field of ours that their config lacks: its only value}; other modules cannot be written.
    """

    name: str
    module: type[nn.Module]
    rows: Sequence[Field | Choice | Group | Inline | Follows]
    unread: Mapping[str, Any] = {}
    required: Mapping[str, Any] = {}

    def build(self, config: Mapping[str, Any]) -> Any:
        """Our module for their config.

        Raises:
            Refusal: for an unknown field, or a value that our module does not support or refuses.
        """
        fields = Fields(self.name, config)
        module = self.read(fields)
        fields.end()
        return module

    def read(self, fields: Fields) -> Any:
        """Our module for their fields; other fields may stand among them.

        Args:
            fields: their config.

        Raises:
            Refusal: for a value that our module does not support or refuses.
        """
        fields.read.update(self.unread)
        following = [row for row in self.rows if isinstance(row, Follows)]
        absent = {row.theirs: row.default for row in following if row.default is not AS_IT_FOLLOWS}
        fields = fields.with_others({name: value for name, value in absent.items() if name not in fields.config})
        ours = dict(self.required)
        try:
            for row in self.rows:
                if not isinstance(row, Follows):
                    ours |= row.taken(fields, ours)
                elif not callable(row.value):
                    row.check(fields, None)
            module = self.module(**ours)
        except ValueError as why:
            raise why if isinstance(why, Refusal) else Refusal(f"{fields.name}: {why}") from None
        for row in following:
            row.check(fields, module)
        return module

    def describe(self, module: Any) -> dict[str, Any]:
        """Their config for our module; the inverse of `build`.

        Raises:
            Refusal: for a module that their config cannot express.
        """
        require(self.name, module, self.required)
        config: dict[str, Any] = {}
        try:
            for row in self.rows:
                config |= row.written(module)
        except ValueError as why:
            raise why if isinstance(why, Refusal) else Refusal(f"{self.name}: {why}") from None
        config |= {name: value for name, value in self.unread.items() if value is not None}
        return {name: _lists(value) for name, value in config.items() if value is not ABSENT}

    def family(
        self, example: Callable[[Any], tuple], tables: Mapping[str, Callable[[Any], list[Row]]], **others: Any
    ) -> Family:
        """The family with this config.

        Args:
            example: the field of `Family`.
            tables: the field of `Family`.
            **others: other fields of `Family`.
        """
        return Family(self.name, self.module, self.build, self.describe, example, tables, **others)


def zero_or_null(theirs: str, ours: str) -> Field:
    """A size that a network may lack: it is null in their config and 0 in our module."""
    read, write = (lambda size, ours: size or 0), (lambda module: getattr(module, ours) or None)
    return Field(theirs, ours, None, MAYBE_SIZE, read, write)


def without_default(theirs: str, ours: str, valid: schema.Valid) -> Field:
    """A field that every config states."""

    def read(value: Any, _: Mapping[str, Any]) -> Any:
        if value is None:
            raise ValueError(f"the config has no {theirs}.")
        return value

    return Field(theirs, ours, None, schema.optional(valid), read)


def part_of(theirs: str, ours: str, table: FieldTable) -> Field:
    """A field of theirs that is the config of a part, which is a module of ours.

    Args:
        theirs: name in their config.
        ours: name of our module's field.
        table: the part's fields.
    """
    read = lambda config, _: table.build(config)
    return Field(theirs, ours, {}, A_TABLE, read, lambda module: table.describe(getattr(module, ours)))


def tuple_of(ours: str, defaults: Mapping[str, Any]) -> Group:
    """Fields of their config that together are one of our tuples.

    Args:
        ours: name of our module's field.
        defaults: {name in their config: default}, in the order of our tuple.
    """
    return Group(
        {theirs: (default, None) for theirs, default in defaults.items()},
        read=lambda values, _: {ours: tuple(values.values())},
        write=lambda module: dict(zip(defaults, getattr(module, ours))),
    )


def width_of_heads(heads: int, size: int, valid: schema.Valid | None = None) -> tuple[Field, Field]:
    """The fields of diffusers' transformers that determine the width: the heads, and the features of each.

    Args:
        heads: default of num_attention_heads.
        size: default of attention_head_dim.
        valid: valid values of both; None: values like the defaults.
    """
    return (
        Field("num_attention_heads", "heads", heads, valid),
        Field(
            "attention_head_dim",
            "width",
            size,
            valid,
            read=lambda size, ours: size * ours["heads"],
            write=lambda module: module.width // module.heads,
        ),
    )


def _lists(value: Any) -> Any:
    """A value in the types of JSON."""
    return [_lists(entry) for entry in value] if isinstance(value, tuple) else value
