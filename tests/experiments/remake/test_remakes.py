"""Every remake: its figures are measured, its verdicts are those of the page, and an interrupted one goes on.

`REMAKE_MINUTES=10 pytest -m slow tests/experiments/remake -k gives_its_record` measures those of up to ten minutes.
"""

import json
import math
import os
import re
import shutil
import types

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.experiments.evaluation import plots
from diffusion.experiments.remake import measuring, network_costs, published_costs, remakes, remakes_page, terminal_snr
from diffusion.experiments.remake.claims import Published, Remake
from diffusion.experiments.remake.network_costs import network_cost
from diffusion.models.budget.flops import flops
from diffusion.models.dit import DiT
from diffusion.recipe import ConfigError
from tests import command_flags
from tests.commands import ROOT, run

PAGE = (ROOT / "docs" / "remakes.md").read_text()
RECORDS = ROOT / "docs" / "remakes"
MINUTES = float(os.environ.get("REMAKE_MINUTES", "1"))  # those that take longer are measured by `diffusion remake`
MEASURED = [remake for remake in remakes.REMAKES.values() if (RECORDS / f"{remake.name}.json").exists()]


def toy(**fields):
    calls = []

    def measure(part, quick):
        calls.append((part, quick))
        return {"shared": float(len(part)), part: 1.0}

    values = dict(
        name="toy", title="A toy", paper="Nobody 2026", place="table 1", source="here", measure=measure, minutes=0.0,
        published=[Published("shared", 2.5, 0.5), Published("aa", 3.0, 0.0)], parts=["aa", "bbb"],
    )  # fmt: skip
    return Remake(**(values | fields)), calls


def test_parts_are_kept_and_an_interrupted_remake_goes_on(tmp_path):
    def interrupted(part, quick):
        if part == "bbb":
            raise KeyboardInterrupt
        return first.measure(part, quick)

    first, calls = toy()
    with pytest.raises(KeyboardInterrupt):
        measuring.remake_in(tmp_path, first._replace(measure=interrupted), False, say=lambda line: None)
    record = measuring.remake_in(tmp_path, first, False, say=lambda line: None)
    assert calls == [("aa", False), ("bbb", False)]
    assert record == measuring.read_record(tmp_path / measuring.RECORD)
    shared, exact = record["figures"]
    assert shared["value"] == 2.5 and shared["standard_error"] == 0.5 and shared["reproduced"]
    assert not exact["reproduced"] and exact["distance"] is None  # 1 where exactly 3 is published
    assert measuring.remake_in(tmp_path, first, False, say=lambda line: None)["figures"] == record["figures"]
    assert len(calls) == 2


def test_a_torn_line_of_an_interrupted_remake_costs_its_part_alone(tmp_path):
    remake, calls = toy()
    record = measuring.remake_in(tmp_path, remake, False, say=lambda line: None)
    parts = tmp_path / measuring.PARTS
    parts.write_bytes(parts.read_bytes()[9:])  # the next part was appended behind the torn line
    assert measuring.remake_in(tmp_path, remake, False, say=lambda line: None)["figures"] == record["figures"]
    assert [part for part, _ in calls] == ["aa", "bbb", "aa"]


def test_the_seconds_are_those_of_all_parts_whenever_they_were_measured(tmp_path, monkeypatch):
    times = iter([0.0, 2.0, 10.0, 15.0])
    monkeypatch.setattr(measuring, "time", types.SimpleNamespace(monotonic=lambda: next(times)))
    remake, _ = toy()
    for _ in range(2):
        assert measuring.remake_in(tmp_path, remake, False, say=lambda line: None)["seconds"] == 7


def test_a_part_that_the_remake_no_longer_has_counts_for_nothing(tmp_path):
    measuring.remake_in(tmp_path, toy()[0], False, say=lambda line: None)
    remake, calls = toy(parts=["bbb"], published=[Published("shared", 3.0, 0.0)])
    (figure,) = measuring.remake_in(tmp_path, remake, False, say=lambda line: None)["figures"]
    assert figure["value"] == 3 and not calls


def test_a_figure_that_compares_parts_is_made_of_their_means(tmp_path):
    twice = lambda values: {"twice": 2 * values["shared"]}
    remake, _ = toy(conclude=twice, published=[Published("twice", 5.0, 0.0)])
    (figure,) = measuring.remake_in(tmp_path, remake, False, say=lambda line: None)["figures"]
    assert figure["value"] == 5 and figure["distance"] == 0 and figure["reproduced"]


def test_arrays_are_kept_beside_the_parts_for_the_picture(tmp_path):
    def draw(parts):
        seen.append({name: np.asarray(value).tolist() for name, value in parts["aa"].items()})
        return plots.blank(2, 1)

    seen = []
    remake, _ = toy(
        measure=lambda part, quick: {"shared": 1.0, "cloud": len(part) * np.arange(4.0).reshape(2, 2)},
        published=[Published("shared", 1.0, 0.5)],
        draw=draw,
    )
    for _ in range(2):  # the second time all parts are there
        record = measuring.remake_in(tmp_path, remake, False, say=lambda line: None)
    assert seen == [{"shared": 1.0, "cloud": [[0, 2], [4, 6]]}] * 2
    assert [row["figure"] for row in record["figures"]] == ["shared"]
    assert (tmp_path / measuring.PICTURE).read_bytes().startswith(b"\x89PNG")


def test_arrays_of_objects_are_not_pickled(tmp_path):
    remake, _ = toy(measure=lambda part, quick: {"shared": 1.0, "cloud": np.array([{}, {}])})
    with pytest.raises(ValueError, match="Object arrays cannot be saved when allow_pickle=False"):
        measuring.remake_in(tmp_path, remake, False, say=lambda line: None)
    assert not (tmp_path / measuring.PARTS).exists()


def test_a_folder_belongs_to_one_remake_and_quick_parts_are_no_evidence(tmp_path):
    remake, _ = toy()
    record = measuring.remake_in(tmp_path, remake, True, say=lambda line: None)
    assert record["figures"] == [] and record["quick"]
    with pytest.raises(ConfigError, match=r"holds parts of toy --quick\. Choose another --workdir for toy"):
        measuring.remake_in(tmp_path, remake, False, say=lambda line: None)
    with pytest.raises(ConfigError, match="holds parts of toy --quick"):
        measuring.remake_in(tmp_path, remake._replace(name="other"), True, say=lambda line: None)


def test_a_published_figure_that_no_part_measures_is_an_error(tmp_path):
    remake, _ = toy(published=[Published("missing", 1.0, 0.1)])
    with pytest.raises(ConfigError, match="no part of toy measures 'missing'"):
        measuring.remake_in(tmp_path, remake, False, say=lambda line: None)


def test_the_terminal_ratios_by_hand():
    """alpha_bar_T is a product, and SNR(T) its odds; after the correction nothing of the data is left."""
    betas = [1e-4 + (0.02 - 1e-4) * i / 999 for i in range(1000)]
    alpha_bar = math.exp(math.fsum(math.log1p(-beta) for beta in betas))
    values = terminal_snr.measure("linear", False)
    assert values["linear: SNR(T)"] == pytest.approx(alpha_bar / (1 - alpha_bar), rel=1e-9)
    assert values["linear: sqrt(alpha_bar_T)"] == pytest.approx(math.sqrt(alpha_bar), rel=1e-9)
    assert values["linear, corrected: sqrt(alpha_bar_T)"] == 0


@pytest.mark.extended
def test_the_parameters_of_a_dit_by_hand():
    """S/8: 12 blocks of width 384, adaLN of 6 and 2 rows, 1,001 labels, and 8 x 8 x 8 outputs for each token."""
    w = 384
    block = 3 * w * w + 3 * w + w * w + w + 8 * w * w + 5 * w + 6 * w * w + 6 * w
    ends = (8 * 8 * 4 + 1) * w + (256 + 1) * w + (w + 1) * w + 1001 * w + 2 * (w + 1) * w + (w + 1) * 8 * 8 * 8
    values = published_costs.DIT.measure("DiT-S/8", False)
    assert values["DiT-S/8: parameters, millions"] == (12 * block + ends) / 1e6


@pytest.mark.extended
def test_the_parameters_of_a_u_vit_by_hand():
    """L/2: 21 layers of width 1,024, of which 10 join a skip; tokens of 256 patches, the label and the time."""
    w = 1024
    layers = 21 * (3 * w * w + w * w + w + 8 * w * w + 5 * w + 4 * w) + 10 * (2 * w * w + w)
    ends = (2 * 2 * 4 + 1) * w + 258 * w + 1001 * w + 2 * w + (w + 1) * 2 * 2 * 4 + 3 * 3 * 4 * 4 + 4
    values = published_costs.LATENT.measure("U-ViT-L/2", False)
    assert values["U-ViT-L/2: parameters, millions"] == (layers + ends) / 1e6


@pytest.mark.extended
@pytest.mark.parametrize(
    "remake, network_of, part, shape",
    [
        (published_costs.JIT, published_costs._jit, "JiT-B/32", (512, 512, 3)),
        (published_costs.JIT, published_costs._jit, "JiT-B/64", (1024, 1024, 3)),
        (published_costs.EDM2, published_costs._edm2, "EDM2-S, 64", (64, 64, 3)),
        (published_costs.EDM2, published_costs._edm2, "EDM2-XS, 512", (64, 64, 4)),
        (published_costs.INTERVAL, published_costs._interval, "DiT-XL/2", (64, 64, 4)),
        (published_costs.LATENT, published_costs._latent, "SiT-XL/2", (32, 32, 4)),
        (published_costs.LATENT, published_costs._latent, "U-ViT-H/2", (32, 32, 4)),
    ],
)
def test_each_part_has_the_network_whose_parameters_are_published(remake, network_of, part, shape):
    network, size = network_of(part)
    assert (size, network.num_classes) == (shape, 1000)
    (published,) = (row.value for row in remake.published if row.figure == f"{part}: parameters, millions")
    assert round(network_costs.parameters(network, shape)) == published


@pytest.mark.parametrize("name", [remake.name for remake in MEASURED])
def test_the_page_is_that_of_the_records_and_the_records_are_of_their_remakes(name):
    remake = remakes.find(name)
    record = measuring.read_record(RECORDS / f"{name}.json")
    assert record["remake"] == name and not record["quick"]
    stated = [(row["figure"], row["published"], row["half_width"]) for row in record["figures"]]
    assert stated == [tuple(published) for published in remake.published]
    assert remakes_page._section(remake, record) in PAGE
    assert remake.differs or all(row["reproduced"] for row in record["figures"])
    assert (RECORDS / f"{name}.png").exists() is (remake.draw is not None)


def test_the_page_is_written_from_its_records():
    entries = [(remake, measuring.read_record(RECORDS / f"{remake.name}.json")) for remake in MEASURED]
    waiting = [remake for remake in remakes.REMAKES.values() if remake not in MEASURED]
    assert remakes_page.page(entries, waiting) == PAGE


def test_the_page_names_the_remakes_without_a_record():
    remake, _ = toy()
    assert "- `toy`: A toy (Nobody 2026; table 1)." in remakes_page.page([], [remake])
    longer = remake._replace(minutes=90.0)
    page = remakes_page.page([], [longer, longer])
    assert "\nAll tables, including those not measured yet, take about 3h00m on two cores without other work.\n" in page
    assert "not measured" not in remakes_page.page([], [])
    waiting = [remake.name for remake in remakes.REMAKES.values() if remake not in MEASURED]
    assert [name for name in remakes.REMAKES if f"\n- `{name}`: " in PAGE] == waiting


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(remake.name, marks=pytest.mark.slow if remake.minutes > 0.1 else ())
        for remake in MEASURED
        if remake.minutes <= MINUTES
    ],
)
def test_a_remake_of_minutes_gives_its_record_again(tmp_path, name):
    """An exact figure comes out again; a mean over seeds within three standard errors, on whatever processor."""
    made = measuring.remake_in(tmp_path, remakes.find(name), False, say=lambda line: None)
    kept = measuring.read_record(RECORDS / f"{name}.json")
    for now, then in zip(made["figures"], kept["figures"], strict=True):
        assert now["figure"] == then["figure"]
        assert now["reproduced"] == then["reproduced"] or then["standard_error"]
        assert now["value"] == pytest.approx(then["value"], rel=1e-9, abs=3 * then["standard_error"])


@pytest.mark.extended
def test_the_command_measures_and_shows_its_verdicts(tmp_path):
    done = run("diffusion", "remake", "terminal_snr", f"--workdir={tmp_path / 'made'}")
    assert "9 of 12 figures reproduced" in done.stdout, done.stderr
    assert json.loads((tmp_path / "made" / "remake.json").read_text())["remake"] == "terminal_snr"


@pytest.mark.slow
def test_the_command_lists_and_says_what_is_missing():
    listed = run("diffusion", "remake", "--list").stdout
    assert all(name in listed for name in remakes.REMAKES)
    done = run("diffusion", "remake", "terminal_snr")
    assert done.returncode == 2 and "--workdir=runs/remake/terminal_snr" in done.stderr
    done = run("diffusion", "remake")
    assert done.returncode == 2 and "remake needs one name. Valid: terminal_snr, dit_cost, jit_cost" in done.stderr


def called(*argv):
    with command_flags.of("diffusion.experiments.remake", *argv) as (_, start):
        start.args[0](["remake", *(word for word in argv if not word.startswith("--"))])


def test_the_command_writes_the_page_of_the_records_beside_it(tmp_path, capsys):
    shutil.copytree(RECORDS, tmp_path / "remakes")
    called(f"--page={tmp_path / 'remakes.md'}")
    assert (tmp_path / "remakes.md").read_text() == PAGE
    assert f"{len(MEASURED)} of {len(remakes.REMAKES)} remakes" in capsys.readouterr().out
    called("--list")
    shown = capsys.readouterr().out
    assert all(name in shown for name in remakes.REMAKES) and "Lin et al. 2024" in shown


def test_the_command_measures_in_its_folder(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(remakes, "REMAKES", {"toy": toy()[0]})
    for words, message in (
        ((), "remake needs one name. Valid: toy."),
        (("toy", "toy"), "remake needs one name"),
        (("toy",), "--workdir is missing, e.g. --workdir=runs/remake/toy"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            called(*words)
    called("toy", f"--workdir={tmp_path / 'quick'}", "--quick")
    assert "The code of toy runs. --quick gives no verdict" in capsys.readouterr().out
    called("toy", f"--workdir={tmp_path / 'toy'}")
    shown = capsys.readouterr().out
    assert f"1 of 2 figures reproduced; record: {tmp_path / 'toy' / 'remake.json'}" in shown and "A toy" in shown


def test_your_own_remake_is_added_once(monkeypatch):
    monkeypatch.setattr(remakes, "REMAKES", dict(remakes.REMAKES))
    remake, _ = toy()
    remakes.add(remake)
    assert remakes.find("toy") is remake
    with pytest.raises(ConfigError, match="the name 'toy' is already taken by a remake"):
        remakes.add(remake)
    with pytest.raises(ConfigError, match=r"unknown name 'terminal_srn'\. Did you mean 'terminal_snr'"):
        remakes.find("terminal_srn")


def test_the_cost_of_a_network_is_that_of_its_products():
    """Two products of 3 x 5 and 5 x 2 at each of 7 points; an addition is no product."""

    class Network:
        def init(self, key, x, clock, labels):
            return {"params": {"in": jnp.zeros((3, 5)), "out": jnp.zeros((5, 2)), "bias": jnp.zeros(2)}}

        def apply(self, variables, x, clock, labels):
            params = variables["params"]
            return x @ params["in"] @ params["out"] + params["bias"]

    assert network_cost(Network(), (7, 3)) == (7 * (3 * 5 + 5 * 2) / 1e9, (15 + 10 + 2) / 1e6)


def test_values_without_a_published_one_stand_below_the_others(tmp_path):
    remake, _ = toy(beside=["bbb"])
    record = measuring.remake_in(tmp_path, remake, False, say=lambda line: None)
    assert record["beside"] == {"bbb": 1.0}
    assert [row[0] for row in remakes_page.rows(record)] == ["shared", "aa", "bbb"]
    assert remakes_page.rows(record)[-1] == ("bbb", "—", "1", "—")
    assert remakes_page.summary(record) == "1 of 2 figures reproduced"


def test_xla_counts_every_layer_and_a_little_more_than_products():
    """Of a scanned body XLA counts one layer alone; it counts additions and the like too, up to 6 %."""
    network = DiT(patch=2, width=256, depth=13, heads=4, num_classes=10)  # a CPU's turn has 12 at most
    counted = network_costs.xla_gflops(network, (16, 16, 4))
    assert 1 < counted / (flops(network, (16, 16, 4)) / 2e9) < 1.06
