"""The figures of a held-out loss: their intervals, and the last measurement among the lines of a run."""

import pytest

from diffusion.experiments.evaluation import figures


def test_a_loss_has_an_interval_of_its_standard_error_to_both_sides():
    """1.96 standard errors hold 95 %; the average's loss has the plain name."""
    measured = {
        "average": {"loss": 2.0, "standard_error": 0.1},
        "trained": {"loss": -3.0, "standard_error": 0.5},
        "draws": 4,
    }
    found = figures.loss_figures(measured)
    assert list(found) == ["held_out_loss", "held_out_loss_trained"]
    for name, value, error in (("held_out_loss", 2.0, 0.1), ("held_out_loss_trained", -3.0, 0.5)):
        expected = (value, value - 1.96 * error, value + 1.96 * error, 4)
        assert tuple(found[name])[:4] == pytest.approx(expected, abs=1e-4)
    assert list(figures.loss_figures({"trained": measured["trained"], "draws": 4})) == ["held_out_loss_trained"]
    assert figures.loss_figures({"average": {"loss": None}, "draws": 4}) == figures.loss_figures({}) == {}


def test_the_last_measurement_counts():
    lines = [{"step": 1, "held_out_loss": {"draws": 1}}, {"step": 2, "held_out_loss": {"draws": 2}}, {"step": 3}]
    assert figures.last_loss(lines) == {"step": 2, "draws": 2}
    assert figures.last_loss([{"step": 3}]) == {}
