"""The names of the rows of all tables: both libraries say "key", "gate", "text" or "second", of the same tensor.

A row that reads a tensor of the right shape into the wrong place changes outputs alone, which are compared for some
layouts of a family, and mostly by slow tests.
"""

import functools
import re

import pytest

from diffusion.models.interchange import families, folders
from tests.models.interchange import published
from tests.models.interchange.test_families import CALLS

PART = re.compile(  # the last word of theirs that is a part of an attention, in all spellings
    r"(?:^|[._])(?:to_|add_|w\d?|norm_(?:added_)?)?(q|k|v|query|key|value)"
    r"(?:_?(?:proj|linear|norm|rms_norm|img|lin|t|layer_?norm|self|\d?))*(?=[._]|$)"
)
FUSED = re.compile(r"query_key_value|ln_q|img_emb|norm_added_k|norm_k_img")  # names that are not of one part
GATE = re.compile(r"\.(?:(gate|gate_proj|w1)|(up|up_proj|w3))\.(?:weight|bias)$")
STREAM = re.compile(r"(_context\b|\btxt_|\bcontext_block|\badd_[qkv]_proj|\bto_add_out)|(\bimg_|\bx_block)")
NUMBERED = (
    re.compile(r"(conv|norm|resnets\.|block\.)_?(\d+)(?=[._])"),
    re.compile(r"(conv|norm|block|resnet)_(\d+)(?=[/_])"),
)


@functools.cache
def rows():
    """(family and layout, row) of all families at their small sizes, each row once."""
    found = {}
    for name in CALLS:
        config = published.case(name).config
        if {"_class_name", "architectures"} & config.keys():
            family = families.find(CALLS[name].family or folders.family_of(config, published.FIXTURES / name))
            module = folders.built(family, config)
            for layout, table in family.tables.items():
                for row in table(module):
                    place = tuple(part for part in row.at if isinstance(part, int))
                    found[f"{family.name}, {layout}, {name}", row.theirs, row.ours, row.rows, place] = row
    return found


def part_of(ours, place):
    """Which part of an attention ours is: "q", "k" or "v"; "" for none. A fused kernel counts them."""
    for name, parts in (("qkv", "qkv"), ("key_value", "kv")):
        if name in ours:
            return parts[place[-1]]
    return "".join(re.findall("query|key|value", ours)[-1:])[:1]


def test_queries_keys_and_values_are_their_own():
    known, wrong = 0, []
    for (where, theirs, ours, _, place), row in rows().items():
        parts = PART.findall(theirs)
        if not parts or FUSED.search(theirs) or any(isinstance(at, slice) and at.stop for at in row.at):
            continue
        known += 1
        if part_of(ours, place) != parts[-1][0]:
            wrong.append((where, theirs, ours, place))
    assert wrong == [] and known > 6000


def test_a_fused_tensor_of_theirs_has_queries_then_keys_then_values():
    parts, wrong = {}, []
    for where, theirs, ours, cut, place in rows():
        if cut and "modulation" not in ours:
            parts.setdefault((where, theirs), []).append((cut, part_of(ours, place)))
    for names, several in parts.items():
        order = "".join(part for _, part in sorted(several))
        if order and order not in ("qkv", "kv"):
            wrong.append((names, order))
    assert wrong == [] and len(parts) > 200


def test_gates_of_mlps_stand_before_what_they_multiply():
    known, wrong = 0, []
    for (where, theirs, ours, _, place), row in rows().items():
        match = GATE.search(theirs)
        if match and slice(None) in row.at:
            known += 1
            if place[-1] != (match[1] is None):
                wrong.append((where, theirs, ours, place))
    assert wrong == [] and known > 100


def test_streams_of_text_and_picture_are_their_own():
    known, wrong = 0, []
    for where, theirs, ours, *_ in rows():
        match, stream = STREAM.search(theirs), re.search(r"(?:^|_blocks?/|^blocks/)(text|image)/", ours)
        if match and stream:
            known += 1
            if (stream[1] == "text") != bool(match[1]):
                wrong.append((where, theirs, ours))
    assert wrong == [] and known > 1000


def test_numbered_layers_keep_their_order():
    """Convolutions, norms and blocks, whose first is 0 or 1."""
    orders, wrong = {}, []
    for where, theirs, ours, *_ in rows():
        a, b = NUMBERED[0].search(theirs), NUMBERED[1].search(ours)
        if a and b:
            without = lambda name, match: f"{name[: match.start(2)]}#{name[match.end(2) :]}"
            orders.setdefault((where, without(theirs, a), without(ours, b)), []).append((int(a[2]), int(b[2])))
    for names, pairs in orders.items():
        pairs.sort()
        if sorted({after for _, after in pairs}) != list(dict.fromkeys(after for _, after in pairs)):
            wrong.append((names, pairs))
    assert wrong == [] and sum(len(pairs) > 1 for pairs in orders.values()) > 300


def test_levels_on_the_way_up_are_counted_from_the_coarsest():
    """Theirs, but for AutoencoderDC's; ours are counted from the finest on both ways."""
    orders = {}
    for where, theirs, ours, *_ in rows():
        a, b = re.search(r"\b(up|down)_blocks\.(\d+)\.", theirs), re.search(r"(?:level|up|down)_(\d+)", ours)
        if a and b and not where.startswith("AutoencoderDC"):
            orders.setdefault((where, a[1], ours.split("/")[0]), set()).add((int(a[2]), int(b[1])))
    for (where, way, _), pairs in orders.items():
        levels = [level for _, level in sorted(pairs)]
        assert levels == sorted(levels, reverse=way == "up"), where
    assert len(orders) > 300


WORDS = {r"\.conv_y\.": "/scale/", r"\.conv_b\.": "/shift/", r"\.act\.alpha$": "/alpha", r"\.act\.beta$": "/beta"}


@pytest.mark.parametrize("theirs", WORDS)
def test_what_is_named_by_a_letter_is_what_that_stands_for(theirs):
    """CogVideoX's decoder multiplies by conv_y of the latents and adds conv_b; a snake has two vectors."""
    names = [row.ours for row in rows().values() if re.search(theirs, row.theirs)]
    assert len(names) > 20 and all(WORDS[theirs] in ours for ours in names)
