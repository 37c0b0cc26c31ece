"""What a chart shows, read from the figure before it is written."""

import pytest

from diffusion.experiments.evaluation import plots


def kept(monkeypatch: pytest.MonkeyPatch, *modules) -> list:
    """A list that receives each figure that the modules of charts draw, in place of a file.

    Args:
        monkeypatch: of the test.
        modules: modules of `evaluation`, besides `plots`, that import `save`.
    """
    figures = []
    for module in (plots, *modules):
        monkeypatch.setattr(module, "save", lambda figure, path: figures.append(figure))
    return figures


def lines(axes) -> dict:
    """The lines of a panel by their names: matplotlib names those without one "_child0", .."""
    return {line.get_label(): line for line in axes.get_lines()}
