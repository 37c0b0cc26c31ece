"""The fields of a published config as one table, read in both directions: their config -> our module, and back.

CONFIG = FieldTable("Their2DModel", Ours, (
    Follows("patch_size", 2),                                        # always 2: another value is refused
    Field("num_attention_heads", "heads", 24),
    Field("attention_head_dim", "width", 128, read=lambda size, ours: size * ours["heads"],
          write=lambda module: module.width // module.heads),
    Follows("out_channels", lambda module: module.channels, optional=True),
), unread={"axes_lens": [300, 512, 512]})
CONFIG.build(config), CONFIG.describe(module)                        # the functions of a `Family`
"""

__all__ = ["Field", "FieldTable", "Follows", "Group"]

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn

from diffusion.io import schema
from diffusion.models.interchange.family import Fields

AS_IT_FOLLOWS: Any = object()


class Field(NamedTuple):
    """A field of theirs that one of ours holds.

    Attributes:
        theirs: name in their config.
        ours: name of our module's field.
        default: value where their config lacks it.
        valid: valid values; None: those like the default, see `schema.like`.
        read: (their value, our fields of the rows above) -> our value; None: it is theirs.
        write: our module -> their value; None: it is ours.
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


class Group(NamedTuple):
    """Several fields of theirs that together are one or more of ours.

    Attributes:
        theirs: {name in their config: (default, valid values or None)}.
        read: (their values by name, our fields of the rows above) -> our fields by name; may refuse.
        write: our module -> their values by name; may refuse.
    """

    theirs: Mapping[str, tuple[Any, schema.Valid | None]]
    read: Callable[[dict[str, Any], Mapping[str, Any]], dict[str, Any]]
    write: Callable[[Any], dict[str, Any]]

    def taken(self, fields: Fields, ours: Mapping[str, Any]) -> dict[str, Any]:
        """Our fields, read from their config."""
        values = {name: fields.take(name, default, valid) for name, (default, valid) in self.theirs.items()}
        return self.read(values, ours)

    def written(self, module: Any) -> dict[str, Any]:
        """Their fields, read from our module."""
        return self.write(module)


class Follows(NamedTuple):
    """A field of theirs that our module leaves no choice: it is written as it follows, and another value is refused.

    Attributes:
        theirs: name in their config.
        value: the value, or our module -> the value.
        default: value where their config lacks it; without one, the value that follows.
        optional: whether null stands for the value.
        silent: whether it is not written.
    """

    theirs: str
    value: Any
    default: Any = AS_IT_FOLLOWS
    optional: bool = False
    silent: bool = False

    def check(self, fields: Fields, module: Any) -> None:
        """Refuses a config with another value."""
        fields.only(self.theirs, self._value(module), *[None] * self.optional)

    def written(self, module: Any) -> dict[str, Any]:
        """Their field, as it follows from our module."""
        return {} if self.silent else {self.theirs: self._value(module)}

    def _value(self, module: Any) -> Any:
        return self.value(module) if callable(self.value) else self.value


class FieldTable(NamedTuple):
    """All fields of one config: `build` and `describe` of a `Family` are its two directions.

    Attributes:
        name: name of their class, for messages.
        module: our class.
        rows: their fields, in the order in which they are read and written.
        unread: their fields that change nothing, with the value that is written, or None for one that is not.
    """

    name: str
    module: type[nn.Module]
    rows: Sequence[Field | Group | Follows]
    unread: Mapping[str, Any] = {}

    def build(self, config: Mapping[str, Any]) -> Any:
        """Our module for their config.

        Raises:
            Refusal: for a field that our module does not support, or an unknown one.
        """
        following = [row for row in self.rows if isinstance(row, Follows)]
        absent = {row.theirs: row.default for row in following if row.default is not AS_IT_FOLLOWS}
        fields = Fields(self.name, absent | dict(config), tuple(self.unread))
        ours: dict[str, Any] = {}
        for row in self.rows:
            if not isinstance(row, Follows):
                ours |= row.taken(fields, ours)
        module = self.module(**ours)
        for row in following:
            row.check(fields, module)
        fields.end()
        return module

    def describe(self, module: Any) -> dict[str, Any]:
        """Their config for our module; the inverse of `build`."""
        config: dict[str, Any] = {}
        for row in self.rows:
            config |= row.written(module)
        unread = {name: value for name, value in self.unread.items() if value is not None}
        return {name: _lists(value) for name, value in (config | unread).items()}


def _lists(value: Any) -> Any:
    """A value as JSON has it."""
    return [_lists(entry) for entry in value] if isinstance(value, tuple) else value
