"""The results of benchmarks.few_steps, as tables, a picture, and the ranking that the literature expects."""

import pathlib

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from diffusion.experiments.evaluation import plots

SHOWN = (4, 8, 16, 32, 64)  # columns of the tables
AT = 16  # the number of evaluations for which a sampler's best grid is chosen
THEIR_GRID = "uniform_log_snr"  # uniform in the variable in which multistep methods extrapolate polynomials
SECOND_AND_THIRD = ("dpmpp_2m", "dpmpp_3m", "unipc", "deis")
DRAWN = {  # the samplers in the picture, and their lines
    "euler": ("#9a9a9a", "-"),
    "ddim": ("#9a9a9a", "--"),
    "heun": ("#d9822b", "-"),
    "dpm_2": ("#d9822b", "--"),
    "rk4": ("#7a4a12", "-"),
    "lms": ("#8e5ea2", "-"),
    "deis": ("#8e5ea2", "--"),
    "dpm_solver_3": ("#3a8a4d", "--"),
    "dpmpp_2m": ("#1f5fa8", "-"),
    "dpmpp_3m": ("#1f5fa8", "--"),
    "unipc": ("#c0392b", "-"),
}
GRIDS_DRAWN = {
    "uniform": "#9a9a9a",
    "uniform_log_snr": "#d9822b",
    "karras": "#1f5fa8",
    "kl_optimal": "#3a8a4d",
    "polynomial": "#8e5ea2",
}
TOP = 3.0  # the largest error that is drawn; samples with larger errors are far from the data


def by_nfe(rows: list[dict], sampler: str, grid: str | None, key: str = "error") -> dict[int, float]:
    """{NFE: figure} of a sampler on a grid; without a grid, the least figure of all grids."""
    least: dict[int, float] = {}
    for row in rows:
        if row["sampler"] == sampler and grid in (None, row["grid"]) and row[key] is not None:
            least[row["nfe"]] = min(row[key], least.get(row["nfe"], np.inf))
    return least


def at(curve: dict[int, float], nfe: int) -> float | None:
    """The figure with the most evaluations in [0.75 nfe, nfe]; None if there is none."""
    known = [count for count in curve if 0.75 * nfe <= count <= nfe]
    return curve[max(known)] if known else None


def best_grid(rows: list[dict], sampler: str, key: str) -> str | None:
    """The grid with a sampler's least figure at `AT` evaluations, or at the largest number if that is smaller."""
    most = min(AT, max(row["nfe"] for row in rows))
    figures = {grid: at(by_nfe(rows, sampler, grid, key), most) for grid in {row["grid"] for row in rows}}
    known = {grid: value for grid, value in figures.items() if value is not None}
    return min(sorted(known), key=known.get) if known else None


def lines(rows: list[dict], columns: list[int]) -> list[list[str]]:
    """The cells of a table: sampler, best grid, errors (of deterministic samplers) and Frechet distances there."""
    table_lines = []
    for sampler in dict.fromkeys(row["sampler"] for row in rows):
        deterministic = any(row["error"] is not None for row in rows if row["sampler"] == sampler)
        grid = best_grid(rows, sampler, "error" if deterministic else "frechet")
        if grid is None:
            continue
        errors, distances = (by_nfe(rows, sampler, grid, key) for key in ("error", "frechet"))
        cells = [_figure(at(errors, nfe)) for nfe in columns]
        table_lines.append([sampler, grid, *cells, *(_figure(at(distances, nfe)) for nfe in columns)])
    return table_lines


def _figure(value: float | None) -> str:
    return "" if value is None else f"{float(f'{value:.2g}'):g}"


def rich_table(title: str, rows: list[dict], wanted: list[int]) -> Table:
    """A table for the terminal."""
    columns = [nfe for nfe in SHOWN if nfe <= max(wanted)]
    table = Table(
        "sampler",
        "grid",
        *(f"e {nfe}" for nfe in columns),
        *(f"F {nfe}" for nfe in columns),
        title=f"{title}: error (e) and Frechet distance (F) by NFE, on the grid best at {AT}",
    )
    for cells in lines(rows, columns):
        table.add_row(*cells)
    return table


def markdown(tables: dict[str, list[dict]], floors: dict[str, float]) -> str:
    """All tables, with the Frechet distance of the exact flow's own samples by title."""
    text = [
        f"Error against the exact flow (root mean square, over the data's standard deviation) and Frechet "
        f"distance, by the number of network evaluations, each sampler on the grid that is best for it at {AT}."
    ]
    for title, rows in tables.items():
        head = ["sampler", "grid", *(f"error, {nfe}" for nfe in SHOWN), *(f"Frechet, {nfe}" for nfe in SHOWN)]
        body = [head, ["---"] * len(head), *lines(rows, list(SHOWN))]
        text += [
            "",
            f"## {title}",
            "",
            f"Frechet distance of the exact flow's own samples: {_figure(floors[title])}.",
            "",
            *(f"| {' | '.join(cells)} |" for cells in body),
        ]
    return "\n".join(text) + "\n"


def ranking(tables: dict[str, list[dict]]) -> list[str]:
    """Whether the results agree with the literature, a line for each claim."""
    verdicts = []
    for title, rows in tables.items():
        names = list(dict.fromkeys(row["sampler"] for row in rows))
        higher = _of(rows, SECOND_AND_THIRD)
        for what, grid_of in (
            (f"on {THEIR_GRID}", lambda name: THEIR_GRID),
            ("each on its best grid", lambda name, rows=rows: best_grid(rows, name, "error")),
        ):
            for nfe in (8, 16, 32):
                figure = {name: at(by_nfe(rows, name, grid_of(name)), nfe) for name in ("ddim", *higher)}
                verdicts += _verdict(
                    f"{title}, NFE {nfe}, {what}: multistep of order 2 and 3 ahead of DDIM", figure.pop("ddim"), figure
                )
        if "edm" in title or "exploding" in title:
            for nfe in (8, 16, 32):
                pairs = {name: [at(by_nfe(rows, name, grid), nfe) for grid in ("uniform", "karras")] for name in names}
                ratios = {name: uniform / karras for name, (uniform, karras) in pairs.items() if uniform and karras}
                verdicts += _verdict(
                    f"{title}, NFE {nfe}: Karras' grid ahead of the uniform one",
                    1.0,
                    {name: 1 / ratio for name, ratio in ratios.items()},
                )
    return verdicts


def _verdict(expected: str, baseline: float | None, figures: dict[str, float | None]) -> list[str]:
    known = {name: figure for name, figure in figures.items() if figure is not None}
    if baseline is None or not known:
        return []
    behind = [name for name, figure in known.items() if figure >= baseline]
    best = baseline / min(known.values())
    worst = baseline / max(known.values())
    return [
        f"{expected}: "
        + (
            f"NOT {', '.join(behind)} (of {len(known)}; best {best:.1f} times)"
            if behind
            else f"yes, {worst:.1f} to {best:.1f} times"
        )
    ]


def _of(rows: list[dict], stems: tuple[str, ...]) -> list[str]:
    """The samplers whose name, without arguments, is one of `stems`, and whose order is above 1."""
    names = dict.fromkeys(row["sampler"] for row in rows)
    return [name for name in names if name.split("(")[0] in stems and not name.split("(")[-1].startswith("1")]


def draw(tables: dict[str, list[dict]], path: pathlib.Path) -> None:
    """Draws a panel of samplers for each table, and a panel of grids for the variance-exploding schedule."""
    exploding = next((title for title in tables if "edm" in title or "exploding" in title), None)
    panels = [*tables, *(["grids"] if exploding else [])]
    columns = min(len(panels), 3)
    figure = Figure(figsize=(4.3 * columns, 3.7 * -(-len(panels) // columns)), dpi=130, layout="constrained")
    axes = figure.subplots(-(-len(panels) // columns), columns, squeeze=False).ravel()
    for panel, title in zip(axes, panels):
        if title == "grids":
            _grids(panel, tables[exploding], f"grids, {exploding}")
        else:
            _samplers(panel, tables[title], title)
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    FigureCanvasAgg(figure)
    figure.savefig(path, metadata={"Software": None})


def _samplers(panel: Axes, rows: list[dict], title: str) -> None:
    ends = []
    names = list(dict.fromkeys(row["sampler"] for row in rows))
    for stem, (color, style) in DRAWN.items():
        name = stem if stem in names else next((name for name in names if name.split("(")[0] == stem), None)
        curve = by_nfe(rows, name, best_grid(rows, name, "error")) if name else {}
        if curve:
            panel.loglog(list(curve), list(curve.values()), style, color=color, marker="o", markersize=2.5)
            ends.append((list(curve.values())[-1], name, color))
    _finish(panel, ends, f"{title}: samplers, each on its best grid")


def _grids(panel: Axes, rows: list[dict], title: str) -> None:
    ends = []
    for grid, color in GRIDS_DRAWN.items():
        for name, style in (("dpmpp_2m", "-"), ("heun", "--")):
            curve = by_nfe(rows, name, grid)
            if curve:
                panel.loglog(list(curve), list(curve.values()), style, color=color, marker="o", markersize=2.5)
                if style == "-":
                    ends.append((list(curve.values())[-1], grid, color))
    _finish(panel, ends, f"{title}\ndpmpp_2m (solid), heun (dashed)")


def _finish(panel: Axes, ends: list[tuple[float, str, str]], title: str) -> None:
    """Sets the scales of a panel, and writes names beside the ends of its lines, far enough apart to be read."""
    panel.set(xlabel="network evaluations", ylabel="error", xlim=(0.9, 64))
    panel.set_title(title, fontsize=10)
    ticks = [1, 2, 4, 8, 16, 32, 64]
    panel.set_xticks(ticks, [str(tick) for tick in ticks])
    panel.minorticks_off()
    plots.style(panel)
    panel.set_ylim(top=min(TOP, panel.get_ylim()[1]))
    low, high = np.log10(panel.get_ylim())
    gap = (high - low) / 22
    place = -np.inf
    for value, name, color in sorted(ends):
        place = max(np.log10(value), place + gap)
        panel.annotate(
            name,
            (64, value),
            xytext=(1.03, (place - low) / (high - low)),
            textcoords="axes fraction",
            fontsize=7.5,
            color=color,
            va="center",
            annotation_clip=False,
        )
