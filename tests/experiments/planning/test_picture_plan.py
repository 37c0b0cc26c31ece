"""Plans of pictures: bytes by the shapes of tensors, operations by the steps, times by the data sheet."""

import math

import pytest

from diffusion.experiments.planning import picture_plan
from diffusion.experiments.planning.machines import MACHINES
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


@pytest.mark.slow
def test_the_command_plans_pictures(folder):
    done = commands.run("-m", "experiments.plan", f"--model={folder}", "--machine=h100", "--height=32", "--width=32")
    assert done.returncode == 0, done.stderr
    assert "1 picture of 32 x 32, 28 evaluations" in done.stdout and "text_encoder_2" in done.stdout
    done = commands.run("-m", "experiments.plan", f"--model={folder}", "--devices=8")
    assert done.returncode == 2 and "pictures are made on one device" in done.stderr
    done = commands.run("-m", "experiments.plan", f"--model={folder}/vae")
    assert done.returncode == 2 and "vae/model_index.json does not exist. A text-to-image model is" in done.stderr
