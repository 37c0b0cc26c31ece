"""The folder of a text-to-image model that travels with the project: its weights in 16 bits, and its card."""

import json

import pytest
import safetensors.numpy
import yaml

from configs import digits
from diffusion.recipe.values import to_json
from diffusion.text_to_image import model_index
from tests.text_to_image import made_pipelines
from tools import weights

SHARE, REAL = {"share": 0.5, "interval": [0.25, 0.75]}, {"share": 1.0, "interval": [0.75, 1.0]}
FIGURES = {"templates": {"two": {"colour": SHARE}}, "drawings": {"two": {"colour": REAL}}}


@pytest.fixture
def trained(tmp_path, request):
    """The folder that a model was trained in: a run that tuned it, or one with a run beside its model."""
    folder = tmp_path / "trained"
    model, run = (folder / part for part in request.param)
    for new in (model, run, folder / "report"):
        new.mkdir(parents=True, exist_ok=True)
    made_pipelines.folder("alpha", model)
    config = digits.get_config("tiny")
    if request.param == TUNED:
        config.update({"tuning": {"name": "lora", "rank": 4}, "base": {"path": "models/drawings"}})
    (run / "config.json").write_text(to_json(config))
    (run / "metrics.jsonl").write_text('{"step": 30, "loss": 1.25}\n')
    (folder / "report" / "report.json").write_text(json.dumps({"figures": FIGURES}))
    return folder, model


TUNED, OF_AN_EXAMPLE = ("tuning", "."), ("model", "denoiser")


@pytest.mark.extended
@pytest.mark.parametrize("trained", [TUNED, OF_AN_EXAMPLE], indirect=True, ids=["tuned", "example"])
def test_the_card_of_a_text_model_says_how_it_was_trained_and_how_good_it_is(trained, tmp_path):
    folder, model = trained
    out = tmp_path / "drawings"
    assert weights.write_text_model(folder, out, "make drawings") == model_index.fingerprint(out)
    _, front, body = (out / "README.md").read_text().split("---\n", 2)
    tuned = model.name == "tuning"
    assert yaml.safe_load(front) == {
        "license": "apache-2.0", "tags": ["diffusion", "jax", *([] if tuned else ["dit"])], "datasets": ["digits"],
        "pipeline_tag": "text-to-image",
    }  # fmt: skip
    title, *sections = (part.strip() for part in body.split("\n## "))
    sections = {part.split("\n")[0]: part.partition("\n")[2].strip() for part in sections}
    assert title == "# drawings"
    assert sections["Recipe"].startswith("Trained by `make drawings`. 40 planned steps of 32 examples; config `")
    assert ("those of the base model, `drawings`" in sections["Recipe"]) == tuned
    assert sections["Figures"].split("\n")[2:] == [
        "| two: 90% of the pixels in the requested colour | **50.0% (25.0% to 75.0%)** | "
        "real pictures 100.0% (75.0% to 100.0%) |"
    ]
    assert {path.name for path in out.iterdir()} == {path.name for path in model.iterdir()} | {"README.md"}
    part = "transformer/diffusion_pytorch_model.safetensors"
    stored, exact = (safetensors.numpy.load_file(place / part) for place in (out, model))
    assert {array.dtype.name for array in stored.values()} == {"float16"}
    for name, array in exact.items():
        assert (stored[name] == array.astype("float16")).all(), name


@pytest.mark.extended
@pytest.mark.parametrize("trained", [TUNED], indirect=True)
def test_without_a_report_the_card_has_what_the_run_recorded(trained, tmp_path):
    folder, _ = trained
    (folder / "report" / "report.json").unlink()
    weights.write_text_model(folder, tmp_path / "drawings", "make drawings")
    assert "Training loss at step 30: 1.25." in (tmp_path / "drawings" / "README.md").read_text()
