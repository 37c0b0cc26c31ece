"""What a recipe takes of one card, against answers by hand."""

import pytest

from benchmarks import one_gpu
from configs import imagenet256_dit
from diffusion.experiments.planning.machines import MACHINES
from tests.commands import ROOT


def test_the_least_hours_by_hand():
    """A forward pass of 1 PFLOP, three times, for 3,600 images at 1 PFLOP/s: three hours."""
    assert one_gpu.least_hours(1e15, 3600, 1e15) == 3


@pytest.mark.slow
def test_a_dit_is_counted_as_its_paper_counts_it():
    """DiT-B/4 has 130 million parameters and 5.56 G multiply-adds (Peebles and Xie 2023, table 4)."""
    network = one_gpu.network_of(imagenet256_dit.get_config("b4"))
    assert network.parameters == pytest.approx(130e6, rel=0.005)
    assert network.flops / 2 == pytest.approx(5.56e9, rel=0.005)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "card"), one_gpu.RUNS)
def test_the_page_has_the_table_and_each_run_fits_its_card(name, card):
    line = one_gpu.row(name, card)
    assert "| " + " | ".join(line) + " |" in (ROOT / "docs" / "scale.md").read_text()
    assert float(line[3].removesuffix(" GB")) < 0.85e-9 * MACHINES[one_gpu.CARDS[card]].memory
