"""The GPU measurements, rehearsed: the accounting by hand, failures as rows, and (slow) whole stages on a CPU."""

import json
import math
import pathlib
import subprocess
import sys

import pytest

from benchmarks import rows
from benchmarks.gpu import accounting, plan, profile, rehearsal

ROOT = pathlib.Path(__file__).parents[2]
H200 = "NVIDIA H200"


class Made:
    """A worker that said and measured this."""

    def __init__(self, kind="train", peak=0.0, **about):
        self.spec, self.peak = {"kind": kind}, peak
        self.about = {"device": H200, "jax": "0", "attention": "cudnn", "refused": [], "first_seconds": 30.0, **about}


def test_images_a_second_and_both_utilisations():
    # 10 images of 98.94 TFLOP in 2 s are 494.7 TFLOP/s, half of the data sheet; the matmul makes 659.6, so 3/4 of it.
    workers = {
        "ours": Made(flops=989.4e12, images=10, peak=5e9),
        "torch": Made(torch="9", peak=1e10),
        "matmul": Made("matmul", flops=659.6e12),
    }
    found = {"ours": (2.0, 2.0, 2.0), "torch": (4.0, 4.0, 4.0), "matmul": (1.0, 1.0, 1.0)}
    rate, memory = accounting.beside_limit("step", workers, found)
    assert rate.ours == (5.0,) * 3 and rate.ratio == (2.0, 2.0, 2.0)
    assert rate.share == pytest.approx(0.75)
    assert "MFU 50.0% of 989 TFLOP/s" in rate.note and "attention cudnn" in rate.note
    assert memory.ours == (5.0,) and memory.ratio == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    "kernel, part",
    [
        ("nvjet_sm90_tst_256x96_64x4_1x2_h_bz_coopA_NTT", "products"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16", "attention"),
        ("loop_convert_fusion_28", "passes of the network"),
        ("input_reduce_select_fusion", "update and norms of the gradient"),
        ("loop_concatenate_fusion_3", "gradients and parameters of layers, joined and cut"),
        ("Memset 0", "others"),
    ],
)
def test_a_kernel_belongs_to_the_part_of_the_step_that_its_instruction_says(kernel, part):
    text = """
  %loop_convert_fusion.28 = bf16[8]{0} fusion(%a), kind=kLoop, metadata={op_name="jit(step)/jvp(DiT)/blocks/mlp/mul"}
  input_reduce_select_fusion = (f32[8]{0}) fusion(%b), metadata={op_name="jit(step)/jit(_where)/select_n" stack=1}
  ROOT %loop_concatenate_fusion.3 = f32[8] fusion(), metadata={op_name="jit(step)/transpose(jvp(DiT))/concatenate"}
"""
    assert profile.part_of(kernel, profile.op_names_of(text))[0] == part


def test_what_fails_is_a_row_that_says_so():
    workers = {"base": Made(), "xla": Made(failed="out of memory"), "full": Made(peak=2e9)}
    found = {"base": (0.1, 0.1), "xla": (math.nan,) * 2, "full": (0.2, 0.2)}
    failed, full = accounting.beside_base("t", workers, found)
    assert failed.note == "failed: out of memory"
    assert full.ratio == (0.5, 0.5, 0.5) and full.note.startswith("2.0 GB; base: attention cudnn")
    (row,) = accounting.beside_limit("t", {"ours": Made(failed="no")}, {"ours": (math.nan,)})
    assert row.note == "failed: no"
    absent = {"ours": Made(flops=1e12, images=1), "torch": Made(failed="no torch there"), "matmul": Made(flops=1e12)}
    row = accounting.beside_limit("t", absent, {"ours": (1.0,), "torch": (math.nan,), "matmul": (1.0,)})[0]
    assert row.theirs == () and "no torch there" in row.note
    rows.table([failed, full, row])  # can be shown


def test_a_worker_that_ends_says_why():
    class Refused:
        name = "refused"
        spec, about, peak = {}, {}, 0.0

        class _peer:
            ask = staticmethod(lambda line: (_ for _ in ()).throw(SystemExit("ended with status -6")))

    assert math.isnan(accounting.Worker.seconds(Refused)) and "status -6" in Refused.about["failed"]


def test_data_sheets_are_found_by_the_device_s_name():
    assert accounting.data_sheet(H200) == accounting.data_sheet("NVIDIA H100 80GB HBM3") == 989.4e12
    assert accounting.data_sheet("NVIDIA A100-SXM4-80GB") == 312e12
    for other in ("cpu", "NVIDIA H100 PCIe", "NVIDIA GB200"):  # with names that hold another's
        assert math.isnan(accounting.data_sheet(other))


@pytest.mark.parametrize("name", plan.measurements())
def test_each_stage_has_what_its_rows_are_made_of(name):
    what = plan.measurements()[name]
    assert "base" in what.cases or {"ours", "matmul"} <= what.cases.keys()
    for spec in what.cases.values():
        small = plan.tiny(spec)
        assert small.get("model", "tiny") == "tiny" and small.get("size", 256) == 256 and small.get("batch", 4) == 4
        assert spec["kind"] in ("matmul", "torch") or spec["attention"][-1] in ("xla", "cudnn")
    assert 3 * what.seconds <= 540  # a stage and what it may take at most fit into one call


def test_a_stage_fits_if_all_that_lies_on_the_device_at_once_does():
    of = lambda name: {"kind": "train", "model": name, "attention": ["cudnn", "xla"]}
    cases = {"base": of("a"), "other": of("b"), "torch": {**of("a"), "kind": "torch"}}
    row = lambda gigabytes: {"peak": gigabytes * 1e9 - rehearsal.CONTEXT, "least": 0.5}
    rows_ = {rehearsal.key(of("a")): row(50), rehearsal.key(of("b")): row(40)}
    together = rehearsal.verdict(plan.Measurement("t", cases, 60), rows_, 80e9)
    assert together["bytes"] == pytest.approx(90e9) and not together["fits"] and together["least"] == 7.0
    apart = rehearsal.verdict(plan.Measurement("t", cases, 60, apart=True), rows_, 80e9)
    assert apart["bytes"] == pytest.approx(50e9) and apart["fits"] and not apart["missing"]
    rows_[rehearsal.key(of("b"))] = {"error": "no tiles"}
    failed = rehearsal.verdict(plan.Measurement("t", cases, 60), rows_, 80e9)
    assert failed["failed"] == {"other": "no tiles"} and failed["bytes"] == pytest.approx(50e9)
    assert rehearsal.verdict(plan.Measurement("t", cases, 60), {}, 80e9)["missing"] == ["base", "other"]


def test_calls_hold_every_stage_in_order_and_none_takes_longer_than_a_call():
    made = plan.calls(rehearsal.CALL)
    assert [name for part in made for name in part] == [*plan.FIRST, *plan.measurements()]
    takes = plan.FIRST | {name: what.seconds for name, what in plan.measurements().items()}
    sums = [sum(takes[name] for name in part) for part in made]
    assert max(sums) <= rehearsal.CALL
    assert all(had + takes[part[0]] > rehearsal.CALL for had, part in zip(sums, made[1:]))


def test_a_program_of_several_stages_is_rehearsed_once_and_torch_not_at_all():
    every = rehearsal.programs(plan.measurements())
    specs = [spec for what in plan.measurements().values() for spec in what.cases.values()]
    assert len(every) < len(specs) and all(spec["kind"] != "torch" for spec in every.values())
    assert {spec["flags"] for spec in every.values() if "flags" in spec} == set(plan.FLAGS.values())
    assert all(json.loads(name)["kind"] == spec["kind"] for name, spec in every.items())


@pytest.mark.slow
def test_stages_run_on_a_cpu_and_resume(tmp_path):
    words = [sys.executable, "-m", "benchmarks.gpu", f"--out={tmp_path}", "--tiny",
             "--stages=environment,matmul,jvp,fsdp"]  # fmt: skip
    done = subprocess.run([*words, "--minutes=9"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "log.txt").read_text()
    results = json.loads((tmp_path / "results.json").read_text())["stages"]
    assert all(result["status"] == "done" for result in results.values()) and len(results) == 4
    whats = [row["what"] for row in results["jvp"]["result"]["rows"]]
    assert ["MeanFlow" in what for what in whats] == [True, False] and "sCM" in whats[1]
    again = subprocess.run([*words, "--minutes=0"], cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and "MeanFlow" in again.stdout
    none = subprocess.run([*words[:4], "--minutes=1"], cwd=ROOT, capture_output=True, text=True)
    assert none.returncode == 1 and "not measured" in none.stderr
    wrong = subprocess.run([*words[:-1], "--stages=attentoin"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 1 and "attention" in wrong.stderr
