"""A single file with the folder of a pipeline becomes a pipeline, unless the two contradict each other."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffusion import text_to_image
from diffusion.experiments import convert
from diffusion.experiments.text import assemble
from diffusion.models import interchange
from diffusion.models.interchange import FAMILIES, folder_writing, folders, stated_prediction
from tests.text_to_image import made_pipelines

PARTS = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model.transformer."}
V = {"modelspec.prediction_type": "v"}


@pytest.fixture
def base(tmp_path, monkeypatch):
    """The folder of a pipeline whose small networks are published, and nothing else of their families."""
    folder = made_pipelines.folder("sd", tmp_path / "base")
    for part in PARTS:
        config = folders.read_config(folder / part)
        name = folders.family_of(config, folder / part)
        monkeypatch.setitem(FAMILIES, name, FAMILIES[name]._replace(published={"small": config}, beside={}))
    return folder


def single(base, place, parts=tuple(PARTS), metadata=None, **more):
    """A single file as the original repository writes it, all of whose numbers are 0.5."""
    tensors = dict(more)
    for part in parts:
        found = folders.find(base / part)
        params = jax.tree.map(
            lambda leaf: np.full(leaf.shape, 0.5, np.float32), folders.shapes_of(found.family, found.module)
        )
        layout = "original" if "original" in found.family.tables else next(iter(found.family.tables))
        written = folder_writing.write(found.family, found.module, layout, params)
        tensors |= {PARTS[part] + name: np.ascontiguousarray(array) for name, array in written}
    save_file(tensors, place, metadata=metadata)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("parts", [tuple(PARTS), ("unet", "vae")], ids=["all", "without a text encoder"])
def test_a_file_and_a_folder_become_a_pipeline(base, tmp_path, parts):
    source = single(base, tmp_path / "tuned.safetensors", parts)
    out = tmp_path / "tuned"
    (base / "sampling.json").write_text('{"steps": 4}')
    assert set(assemble.pipeline(source, convert.networks(source), base, out)) == set(parts)
    made = text_to_image.load(out)
    before = text_to_image.load(base)
    assert made.usual == before.usual == (4, 7.5)
    assert made.modules == before.modules and made.process.prediction == before.process.prediction
    for part in PARTS:
        expected = jax.tree.map(lambda leaf: np.full_like(leaf, 0.5), before.params[part])
        jax.tree.map(
            np.testing.assert_array_equal, made.params[part], expected if part in parts else before.params[part]
        )
    with pytest.raises(FileExistsError, match="exists already"):
        assemble.pipeline(source, convert.networks(source), base, out)


@pytest.mark.slow
def test_a_file_of_other_than_published_sizes_has_the_networks_of_its_base(tmp_path):
    """Without a base no known network fits, as the message says."""
    base = made_pipelines.folder("sd", tmp_path / "base")
    source = single(base, tmp_path / "tuned.safetensors")
    with pytest.raises(interchange.Mismatch, match=r"tuned\.safetensors is not a known network; the nearest is"):
        list(convert.networks(source))
    found = list(convert.networks(source, others=assemble.networks_of(base)))
    modules = {name: module for name, module in assemble.modules_of(base).values()}
    assert {name: module for name, module, _ in found} == modules and len(found) == 3
    for _, _, params in found:
        assert all((np.asarray(leaf) == 0.5).all() for leaf in jax.tree.leaves(params))
    assert set(assemble.pipeline(source, found, base, tmp_path / "out")) == set(PARTS)
    assert text_to_image.described(tmp_path / "out").modules == text_to_image.described(base).modules


MARKED = {"metadata": {"metadata": V}, "tensor": {"v_pred": np.zeros(0, np.float32), "ztsnr": np.zeros(0, np.float32)}}


@pytest.mark.parametrize("marks", MARKED.values(), ids=MARKED)
def test_a_file_that_predicts_another_thing_than_the_folder_is_refused(base, tmp_path, marks):
    source = single(base, tmp_path / "tuned.safetensors", ("vae",), **marks)
    out = tmp_path / "tuned"
    assert stated_prediction.prediction(source) == "v_prediction"
    words = "predicts 'v_prediction', but the scheduler of.*one with prediction_type = 'v_prediction'"
    with pytest.raises(interchange.Refusal, match=words):
        assemble.pipeline(source, convert.networks(source), base, out)
    assert not out.exists()
    scheduler = base / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({**json.loads(scheduler.read_text()), "prediction_type": "v_prediction"}))
    assert assemble.check_prediction(source, base) == "v_prediction"


@pytest.mark.slow
def test_a_file_of_another_architecture_leaves_nothing_behind(base, tmp_path, monkeypatch):
    source = single(base, tmp_path / "other.safetensors", ("unet",))
    config = base / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "cross_attention_dim": 16}))
    with pytest.raises(interchange.Mismatch, match=r"a UNet2DConditionModel whose parameters fit no part of .*unet"):
        assemble.pipeline(source, convert.networks(source), base, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_a_file_says_of_itself(tmp_path):
    array = {"x": np.zeros(1, np.float32)}
    place = tmp_path / "a.safetensors"
    for metadata, more, expected in (
        (None, {}, ""),
        ({"modelspec.prediction_type": "epsilon"}, {}, "epsilon"),
        (V, {"v_pred": np.zeros(0, np.float32)}, "v_prediction"),
    ):
        save_file(array | more, place, metadata=metadata)
        assert stated_prediction.prediction(place) == expected
    save_file(array | {"v_pred": np.zeros(0, np.float32)}, place, metadata={"modelspec.prediction_type": "epsilon"})
    with pytest.raises(interchange.Refusal, match=r"contradicts itself: a tensor named v_pred .* and the metadata"):
        stated_prediction.prediction(place)
    save_file(array, place, metadata={"modelspec.prediction_type": "velocity"})
    with pytest.raises(interchange.Refusal, match=r"'velocity'\. Valid: epsilon, v, v_prediction, sample"):
        stated_prediction.prediction(place)
