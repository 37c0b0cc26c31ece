"""Ranks and alphas of single layers: how many a file may name, and what is no layer's name."""

import pytest

from diffusion.adapters import lora_names
from diffusion.models.interchange.rows import Mismatch


def test_a_table_of_exceptions_has_at_most_sixteen_thousand_layers():
    whole = {f"layers.{i}": 1 for i in range(2**14)}
    lora_names._check_pattern(whole, "rank_pattern")
    with pytest.raises(Mismatch, match=r"rank_pattern is a table of 16,385\. Valid: a table of at most 16,384 layers"):
        lora_names._check_pattern({**whole, "other": 1}, "rank_pattern")


@pytest.mark.parametrize("name", ["a b", "", "(a+)+$", "^^a", "a\n"])
def test_what_is_no_name_of_a_layer_is_refused(name):
    lora_names._check_pattern({"^down_blocks.0.attn-1.to_q": 1, "a_b": 2}, "alpha_pattern")
    with pytest.raises(Mismatch, match=r"alpha_pattern names .*, which is not the name of a layer"):
        lora_names._check_pattern({"a": 1, name: 1}, "alpha_pattern")


@pytest.mark.parametrize("pattern", [[], "a", None, 3])
def test_what_is_no_table_is_refused(pattern):
    with pytest.raises(Mismatch, match=r"alpha_pattern is .*\. Valid: a table"):
        lora_names._check_pattern(pattern, "alpha_pattern")
