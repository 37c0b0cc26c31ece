"""Draws figures of a sweep across one of them, or across what varies: means over the seeds, with their error bars.

    python -m experiments.sweep_plot --workdir=runs/samplers --across=nfe --figures=fd_pixels,fd_classifier \\
        --lines=network,sampler --out=samplers.png
    python -m experiments.sweep_plot --workdir=runs/weightings --across=weighting --figures=fd_pixels \\
        --lines=parameterization --out=weightings.png

The bars are Student's 95 % intervals of the means. Names are those of the sweep's table, `--table --figures=all`.
"""

import pathlib
from collections.abc import Sequence

import matplotlib.figure
import numpy as np
from absl import flags
from matplotlib.axes import Axes

from experiments import config as configs
from experiments.config import ConfigError, unknown
from experiments.evaluation import figures
from experiments.run_folder import workdir
from experiments.sweeps import naming, results
from experiments.sweeps.results import Figure, Results

NARROW = 0.12  # between the points of two lines over one name

Points = list[tuple[float | str, Figure]]


def lines(found: Results, across: str, figure: str, by: Sequence[str]) -> dict[str, Points]:
    """The points of each line, in the order of the sweep.

    Args:
        found: from `results.collect`.
        across: name of a figure, or of what varies, by its label in the table.
        figure: name of the figure that is drawn.
        by: labels of what varies from line to line; none for a single line.

    Returns:
        {name of the line: [(place, figure)]}; a place is a number, or a name where one of them is none.

    Raises:
        ConfigError: for a name that the sweep does not have, or a figure that no finished run has.
    """
    fields = {label: field for field, label in naming.labels(found.fields).items()}
    groups = [group for group in results.over_seeds(found) if group.figures]
    known = list(dict.fromkeys(name for group in groups for name in group.figures))
    if figure not in known:
        raise unknown("--figures", figure, known, "figure")
    if across not in known and across not in fields:
        raise unknown("--across", across, [*known, *fields], "figure or field")
    for label in by:
        if label not in fields:
            raise unknown("--lines", label, list(fields), "field")
    made: dict[str, Points] = {}
    for group in groups:
        values = [naming.text(group.overrides[fields[label]]) for label in by if fields[label] in group.overrides]
        if across in known:
            place = group.figures[across].value if across in group.figures else None
        else:
            place = group.overrides.get(fields[across])
        if place is not None and figure in group.figures:
            made.setdefault(" ".join(values), []).append((place, group.figures[figure]))
    if any(isinstance(place, bool) or not isinstance(place, (int, float)) for of in made.values() for place, _ in of):
        return {name: [(naming.text(place), figure) for place, figure in of] for name, of in made.items()}
    return {name: sorted(of, key=lambda point: point[0]) for name, of in made.items()}


def draw(found: Results, across: str, names: Sequence[str], by: Sequence[str], path: pathlib.Path) -> None:
    """One panel for each figure: joined points with error bars over numbers, points side by side over names."""
    drawn = matplotlib.figure.Figure(figsize=(4.6 * len(names) + 2.2, 3.9), layout="constrained")
    panels: list[Axes] = list(drawn.subplots(1, len(names), squeeze=False)[0])
    for axes, name in zip(panels, names):
        of = lines(found, across, name, by)
        places = list(dict.fromkeys(place for points in of.values() for place, _ in points))
        words = any(isinstance(place, str) for place in places)
        for number, (label, points) in enumerate(of.items()):
            middle = [figure.value for _, figure in points]
            bars = [
                [figure.value - _end(figure, figure.low) for _, figure in points],
                [_end(figure, figure.high) - figure.value for _, figure in points],
            ]
            shift = NARROW * (number - (len(of) - 1) / 2)
            x = [places.index(place) + shift for place, _ in points] if words else [place for place, _ in points]
            colour = figures.COLOURS[number % len(figures.COLOURS)]
            axes.errorbar(
                x,
                middle,
                bars,
                label=label,
                color=colour,
                marker="o",
                markersize=4,
                linewidth=0 if words else 1.5,
                elinewidth=1.2,
                capsize=2,
            )
        axes.set(title=name, xlabel=across)
        if words:
            axes.set_xticks(range(len(places)), [str(place) for place in places])
            axes.set_xlim(-0.5, len(places) - 0.5)
        else:
            _numbers(axes, sorted(float(place) for place in places))
        _heights(axes, [figure.value for points in of.values() for _, figure in points])
        figures.plain(axes)
    if by:
        handles, labels = panels[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9, title=" ".join(by))
    figures.save(drawn, path)


def _end(figure: Figure, end: float | None) -> float:
    return figure.value if end is None else end


def _numbers(axes: Axes, places: list[float]) -> None:
    """A logarithmic axis for numbers that span more than a factor of ten, with a tick at each that has room."""
    if places[0] > 0 and places[-1] > 10 * places[0]:
        axes.set_xscale("log")
        shown = [place for place, after in zip(places, [*places[1:], np.inf]) if after > 1.4 * place]
        axes.set_xticks(shown, [f"{place:g}" for place in shown])
        axes.minorticks_off()


def _heights(axes: Axes, values: list[float]) -> None:
    """Likewise upwards, with plain numbers at the ticks."""
    if min(values) > 0 and max(values) > 10 * min(values):
        figures.log_heights(axes)


def main(argv: list[str]) -> None:
    """Draws the picture."""
    given = flags.FLAGS
    path = pathlib.Path(given.out)
    if path.suffix != ".png":
        raise ConfigError(f"--out={path}: write the name of a .png file.")
    draw(results.collect(given.workdir), given.across, given.figures, given.lines, path)
    print(path)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "the sweep's folder, e.g. runs/samplers")
    flags.DEFINE_string("across", None, "figure or field of the horizontal axis, e.g. nfe")
    flags.DEFINE_list("figures", None, "one panel each, e.g. fd_pixels,asked_class")
    flags.DEFINE_list("lines", [], "fields that vary from line to line")
    flags.DEFINE_string("out", None, "the PNG to write")
    flags.mark_flags_as_required(["workdir", "across", "figures", "out"])
    configs.run(main, workdir.FAILURES)
