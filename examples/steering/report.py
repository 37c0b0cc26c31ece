"""Compares steering methods at equal compute: a plot of rewards, and a table of normalizing constants.

    python -m examples.steering.report --out=runs/steering

The plot shows the reward against the number of evaluations, for a mixture of Gaussians with a quadratic reward, whose
denoiser and tilted distribution are known exactly. The table lists errors for densities with known normalizing
constants; four of its methods train small networks. The command writes rewards.png, report.json and report.md.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("out", None, "folder for the report", required=True)
    flags.DEFINE_integer("density_evaluations", 131_072, "number of density evaluations per method", lower_bound=8192)
    flags.DEFINE_integer("most", 1280, "largest number of denoiser evaluations per sample", lower_bound=80)
    flags.DEFINE_string(
        "known", "", "report.json of an earlier run, whose curves and cells are reused; by default none"
    )
    flags.DEFINE_integer("number", 2000, "number of samples per point of the plot", lower_bound=100)
    command_line.begin()

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from diffusion.experiments.evaluation import plots, report
from diffusion.experiments.run_folder import workdir
from diffusion.io import opener
from examples.steering import constants, equal_evaluations

TITLE = "Steering at equal compute"


def markdown(content: Mapping[str, Any]) -> str:
    """The report as Markdown, with the plot and the table."""
    table, protocol = content["constants"], content["protocol"]
    cell = lambda one: "diverged" if one["error"] is None else f"{one['error']:.3f} ({one['effective']:.1%})"
    rows = [(method, *(cell(row[method]) for row in table.values())) for method in constants.METHODS]
    parts = [
        f"# {TITLE}",
        "## Rewards",
        "The data are a mixture of six Gaussians in the plane, and the reward is -|x - c|^2 / (2 w^2). Each point uses "
        f"{protocol['number']} samples. A plain sample takes {equal_evaluations.STEPS} evaluations of the denoiser, "
        f"and an evaluation with its derivative counts as {equal_evaluations.DERIVATIVE}. Rejection stops at the given "
        "number of evaluations, and keeps its last candidate if it accepted none. The right panel shows the sliced "
        "2-Wasserstein distance to the tilted distribution.",
        "![Mean reward, and distance to the tilted law, by evaluations](rewards.png)",
        "## Constants",
        f"The table shows the root mean square error of log Z over {constants.ESTIMATES} estimates. Each estimate uses "
        f"{protocol['density_evaluations']:,} evaluations of the density with its gradient. The number in brackets is "
        "the effective sample size of the final weights as a share of the number of samples. The trained methods use "
        f"{constants.SHARE:.0%} of the evaluations for one training, and the rest for each estimate. If the network "
        f"receives the gradient as an input, a path takes {len(constants.GRID)} evaluations instead of one; this "
        "method uses the same number of paths, so it uses that many times more evaluations. With the buffer of "
        f"{constants.BUFFER:,} samples, each evaluation is used in {constants.EVERY} steps. Adjoint sampling clips "
        f"gradients to a norm of {constants.MAX_NORM:.0f}, like the code of its authors.",
        report.table(("method", *table), rows),
        "## Protocol",
        report.table(("commit", "device"), [[protocol[key] for key in ("git_commit", "device")]]),
        *([f"Curves and cells that are reused are from commit {content['known']}."] if content.get("known") else []),
    ]
    return report.page(parts)


def draw(curves: Mapping[str, Sequence[Mapping[str, float]]], path: pathlib.Path) -> None:
    """Writes the plot: rewards and distances by evaluations, with the model and the tilted law as lines."""
    figure = plots.blank(11, 4.2, "constrained")
    figures = {"reward": "mean reward", "distance": "distance to the tilted law"}
    for panel, (figure_name, title) in zip(figure.subplots(1, 2), figures.items()):
        for (name, points), colour in zip(list(curves.items())[2:], plots.COLOURS):
            x = [point["evaluations"] for point in points]
            panel.plot(x, [point[figure_name] for point in points], "o-", color=colour, label=name, markersize=4)
        for name, style in (("the tilted law", "--"), ("the model", ":")):
            panel.axhline(curves[name][0][figure_name], color="#6b7280", linestyle=style, label=name)
        panel.set(xscale="log", xlabel="evaluations a sample", title=title)
        plots.style(panel)
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    plots.save(figure, path)


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    out = pathlib.Path(values.out)
    out.mkdir(parents=True, exist_ok=True)
    software = report.software()  # taken first, as writing the report may change files of the clone
    budgets = tuple(20 * 2**k for k in range(12) if 20 * 2**k <= values.most)
    known = opener.read_table(values.known) if values.known else {}
    curves = equal_evaluations.curves(budgets, values.number, known.get("rewards"))
    draw(curves, out / "rewards.png")
    protocol = {name: getattr(values, name) for name in ("density_evaluations", "most", "number")} | software
    table = constants.table(values.density_evaluations, known.get("constants"))
    commit = known.get("protocol", {}).get("git_commit", "")
    report.write(out, {"rewards": curves, "constants": table, "protocol": protocol, "known": commit}, markdown)
    print(f"{out}/report.md and rewards.png")


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES, compiles=True)
