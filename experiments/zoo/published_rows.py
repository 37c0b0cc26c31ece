"""The rows of the zoo by name, and how one of your own is added."""

import re

from diffusion.experiments.config import ConfigError, unknown
from diffusion.experiments.zoo import published_few_steps, published_transformers, published_unets
from diffusion.experiments.zoo.row import Row

ROWS: dict[str, Row] = {
    row.name: row for topic in (published_transformers, published_unets, published_few_steps) for row in topic.ROWS
}


def add(row: Row) -> None:
    """Adds a row, so that the command lists and measures it: what a file that --extend names does.

    Raises:
        ConfigError: if there is a row of that name, or it is no name.
    """
    if not re.fullmatch(r"\w+", row.name):
        raise ConfigError(f"zoo: the name of a row is {row.name!r}. Valid: letters, digits and underscores.")
    if row.name in ROWS:
        raise ConfigError(f"zoo: there is a row {row.name!r} already. Valid: another name.")
    ROWS[row.name] = row


def find(name: str) -> Row:
    """The row of that name.

    Raises:
        ConfigError: for an unknown name; lists the valid ones.
    """
    if name not in ROWS:
        raise unknown("--row", name, ROWS, "row")
    return ROWS[name]
