"""The held-out loss in the report of a run: a row of its table, and the loss against t."""

from collections.abc import Mapping
from typing import Any

from diffusion.experiments.evaluation import report
from diffusion.experiments.evaluation.figures import loss_figures, records_text


def row(measured: Mapping[str, Any]) -> tuple[str, str, str, str, str] | None:
    """The row of a measurement from `figures.last_loss`, in the form of `run_report.rows`; None without a loss."""
    cells = {name: report.cell(figure) for name, figure in loss_figures(measured).items()}
    if "held_out_loss" not in cells:
        return None
    how = (
        f"the objective's loss, moving average of step {measured['step']:,}; {measured['draws']:,} draws of a record, "
        "a time and a noise, the same for every checkpoint"
    )
    beside = f"{cells['held_out_loss_trained']} of the trained weights" if "held_out_loss_trained" in cells else ""
    return "held-out loss", cells["held_out_loss"], beside, how, records_text(measured["records"])


def by_t(measured: Mapping[str, Any]) -> list[str]:
    """The paragraphs of the losses by t; [] without a measurement."""
    if not measured:
        return []
    counts = measured["count_by_t"]
    bins = len(counts)
    number = lambda value: "—" if value is None else f"{value:.4g}"
    rows = [
        (f"{i / bins:.1f} to {(i + 1) / bins:.1f}", number(average), number(trained), f"{count:,}")
        for i, (average, trained, count) in enumerate(
            zip(measured["average"]["by_t"], measured["trained"]["by_t"], counts)
        )
    ]
    table = report.table(("t (0 data, 1 noise)", "moving average", "trained weights", "draws"), rows)
    return [f"## Held-out loss by t, step {measured['step']:,}", table]
