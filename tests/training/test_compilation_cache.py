import stat

import jax
import pytest

from diffusion.training import compilation_cache


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """Leaves JAX's settings as they were."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_folder_is_the_users_alone(tmp_path):
    path = compilation_cache.enable(str(tmp_path / "deep" / "jax"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert jax.config.jax_compilation_cache_dir == str(path)
    assert compilation_cache.enable(str(path)) == path  # again


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_folder_that_others_can_write_is_refused(tmp_path, mode):
    path = tmp_path / "jax"
    path.mkdir()
    path.chmod(mode)
    with pytest.raises(PermissionError, match=rf"mode {mode:o}.*chmod 700"):
        compilation_cache.enable(str(path))


def test_the_environment_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "theirs"))
    assert compilation_cache.enable(str(tmp_path / "ours")) == tmp_path / "theirs"


def test_where_none_can_be_made_there_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="no compilation cache"):
        assert compilation_cache.enable(str(tmp_path / "file" / "jax")) is None
