"""The code of the README and of the tour runs as it stands."""

import os
import pathlib
import re
import shlex

import numpy as np
import pytest

from tests import commands

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.md"
TOUR = ROOT / "docs" / "tour.md"


def section(title: str) -> str:
    """What the README says under a title."""
    return README.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.slow
def test_the_toy_example_is_short_and_learns_its_distribution():
    code = re.search(r"```python\n(.*?)```", section("Use it"), re.DOTALL).group(1)
    assert sum(bool(line.strip()) for line in code.splitlines()) < 25
    names: dict = {}
    exec(code, names)
    radius = np.linalg.norm(names["x_0"], axis=-1)
    assert abs(radius.mean() - 1) < 0.03
    assert radius.std() < 0.12
    angle = np.arctan2(names["x_0"][:, 1], names["x_0"][:, 0])
    counts = np.histogram(angle, bins=8, range=(-np.pi, np.pi))[0]
    assert counts.min() > 60  # 125 expected in each eighth of the circle


def test_the_pictures_of_the_tour_and_the_gallery_are_there_and_small():
    shown = re.findall(r"!\[[^]]+\]\((?:docs/)?(gallery/[^)]+)\)", README.read_text() + TOUR.read_text())
    assert len(shown) >= 8 and all((ROOT / "docs" / path).is_file() for path in shown)
    page = (ROOT / "docs/gallery/all.md").read_text()
    of_page = set(re.findall(r"!\[[^]]+\]\(([^)]+)\)", page))
    there = {path.name for path in (ROOT / "docs/gallery").glob("*.png")}
    reports = {name for name in of_page if "/" in name}  # of other runs, which have a folder each
    assert of_page - reports == there and {path.removeprefix("gallery/") for path in shown} <= of_page
    assert all((ROOT / "docs/gallery" / name).is_file() for name in reports)
    assert sum((ROOT / "docs/gallery" / name).stat().st_size for name in there) < 1.5e6


@pytest.mark.slow
def test_the_commands_of_the_tour_run(tmp_path, monkeypatch):
    """In order, as they stand but for the tiny presets, and the lines of Python on the run that they have made."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/digits_tiny").symlink_to("digits")  # the one that the sweep's tiny preset samples
    env = {**os.environ, "PYTHONPATH": str(ROOT), "DIFFUSION_CACHE": str(tmp_path / "cache")}
    ran = 0
    for language, code in re.findall(r"```(sh|python)\n(.*?)```", TOUR.read_text().split("\n## ")[0], re.DOTALL):
        if language == "python":
            names: dict = {}
            monkeypatch.chdir(tmp_path)
            exec(code, names)
            assert names["edited"].shape == (10, 8, 8, 1) and np.isfinite(names["edited"]).all()
            continue
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(re.sub(r"(?<!model)(=digits(_steps)?)(?= |$)", r"\1:tiny", line), comments=True)
            assert words[0] == "diffusion"
            if words[1:] == ["sample", "--workdir=runs/digits"]:
                words.append("--config.sample.number=150")  # so that each class has some, which `cas` needs
            done = commands.run(*words, env=env, cwd=tmp_path, timeout=600)
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            ran += 1
    assert ran == 14
