"""A run writes down which code of a user's own it used, and says what has changed when it goes on."""

import hashlib
import json
import subprocess
import sys
import types

import pytest

from diffusion.experiments import failed_commands
from diffusion.experiments.run_folder import user_code
from diffusion.recipe import ConfigError
from diffusion.recipe.extensions import Extension


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def extension(path, home=None) -> Extension:
    return Extension(path.name, path, home or path)


def lines(run):
    return [json.loads(line) for line in (run / "extensions.jsonl").read_text().splitlines()]


def test_a_run_without_any_writes_no_file(run):
    assert user_code.note(run, 0, []) == [] and user_code.note(run, 20, []) == []
    assert not list(run.iterdir())


def test_a_file_has_the_digest_that_sha256sum_prints_and_its_change_is_told_with_the_step(run, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("a = 1\n")
    digest = hashlib.sha256(b"a = 1\n").hexdigest()
    assert user_code.note(run, 0, [extension(mine)]) == []
    assert lines(run) == [
        {"step": 0, "extensions": [{"name": "mine.py", "path": str(mine), "sha256": digest, "commit": None}]}
    ]
    assert user_code.note(run, 20, [extension(mine)]) == [] and len(lines(run)) == 1
    mine.write_text("a = 2\n")
    (told,) = user_code.note(run, 40, [extension(mine)])
    assert told.startswith("extension mine.py has changed since the run started at step 0: sha256 " + digest[:12])
    assert [line["step"] for line in lines(run)] == [0, 40]
    (told,) = user_code.note(run, 60, [])
    assert told == "extension mine.py, which the run used from step 40 on, is not loaded now"
    (told,) = user_code.note(run, 80, [extension(mine)])
    assert told == "extension mine.py is new: the run did not use it before"


def test_a_line_that_a_crash_of_the_machine_tore_takes_no_other_with_it(run, tmp_path):
    """The next line stuck to it, and the run could not be started any more."""
    (tmp_path / "mine.py").write_text("")
    (run / "extensions.jsonl").write_text('{"step": 0, "exten')
    user_code.note(run, 20, [extension(tmp_path / "mine.py")])
    assert user_code.note(run, 40, [extension(tmp_path / "mine.py")]) == [] and [row["step"] for row in lines(run)] == [
        20
    ]


def test_code_that_an_old_run_goes_on_with_is_new(run, tmp_path):
    (tmp_path / "mine.py").write_text("")
    assert user_code.note(run, 20, [extension(tmp_path / "mine.py")]) == [
        "extension mine.py is new: the run did not use it before"
    ]


def test_a_package_changes_with_any_of_its_files(tmp_path):
    home = tmp_path / "paper"
    home.mkdir()
    for name in ("register.py", "mathematics.py"):
        (home / name).write_text("a = 1\n")
    of = lambda: user_code.described(extension(home / "register.py", home))["sha256"]
    digests = [of()]
    (home / "mathematics.py").write_text("a = 2\n")
    digests.append(of())
    (home / "mathematics.py").rename(home / "mathematic.py")
    digests.append(of())
    assert len(set(digests)) == 3
    (home / "notes.txt").write_text("not code")
    assert of() == digests[-1]


def test_the_commit_of_the_users_repository(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("a = 1\n")
    git = lambda *words: subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", tmp_path, *words],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    assert user_code.commit(mine) is None  # no repository
    git("init", "-q")
    assert user_code.commit(mine) is None  # not tracked
    git("add", "mine.py")
    git("commit", "-qm", "one")
    assert user_code.commit(mine) == git("rev-parse", "HEAD")
    mine.write_text("a = 2\n")
    assert user_code.commit(mine) == git("rev-parse", "HEAD") + "+changes"


def test_git_on_a_file_system_that_does_not_answer_is_given_up(tmp_path, monkeypatch):
    def hang(command, timeout=None, **options):
        assert timeout, "the command would wait for ever"
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(user_code.subprocess, "run", hang)
    assert user_code.commit(tmp_path / "mine.py") is None


def test_an_unknown_name_recalls_the_code_that_the_run_was_trained_with(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text("")
    user_code.note(run, 0, [extension(tmp_path / "mine.py")])
    assert user_code.not_loaded(run) == ["mine.py"] and user_code.not_loaded(tmp_path) == []

    def command(argv):
        raise ConfigError("config.schedule.name: unknown schedule 'power'. To add one of your own: --extend=FILE")

    monkeypatch.setattr(failed_commands, "leave", sys.exit)
    monkeypatch.setattr(failed_commands.flags, "FLAGS", {"workdir": types.SimpleNamespace(value=str(run))})
    with pytest.raises(SystemExit):
        failed_commands.in_one_sentence(command, ())([])
    assert capsys.readouterr().err.endswith(f"The run in {run} was trained with --extend=mine.py.\n")
    monkeypatch.setitem(user_code.loaded, "mine.py", extension(tmp_path / "mine.py"))
    assert user_code.not_loaded(run) == []
