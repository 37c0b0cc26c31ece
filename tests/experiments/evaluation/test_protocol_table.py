"""One set of samples under every protocol: which are measured, with which files, and what the table says."""

import numpy as np
import pytest

from diffusion.configs import digits
from diffusion.experiments.evaluation import protocol_table, records
from diffusion.experiments.evaluation.comparison import Request
from diffusion.io import json_files
from diffusion.metrics import encoder_protocols, protocols, resizing
from diffusion.metrics.statistics import StatisticsError
from diffusion.recipe import ConfigError
from tests import commands

BOTH = Request(samples="a.npz", reference="b.npz", inception="inception.safetensors", encoder="dgm-eval=dino,cmmd=clip")
VALUES = {"adm": 3.0, "edm": 3.0, "pytorch-fid": 3.25, "torch-fidelity": 3.0, "clean-fid": 3.5, "tf-gan": 3.125}
OTHERS = {"dgm-eval": ("fd", 80.0), "edm2-dinov2": ("fd", 84.0), "cmmd": ("cmmd", 0.5)}


def measured(request):
    """A record as `records.measure` writes it, with numbers that stand for its protocol."""
    name, value = OTHERS.get(request.protocol) or ("fid", VALUES[request.protocol])
    figure = {"value": value, "standard_error": 0.125, "samples": 9, "reference": 9}
    content = {"format": 1, "figures": {name: figure}, "warnings": ["few samples"], "request": request._asdict()}
    return {**content, "sha256": records._digest(json_files.plain(content))}


def test_every_protocol_of_a_frechet_distance_is_there_and_its_files():
    table = protocol_table.requests(BOTH)
    assert list(table) == ["adm", "edm", "pytorch-fid", "torch-fidelity", "clean-fid", "tf-gan", "dgm-eval",
                           "edm2-dinov2", "cmmd"]  # fmt: skip
    assert all(table[name].inception == "inception.safetensors" and not table[name].encoder for name in VALUES)
    files = {name: table[name].encoder for name in OTHERS}
    assert files == {"dgm-eval": "dino", "edm2-dinov2": "dino", "cmmd": "clip"}  # one network, two protocols
    assert not any(table[name].inception or table[name].inception_sha256 for name in OTHERS)
    assert [one.metrics for one in table.values()] == [("fid",)] * 8 + [("cmmd",)]
    assert all(one.protocol == name for name, one in table.items())
    assert not any(name in table for name in ("mind", "fdr-mae", "fvd"))


def test_a_protocol_has_the_file_that_is_named_for_it_and_only_one():
    both = "dgm-eval=first,cmmd=clip,edm2-dinov2=second"  # two protocols of one network
    assert protocol_table.networks(both) == {"dgm-eval": "first", "edm2-dinov2": "second", "cmmd": "clip"}
    with pytest.raises(ConfigError, match=r"cmmd is named twice\. Valid: one folder for each protocol"):
        protocol_table.networks("cmmd=a,cmmd=b")


def test_each_difference_is_explained_by_one_line():
    lines = [protocol_table.how(name) for name in (*protocols.PROTOCOLS, *encoder_protocols.PROTOCOLS)]
    assert all(line and "\n" not in line for line in lines)
    assert protocol_table.RESIZES.keys() >= {protocol.resize for protocol in protocols.PROTOCOLS.values()}
    assert protocol_table.RESIZES.keys() <= resizing.RESIZES.keys()
    alike = {name: protocol_table.how(name) for name in ("adm", "edm", "pytorch-fid", "clean-fid", "tf-gan")}
    assert alike["adm"] == alike["edm"] and len(set(alike.values())) == 4


def test_the_table_has_differences_within_a_network_and_a_record_of_each(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "measure", measured)
    rows = protocol_table.measure(BOTH, tmp_path)
    assert {name: row["difference"] for name, row in rows.items()} == {
        "adm": 0, "edm": 0, "pytorch-fid": 0.25, "torch-fidelity": 0, "clean-fid": 0.5, "tf-gan": 0.125, "dgm-eval": 0,
        "edm2-dinov2": 4, "cmmd": 0,
    }  # fmt: skip
    assert {row["standard_error"] for row in rows.values()} == {0.125}
    text = (tmp_path / "protocols.md").read_text()
    assert "| clean-fid | fid | 3.5 ± 0.12 | +0.5 | Pillow's bicubic resize, antialiased;" in text
    assert text.count("few samples") == 1
    for name in rows:
        assert records.read(tmp_path / f"{name}.json")["request"]["protocol"] == name


def test_figures_of_two_networks_are_not_compared(tmp_path, monkeypatch):
    monkeypatch.setitem(OTHERS, "cmmd-siglip2", ("cmmd", 9.0))
    monkeypatch.setattr(records, "measure", measured)
    both = BOTH._replace(inception="", encoder="cmmd=clip,cmmd-siglip2=siglip")
    rows = protocol_table.measure(both, tmp_path)
    assert {name: row["difference"] for name, row in rows.items()} == {"cmmd": 0, "cmmd-siglip2": 0}


def test_statistics_of_one_protocol_leave_the_others_unmeasured_and_say_why(tmp_path, monkeypatch):
    def refuse(request):
        if request.protocol != "pytorch-fid":
            raise StatisticsError("b.npz: resize: made with 'bilinear_torch'")
        return measured(request)

    monkeypatch.setattr(records, "measure", refuse)
    rows = protocol_table.measure(BOTH, tmp_path)
    assert [name for name, row in rows.items() if row["value"] is not None] == ["pytorch-fid"]
    assert "| adm | fid | — |  | b.npz: resize: made with 'bilinear_torch' |" in (tmp_path / "protocols.md").read_text()
    with pytest.raises(ConfigError, match="made with 'bilinear_torch'"):
        protocol_table.measure(BOTH._replace(inception=""), tmp_path)


def test_a_value_that_is_not_finite_is_named_so(tmp_path, monkeypatch):
    def infinite(request):
        record = measured(request)
        if request.protocol == "adm":
            next(iter(record["figures"].values())).update(value=None)  # as JSON has infinity
        return record

    monkeypatch.setattr(records, "measure", infinite)
    rows = protocol_table.measure(BOTH, tmp_path)
    assert (rows["adm"]["why"], rows["edm"]["why"]) == ("value not finite", None)
    assert protocol_table.cells(rows)[0][-1] == "value not finite"


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"inception": "", "encoder": ""}, "--inception=FILE, --encoder=NAME=FOLDER"),
        ({"encoder": "dinov2-large"}, "with --protocol=all write NAME=FOLDER"),
        ({"encoder": "dgm=dinov2-large"}, "dgm-eval"),
    ],
)
def test_networks_that_are_not_named_are_said(fields, message):
    with pytest.raises(ConfigError, match=message):
        protocol_table.requests(BOTH._replace(**fields))


@pytest.mark.extended
def test_the_command_refuses_what_the_table_does_not_take(tmp_path):
    np.savez(tmp_path / "a.npz", np.zeros((4, 8, 8, 3), np.uint8))
    line = ["diffusion", "evaluate", "--samples=a.npz", "--reference=a.npz", "--protocol=all", "--out=out"]
    done = commands.run(*line, "--metrics=kid", cwd=tmp_path)
    assert done.returncode == 2 and "leave --metrics out" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.extended
@pytest.mark.parametrize(
    "protocol, message",
    [
        ("all", "--protocol=all measures only with the networks that you name"),
        ("edm", "--inception is missing"),
        ("cmmd", "--encoder is missing"),
        ("edn", "unknown protocol 'edn'. Did you mean 'edm'?"),
    ],
)
def test_a_run_is_not_measured_before_its_networks_are_named(tmp_path, protocol, message):
    """The folder lacks samples.npz, which the evaluation would look for first."""
    (tmp_path / "config.json").write_text(digits.get_config("tiny").to_json())
    done = commands.run("diffusion", "evaluate", "--workdir=.", f"--protocol={protocol}", cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr
