import os
import stat

import jax
import pytest

from diffusion.training.runtime import compilation_cache


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
    with pytest.raises(PermissionError, match=rf"mode {mode:o}.*chmod go-w"):
        compilation_cache.enable(str(path))


def test_the_environment_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "theirs"))
    assert compilation_cache.enable(str(tmp_path / "ours")) == tmp_path / "theirs"


@pytest.mark.parametrize("seconds", [None, 0.0])
def test_what_is_kept_took_half_a_second_or_what_the_environment_says(tmp_path, monkeypatch, seconds):
    name = "jax_persistent_cache_min_compile_time_secs"
    monkeypatch.delenv(name.upper(), raising=False)
    if seconds is not None:
        monkeypatch.setenv(name.upper(), str(seconds))
        jax.config.update(name, seconds)  # as JAX does when it is imported
    compilation_cache.enable(str(tmp_path / "jax"))
    assert getattr(jax.config, name) == (0.5 if seconds is None else seconds)


def test_where_none_can_be_made_there_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="no compilation cache"):
        assert compilation_cache.enable(str(tmp_path / "file" / "jax")) is None


def test_a_link_to_a_folder_that_others_can_write_is_refused(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "jax").symlink_to(tmp_path / "open")
    with pytest.raises(PermissionError, match=r"mode 777"):
        compilation_cache.enable(str(tmp_path / "jax"))


def test_a_link_to_a_folder_of_ones_own_is_followed(tmp_path):
    (tmp_path / "scratch").mkdir(mode=0o700)
    (tmp_path / "jax").symlink_to(tmp_path / "scratch")
    assert compilation_cache.enable(str(tmp_path / "jax")) == tmp_path / "scratch"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720])
def test_a_folder_above_that_others_can_write_is_refused(tmp_path, monkeypatch, mode):
    """They could put a folder of theirs in the place of ours."""
    monkeypatch.setattr(compilation_cache, "_private", lambda group: False)
    above = tmp_path / "above"
    (above / "between" / "jax").mkdir(parents=True, mode=0o700)
    above.chmod(mode)
    with pytest.raises(PermissionError, match=rf"above \(owner \d+, mode {mode:o}\).*chmod go-w {above}`"):
        compilation_cache.enable(str(above / "between" / "jax"))


def test_a_folder_above_with_the_sticky_bit_is_no_danger(tmp_path):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    assert compilation_cache.enable(str(tmp_path / "tmp" / "jax")) == tmp_path / "tmp" / "jax"


def test_a_folder_that_others_can_read_becomes_the_users_alone(tmp_path):
    path = tmp_path / "jax"
    path.mkdir(mode=0o755)
    assert stat.S_IMODE(compilation_cache.enable(str(path)).stat().st_mode) == 0o700


def test_the_group_of_the_users_own_name_is_no_other(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(0o775)
    monkeypatch.setattr(compilation_cache, "_private", lambda group: True)
    assert compilation_cache.enable(str(tmp_path / "home" / "jax"))
    (tmp_path / "home").chmod(0o757)
    with pytest.raises(PermissionError, match="mode 757"):
        compilation_cache.enable(str(tmp_path / "home" / "jax"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_another_users_folder_is_refused(tmp_path):
    (tmp_path / "jax").mkdir(mode=0o700)
    os.chown(tmp_path / "jax", 4242, -1)
    with pytest.raises(PermissionError, match="owner 4242"):
        compilation_cache.enable(str(tmp_path / "jax"))


def test_another_users_folder_is_refused_without_root(tmp_path, monkeypatch):
    path = tmp_path / "jax"
    path.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with pytest.raises(PermissionError, match=rf"owner {path.stat().st_uid}"):
        compilation_cache.enable(str(path))
