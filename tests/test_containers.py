"""The files that describe containers: what they copy is there, they run as no root, and they install what is locked."""

import fnmatch
import json
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
STAGES = re.split(r"(?m)^FROM ", (ROOT / "Dockerfile").read_text().replace("\\\n", " "))[1:]
NAMES = [stage.splitlines()[0].split(" AS ")[1] for stage in STAGES]
APPTAINER = (ROOT / "apptainer.def").read_text()


def test_every_file_that_a_container_copies_is_there_and_in_dockers_context():
    copied = [word for line in re.findall(r"(?m)^COPY (?!--)(.*) \S+$", "\n".join(STAGES)) for word in line.split()]
    section = APPTAINER.split("%files\n")[1].split("\n\n")[0]
    files = [line.split()[0] for line in section.splitlines() if "{{" not in line]
    assert len(copied) == 10 and len(files) == 9
    for name in [*copied, *files, *re.findall(r"LOCK=(\S+)", APPTAINER)]:
        assert list(ROOT.glob(name)), name
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line.removeprefix("!") for line in ignored if line.startswith("!")]
    assert ignored[0] == "*" and all(any(fnmatch.fnmatch(name, pattern) for pattern in kept) for name in copied)


def test_the_wheel_is_built_of_the_same_files_as_in_its_test():
    from tests.test_packaging import SOURCES

    copied = re.search(r"COPY (.*) /source/\n", STAGES[NAMES.index("installed")])[1].split()
    assert set(copied) | {"configs", "diffusion"} == {*SOURCES, "configs", "diffusion"}


def test_only_locked_requirements_are_installed_and_no_host_is_named():
    installs = re.findall(r"pip install ([^\n&]*)", "\n".join(STAGES) + APPTAINER)
    assert len(installs) == 4
    assert all("--require-hashes" in words or "--no-deps" in words for words in installs)
    for name in ("Dockerfile", "apptainer.def", ".devcontainer/devcontainer.json"):
        assert "://" not in (ROOT / name).read_text()
    assert {stage.split()[0] for stage in STAGES} <= {"python:3.12-slim", "environment"}
    assert "From: python:3.12-slim" in APPTAINER


def test_what_is_started_is_not_root():
    for name in ("development", "commands"):
        stage = STAGES[NAMES.index(name)]
        assert "useradd" in stage and re.findall(r"(?m)^USER (\S+)", stage) == ["researcher"]
    assert NAMES[-1] == "commands" and 'ENTRYPOINT ["diffusion"]' in STAGES[-1]


def test_the_devcontainer_opens_a_stage_of_the_dockerfile():
    described = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    build = described["build"]
    assert build["target"] in NAMES and (ROOT / ".devcontainer" / build["dockerfile"]).resolve() == ROOT / "Dockerfile"
    assert described["remoteUser"] == "researcher"
