"""The folder of a model made of another: its own networks, the other's files, and the class that it has now."""

import json
import re
import types

import numpy as np
import pytest

from diffusion.io import limits
from diffusion.models.interchange.family import Refusal
from diffusion.published.pipeline_kinds import Usual
from diffusion.text_to_image import loading, model_folder, model_index


@pytest.fixture
def base(tmp_path):
    """A folder as diffusers writes it, with files that do not belong to a model."""
    base = tmp_path / "base"
    for part in ("unet", "vae", "tokenizer"):
        (base / part).mkdir(parents=True)
        (base / part / "config.json").write_text(json.dumps({"of": f"base's {part}"}))
    (base / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline", "unet": ["a", "B"]}))
    (base / "sampling.json").write_text(json.dumps({"steps": 3}))
    (base / "README.md").write_text("of the base")
    (base / "tuning.json").write_text("of the base")
    return base


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "new" / "unet").mkdir(parents=True)
    (tmp_path / "new" / "unet" / "config.json").write_text("own")
    return tmp_path / "new"


def test_what_is_not_there_is_the_bases(base, folder):
    model_folder.complete(folder, base)
    assert {path.name for path in folder.iterdir()} == {"unet", "vae", "tokenizer", "model_index.json", "sampling.json"}
    assert (folder / "unet" / "config.json").read_text() == "own"
    for name in ("vae/config.json", "tokenizer/config.json", "model_index.json", "sampling.json"):
        assert (folder / name).read_bytes() == (base / name).read_bytes()


def test_another_class_is_written_into_the_index_alone(base, folder):
    before = (base / "model_index.json").read_text()
    model_folder.complete(folder, base, "StableDiffusionInpaintPipeline", {"steps": 7})
    index = json.loads((folder / "model_index.json").read_text())
    assert index == {"_class_name": "StableDiffusionInpaintPipeline", "unet": ["a", "B"]}
    assert (base / "model_index.json").read_text() == before
    assert json.loads((folder / "tuning.json").read_text()) == {"steps": 7}
    model_folder.complete(folder, base, "StableDiffusionPipeline")
    assert (folder / "model_index.json").read_text() == before  # to the byte, where the class stays
    model_folder.complete(folder, base, "", {})
    assert json.loads((folder / "tuning.json").read_text()) == {}


def test_a_record_of_a_tuning_is_json_of_any_language(base, folder):
    """A figure that is not finite is null, and one of NumPy a number."""
    model_folder.complete(folder, base, "", {"steps": np.int64(7), "loss": float("nan")})
    assert json.loads((folder / "tuning.json").read_text()) == {"steps": 7, "loss": None}


def test_a_model_that_is_no_folder_is_said_to_be_a_file_or_missing(tmp_path):
    single = tmp_path / "model.safetensors"
    single.write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is a single file; diffusion convert writes"):
        model_index.read_index(single)
    (tmp_path / "text.txt").write_text("")
    for place in (tmp_path / "text.txt", tmp_path / "nowhere.gguf", tmp_path):
        with pytest.raises(FileNotFoundError, match=r"model_index\.json does not exist\. A text-to-image model"):
            model_index.read_index(place)


@pytest.mark.parametrize("guider, expected", [
    (None, 6.0), ({"guidance_scale": 5.0}, 5.0), ({"guidance_scale": 5.0, "enabled": False}, 1.0),
    ({"_class_name": "AdaptiveProjectedGuidance"}, "_class_name = "), ({"stop": 0.5}, r"stop = 0\.5 is not supported"),
    ({"guidance_scale": "5"}, "guidance_scale"),
])  # fmt: skip
def test_the_guidance_is_that_of_the_folders_guider(guider, expected, tmp_path):
    """Of classifier-free guidance at all steps; another one is refused."""
    index, usual = {"guider": ["diffusers", "ClassifierFreeGuidance"]} if guider else {}, Usual(50, 6.0)
    (tmp_path / "guider").mkdir()
    (tmp_path / "guider" / "guider_config.json").write_text(json.dumps(guider))
    if not isinstance(expected, str):
        assert model_index.read_guidance(tmp_path, index, usual) == Usual(50, expected)
        return
    with pytest.raises((limits.Refused, Refusal), match=expected):
        model_index.read_guidance(tmp_path, index, usual)


@pytest.mark.parametrize("table, guidance", [
    ({}, 7.5), ({"guidance_scale": 3}, 3.0), ({"guidance_scale": 3, "enabled": False}, 1.0),
    ({"guidance_scale": 3, "enabled": True, "guidance_rescale": 0.0, "start": 0.0, "stop": 1.0}, 3.0),
])  # fmt: skip
def test_the_scale_of_a_guider_is_its_configs_or_that_of_its_class(table, guidance, tmp_path):
    """ClassifierFreeGuidance of diffusers has a scale of 7.5 where its config states none."""
    (tmp_path / "guider").mkdir()
    (tmp_path / "guider" / "guider_config.json").write_text(json.dumps(table))
    index = {"guider": ["diffusers", "ClassifierFreeGuidance"]}
    assert model_index.read_guidance(tmp_path, index, Usual(20, 5.0)) == Usual(20, guidance)
    assert model_index.read_guidance(tmp_path, {}, Usual(20, 5.0)) == Usual(20, 5.0)
    (tmp_path / "guider" / "guider_config.json").write_text('{"stop": 0.5}')
    with pytest.raises(Refusal, match=r"stop = 0\.5 is not supported\. Valid: 1\.0"):
        model_index.read_guidance(tmp_path, index, Usual(20, 5.0))


def test_the_networks_that_a_folder_attaches_have_the_names_of_their_folders(tmp_path):
    for name in ("controlnet", "controlnet_2", "controlnet_1", "vae"):
        (tmp_path / name).mkdir()
    (tmp_path / "controlnet_3").write_text("no folder")
    found = model_index.attached_folders(tmp_path, "controlnet")
    assert list(found) == ["controlnet", "controlnet_1", "controlnet_2"]
    assert all(path == tmp_path / name for name, path in found.items())
    assert model_index.attached_folders(tmp_path, "") == {}


@pytest.mark.parametrize(
    "config, side", [({"sample_size": 8}, 64), ({"sample_size": [6, 9]}, 72), ({"sample_size": [9, 6]}, 72), ({}, 128)]
)
def test_the_side_of_pictures_is_the_larger_one_of_the_denoisers_latents(config, side, tmp_path):
    """Latents of an eighth; without a size, sixteen latents, which is what the kind says."""
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps(config))
    place = lambda folder, part: folder / part
    kind = types.SimpleNamespace(
        files=types.SimpleNamespace(place=place), denoiser=types.SimpleNamespace(folder="unet"), second_stage=None,
        pictures=types.SimpleNamespace(side=0, sample_size=16),
    )  # fmt: skip
    assert loading._side(tmp_path, kind, types.SimpleNamespace(factor=8)) == side
    packed = types.SimpleNamespace(factor=16, packed=2)
    assert loading._side(tmp_path, kind, packed) == (128 if not config else 2 * side)


@pytest.mark.parametrize("index, refused", [
    ({}, ""), ({"a": 1, "b": False, "c": 5}, ""), ({"a": None}, ""), ({"a": 2}, "a = 2 is not supported. Valid: 1."),
    ({"a": 1, "b": True}, "b = True is not supported. Valid: False."),
])  # fmt: skip
def test_a_field_of_the_index_has_the_value_that_its_pipeline_supports_or_none(index, refused, tmp_path):
    kind = types.SimpleNamespace(files=types.SimpleNamespace(stated={"a": 1, "b": False}))
    if refused:
        with pytest.raises(Refusal, match=re.escape(f"model_index.json: {refused}")):
            model_index.check_stated(index, kind, tmp_path)
    else:
        model_index.check_stated(index, kind, tmp_path)
