"""Files of rows: what a table says, what a row takes from another, and what is refused in a sentence."""

import flax.linen as nn
import pytest

from diffusion.experiments.zoo import published_rows, velocity_signs
from diffusion.experiments.zoo.row import Checkpoint, Measured, Published, Row
from diffusion.recipe import ConfigError

FIRST = """
[programs]
unpickle = "import pickle"

[first]
method = "First"
checkpoint = {repository = "us/ours", file = "first.pt", family = "DiT", taken = "negated", export = "unpickle"}
recipe = "digits"
changes.model = {name = "unet", heads = "null", widths = [8, 16]}
changes."sample.steps" = 5
protocol = "adm"
reference = "digits.npz"
published = {metric = "fid", value = 2.5, source = "us"}
measured = {value = 2.6, standard_error = 0.1, number = 9, device = "H100", day = "2026-11-24", command = "zoo"}
loss = "0.5 after 9 steps (us, figure 1)."
notes = ["One."]
"""
SECOND = """
[second]
like = "first"
method = "Second"
changes.model = {widths = [4]}
checkpoint.stored = {depth = 3}
published.value = 1.5
"""


def read(tmp_path, text):
    path = tmp_path / "ours.toml"
    path.write_text(text)
    return published_rows.read(path)


def test_a_table_is_a_row(tmp_path):
    (row,) = read(tmp_path, FIRST)
    assert row == Row(
        "first",
        "First",
        Checkpoint("us/ours", "first.pt", "DiT", taken=velocity_signs.negated, export="import pickle"),
        "digits",
        {"model": {"name": "unet", "heads": None, "widths": (8, 16)}, "sample.steps": 5},
        "adm",
        "digits.npz",
        Published("fid", 2.5, "us"),
        measured=Measured(2.6, 0.1, 9, "H100", "2026-11-24", "zoo"),
        loss="0.5 after 9 steps (us, figure 1).",
        notes=("One.",),
    )


class Network(nn.Module):
    depth: int = 1


def test_a_row_takes_from_an_earlier_one_what_it_does_not_say_but_no_measurement_and_no_loss(tmp_path):
    first, second = read(tmp_path, FIRST + SECOND)
    changes = {"model": {"name": "unet", "heads": None, "widths": (4,)}, "sample.steps": 5}
    stored = second.checkpoint.stored
    assert stored(Network()) == Network(depth=3)
    assert second == first._replace(
        name="second",
        method="Second",
        changes=changes,
        checkpoint=first.checkpoint._replace(stored=stored),
        published=Published("fid", 1.5, "us"),
        measured=None,
        loss="",
    )
    _, other = read(tmp_path, FIRST + SECOND.replace("{widths = [4]}", '{name = "dit"}'))
    assert other.changes["model"] == {"name": "dit"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FIRST.replace("recipe", "recipes"), r"ours.toml: first: unknown field 'recipes'. Did you mean 'recipe'"),
        (FIRST.replace("family", "famly"), r"first.checkpoint: unknown field 'famly'"),
        (FIRST.replace("source", "by"), r"first.published: unknown field 'by'"),
        (FIRST.replace("day =", "date ="), r"first.measured: unknown field 'date'"),
        (FIRST.replace('protocol = "adm"\n', ""), r"first.protocol is missing"),
        (FIRST.replace('"negated"', '"negate"'), r"checkpoint.taken: unknown function 'negate'.*'negated'"),
        (FIRST.replace('"unpickle"}', '"pickle"}'), r"checkpoint.export: unknown program 'pickle'.*'unpickle'"),
        (SECOND + FIRST.partition("\n\n")[2], r"second.like: unknown earlier row 'first'"),
        (FIRST + "[first]", r"ours.toml: .*first"),
    ],
)
def test_what_a_file_of_rows_may_not_say(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)
