"""Plans of pictures: bytes by the shapes of tensors, operations by the steps, times by the data sheet."""

import math
import types

import jax.numpy as jnp
import pytest
from rich.console import Console

from diffusion.experiments import plan
from diffusion.experiments.planning import picture_plan
from diffusion.experiments.planning.machines import MACHINES, Machine
from diffusion.recipe import ConfigError
from diffusion.text_to_image.requests import Request
from tests import commands
from tests.text_to_image import made_pipelines

H100 = MACHINES["h100"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Flux of which only configs and tokenizers are there."""
    place = made_pipelines.folder("flux", tmp_path_factory.mktemp("flux"))
    for path in place.rglob("*.safetensors"):
        path.unlink()
    return place


@pytest.mark.extended
def test_pictures_are_planned_without_weights(folder):
    of = lambda steps: picture_plan.plan(
        str(folder), Request.series("a", 0, 1, height=32, width=48, steps=steps), ("h100", "rtx4090")
    )
    few, many = of(2), of(4)
    shapes = made_pipelines.fixture("flux")[0]["shapes"]
    sizes = {file.split("/")[0]: sum(map(math.prod, tensors.values())) for file, tensors in shapes.items()}
    bytes = {part: size * (4 if part == "vae" else 2) for part, size in sizes.items()}
    assert few["weights"]["transformer"] == bytes["transformer"] and few["weights"]["vae"] <= bytes["vae"]
    assert (few["size"], few["evaluations"], many["evaluations"]) == ((32, 48), 2, 4)
    assert many["flops"]["trajectory"] == 2 * few["flops"]["trajectory"] > 0
    assert many["flops"]["text"] == few["flops"]["text"] > 0 and many["flops"]["decoder"] == few["flops"]["decoder"] > 0
    spent = many["machines"]["h100"]["seconds"]
    assert spent["trajectory"] == pytest.approx(
        max(many["flops"]["trajectory"] / H100.flops, 4 * bytes["transformer"] / H100.bandwidth)
    )
    assert many["machines"]["h100"]["fits"]
    total = sum(many["weights"].values()) + many["trace"]
    readers = many["weights"]["text_encoder"] + many["weights"]["text_encoder_2"]
    entry = lambda memory: picture_plan._on_machine(
        H100._replace(memory=memory), many["flops"], many["flops"], total, readers
    )
    assert entry(total / 0.9 + 1)["fits"] and not entry(total)["fits"]
    tight = entry((total - readers) / 0.9 + 1)
    assert not tight["fits"] and tight["fits_alone"] and not entry((total - readers) / 0.9 - 2)["fits_alone"]


def test_what_a_plan_of_pictures_counts(monkeypatch):
    """Weights of 40, 12 and 20 bytes; 18 evaluations; the decoder's 7 operations are of the 1,007 that are traced."""
    weights = {name: jnp.zeros(size) for name, size in (("transformer", 10), ("vae", 3), ("text_encoder", 5))}
    kind = types.SimpleNamespace(denoiser=types.SimpleNamespace(folder="transformer"))
    model = types.SimpleNamespace(name="flux", params=weights, drawing=("transformer", "vae"), kind=kind)
    model.replaced = lambda params: model
    trajectory = types.SimpleNamespace(
        plan=types.SimpleNamespace(solved=9), sampler=types.SimpleNamespace(nfe=lambda steps: 2 * steps)
    )
    course = types.SimpleNamespace(frames=1, rate=None, size=(32, 48), trajectory=trajectory,
                                   decoded_latents=lambda model: (4, 6, 2))  # fmt: skip
    job = types.SimpleNamespace(course=course, guidance=None, scale=lambda model: 1.0,
                                request=types.SimpleNamespace(rows=lambda: (["a"], [0])),
                                canvas=types.SimpleNamespace(arrays=lambda: (None, None)))  # fmt: skip
    operations = {"encoded": 100.0, "trajectory": 1007.0, "<lambda>": 7.0}
    monkeypatch.setattr(picture_plan, "described", lambda folder, **how: model)
    monkeypatch.setattr(picture_plan.Job, "prepare", lambda model, request: job)
    monkeypatch.setattr(picture_plan, "conditions", lambda *given, **how: ({"c": jnp.zeros(3)}, {"c": jnp.zeros(5)}))
    monkeypatch.setattr(picture_plan, "counted_flops", lambda function, *given: operations[function.__name__])
    monkeypatch.setattr(picture_plan.programs, "pictures", lambda *given: jnp.zeros(1))
    monkeypatch.setattr(picture_plan.peak_memory, "peak", lambda trace: 1000)
    monkeypatch.setattr(picture_plan, "_on_machine", lambda machine, *numbers: (machine, *numbers))
    asked = types.SimpleNamespace(batch_size=2, windows=1, emphasis="", negative="")
    planned = picture_plan.plan("folder", asked, ("h100",))
    arguments = 40 + 12 + 12 + 20 + 2 * 8  # of the trajectory: weights, conditions and keys
    flops = {"text": 100.0, "trajectory": 1000.0, "decoder": 7.0}
    read = {"text": 20, "trajectory": 18 * 40, "decoder": 12}
    assert planned.pop("machines") == {"h100": (H100, flops, read, 72 + 1000 - arguments, 20)}
    assert planned == {
        "model": "flux, folder", "size": (32, 48), "pictures": 2, "evaluations": 18,
        "weights": {"transformer": 40, "vae": 12, "text_encoder": 20}, "flops": flops, "trace": 1000 - arguments,
    }  # fmt: skip


def test_each_part_takes_the_longer_of_its_operations_and_its_weights():
    card = Machine("gpu", "card", 100.0, 1000.0, 10.0, 5.0)
    flops, read = {"text": 500.0, "trajectory": 1000.0}, {"text": 70.0, "trajectory": 30.0}
    entry = picture_plan._on_machine(card, flops, read, 900.0, 400.0)
    assert entry == {"hbm_bytes": 1000.0, "seconds": {"text": 7, "trajectory": 10}, "fits": True, "fits_alone": True}
    few = [picture_plan._on_machine(card, flops, read, total, 400.0) for total in (901.0, 1300.0, 1301.0)]
    assert [(entry["fits"], entry["fits_alone"]) for entry in few] == [(False, True), (False, True), (False, False)]


@pytest.mark.parametrize("number, fits", [(1, "yes"), (2, "without the text encoders"), (2, "no")])
def test_a_plan_of_pictures_is_printed_with_its_sums(number, fits):
    entry = {"fits": fits == "yes", "fits_alone": fits != "no", "seconds": {"text": 0.5, "trajectory": 2.0}}
    planned = {"size": (32, 48), "pictures": number, "model": "flux", "evaluations": 4, "weights": {"vae": 3e9},
               "trace": 5e6, "flops": {"text": 1e12, "trajectory": 2e12}, "machines": {"h100": entry}}  # fmt: skip
    console = Console(width=140, record=True)
    picture_plan.show(planned, console)
    text = console.export_text()
    assert text.startswith(f"flux: {number} picture{'s' if number > 1 else ''} of 32 x 48, 4 evaluations")
    cells = {line.strip("│ ").split("│")[0].strip(): line.split("│")[2:-1] for line in text.splitlines() if "│" in line}
    stripped = {name: [cell.strip() for cell in row] for name, row in cells.items()}
    assert stripped["vae"] == ["3 GB", "exact"] and "5 MB" in text
    assert stripped["FLOPs"] == ["1e+12", "2e+12", "3e+12", ""]
    assert stripped["h100"] == ["500 ms", "2 s", "2.5 s", fits]


@pytest.mark.slow
def test_the_command_plans_pictures(folder):
    done = commands.run("-m", "experiments.plan", f"--model={folder}", "--machine=h100", "--height=32", "--width=32")
    assert done.returncode == 0, done.stderr
    assert "1 picture of 32 x 32, 28 evaluations" in done.stdout and "text_encoder_2" in done.stdout
    done = commands.run("-m", "experiments.plan", f"--model={folder}", "--devices=8")
    assert done.returncode == 2 and "--model plans pictures on one device" in done.stderr
    done = commands.run("-m", "experiments.plan", f"--model={folder}/vae")
    assert done.returncode == 2 and "vae/model_index.json does not exist. A text-to-image model is" in done.stderr


@pytest.mark.parametrize("name", ["n", "again"])
def test_flags_that_a_plan_of_pictures_does_not_read_are_refused(name, monkeypatch):
    """`-n 8` printed the time of one picture."""
    flag = lambda other: types.SimpleNamespace(name=other, value=8, present=other == name)
    values = {other: flag(other) for other in ("n", "again")} | {"compile": types.SimpleNamespace(value=False)}
    fields = {"__getitem__": lambda self, other: values[other], "devices": None}
    monkeypatch.setattr(plan.flags, "FLAGS", type("Flags", (), fields)())
    with pytest.raises(ConfigError, match=rf"^--{name} = 8 has no effect on a plan, .* Valid: --batch_size\.$"):
        plan.plan_pictures("drawings")
