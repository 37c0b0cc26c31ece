"""Programs as evidence: cases, gates, tables and differences by hand; and (slow) small programs for an H100."""

import importlib.util
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import pytest

from benchmarks.programs import __main__ as command, cases, gates, page, source_code
from benchmarks.programs.table import CASES, PROGRAMS
from tests import accelerators

ROOT = pathlib.Path(__file__).parents[2]
BLOCK = ["diffusion/models/layers/blocks.py:71", "diffusion/models/dit.py:217"]
LONG = {
    "kinds": ["f32", "f32"],
    "precision": "default",
    "flops": 2e12,
    "times": 28,
    "lines": BLOCK,
    "path": "mlp/hidden/dot",
}
COPY = {"kind": "copy", "type": "bf16[256,4608]", "bytes": 4e9, "times": 28, "lines": BLOCK, "path": "mlp/copy"}


def row(case="train_dit_xl2@h100", **changes):
    """A row with nothing to mend."""
    bound = {"seconds": 0.25, "mfu": 0.75}
    plain = {
        "case": case, "products_run": "as XLA chooses", "commit": "0123456789ab+",
        "roofline": bound, "measured": {"seconds": 0.3, "mfu": 0.6}, "bytes": 1e11, "kernels": 1200,
        "memory": {"temp": 4e10, "peak": 5e10}, "fits": True, "flops": 1e14, "slowest": [], "products": [],
        "copies": [], "collectives": [], "recomputed": [], "stacks": [],
        "attention": {"fused": {"__cudnn$fmhaSoftmax": 28}, "products": []},
    }  # fmt: skip
    return plain | changes


@pytest.mark.extended
def test_a_case_is_a_program_on_devices():
    make, small, devices = cases.parts("train_dit_xl2:small@h100x8", PROGRAMS)
    assert (make, small, devices.number, devices.sheet.platform) == (PROGRAMS["train_dit_xl2"], True, 8, "gpu")
    assert all(cases.parts(case, PROGRAMS)[1] is False for case in CASES)
    with pytest.raises(ValueError, match=r"'train_dit@h100' is no case. Valid: .*train_dit_xl2.*v5px64-4x16"):
        cases.parts("train_dit@h100", PROGRAMS)


def test_a_product_in_float32_and_a_copy_are_named_with_their_lines():
    assert gates.broken(row()) == []
    moved = {**COPY, "kind": "slice"}
    said = gates.broken(row(products=[LONG], copies=[COPY, moved]))
    assert said == [
        "train_dit_xl2@h100: a product of f32 and f32, 2e+12 operations, from diffusion/models/layers/blocks.py:71 < "
        "diffusion/models/dit.py:217 (mlp/hidden/dot)",
        "train_dit_xl2@h100: a copy of bf16[256,4608], 4000.0 MB in 28 runs, from "
        "diffusion/models/layers/blocks.py:71 < diffusion/models/dit.py:217 (mlp/copy)",
    ]
    assert gates.broken(row(products=[LONG], copies=[COPY]), products=["^mlp/hidden"], copies=["copy$"]) == []


def test_the_table_has_a_line_for_each_row():
    said = page.markdown([row(products=[LONG]), {"case": "train_mmdit@h100", "error": "no room"}]).splitlines()
    assert said[0].startswith("| program | least time | MFU at most |") and len(said) == 4
    assert said[2] == (
        "| train_dit_xl2@h100 | 250 ms | 75% | 60% | 100 GB | 40 GB | 50 GB | 1,200 | 2.00% | 0 B | 0 B | fused | 0% "
        "| 0123456789ab+ |"
    )
    assert said[3].startswith("| train_mmdit@h100 | no room | ")


def test_details_name_the_largest_with_their_lines():
    said = page.details(row(copies=[COPY, {**COPY, "bytes": 1e9}]), 1)
    assert "what only moves more than a megabyte: 2, 5 GB" in said
    assert said.count("copy bf16[256,4608]  diffusion/models/layers/blocks.py:71 < diffusion/models/dit.py:217") == 1


def test_differences_are_figures_and_entries():
    moved = {**COPY, "lines": ["diffusion/models/layers/blocks.py:99"]}  # a line that moved is no news
    before = [row(copies=[COPY], products=[LONG])]
    after = [row(copies=[moved], kernels=1100), row("train_edm2@h100")]
    assert page.differences(after, before) == [
        "train_dit_xl2@h100: kernels: 1,200 -> 1,100",
        "train_dit_xl2@h100: not in bf16: 2.00% -> 0.00%",
        "train_dit_xl2@h100: products that are not in bfloat16: gone: 2 TFLOP f32 x f32 default mlp/hidden/dot",
        "train_edm2@h100: new",
    ]
    assert page.differences(before, before) == []
    small = {**COPY, "bytes": 1e6, "path": "small"}
    assert page.differences([row(copies=[COPY, small])], [row(copies=[COPY])]) == []  # 4 GB, as before
    many = [{**COPY, "bytes": 1e6, "path": f"small {k}"} for k in range(500)]
    cut = page.shortened(row(copies=[COPY, *many]))
    assert len(cut["copies"]) == 1 and page.cells(cut)[page.HEAD.index("copies")] == "4.5 GB"


def test_rows_of_other_cases_are_kept(tmp_path, monkeypatch):
    recorded = tmp_path / "programs.json"
    text = tmp_path / "programs.md"
    text.write_text(f"# Programs\n\n{command.BEGIN}\nold\n{command.END}\n\nThe end.\n")
    monkeypatch.setattr(command, "RECORDED", recorded)
    monkeypatch.setattr(command, "PAGE", text)
    command.record([row("sample_dit_xl2@h100")])
    command.record([row("train_dit_s2@h100", kernels=7)])
    assert [each["case"] for each in json.loads(recorded.read_text())] == ["train_dit_s2@h100", "sample_dit_xl2@h100"]
    said = text.read_text()
    assert "old" not in said and said.endswith("The end.\n") and said.index("train_dit_s2") < said.index("sample_dit")
    assert command.merged(recorded, [row("train_dit_s2@h100", kernels=9)])[0]["kernels"] == 9


def test_rows_are_of_the_version_of_jax_that_is_locked():
    """Another version has another compiler: its rows are recorded again by the command that this test prints."""
    locked = set(re.findall(r"^jax==([\d.]+)", (ROOT / "requirements-cuda12.txt").read_text(), re.MULTILINE))
    older = [entry["case"] for entry in json.loads(command.RECORDED.read_text()) if entry["jax"] not in locked]
    again = f".venv-accelerators/bin/python -m benchmarks.programs --record --cases={','.join(older)}"
    assert not older, f"compiled by another JAX than {locked}; make accelerators-env, and then {again}"


def test_rows_are_of_the_code_that_is_here():
    """A row whose train step or network was changed since is recorded again by the command that this test prints."""
    rows = [entry for entry in json.loads(command.RECORDED.read_text()) if "code" in entry]
    digests = {entry["case"]: source_code.digest(entry["code"]["definitions"], ROOT) for entry in rows}
    older = [entry["case"] for entry in rows if entry["code"]["digest"] != digests[entry["case"]]]
    again = f".venv-accelerators/bin/python -m benchmarks.programs --record --cases={','.join(older)}"
    assert not older, f"compiled from other code; make accelerators-env, and then {again}"


STEP = '''"""A file."""


@jax.jit
def step(x):
    """Doubles."""
    return x * 2  # twice


class Other:
    y = "# no comment"
'''


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("Doubles.", "Doubles\n    a number.", True),
        ("  # twice", "", True),
        ('"""A file."""', "import jax", True),
        ("# no comment", "# another", True),  # of another definition
        ("x * 2", "x * 3", False),
        ("@jax.jit\n", "", False),
        ("def step", "def steps", False),
    ],
)
def test_the_digest_is_of_the_code_without_its_comments(tmp_path, old, new, same):
    file = tmp_path / "step.py"
    digests = []
    for text in (STEP, STEP.replace(old, new)):
        file.write_text(text)
        digests.append(source_code.digest({"step.py": ["step"]}, tmp_path))
    assert (digests[0] == digests[1]) == same


def test_a_string_that_looks_like_a_comment_is_code(tmp_path):
    file = tmp_path / "step.py"
    digests = []
    for text in (STEP, STEP.replace("# no comment", "# another")):
        file.write_text(text)
        digests.append(source_code.digest({"step.py": ["Other"]}, tmp_path))
    assert digests[0] != digests[1]


@pytest.fixture
def fresh():
    """Programs that are compiled now are not kept, and so none has the lines of another day."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[name]
    jax.config.update(name, math.inf)
    yield
    jax.config.update(name, before)


def test_a_program_names_the_functions_that_it_comes_from(fresh, tmp_path):
    file = tmp_path / "net.py"
    file.write_text(
        "import jax.numpy as jnp\n\n\ndef unused(x):\n    return x\n\n\ndef net(x):\n    return jnp.cosh(x)\n"
    )
    spec = importlib.util.spec_from_file_location("net_of_a_test", file)
    net = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(net)
    text = jax.jit(net.net).lower(jax.ShapeDtypeStruct((3,), "float32")).compile().as_text()
    assert source_code.definitions(text, tmp_path) == {"net.py": ["net"]}
    callers = text.replace("net.py", "benchmarks/programs/cases.py")
    assert source_code.definitions(callers, tmp_path) == {}


@pytest.mark.slow
def test_an_unknown_case_is_refused():
    words = [sys.executable, "-m", "benchmarks.programs", "--cases=train_dog"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode and "train_dog" in done.stderr and "train_dit_xl2@h100x8" in done.stderr


# In float32 by choice: the last layer, as its output, and the embedding of EDM2's noise level.
PRODUCTS = {
    "train_dit_xl2": ["final/"],
    "train_mean_flow": ["final/"],
    "train_mmdit": ["final/"],
    "train_edm2": ["conv_out/", "_embedding/noise/"],
}
# Known: copies of the state without saying whose they are. cuDNN takes kernels [out, height, width, in], so that XLA
# turns those of convolutions.
COPIES = {"train_dit_xl2": [], "train_mean_flow": ["^$"], "train_mmdit": ["^$"], "train_edm2": ["^$", r"\['kernel'\]$"]}


def compiled(tmp_path, case, root=ROOT):
    """The row of a case, by the code of a checkout."""
    out = tmp_path / "row.json"
    words = ["-m", "benchmarks.programs.compile", f"--case={case}", f"--out={out}"]
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
    done = subprocess.run([accelerators.PYTHON, *words], cwd=root, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(out.read_text())


@pytest.mark.slow
@accelerators.needed
@pytest.mark.parametrize("program", PRODUCTS)
def test_a_train_step_in_bfloat16_has_no_other_products_and_no_copies(program, tmp_path):
    found = compiled(tmp_path, f"{program}:small@h100")
    assert gates.broken(found, PRODUCTS[program], COPIES[program]) == []
    assert found["attention"]["fused"] and not found["attention"]["products"]
    assert ("attention_tangent" in found["attention"]["fused"]) == (program == "train_mean_flow")
    # Those of the model, with what a fused attention computes again, and without the first layer's input gradient.
    assert 0.9 < found["flops"] * found["tensor_share"] / found["model_flops"] < 1.2


@pytest.mark.slow
@accelerators.needed
def test_a_tpu_computes_long_sequences_by_splash_kernels_alone(tmp_path):
    found = compiled(tmp_path, "train_dit_1024:small@v5px64")
    assert found["attention"]["fused"] and not found["attention"]["products"]
    # Of each of two layers: forward, the cotangents of q, and those of k and v.
    assert sum(found["attention"]["fused"].values()) == 2 * 3
    assert not [each for each in found["stacks"] if each["type"].endswith(",4,1024,1024]")]  # scores of 4 heads


HIDDEN = 'name="hidden")(x)\n'
UNCAST = 'name="hidden", dtype=None)(x)\n'
SPLIT = 'layout.split(h, "batch", "tokens", "hidden")\n'
BARRIER = "jax.lax.optimization_barrier"
TURNED = f"{BARRIER}(layout.with_layout_constraint({BARRIER}(h), layout.Layout((0, 2, 1))))\n"


@pytest.mark.slow
@accelerators.needed
@pytest.mark.parametrize(
    ("good", "bad", "said"),
    [(HIDDEN, UNCAST, "a product of (bf16|f32) and f32"), (SPLIT, TURNED, "a (transpose|copy) of bf16")],
    ids=["cast", "copy"],
)
def test_a_cast_that_is_gone_and_a_new_copy_are_found_with_their_line(good, bad, said, tmp_path):
    for folder in ("diffusion", "benchmarks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    blocks = tmp_path / "diffusion/models/layers/blocks.py"
    before, head, gelu = blocks.read_text().partition("class Gelu(")
    assert good in gelu, "the model was written anew: break it in another way"
    blocks.write_text(before + head + gelu.replace(good, bad, 1))
    line = next(
        k for k, text in enumerate(blocks.read_text().splitlines(), 1) if bad.strip() in text and k > before.count("\n")
    )
    found = gates.broken(compiled(tmp_path, "train_dit_xl2:small@h100", tmp_path), PRODUCTS["train_dit_xl2"])
    assert any(re.search(said, each) and f"blocks.py:{line}" in each for each in found), found
