"""Figures of a sweep: read from its runs while they run, averaged over seeds, written as tables."""

import csv
import json
import types

import numpy as np
import pytest
from scipy import stats

from diffusion.experiments.evaluation import figures
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.experiments.sweeps import results, sweep_folder, table
from diffusion.experiments.sweeps.sweep_folder import DONE, FAILED, RUNNING, Plan, Record
from diffusion.recipe import ConfigError

COMMANDS = [["diffusion", "train", "--workdir={folder}"], ["diffusion", "evaluate"]]
DISTANCES = {("v", 0): 1.0, ("v", 1): 2.0, ("v", 2): 6.0, ("x0", 0): 3.0}  # the rest is not done


def made(directory):
    """A sweep of two predictions and three seeds, some of which are done."""
    runs = [
        Plan(f"parameterization={p},seed={s}", {"parameterization.name": p, "seed": s}, COMMANDS)
        for p in ("v", "x0")
        for s in range(3)
    ]
    sweep_folder.write(directory, Record("few", "few.py", ["parameterization.name", "seed"], ["seed"], {}, runs))
    for plan in runs:
        folder = directory / plan.name
        distance = DISTANCES.get(tuple(plan.overrides.values()))
        folder.mkdir()
        rows = [{"step": step, "loss": 1 / step, "loss_by_t": [1.0]} for step in range(1, 2001)]
        rows.insert(1000, {"step": 1000, "evaluate": {"fd_pixels": 9.0, "asked_class": None}})
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 2001, "lo')
        if distance is None:
            sweep_folder.log_event(folder, RUNNING, attempt=1, command=0)
            continue
        for command in (0, 1):
            sweep_folder.log_event(folder, DONE, attempt=1, command=command, seconds=10.0 + command)
        part = {"distance": distance, "interval": [distance - 1, distance + 1], "ratio": 2.0, "ratio_interval": None}
        wanted = {"share": 0.9, "interval": [0.8, 0.95], "count": 100}
        near = {name: {"quantiles": {"0.5": half}, "count": 10} for name, half in (("samples", 3.0), ("held_out", 2.0))}
        figures = {"frechet": {"pixels": part}, "asked_class": wanted, "neighbours": near}
        scores = {"fid": {"value": 5.0, "standard_error": 0.1, "samples": 50}, "kid": {"value": None, "why": "few"}}
        (folder / "report.json").write_text(
            json.dumps({"figures": figures, "protocol": {"distance": {"N": 7}}, "inception": {"figures": scores}})
        )
        (folder / "samples.json").write_text('{"nfe": 19}')
        (folder / "samples.png").touch()
    sweep_folder.log_event(directory / "parameterization=x0,seed=1", FAILED, attempt=1, command=0, reason="error: no")
    return results.collect(directory)


def test_a_run_has_its_figures_curves_and_pictures(tmp_path):
    result = made(tmp_path)
    run = result.runs[1]
    assert (run.status, run.overrides, run.seconds) == ("done", {"parameterization.name": "v", "seed": 1}, 21.0)
    assert run.figures["fd_pixels"] == figures.Figure(2.0, 1.0, 3.0, n=7)
    assert run.figures["asked_class"] == figures.Figure(0.9, 0.8, 0.95, n=100)
    assert run.figures["fid"].value == 5.0 and run.figures["fid"].low == pytest.approx(5 - 0.196)
    assert run.figures["nfe"].value == 19 and run.figures["nearest_over_held_out"].value == 1.5
    assert (run.figures["seconds/train"].value, run.figures["seconds/evaluate"].value) == (10, 11)
    assert run.figures["loss"].value == 1 / 2000 and "kid" not in run.figures
    loss = run.measured.curves["loss"]
    assert len(loss) == figures.POINTS and loss[0] == (1, 1.0) and loss[-1] == (2000, 1 / 2000)
    curves = run.measured.curves
    assert curves["evaluate/fd_pixels"] == [(1000, 9.0)] and "evaluate/asked_class" not in curves
    assert run.measured.images == {"samples": run.workdir / "samples.png"}
    assert run.command == f"diffusion train --workdir={run.workdir} && diffusion evaluate"
    assert [run.status for run in result.runs] == ["done"] * 4 + ["failed", "stopped"]
    assert result.runs[4].reason == "error: no" and result.fields == ["parameterization.name"]


def test_the_table_of_a_running_sweep_says_what_runs(tmp_path, capsys):
    made(tmp_path)
    folder = tmp_path / "parameterization=x0,seed=2"
    (folder / "output.log").write_text("step=100 total=400 eta_seconds=30\n")
    with sweep_folder.hold(folder / ".sweep.lock"):
        measured = results.collect(tmp_path)
        table.show(table.table(measured), measured.name)
        table.show_progress(measured)
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "1 running, 4 done, 1 failed",
        "running parameterization=x0,seed=2  step=100 total=400 eta_seconds=30",
    ]


def test_means_over_seeds_have_students_interval(tmp_path):
    first, second = results.over_seeds(made(tmp_path))
    values = np.array([1.0, 2.0, 6.0])
    interval = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    figure = first.figures["fd_pixels"]
    assert (first.name, first.overrides, figure.n) == ("parameterization=v", {"parameterization.name": "v"}, 3)
    assert (figure.low, figure.high) == pytest.approx(interval) and figure.std == pytest.approx(values.std(ddof=1))
    assert second.figures["fd_pixels"] == figures.Figure(3.0, n=1)  # one run alone has no interval
    assert second.figures["loss"].n == 1  # the others have one too, but are not done
    assert [run.overrides["seed"] for run in second.runs] == [0, 1, 2]


def test_tables_say_how_many_runs_they_are_of(tmp_path):
    result = made(tmp_path)
    of = table.table(result, ["fd_pixels", "asked_class"])
    lines = table.markdown(of).splitlines()
    assert lines[0] == "| parameterization | runs done | fd_pixels | asked_class |"
    assert lines[2] == "| v | 3 of 3 | 3 ± 2.6 (-3.57 to 9.57) | 0.9 ± 0 |" and lines[3] == "| x0 | 1 of 3 | 3 | 0.9 |"
    assert "differ in seed alone" in lines[-1]
    paths = table.write(result, of)
    assert [path.name for path in paths] == ["table.md", "table.csv", "runs.csv"]
    (v, x0) = csv.DictReader((tmp_path / "table.csv").open())
    assert (float(v["fd_pixels"]), v["fd_pixels_n"], x0["fd_pixels_std"]) == (3.0, "3", "")
    runs = list(csv.DictReader((tmp_path / "runs.csv").open()))
    assert [(run["run"], run["status"], run["seed"], run["fd_pixels"]) for run in runs[2:4]] == [
        ("parameterization=v,seed=2", "done", "2", "6.0"),
        ("parameterization=x0,seed=0", "done", "0", "3.0"),
    ]


def test_figures_are_chosen(tmp_path):
    result = made(tmp_path)
    assert table.table(result).figures == ["fd_pixels", "asked_class", "fid", "nfe"]
    assert {"step", "seconds/train", "fd_pixels_over_floor"} <= set(table.table(result, ["all"]).figures)
    with pytest.raises(ConfigError, match="Did you mean 'fd_pixels'"):
        table.table(result, ["fd_pixel"])


def test_distances_of_any_data_are_shown_by_themselves(tmp_path):
    """Symbols, points and series have distances of their own names; beside each stands its ratio to a floor."""
    result = made(tmp_path)
    more = {name: figures.Figure(0.5) for name in ("trigram_divergence", "trigram_divergence_over_floor", "crps")}
    runs = [run._replace(measured=run.measured._replace(figures=run.figures | more)) for run in result.runs]
    assert table.table(result._replace(runs=runs)).figures == [
        "fd_pixels", "trigram_divergence", "asked_class", "fid", "nfe"
    ]  # fmt: skip


def test_a_folder_without_a_sweep(tmp_path):
    with pytest.raises(WorkdirError, match=r"no sweep\.json"):
        results.collect(tmp_path)
    (tmp_path / "sweep.json").write_text('{"format": 99}')
    with pytest.raises(WorkdirError, match="format 99"):
        results.collect(tmp_path)


def a_run(name, **fields):
    """A run that is done, of which nothing but these fields is known."""
    known = {"overrides": {}, "status": DONE, "figures": {}, "seconds": 0.0} | fields
    measured = figures.Measured(known["figures"])
    return results.Run(name, known["overrides"], None, known["status"], measured, "", known["seconds"], "", 1)


def test_seconds_are_of_all_commands_and_by_kind_of_those_that_are_done(tmp_path, monkeypatch):
    """Two of three are done, both samplings; the third has an entry of an earlier attempt."""
    now = types.SimpleNamespace(done=2, seconds={0: 1.5, 1: 2.5, 2: 9.0}, status=RUNNING, reason="", attempts=1)
    monkeypatch.setattr(results.sweep_folder, "status", lambda folder, number: now)
    run = results._run(tmp_path, Plan("a", {}, [["diffusion", "sample"]] * 2 + [["diffusion", "train"]]))
    assert run.figures == {"seconds/sample": figures.Figure(4.0)} and run.seconds == 13.0


def test_a_figure_that_only_a_later_seed_has_is_averaged_too():
    runs = [a_run("0"), a_run("1", figures={"fid": figures.Figure(3.0)})]
    (group,) = results.over_seeds(results.Results("a", "", [], ["seed"], runs, None, ""))
    assert group.figures == {"fid": figures.Figure(3.0, n=1)}


@pytest.mark.parametrize(
    "seeds, values",
    [(["seed", "sample.seed"], [2.0, 7.0]), (["sample.seed", "seed"], [3.0, 4.0, 6.5]), (["seed"], [2.0, 7.0])],
)
def test_runs_with_the_same_first_seed_count_as_one(seeds, values):
    """Two trainings with three sets of samples each: six runs have the scatter of two."""
    fids = {(0, 0): 1.0, (0, 1): 2.0, (0, 2): 3.0, (1, 0): 5.0, (1, 1): 6.0, (1, 2): 10.0}
    runs = [
        a_run(f"{seed} {noise}", overrides={"seed": seed, "sample.seed": noise}, figures={"fid": figures.Figure(value)})
        for (seed, noise), value in fids.items()
    ]
    (group,) = results.over_seeds(results.Results("a", "", [], seeds, runs, None, ""))
    assert group.figures["fid"] == figures.mean(values)


def test_a_run_that_sets_nothing_is_no_seed_of_one_that_sets_none():
    """The base config may hold another value than None, so that the two are different settings."""
    runs = [
        a_run("base", overrides={}, figures={"fid": figures.Figure(1.0)}),
        a_run("none", overrides={"train.clip": None}, figures={"fid": figures.Figure(3.0)}),
    ]
    groups = results.over_seeds(results.Results("a", "", ["train.clip"], ["seed"], runs, None, ""))
    assert [group.figures["fid"].value for group in groups] == [1.0, 3.0]


def test_csv_has_each_number_under_its_name():
    rows = [(["v"], "3 of 4", {"fid": figures.Figure(1.0, 2.0, 3.0, 4, 5.0)}), (["x0"], "0 of 4", {})]
    assert table.averages_csv(table.Table(["kind"], ["fid"], rows, ["seed"], {})) == (
        "kind,runs_done,fid,fid_std,fid_low,fid_high,fid_n\nv,3 of 4,1.0,5.0,2.0,3.0,4\nx0,0 of 4,,,,,\n"
    )
    runs = [a_run("a", overrides={"x": [1, 2]}, seconds=12.34, figures={"b": figures.Figure(7.0)})]
    runs.append(a_run("c", figures={"a": figures.Figure(8.0)}))
    assert table.runs_csv(results.Results("a", "", [], [], runs, None, "")) == (
        'run,status,attempts,x,a,b,seconds,command\na,done,1,"[1, 2]",,7.0,12.3,\nc,done,1,,8.0,,0.0,\n'
    )
