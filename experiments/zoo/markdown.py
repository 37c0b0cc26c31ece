"""The rows of the zoo in Markdown: a table, the programs that rewrite pickles, and each row with its commands.

`diffusion zoo --page=FILE` writes them, and `make site` puts them behind docs/zoo.md.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from diffusion.experiments.evaluation import report
from diffusion.experiments.zoo import checkpoint_file, sampling_cost
from diffusion.experiments.zoo.row import DTYPE, Row
from diffusion.recipe import checks
from diffusion.recipe.values import plain

HOURS = """\

"Hours" is the time of one H100 for all samples of the row, computed from the network's operations at SHARE of the
peak. The peak is that of bfloat16, or half of it for a network in float32, whose products are TensorFloat-32. The share
is an assumption. The time of the decoder and of the features is not included.

## Programs that write pickles as safetensors

"""

OTHER_OUTPUT = (
    "- The network in the file, and in a folder that `diffusion convert` makes from it, returns a velocity with the "
    "other sign than the network of the config. `diffusion zoo` adapts its last layer. If you sample with the folder "
    "in another way, you must do the same."
)


class Facts(NamedTuple):
    """The facts of a row that are computed from its network, not stated in its table.

    Attributes:
        parameters: the number of parameters of the network.
        cost: the cost of the row's samples.
    """

    parameters: int
    cost: sampling_cost.Cost


def facts(row: Row) -> Facts:
    """The facts of a row; they take a second, in which its network is traced.

    Raises:
        ConfigError: if the row's changes do not fit its recipe.
    """
    recipe = checks.validate(row.config())
    return Facts(checkpoint_file.parameters(recipe), sampling_cost.cost(recipe, row.number))


def page(rows: Iterable[Row], known: Callable[[Row], Facts] = facts) -> str:
    """The page in Markdown: a table of the rows, and a section for each of them.

    Args:
        rows: the rows in their order.
        known: a function from a row to its facts.
    """
    rows_with_facts = [(row, known(row)) for row in rows]
    header = ("method", "checkpoint", "config here", "parameters", "published", "ours", "hours")
    table = report.table(header, [_line(*one) for one in rows_with_facts])
    sections = "\n".join(section(*one) for one in rows_with_facts)
    programs = _programs([row for row, _ in rows_with_facts])
    hours = HOURS.replace("SHARE", f"{sampling_cost.UTILISATION:.0%}")
    return f"## All rows\n\n{table}\n{hours}{programs}## Rows\n\n{sections}"


def _line(row: Row, known: Facts) -> tuple[str, ...]:
    """The row in the table."""
    checkpoint = row.checkpoint
    return (
        f"[{row.method}](#{row.name})",
        f"{checkpoint.repository}, `{checkpoint.file}`",
        f"`{row.recipe}`" + (", changed" if row.changes else ""),
        f"{known.parameters:,}",
        published(row),
        ours(row),
        f"{known.cost.seconds / 3600:.2g}",
    )


def published(row: Row) -> str:
    """The authors' figure, with its protocol."""
    figure = row.published
    return f"{figure.metric} {figure.value:.2f} ({row.protocol or 'pixels'})"


def ours(row: Row) -> str:
    """Our figure with its error, or a statement that there is none."""
    if row.measured is None:
        return "not measured"
    value = f"{row.measured.value:.2f} ± {row.measured.standard_error:.2f}"
    return value if row.measured.number == row.number else f"{value}, {row.measured.number:,} samples"


def _programs(rows: Iterable[Row]) -> str:
    """The programs that write pickles as safetensors, each once, with the rows that need it."""
    rows_by_program: dict[str, list[str]] = {}
    for row in rows:
        if row.checkpoint.export:
            rows_by_program.setdefault(row.checkpoint.export, []).append(row.name)
    parts = [
        f"For {', '.join(f'`{name}`' for name in names)}:\n\n```python\n{text}```\n\n"
        for text, names in rows_by_program.items()
    ]
    return "".join(parts)


def section(row: Row, known: Facts) -> str:
    """The section of one row, as the page and the command show it."""
    config = row.config()
    cost = known.cost
    evaluations = _count(cost.evaluations, "evaluation")
    checkpoint = row.checkpoint
    lines = [
        f"### {row.name}",
        "",
        f"{row.method}: {known.parameters:,} parameters.",
        "",
        f"- Checkpoint: {checkpoint.repository}, `{checkpoint.file}` (names of `{checkpoint.family}`).",
        f"- Config: `{row.recipe}`{_changed(row.changes)}",
        f"- Samples: {sampling(config)}; {row.number:,}, each by {evaluations} of the network "
        f"({cost.flops / 1e9:,.0f} GFLOP), in {config.train.dtype}.",
    ]
    if row.autoencoder:
        lines.append(f"- Latents: decoded by {row.autoencoder}.")
    if row.autoencoder_config:
        fields = json.dumps(dict(row.autoencoder_config))
        lines.append(
            f"- The config.json in the autoencoder's folder has these fields in place of its own: `{fields[1:-1]}`."
        )
    lines += [
        f"- Published: {published(row)}. {row.published.source}. Reference: `{row.reference}`.",
        f"- Ours: {ours(row)}.",
    ]
    if row.measured is not None:
        lines.append(f"- Measured on {row.measured.device}, {row.measured.day}: `{row.measured.command}`.")
    if row.loss:
        lines.append(f"- Loss in training: {row.loss}")
    if checkpoint.differs:
        lines.append(OTHER_OUTPUT)
    lines += [f"- {note}" for note in row.notes]
    before = f"unzip {checkpoint.file}\n" if checkpoint.inside else ""
    if checkpoint.export:
        before = f"python export.py {checkpoint.file} {checkpoint.readable}   # the program above\n"
    lines += ["", "```", f"{before}{row.convert()}", row.measure(), "```", ""]
    return "\n".join(lines)


def sampling(config: ConfigDict) -> str:
    """The sampler, the grid and the guidance of a config, as text."""
    sample = config.sample
    parts = [f"{_entry(sample.sampler)}, {_entry(sample.grid)} in {_count(sample.steps, 'step')}"]
    if sample.guidance.scale != 1:
        parts.append(_entry(sample.guidance))
    return ", ".join(parts)


def _entry(entry: Mapping[str, Any]) -> str:
    """An entry of a config: its name and arguments, without the arguments that are None."""
    values = {name: value for name, value in plain(entry).items() if value is not None}
    name = values.pop("name")
    arguments = ", ".join(f"{key} = {_value(value)}" for key, value in values.items())
    return f"`{name}` ({arguments})" if arguments else f"`{name}`"


def _changed(changes: Mapping[str, Any]) -> str:
    """The changes of a recipe's network and process; the changes of its samples are said beside."""
    mine = {
        field: value
        for field, value in changes.items()
        if not field.startswith(("sample.", "objective")) and field != DTYPE
    }
    if not mine:
        return "."
    return f", with {'; '.join(f'`{field}` = {_value(value)}' for field, value in mine.items())}."


def _value(value: Any) -> str:
    """A value of a config; an entry by its name and arguments."""
    return _entry(value) if isinstance(value, Mapping) else f"{value}"


def _count(number: int, unit: str) -> str:
    """ "1 step", "2 steps"."""
    return f"{number:,} {unit}{'' if number == 1 else 's'}"
