"""What a tuning writes whose weights are a network: its folder, in place of that of an earlier time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

from diffusion.adapters import module_folder
from diffusion.models import interchange
from diffusion.models.image_encoders.mae import MAE


def test_the_metadata_goes_into_the_file_of_the_network(tmp_path, monkeypatch):
    saved = []

    def save(folder, module, weights, metadata=None):
        folder.mkdir()
        (folder / "model").touch()
        saved.append((module, weights, metadata))

    monkeypatch.setattr(module_folder.interchange, "save", save)
    written = module_folder.writer("network", "mine")(tmp_path, {"w": jnp.ones(1)}, {"base_model": "made"})
    assert written == [tmp_path / "mine" / "model"]
    assert saved == [("network", {"w": np.ones(1)}, {"base_model": "made"})]


@pytest.mark.extended
def test_a_folder_holds_the_network_and_nothing_of_an_earlier_time(tmp_path):
    module = MAE(8, 1, 2, 16, size=8, patch=4)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))["params"]
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "old.safetensors").write_text("of an earlier run")
    (tmp_path / "beside.txt").write_text("stays")
    written = module_folder.writer(module, "mine")(tmp_path, weights, {"base_model": "made"})
    assert written == sorted((tmp_path / "mine").iterdir())
    assert [path.name for path in written] == ["config.json", "model.safetensors"]
    assert (tmp_path / "beside.txt").read_text() == "stays"
    read, params = interchange.load(tmp_path / "mine")
    assert read == module
    jax.tree.map(np.testing.assert_array_equal, params, weights)
    with safetensors.safe_open(tmp_path / "mine" / "model.safetensors", "np") as file:
        assert file.metadata()["base_model"] == "made"
    assert module_folder.writer(module, "new")(tmp_path, weights, {})[0].parent == tmp_path / "new"
