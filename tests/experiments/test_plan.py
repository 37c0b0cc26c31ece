"""Plans: exact bytes against answers by hand, estimates against XLA, and the command."""

import functools
import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys
from unittest import mock

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType

from configs import digits, imagenet256_dit
from configs.students import turbo
from diffusion import text_to_image
from diffusion.experiments import plan
from diffusion.experiments.planning import ahead_of_time, estimate
from diffusion.experiments.planning.machines import MACHINES, machine_of, ring_bandwidth, topology_name
from diffusion.experiments.run import program
from diffusion.experiments.run_folder import workdir
from diffusion.models.budget.counted_flops import counted_flops
from diffusion.models.dit import DiT
from diffusion.recipe import ConfigError, Recipe
from tests import accelerators, commands
from tests.experiments.run.made_tuning import config as config_of

ROOT = pathlib.Path(__file__).parents[2]
LATENTS = (32, 32, 4)
XL = 674_834_720  # parameters of DiT-XL/2 by hand, in `test_parameters_of_xl`; "675M" in the paper's table 4


def described(**axes):
    axes = {"data": 1, "fsdp": 1, "sequence": 1, "tensor": 1} | axes
    return AbstractMesh(tuple(axes.values()), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def work(config, shape=LATENTS, **axes):
    return plan.work_of(config, shape, described(**axes))


@functools.cache
def xl(**axes):
    """The work of DiT-XL/2 as it is published, on a mesh."""
    return work(imagenet256_dit.get_config(), **axes)


@pytest.mark.extended
def test_parameters_of_xl():
    d, layers = 1152, 28
    layer = (3 * d * d + 3 * d) + (d * d + d) + (8 * d * d + 5 * d) + (6 * d * d + 6 * d)  # qkv, out, MLP, modulation
    embeddings = (16 * d + d) + (256 * d + d) + (d * d + d) + 1001 * d  # patch, time, class
    final = (2 * d * d + 2 * d) + (32 * d + 32)
    assert layers * layer + embeddings + final == XL
    leaves = jax.tree.leaves(xl().target.params)
    assert sum(leaf.size for leaf in leaves) == XL


@pytest.mark.extended
def test_adamw_and_average_hold_16_bytes_a_parameter_and_fsdp_a_part_of_them():
    whole = estimate.memory_by_part(xl(), "tpu")
    assert whole["parameters"] == whole["average"] == 4 * XL
    assert whole["optimizer"] == 8 * XL + 4 + 4  # two moments and two counts of steps
    parts = estimate.memory_by_part(xl(fsdp=64), "tpu")
    state = sum(parts[part] for part in estimate.EXACT)
    assert 16 * XL / 64 <= state < 1.1 * 16 * XL / 64  # leaves that 64 does not divide stay whole
    layer = 4 * XL / 28 / 2  # in bfloat16; of split parameters the gathered ones, and their gradients
    assert whole["layer"] == pytest.approx(layer, rel=1e-6) and parts["layer"] == pytest.approx(2 * layer, rel=0.1)


@pytest.mark.extended
def test_a_teacher_and_a_second_player_hold_16_bytes_of_each_of_their_parameters(tmp_path):
    (tmp_path / "config.json").write_text(digits.get_config().to_json())
    parts = estimate.memory_by_part(work(turbo.get_config(str(tmp_path)), (8, 8, 1)), "gpu")
    # As large as the model, both: parameters of the teacher, of the second player, two moments of its optimizer.
    assert parts["others"] == pytest.approx((4 + 4 + 8) * parts["parameters"] / 4, abs=64)  # and its counts of steps
    assert estimate.memory_by_part(work(digits.get_config(), (8, 8, 1)), "gpu")["others"] == 0


@pytest.mark.extended
def test_the_7b_preset_has_seven_thousand_million_parameters():
    leaves = jax.tree.leaves(work(imagenet256_dit.get_config("7b"), fsdp=64).target.params)
    assert 7.0e9 < sum(leaf.size for leaf in leaves) < 7.5e9


@pytest.mark.extended
def test_operations_and_the_roofline_by_hand():
    # Table 4 of the paper: 118.64 GFLOPs are multiply-adds of a forward pass; so a step of 256 takes 6 x 256 x that.
    run = xl(data=64)
    needed = estimate.operations(run)
    assert needed["model"] == pytest.approx(6 * 256 * 118.64e9, rel=2e-3)
    assert needed["recomputed"] == 0
    spent = estimate.seconds(run, MACHINES["v5p"])
    assert spent["compute"] == pytest.approx(6 * 256 * 118.64e9 / 64 / 459e12, rel=2e-3)
    # All of a 4 x 4 x 4 torus: an all-reduce of the gradients in bfloat16 over its six links, 100 GB/s each way.
    assert spent["network"] == pytest.approx(2 * 63 / 64 * 2 * XL / 600e9, rel=1e-3)
    three = [spent[name] for name in ("compute", "memory", "network")]
    # No kernel runs beside an all-reduce of a TPU; beside a GPU's gathers and scatters all of them may.
    assert spent["overlapped"] == pytest.approx(sum(three)) and spent["in_turn"] == pytest.approx(sum(three))
    assert spent["mfu_in_turn"] == pytest.approx(spent["compute"] / sum(three))
    # Half of the products in fp8, each in half the time.
    half = estimate.seconds(run._replace(in_fp8=0.5), MACHINES["h100"])["compute"]
    assert half == pytest.approx(0.75 * estimate.seconds(run, MACHINES["h100"])["compute"])
    gpu = estimate.seconds(xl(fsdp=8), MACHINES["h100"])
    kernels = gpu["compute"] + gpu["memory"]
    assert gpu["overlapped"] == pytest.approx(kernels, rel=1e-3) and gpu["exposed"] < 1e-3 * kernels
    assert gpu["in_turn"] == pytest.approx(kernels + gpu["network"])
    # Computing every layer again takes longer, and the utilisation does not count it.
    again = estimate.seconds(run._replace(model=run.model.clone(remat="full")), MACHINES["v5p"])
    assert again["compute"] == pytest.approx(4 / 3 * spent["compute"], rel=0.01)
    assert again["mfu_overlapped"] <= 0.76


@pytest.mark.extended
def test_passes_by_hand():
    """XL/2 on 4 x 16 chips, 4 images each: 28 layers of 256 tokens of 1152 features, 16 heads, 12 x 1152^2 weights."""
    arrays = estimate.passed(xl(data=4, fsdp=16), MACHINES["v5p"])
    assert arrays.state == pytest.approx(16 * XL / 16, rel=0.1)
    assert arrays.weights == 2 * 28 * 12 * 1152**2
    assert arrays.tokens == 2 * 28 * 4 * 256 * 1152
    assert arrays.scores == 4 * 28 * 4 * 16 * 256**2
    assert arrays.exchanged == arrays.windows == 0
    split = estimate.passed(xl(fsdp=16, sequence=4), MACHINES["v5p"])
    assert split.tokens == arrays.tokens and split.scores == arrays.scores  # four times the images, a quarter of each
    assert split.exchanged == pytest.approx(3 * 4 * 3 / 4 * arrays.tokens)  # q, k, v and the output, in three passes
    windows = estimate.passed(xl(fsdp=16, tensor=4), MACHINES["v5p"])
    assert windows.windows == windows.tokens == 4 * arrays.tokens and windows.weights == arrays.weights / 4
    fused = estimate.passed(xl(), MACHINES["h100"])
    assert fused.scores == 0


def test_links():
    gpu = MACHINES["h100"]
    tpu = MACHINES["v5p"]
    mesh = {"data": 4, "fsdp": 8, "tensor": 2}
    assert ring_bandwidth(gpu, mesh, ("tensor",)) == 450e9  # NVLink, inside a node
    assert ring_bandwidth(gpu, {"data": 8, "fsdp": 8}, ("fsdp",)) == 450e9
    assert ring_bandwidth(gpu, {"data": 8, "fsdp": 8}, ("data",)) == 50e9  # one member in each node: its own card
    assert ring_bandwidth(gpu, {"data": 1, "fsdp": 64}, ("fsdp",)) == 400e9  # eight cards of each node
    assert ring_bandwidth(gpu, mesh, ("fsdp",)) == 200e9  # a pair of GPUs shares each place of the ring
    assert ring_bandwidth(tpu, {"data": 1, "fsdp": 64}, ("fsdp",)) == 600e9
    assert ring_bandwidth(tpu, {"data": 16, "fsdp": 4}, ("fsdp",)) == 200e9
    assert ring_bandwidth(tpu, {"data": 16, "fsdp": 4}, ("data",)) == 400e9
    assert ring_bandwidth(tpu, {"data": 2}, ("data",)) == 600e9  # the whole torus


def test_links_of_cards_without_nvlink():
    """Every group, of one machine or several, is bound by the bus: 16 lanes of PCIe Gen4, 32 GB/s one way."""
    card = MACHINES["l40s"]
    for mesh in ({"data": 2}, {"data": 1, "fsdp": 8}, {"data": 64}):
        assert ring_bandwidth(card, mesh, tuple(mesh)) == 32e9


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", None),  # another bandwidth, and no NVLink to eight
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA GB200", None),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 5090", "rtx5090"),
        ("TPU v5", "v5p"),
        ("TPU v5 lite", None),
        ("TPU v6 lite", "v6e"),
        ("cpu", None),
    ],
)
def test_devices_are_known_by_what_jax_calls_them(kind, name):
    assert machine_of(kind) == name


@pytest.mark.extended
def test_without_devices_the_plan_is_of_those_that_jax_finds(monkeypatch):
    monkeypatch.setattr(plan, "devices_here", lambda: {"NVIDIA A100-SXM4-80GB": 4})
    assert plan.described(None, "all") == plan.described(None, "a100-80gb") == (4, ("a100-80gb",))
    assert plan.described(8, "all") == (8, tuple(MACHINES))
    with pytest.raises(
        ConfigError, match=r"none of the devices that JAX finds here \(4 x NVIDIA A100-SXM4-80GB\) is h100"
    ):
        plan.described(None, "h100")
    with pytest.raises(ConfigError, match="--devices = 0"):
        plan.described(0, "all")
    monkeypatch.undo()
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with pytest.raises(ConfigError, match=r"\(\d+ x cpu\) is one whose data sheet is known"):
        plan.described(None, "all")  # of the devices that JAX really finds


def test_slices():
    assert [topology_name(MACHINES["v5p"], n) for n in (4, 8, 64, 256)] == [
        "v5p:2x2x1",
        "v5p:2x2x2",
        "v5p:4x4x4",
        "v5p:4x8x8",
    ]
    assert [topology_name(MACHINES["v6e"], n) for n in (8, 64)] == ["v6e:2x4", "v6e:8x8"]
    assert [topology_name(MACHINES["h100"], n) for n in (1, 8, 64)] == ["1x1x1", "1x1x8", "1x8x8"]
    with pytest.raises(ValueError, match="12 GPUs do not fill whole nodes of 8"):
        topology_name(MACHINES["h100"], 12)
    with pytest.raises(ValueError, match="Valid for --machine: h100, v5p, v6e"):
        topology_name(MACHINES["l40s"], 8)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "full"])
def test_memory_against_xla(remat):
    """What XLA says of the real train step on a CPU, at two depths: the whole, and what a layer adds."""
    result, ours = [], []
    for depth in (2, 5):
        config = digits.get_config()
        config.model.update(width=64, depth=depth, unroll=1, remat=remat)
        config.train.update({"batch_size": 256, "accumulate": 1})  # as on an accelerator; a CPU's rule is four parts
        mesh = program.mesh_of(config, jax.devices()[:1])
        run = program.build(Recipe.from_config(config, (8, 8, 1)), mesh)
        output = run.step.lower(run.target, run.batch, run.seed).compile().memory_analysis()
        parts = estimate.memory_by_part(plan.work_of(config, (8, 8, 1), mesh), "cpu")
        state = sum(parts[part] for part in estimate.EXACT)
        assert output.argument_size_in_bytes == pytest.approx(state, abs=100_000)  # and a batch
        result.append(output.temp_size_in_bytes)
        ours.append(sum(parts.values()) - state)
    assert ours[1] == pytest.approx(result[1], rel=0.15)
    of_a_layer = (result[1] - result[0]) / 3
    assert (ours[1] - ours[0]) / 3 == pytest.approx(of_a_layer, rel=0.05 if remat == "none" else 0.2)


REAL_RUN = """
import re, sys, jax
from configs import digits
from diffusion.experiments import plan, train
from diffusion.experiments.planning import estimate
from diffusion.experiments.run import program
config = digits.get_config()
config.model.update(depth=8, unroll=1)
config.train.accumulate = 1
config.train.batch_size, config.train.steps, config.train.log_every = int(sys.argv[2]), 3, 1
assert train.run(config, sys.argv[1]) == 0
# The process's own: `ru_maxrss` begins with the peak of the process that started it.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
mesh = program.mesh_of(config, jax.devices()[:1])
parts = estimate.memory_by_part(plan.work_of(config, (8, 8, 1), mesh), "cpu")
print(peak, sum(parts.values()))
"""


@pytest.mark.slow
def test_memory_of_a_real_run(tmp_path):
    """Peak memory of two training processes: what 15 times the images take more, 2.7 GB, beside the plan's answer."""
    result = []
    for rows in (64, 1024):
        command = [sys.executable, "-c", REAL_RUN, str(tmp_path / str(rows)), str(rows)]
        env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=env, cwd=ROOT, text=True, capture_output=True, timeout=900)
        assert done.returncode == 0, done.stderr[-2000:]
        result.append(tuple(map(float, done.stdout.splitlines()[-1].split())))
    (small, planned_small), (large, planned_large) = result
    assert large - small == pytest.approx(planned_large - planned_small, rel=0.1)


@pytest.mark.slow
def test_remedies():
    """The first that fits: the recipe computes elementwise functions again, "dots" attention too, "narrow" more."""
    config = imagenet256_dit.get_config()
    config.train.batch_size = 1024
    run = plan.work_of(config, LATENTS, program.mesh_of(config, jax.devices()[:1]))
    needed = sum(estimate.memory_by_part(run, "tpu").values())
    for share, remat in ((0.7, "dots"), (0.5, "narrow")):
        machine = MACHINES["v5p"]._replace(memory=share * needed)
        output = plan.change(config, LATENTS, run, machine)
        assert output.startswith(f"--config.model.remat={remat} brings it to ")
        less = run._replace(model=run.model.clone(remat=remat))
        assert estimate.fits(estimate.memory_by_part(less, "tpu"), machine)
    assert "--config.train.accumulate=" in plan.change(config, LATENTS, run, machine._replace(memory=40e9))
    assert "more devices" in plan.change(config, LATENTS, run, machine._replace(memory=1e8))


def run(*arguments, timeout=300):
    return commands.run("-m", "experiments.plan", *arguments, timeout=timeout)


@pytest.mark.extended
def test_command(tmp_path):
    out = tmp_path / "plan.json"
    seven = "--config=configs/imagenet256_dit.py:7b"
    done = run(seven, "--devices=64", "--config.train.batch_size=512", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert "estimate" in done.stdout and "exact" in done.stdout and "does not fit" not in done.stdout
    result = json.loads(out.read_text())
    assert result["mesh"]["fsdp"] == math.prod(result["mesh"].values()) == 64
    assert result["images"] == {"step": 512, "device": 8, "micro_batches": 1}
    assert result["machines"].keys() == MACHINES.keys()
    assert result["machines"]["h100"]["attention"] == "cudnn" and result["machines"]["v5p"]["attention"] == "xla"
    parts = result["machines"]["v6e"]["memory"]
    assert sum(parts[part] for part in estimate.EXACT) == pytest.approx(16 * result["parameters"] / 64, rel=0.01)


@pytest.mark.extended
def test_a_run_that_does_not_fit_is_told_what_to_change():
    done = run("--config=configs/imagenet256_dit.py:7b", "--devices=64", "--machine=h100", "--config.mesh.fsdp=1")
    assert done.returncode == 0, done.stderr
    assert "h100: the run does not fit" in done.stdout
    assert "To make it fit: --config.mesh.fsdp=64 brings it to" in done.stdout


def test_the_plan_replaces_no_device(tmp_path):
    (tmp_path / "pipe").symlink_to("/dev/null")
    with pytest.raises(workdir.WorkdirError, match="not a file"):
        plan.write(tmp_path / "pipe", {})
    assert (tmp_path / "pipe").is_symlink()


@pytest.mark.extended
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--devices=48"], "batch_size = 256"),
        (["--devices=8", "--machine=l40s", "--compile"], "h100, v5p, v6e"),
    ],  # refused before libtpu is looked for
)
def test_mistakes_are_one_sentence(arguments, message):
    done = run("--config=configs/imagenet256_dit.py", *arguments)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed here")
def test_without_libtpu_the_command_says_how_to_get_it():
    with pytest.raises(ahead_of_time.AheadError, match="tpu/bin/pip install"):
        ahead_of_time.devices(MACHINES["v5p"], "v5p:2x2x2")


@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is not None, reason="the plugin is installed here")
def test_without_the_plugin_for_gpus_the_command_says_how_to_get_it():
    with pytest.raises(ahead_of_time.AheadError, match="cuda/bin/pip install"):
        ahead_of_time.devices(MACHINES["h100"], "1x1x1")


def test_a_step_that_xla_finds_no_room_for():
    said = "Ran out of memory on HBM, the total memory required for HLO temporaries (447.23G) exceeds available HBM"
    error = jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {said}\nmore lines")
    step = mock.Mock()
    step.lower.return_value.compile.side_effect = error
    result = ahead_of_time.compile_step(lambda mesh: mock.Mock(step=step), described(), MACHINES["v5p"])
    assert (result["fits"], result["error"]) == (False, said)
    step.lower.return_value.compile.side_effect = jax.errors.JaxRuntimeError("INTERNAL: a fault")
    with pytest.raises(jax.errors.JaxRuntimeError, match="a fault"):
        ahead_of_time.compile_step(lambda mesh: mock.Mock(step=step), described(), MACHINES["v5p"])
    compiled = step.lower.return_value.compile
    compiled.side_effect = None
    compiled.return_value.memory_analysis.return_value.peak_memory_in_bytes = 182_360_000_000
    result = ahead_of_time.compile_step(lambda mesh: mock.Mock(step=step), described(), MACHINES["h100"])
    assert (result["fits"], result["error"]) == (
        False,
        "the program needs 182.4 GB at its peak, and a device has 80 GB",
    )


@pytest.mark.slow
@accelerators.needed
def test_a_step_for_an_h100_keeps_as_much_as_the_plan_says(tmp_path):
    small = ["--config=configs/imagenet256_dit.py:b2", "--config.train.batch_size=64", "--config.model.depth=4"]
    command = [accelerators.PYTHON, "-m", "diffusion", "plan", *small, "--devices=1"]
    out = tmp_path / "plan.json"
    done = subprocess.run([*command, "--machine=h100", "--compile", f"--out={out}"], cwd=ROOT, text=True,
                          capture_output=True, timeout=900)  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())["machines"]["h100"]
    said = result["compiled"]
    assert said["topology"] == "1x1x1" and said["fits"] and said["collectives"] == {}
    state = sum(result["memory"][part] for part in estimate.EXACT)
    assert said["aliased"] == pytest.approx(state, rel=0.01)
    assert 0.9 < (sum(result["memory"].values()) - state) / said["temporaries"] < 1.6


def compile_tiny(python, out):
    tiny = ["--config=configs/imagenet256_dit.py:tiny", "--devices=8", "--config.mesh.fsdp=8", "--machine=v5p"]
    wide = ["--config.model.width=1024", "--config.model.patch=2", "--config.train.batch_size=64"]
    command = [python, "-m", "diffusion", "plan", *tiny, *wide, "--compile", f"--out={out}"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=900)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())["machines"]["v5p"]
    said = result["compiled"]
    parts = result["memory"]
    assert said["topology"] == "v5p:2x2x2" and said["fits"]
    state = sum(parts[part] for part in estimate.EXACT)
    assert said["aliased"] == pytest.approx(state, rel=0.1)
    # Of two layers, the one "at work" weighs half as much as what both keep: here the plan says more than XLA uses.
    assert 0.9 < (sum(parts.values()) - state) / said["temporaries"] < 1.6
    assert sum(said["collectives"].values()) > 0


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed here")
def test_compiles_for_a_tpu(tmp_path):
    compile_tiny(sys.executable, tmp_path / "plan.json")


@pytest.mark.slow
@accelerators.needed
def test_compiles_for_a_tpu_elsewhere(tmp_path):
    compile_tiny(accelerators.PYTHON, tmp_path / "plan.json")


def test_a_plan_names_the_attention_that_a_platform_gets():
    model = DiT(patch=2, width=1152, depth=1, heads=16, num_classes=0, dtype="bfloat16")
    names = {platform: estimate.attention_name(model, LATENTS, platform) for platform in ("cpu", "gpu", "tpu")}
    assert names == {"cpu": "matmul", "gpu": "cudnn", "tpu": "xla"}
    assert jax.default_backend() == "cpu"


@pytest.mark.slow
def test_a_run_that_tunes_a_base_is_planned(tmp_path):
    """The bytes by the shapes of both; the operations: forward, and backward to the inputs of frozen layers alone."""
    config = config_of(tmp_path, {"name": "lora", "rank": 2}, "sd")
    planned = plan.plan(config, 1, ("h100",))
    model = text_to_image.described(config.base.path)
    unet = sum(leaf.size for leaf in jax.tree.leaves(model.params["unet"]))
    of = planned["machines"]["h100"]
    null = 12 * 24  # the text of no caption: 12 tokens of 24 numbers
    assert of["memory"]["base"] == 4 * (unet + null) and of["fits"]
    assert of["memory"]["parameters"] == 4 * planned["parameters"] < 4 * unet / 4
    x = jax.ShapeDtypeStruct((2, 8, 8, 4), "float32")
    text = jax.ShapeDtypeStruct((2, 12, 24), "float32")
    clock = jax.ShapeDtypeStruct((2,), "float32")
    forward = counted_flops(model.denoiser.apply, {"params": model.params["unet"]}, x, clock, {"text": text})
    assert 1.8 * forward < planned["flops"]["step"] < 3 * forward
    with pytest.raises(ConfigError, match="--compile is not for runs that tune a base"):
        plan.plan(config, 1, ("h100",), compiled=True)
