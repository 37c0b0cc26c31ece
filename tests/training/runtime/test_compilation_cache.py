import os
import pathlib
import re
import stat
import subprocess
import sys
import types

import jax
import pytest
from jax._src import lru_cache

from diffusion.training.runtime import compilation_cache

ROOT = pathlib.Path(__file__).parents[3]


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
def test_folder_that_others_can_write_is_not_used(tmp_path, mode):
    path = tmp_path / "jax"
    path.mkdir()
    path.chmod(mode)
    with pytest.warns(UserWarning, match=rf"others can change .*mode {mode:o}.*chmod go-w"):
        assert compilation_cache.enable(str(path)) is None


def test_a_folder_of_the_environment_that_others_can_write_is_not_used(tmp_path, monkeypatch):
    """JAX itself would take it from there."""
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax").chmod(0o777)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "jax"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "jax"))
    with pytest.warns(UserWarning, match="others can change"):
        assert compilation_cache.enable() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_the_environment_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "theirs"))
    assert compilation_cache.enable(str(tmp_path / "ours")) == tmp_path / "theirs"


@pytest.mark.parametrize("seconds", [None, 0.5])
def test_every_program_is_kept_or_those_that_the_environment_says(tmp_path, monkeypatch, seconds):
    name = "jax_persistent_cache_min_compile_time_secs"
    monkeypatch.delenv(name.upper(), raising=False)
    if seconds is not None:
        monkeypatch.setenv(name.upper(), str(seconds))
        jax.config.update(name, seconds)  # as JAX does when it is imported
    compilation_cache.enable(str(tmp_path / "jax"))
    assert getattr(jax.config, name) == (0.0 if seconds is None else seconds)


def test_where_none_can_be_made_there_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="no compilation cache"):
        assert compilation_cache.enable(str(tmp_path / "file" / "jax")) is None


def test_a_link_to_a_folder_that_others_can_write_is_not_used(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "jax").symlink_to(tmp_path / "open")
    with pytest.warns(UserWarning, match=r"mode 777"):
        assert compilation_cache.enable(str(tmp_path / "jax")) is None


def test_a_link_to_a_folder_of_ones_own_is_followed(tmp_path):
    (tmp_path / "scratch").mkdir(mode=0o700)
    (tmp_path / "jax").symlink_to(tmp_path / "scratch")
    assert compilation_cache.enable(str(tmp_path / "jax")) == tmp_path / "scratch"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o720])
def test_a_folder_above_that_others_can_write_is_not_used(tmp_path, monkeypatch, mode):
    """They could put a folder of theirs in the place of ours."""
    monkeypatch.setattr(compilation_cache, "_private", lambda group: False)
    above = tmp_path / "above"
    (above / "between" / "jax").mkdir(parents=True, mode=0o700)
    above.chmod(mode)
    with pytest.warns(UserWarning, match=rf"above \(owner \d+, mode {mode:o}\).*chmod go-w {above}`"):
        assert compilation_cache.enable(str(above / "between" / "jax")) is None


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
    with pytest.warns(UserWarning, match="mode 757"):
        assert compilation_cache.enable(str(tmp_path / "home" / "jax")) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_another_users_folder_is_not_used(tmp_path):
    (tmp_path / "jax").mkdir(mode=0o700)
    os.chown(tmp_path / "jax", 4242, -1)
    with pytest.warns(UserWarning, match="owner 4242"):
        assert compilation_cache.enable(str(tmp_path / "jax")) is None


def test_another_users_folder_is_not_used_without_root(tmp_path, monkeypatch):
    path = tmp_path / "jax"
    path.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with pytest.warns(UserWarning, match=rf"owner {path.stat().st_uid}"):
        assert compilation_cache.enable(str(path)) is None


def test_it_is_turned_off_by_jaxs_own_setting(tmp_path):
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        assert compilation_cache.enable(str(tmp_path / "jax")) is None and not (tmp_path / "jax").exists()
    finally:
        jax.config.update("jax_enable_compilation_cache", True)


def test_the_librarys_own_folder_is_one_for_this_kind_of_processor_and_bounded(tmp_path, monkeypatch):
    """Of 100 bytes where 80 are allowed, those stay that were read last, up to 60."""
    monkeypatch.setenv("DIFFUSION_CACHE", str(tmp_path))
    monkeypatch.setattr(compilation_cache, "LIMIT", 80)
    other = tmp_path / "jax" / "another processor"
    other.mkdir(parents=True, mode=0o700)
    files = [other / f"{i}-cache" for i in range(10)]
    for i, file in enumerate(files):
        file.write_bytes(bytes(10))
        os.utime(file, (1000 + (i + 5) % 10, 0))
    (tmp_path / "jax").chmod(0o700)
    assert compilation_cache.enable() == tmp_path / "jax" / compilation_cache.processor()
    assert [file.exists() for file in files] == [True, True, True, True, True, False, False, False, False, True]


def test_a_folder_that_cannot_be_written_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.warns(UserWarning, match="no compilation cache.*jax is not a folder that can be written"):
        assert compilation_cache.enable(str(tmp_path / "jax")) is None


PROGRAM = """
import sys, types
import jax
from diffusion.experiments import command_line

sys.modules["__main__"].__spec__ = types.SimpleNamespace(name="diffusion.experiments.sample")

def main(argv):
    jax.jit(lambda x: x * {factor} + 1)(jax.numpy.float32(2)).block_until_ready()
    sys.exit(3)

command_line.run(main, compiles=True)
"""


def programs(folder, factor=3, **settings):
    """What a command says of its programs, in a process of its own."""
    env = {"JAX_COMPILATION_CACHE_DIR": str(folder), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", **settings}
    env = {**os.environ, "HOME": str(folder.parent), "PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": "", **env}
    code = PROGRAM.format(factor=factor)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    return done.stderr.strip()


@pytest.mark.slow
def test_a_command_says_what_it_found_and_compiled(tmp_path):
    """Each program that one command compiled the next finds; another code is compiled anew."""
    first = re.fullmatch(
        r"diffusion sample: programs: 0 found in ~/jax, (\d+) compiled in \d+\.\d s", programs(tmp_path / "jax")
    )
    number = int(first[1])
    assert number > 0
    again = f"diffusion sample: programs: {number} found in ~/jax, 0 compiled in 0.0 s"
    assert programs(tmp_path / "jax") == again
    changed = f"diffusion sample: programs: {number - 1} found in ~/jax, 1 compiled in"
    assert programs(tmp_path / "jax", factor=4).startswith(changed)
    off = programs(tmp_path / "jax", JAX_ENABLE_COMPILATION_CACHE="0")
    assert off.startswith(f"diffusion sample: programs: {number} compiled in")


@pytest.mark.extended
def test_a_run_needs_few_programs(tmp_path):
    """Each is lowered and read again at every start; an operation outside of a compiled function is one by itself."""
    words = ["train", "--config=digits:tiny", "--config.train.steps=1", f"--workdir={tmp_path / 'run'}"]
    env = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "JAX_ENABLE_COMPILATION_CACHE": "0"}
    done = subprocess.run([sys.executable, "-m", "diffusion", *words], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(re.search(r"diffusion train: programs: (\d+) compiled", done.stderr)[1]) <= 12


@pytest.mark.extended
def test_a_command_that_has_no_cache_says_so_in_one_sentence_and_goes_on(tmp_path):
    (tmp_path / "jax").write_text("")
    said = programs(tmp_path / "jax").splitlines()
    assert len(said) == 2 and said[0].startswith("diffusion sample: no compilation cache; every run compiles again: ")
    assert re.fullmatch(r"diffusion sample: programs: \d+ compiled in \d+\.\d s", said[1])


def test_a_program_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """A process that is ended while it writes leaves no program that later runs would read."""
    compilation_cache.write_whole()
    cache = lru_cache.LRUCache(str(tmp_path), max_size=-1)

    def ended(part, program):  # in place of the renaming
        assert part.read_bytes() == b"program" and not program.exists()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(type(cache.path), "replace", ended)
        cache.put("key", b"program")
    assert cache.get("key") is None
    cache.put("key", b"program")
    assert cache.get("key") == b"program"


def test_a_limit_of_the_environment_is_kept(tmp_path):
    compilation_cache.write_whole()
    cache = lru_cache.LRUCache(str(tmp_path), max_size=100)
    for key in "abc":
        cache.put(key, bytes(60))
    assert [cache.get(key) is not None for key in "abc"] == [False, False, True]


def test_what_an_ended_process_left_is_removed_with_the_oldest(tmp_path, monkeypatch):
    monkeypatch.setattr(compilation_cache.files, "cache", lambda name: tmp_path / name)
    monkeypatch.setattr(compilation_cache, "LIMIT", 100)
    folder = compilation_cache.enable()
    for at, name in enumerate(("a-cache.1", "b-cache", "c-cache")):
        (folder / name).write_bytes(bytes(40))
        os.utime(folder / name, (at, at))
    compilation_cache.enable()
    assert [path.name for path in folder.iterdir()] == ["c-cache"]


def test_programs_are_those_found_and_those_compiled():
    """A program that is read says so first; the time of the other event holds its reading, which is no compilation."""
    programs = compilation_cache.Programs(pathlib.Path.home() / "kept")
    programs._listen(compilation_cache.EITHER, 12.0)
    programs._listen(compilation_cache.READ, 2.0)
    programs._listen(compilation_cache.EITHER, 2.5)
    programs._listen("another event", 100.0)
    assert str(programs) == "programs: 1 found in ~/kept, 1 compiled in 12.5 s"
    programs = compilation_cache.Programs(None)
    programs._listen(compilation_cache.EITHER, 3.0)
    assert str(programs) == "programs: 1 compiled in 3.0 s"


@pytest.mark.parametrize(
    "group, members, private",
    [
        ("ada", [], True),
        ("ada", ["ada"], True),
        ("ada", ["ada", "eve"], False),
        ("students", ["ada"], False),
        (None, [], False),
    ],
)
def test_a_group_is_the_users_own_where_it_has_the_users_name_and_no_other_member(group, members, private, monkeypatch):
    def of_number(number):
        assert number == 1234
        if group is None:
            raise KeyError(number)
        return types.SimpleNamespace(gr_name=group, gr_mem=members)

    monkeypatch.setattr(compilation_cache.grp, "getgrgid", of_number)
    monkeypatch.setattr(compilation_cache.pwd, "getpwuid", lambda user: types.SimpleNamespace(pw_name="ada"))
    assert compilation_cache._private(1234) == private


def test_a_program_that_another_process_removes_meanwhile_is_gone(tmp_path, monkeypatch):
    for k in range(4):
        (tmp_path / f"{k}-cache").write_bytes(bytes(10))
        os.utime(tmp_path / f"{k}-cache", (k, k))
    monkeypatch.setattr(compilation_cache, "LIMIT", 20)
    unlink = pathlib.Path.unlink

    def late(path, *arguments, **more):
        unlink(path)
        return unlink(path, *arguments, **more)

    monkeypatch.setattr(pathlib.Path, "unlink", late)
    compilation_cache._prune(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["3-cache"]
