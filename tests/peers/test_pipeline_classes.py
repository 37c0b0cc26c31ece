"""The classes of diffusers for the families that load here are opened, or listed on docs/families.md as refused."""

import re
import subprocess

from diffusion.text_to_image import pipelines
from tests.peers.test_exports import PYTHON, ROOT, live

PRINTED = "from diffusers import pipelines; print(*sum(map(list, pipelines._import_structure.values()), []))"


def refused() -> list[str]:
    """The classes of the last table on docs/families.md."""
    table = (ROOT / "docs/families.md").read_text().partition("### Classes of diffusers that are refused")[2]
    return [name for line in table.splitlines() for name in re.findall("`([A-Za-z0-9]+)`", line.partition(" | ")[0])]


def opened() -> set[str]:
    return {*pipelines.KINDS, *pipelines.ATTACHED}


def test_no_class_is_listed_twice_or_opened():
    names = refused()
    assert len(names) == len(set(names)) > 30
    assert not opened() & set(names)


@live
def test_every_class_of_a_family_is_opened_or_listed():
    printed = subprocess.run([PYTHON, "-c", PRINTED], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    is_pipeline = lambda name: "Pipeline" in name and not name.startswith(("Auto", "Flax"))
    theirs = {name for name in printed.split() if is_pipeline(name) and not name.endswith("Output")}
    families = {"LTX"} | {kind.family for kind in pipelines.KINDS.values()}
    of_families = {name for name in theirs if name.startswith(tuple(families))}
    assert len(of_families) > 100
    assert of_families - opened() == set(refused())
    assert opened() - theirs == {"Lumina2Text2ImgPipeline"}  # its first name
