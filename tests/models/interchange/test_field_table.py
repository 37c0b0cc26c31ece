"""One list of fields, read and written: every kind of row, on a config small enough to be checked by hand."""

import flax.linen as nn
import pytest

from diffusion.io import schema
from diffusion.models.interchange.family import Refusal
from diffusion.models.interchange.field_table import (
    ABSENT,
    Choice,
    Field,
    FieldTable,
    Follows,
    Inline,
    tuple_of,
    width_of_heads,
    without_default,
    zero_or_null,
)
from diffusion.models.interchange.square_images import doubled_channels, side_of_shape


class Net(nn.Module):
    """A network of fields alone."""

    shape: tuple = (8, 8, 3)
    learn_sigma: bool = False
    heads: int = 2
    width: int = 6
    norm: bool = False
    words: int = 0
    grid: tuple = (1, 2)
    strength: bool = False
    ratio: float = 4.0

    def __post_init__(self):
        if self.width > 100:
            raise ValueError(f"width={self.width} is too wide")
        super().__post_init__()


TABLE = FieldTable(
    "Theirs",
    Net,
    (
        side_of_shape("sample_size", 8, "in_channels", 3),
        doubled_channels(None),
        *width_of_heads(2, 3),
        Choice("norm", "norm", {None: False, "rms": True, "RMS": True}),
        zero_or_null("words", "words"),
        tuple_of("grid", {"rows": 1, "columns": 2}),
        Field("guided", "strength", False, write=lambda module: module.strength or ABSENT),
        Follows("inner", lambda module: module.width, default=6),
    ),
    required={"ratio": 2.0},
)
WRITTEN = {
    "sample_size": 8, "in_channels": 3, "out_channels": 3, "num_attention_heads": 2, "attention_head_dim": 3,
    "norm": None, "words": None, "rows": 1, "columns": 2, "inner": 6,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "ours", "theirs"),
    [
        ({}, {}, {}),
        ({"out_channels": 6}, {"learn_sigma": True}, {"out_channels": 6}),
        ({"in_channels": 4, "out_channels": 4}, {"shape": (8, 8, 4)}, {"in_channels": 4, "out_channels": 4}),
        ({"attention_head_dim": 5, "inner": 10}, {"width": 10}, {"attention_head_dim": 5, "inner": 10}),
        ({"norm": "RMS"}, {"norm": True}, {"norm": "rms"}),
        ({"words": 7}, {"words": 7}, {"words": 7}),
        ({"columns": 5}, {"grid": (1, 5)}, {"columns": 5}),
        ({"guided": True}, {"strength": True}, {"guided": True}),
    ],
)
def test_a_config_is_read_and_written(config, ours, theirs):
    module = TABLE.build(config)
    assert module == Net(**ours, ratio=2.0)
    assert TABLE.describe(module) == WRITTEN | theirs


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"out_channels": 5}, "Theirs: out_channels = 5 is not supported; supported: 3, 6"),
        ({"attention_head_dim": 60, "inner": 120}, "Theirs: width=120 is too wide"),
        ({"attention_head_dim": 4}, "Theirs: inner = 6 is not supported; supported: 8"),
        ({"norm": "layer"}, "Theirs: norm = 'layer' is not supported; supported: None, 'rms', 'RMS'"),
    ],
)
def test_a_config_of_another_network_is_refused(config, words):
    with pytest.raises(Refusal, match=words):
        TABLE.build(config)


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        ({"ratio": 4.0}, r"Theirs: ratio = 4\.0 cannot be written in this format\. Valid: 2\.0"),
        ({"shape": (8, 4, 3)}, r"Theirs: shape = \(8, 4, 3\) must be the shape of square images"),
        ({"norm": "layer"}, r"Theirs: norm = 'layer' cannot be written in this format\. Valid: False, True"),
    ],
)
def test_a_module_that_theirs_cannot_express_is_refused(ours, words):
    with pytest.raises(Refusal, match=words):
        TABLE.describe(Net(**{"ratio": 2.0, **ours}))


@pytest.mark.parametrize("config", [{}, {"words": None}])
def test_a_field_without_a_default_is_in_every_config(config):
    table = FieldTable("Theirs", Net, (without_default("words", "words", schema.integer(0)),))
    assert table.build({"words": 5}).words == 5
    assert table.describe(Net(words=5)) == {"words": 5}
    with pytest.raises(Refusal, match=r"^Theirs: the config has no words\.$"):
        table.build(config)
    with pytest.raises(Refusal, match=r"words = 1\.5. Valid: a whole number"):
        table.build({"words": 1.5})


class Beside(nn.Module):
    """A network that holds another."""

    net: Net
    depth: int = 1


INNER = FieldTable(
    "Inner",
    Net,
    (
        Field("heads", "heads", 2),
        Field("width", "width", 6),
        Follows("twice", lambda module: 2 * module.heads, default=4),
        Field("guided", "strength", False),
        Follows("far", 0, silent=lambda module: module.heads == 3),
    ),
    unread={"memory": None},
)
OUTER = FieldTable(
    "Outer",
    Beside,
    (
        Field("depth", "depth", 1),
        Inline("net", INNER, {"width": lambda fields, ours: 10 * ours["depth"] + fields.take("heads", 2)}, ["guided"]),
        Follows("width", lambda module: module.depth, default=1),
    ),
)


@pytest.mark.parametrize(
    ("config", "module", "written"),
    [
        ({}, Beside(Net(heads=2, width=12)), {"depth": 1, "heads": 2, "twice": 4, "far": 0, "width": 1}),
        (
            {"depth": 4, "heads": 3, "twice": 6, "width": 4, "guided": True, "memory": 7},
            Beside(Net(heads=3, width=43, strength=True), 4),
            {"depth": 4, "heads": 3, "twice": 6, "width": 4},
        ),
    ],
)
def test_the_fields_of_a_part_stand_among_those_of_the_whole(config, module, written):
    assert OUTER.build(config) == module
    assert OUTER.describe(module) == written


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"twice": 5}, r"^Outer: twice = 5 is not supported; supported: 4\.$"),
        ({"width": 12}, r"^Outer: width = 12 is not supported; supported: 1\.$"),
        ({"depth": 10}, r"^Outer: width=102 is too wide$"),
        ({"other": 5}, r"^Outer: the config sets other = 5, which this version does not know\.$"),
        ({"heads": "two"}, r"^Outer: heads = 'two'. Valid: a whole number"),
    ],
)
def test_a_part_is_refused_in_the_name_of_the_whole(config, words):
    with pytest.raises(Refusal, match=words):
        OUTER.build(config)
