"""The card of an exported model: what the run folder records, in Hugging Face's form; a person's card stays."""

import json

import pytest
import yaml

from configs import digits
from diffusion.experiments import convert
from diffusion.experiments.evaluation import model_card
from diffusion.experiments.run_folder.workdir import WorkdirError
from diffusion.recipe.values import config_hash, to_json

REPORT = {
    "figures": {
        "asked_class": {"share": 0.95, "interval": [0.9, 0.97], "count": 100, "classifier_sha256": "ab" * 32,
                        "real": {"share": 0.99}},
        "frechet": {},
        "neighbours": None,
    },
    "protocol": {"dataset": {"split": "test", "train_split": "train", "train_size": 1258}, "distance": {"N": 100}},
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "digits_run"
    folder.mkdir()
    (folder / "config.json").write_text(to_json(digits.get_config("tiny")))
    rows = [{"step": 20, "loss": 1.5}, {"step": 40, "loss": 0.75}, {"step": 40, "fd_pixels": 3.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def parts(text):
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), {part.split("\n")[0]: part for part in body.split("\n## ")[1:]}


def test_the_card_says_what_the_run_folder_records(run):
    (run / "report.json").write_text(json.dumps(REPORT))
    front, sections = parts(model_card.text(model_card.build_run_card(run, "DiT", "cc-by-4.0")))
    assert front == {"license": "cc-by-4.0", "tags": ["diffusion", "jax", "dit"], "datasets": ["digits"]}
    assert list(sections) == ["Data", "Recipe", "Figures", "Known failures"]
    assert "`digits`, split `train`" in sections["Data"]
    recipe = sections["Recipe"]
    assert (
        recipe.startswith("Recipe\n\n40 planned steps of 32 examples")
        and config_hash(digits.get_config("tiny"))[:16] in recipe
    )
    entries = json.loads(recipe.split("```json\n")[1].split("\n```")[0])
    assert entries["objective"]["name"] == "flow_matching" and entries["model"]["width"] == 32
    assert "requested class recognised | 95.0 %" in sections["Figures"].replace("95.0%", "95.0 %")
    assert "Training loss at step 40: 0.75." in sections["Figures"]
    assert "5.0% of the samples are not recognised as the requested class" in sections["Known failures"]


def test_the_card_of_a_tuning_names_its_base_in_place_of_a_network_of_its_own(run):
    config = digits.get_config("tiny")
    config.update({"tuning": {"name": "lora", "rank": 4}, "base": {"path": "models/drawings"}})
    (run / "config.json").write_text(to_json(config))
    front, sections = parts(model_card.text(model_card.build_run_card(run, "lora of drawings")))
    assert front["tags"] == ["diffusion", "jax"]
    assert "schedule are those of the base model, `drawings`" in sections["Recipe"]
    entries = json.loads(sections["Recipe"].split("```json\n")[1].split("\n```")[0])
    assert entries["tuning"] == {"name": "lora", "rank": 4} and "optimizer" in entries
    assert not entries.keys() & {"model", "parameterization", "schedule"}


def test_the_card_is_of_the_step_that_is_exported(run):
    (run / "checkpoints" / "20").mkdir(parents=True)
    for step in (None, 20):
        _, sections = parts(model_card.text(model_card.build_run_card(run, "DiT", step=step)))
        assert "Step 20 of 40 planned steps of 32 examples" in sections["Recipe"]
        assert "Training loss at step 20: 1.5." in sections["Figures"]


@pytest.mark.parametrize(
    "checkpoint, of_others",
    [
        (None, ""),
        ({"step": 40, "weights": "ema"}, ""),
        ({"step": 20, "weights": "ema"}, "of step 20"),
        ({"step": 40, "weights": "params"}, "of other weights than the moving average"),
        ({"step": 40, "average": 0.1, "weights": [0.5, 0.5]}, "of other weights than the moving average"),
    ],
)
def test_the_card_has_no_figures_of_other_weights(run, checkpoint, of_others):
    """A run that was trained on after its evaluation had the figures of the earlier step on the card of the later."""
    (run / "checkpoints" / "40").mkdir(parents=True)
    protocol = REPORT["protocol"] | {"sampling": {"checkpoint": checkpoint} if checkpoint else {}}
    (run / "report.json").write_text(json.dumps(REPORT | {"protocol": protocol}))
    card = model_card.build_run_card(run, "DiT")
    assert ("requested class recognised" in card.figures) == (not of_others)
    assert ("not recognised as the requested class" in card.failures) == (not of_others)
    if of_others:
        assert f"records an evaluation {of_others} and none of these weights" in card.figures


FRECHET = {
    "distance": 4.0, "interval": None, "ratio": 2.0, "ratio_interval": None, "floor": {"mean": 2.0, "std": 0.1},
    "noise": 50.0, "all_samples": {"mean": 4.0, "std": 0.1, "ratio": 2.0}, "dimensions": 2048,
    "extractor": {"sha256": None}, "effort": {"draws": 0, "subsets": 2},
}  # fmt: skip


@pytest.mark.parametrize("interval, said", [(None, False), ([0.9, 3.0], False), ([1.2, 3.0], True)])
def test_a_distance_above_the_floor_is_a_known_failure_where_its_interval_says_so(run, interval, said):
    """Features of more than 1,024 dimensions have no interval."""
    figures = {**REPORT["figures"], "frechet": {"inception": {**FRECHET, "ratio_interval": interval}}}
    dataset = {**REPORT["protocol"]["dataset"], "split_size": 539}
    (run / "report.json").write_text(
        json.dumps({"figures": figures, "protocol": {"dataset": dataset, "distance": {"N": 100}}})
    )
    card = model_card.build_run_card(run, "DiT")
    assert ("(inception) is 2.00 times" in card.failures) == said
    assert "Frechet distance (inception) | 4 |" in card.figures


def test_a_bar_in_a_figure_ends_no_cell_of_the_table(run):
    report = {**REPORT, "model": {"c_n_error": {"value": 0.5, "samples": 3}}}  # "mean |C-N - 1.329| of neighbours"
    (run / "report.json").write_text(json.dumps(report))
    (row,) = (line for line in model_card.build_run_card(run, "DiT").figures.split("\n") if "c_n_error" in line)
    assert row.replace(r"\|", "").count("|") == 6  # five cells


@pytest.mark.parametrize("report", [{"figures": REPORT["figures"], "protocol": {}}, {"figures": 3, "protocol": 4}, [1]])
def test_a_report_of_something_else_is_none(run, report):
    (run / "report.json").write_text(json.dumps(report))
    assert "records no evaluation" in model_card.build_run_card(run, "DiT").figures


def test_a_report_or_a_loss_of_another_form_is_named(run):
    figures = {**REPORT["figures"], "frechet": {"inception": {"distance": 4.0}}}
    (run / "report.json").write_text(json.dumps({**REPORT, "figures": figures}))
    with pytest.raises(WorkdirError, match=r"report\.json has another form than this program writes"):
        model_card.build_run_card(run, "DiT")
    (run / "report.json").unlink()
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": "low"}) + "\n")
    with pytest.raises(WorkdirError, match=r"metrics\.jsonl has another form than this program writes"):
        model_card.build_run_card(run, "DiT")


def test_what_is_not_recorded_is_said(run):
    front, sections = parts(model_card.text(model_card.build_run_card(run, "DiT")))
    assert front["license"] == "unknown"
    assert "records no evaluation" in sections["Figures"]
    assert "None are recorded" in sections["Known failures"]
    (run / "KNOWN_FAILURES.md").write_text("Sevens look like ones.\n")
    assert "Sevens look like ones." in model_card.text(model_card.build_run_card(run, "DiT"))


def test_a_card_that_a_person_wrote_or_changed_stays(run, tmp_path):
    folder, new = tmp_path / "model", tmp_path / ".model.new"
    folder.mkdir()
    path = model_card.write(folder, model_card.build_run_card(run, "DiT"))
    model_card.write(folder, model_card.build_run_card(run, "DiT", "mit"))  # ours, which nobody changed
    assert parts(path.read_text())[0]["license"] == "mit"
    mine = path.read_text().replace("# DiT", "# My model")
    path.write_text(mine)
    model_card.write(folder, model_card.build_run_card(run, "DiT", "apache-2.0"))
    assert path.read_text() == mine
    new.mkdir()  # a folder that takes the place of another one
    model_card.write(new, model_card.build_run_card(run, "DiT"), before=folder)
    assert (new / "README.md").read_text() == mine
    (tmp_path / "next").mkdir()
    foreign = "---\nlicense: mit\n---\n# Modèle\r\n".encode("latin-1")
    path.write_bytes(foreign)
    model_card.write(tmp_path / "next", model_card.build_source_card(folder, "DiT"), before=folder)
    assert (tmp_path / "next" / "README.md").read_bytes() == foreign


def test_a_converted_network_has_the_licence_of_its_source(tmp_path):
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: openrail++\n---\n# A model\n".replace("++", ""))
    card = convert.card(tmp_path, "UNet2DConditionModel")
    front, sections = parts(model_card.text(card))
    assert front["license"] == "openrail" and tmp_path.name in sections["Recipe"]
    assert convert.card(tmp_path, "DiT", "mit").license == "mit"
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    card = model_card.build_source_card(tmp_path / "file.safetensors", "unet", "", base)
    assert card.license == "unknown" and card.front["base_model"] == "base"  # the base's licence is of other weights
    terms = "license: other\nlicense_name: my-terms\nlicense_link: https://example.org/terms\n"
    (tmp_path / "README.md").write_text(f"---\n{terms}---\n# A model\n")
    assert model_card.text(model_card.build_source_card(tmp_path, "unet")).startswith(
        '---\nlicense: "other"\nlicense_name: "my-terms"\nlicense_link: "https://example.org/terms"\n'
    )


@pytest.mark.parametrize("written, name", [
    ('"My Own License"', "My Own License"), ("'Its terms'", "Its terms"), ("Open License  # of 2024", "Open License"),
    ("x#1", "x#1"), ("", None),
])  # fmt: skip
def test_the_name_of_a_license_is_read_to_its_end(written, name, tmp_path):
    (tmp_path / "README.md").write_text(f"---\nlicense: other\nlicense_name: {written}\ntags: [a]\n---\n")
    assert model_card.stated_license(tmp_path) == {"license": "other"} | ({"license_name": name} if name else {})


def test_the_card_of_a_lora_stands_beside_it_with_what_the_file_says(tmp_path):
    said = {"base_model": "sd15", "trigger_words": "<cat>", "config_sha256": "ab" * 32}
    card = model_card.build_lora_card(tmp_path / "kohya.safetensors", said, "mit", tmp_path / "pipe")
    path = model_card.write_beside(tmp_path / "cat.peft.safetensors", card)
    front, body = parts(path.read_text())
    assert path.name == "cat.peft.md"
    assert (front["license"], front["base_model"], front["instance_prompt"]) == ("mit", "sd15", "<cat>")
    assert "`pipe`" in body["Recipe"] and "ab" * 32 in body["Recipe"]
    bare = model_card.build_lora_card(tmp_path / "kohya.safetensors", {}, "", tmp_path / "pipe")
    assert (bare.front["base_model"], bare.license) == ("pipe", "unknown")
    assert "instance_prompt" not in bare.front
    path.write_text("by hand")
    model_card.write_beside(tmp_path / "cat.peft.safetensors", bare)
    assert path.read_text() == "by hand"
