"""The gallery's first page: eight items, each with its picture, its command and a clean commit in its report."""

import json

import pytest
from PIL import Image

from diffusion.recipe import ConfigError
from tools.docs import gallery_front, site_pages

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def item(record: str = "report.json") -> gallery_front.Item:
    return gallery_front.Item(
        "Stars", "report.png", ((0, 0, 2, 3), (4, 0, 5, 3)), "Look.", "diffusion sample", "a.md", record
    )


def test_the_page_is_written_from_its_items_which_are_eight_with_a_clean_commit_each():
    assert (gallery_front.DOCS / gallery_front.PLACE).read_text() == gallery_front.page(gallery_front.ITEMS)
    assert len(gallery_front.ITEMS) == 8
    for name, shown in gallery_front.ITEMS.items():
        record = json.loads((gallery_front.DOCS / shown.record).read_text())
        made = gallery_front.commits(record)
        assert made and all(gallery_front.CLEAN.fullmatch(commit) for commit in made), name
        with Image.open(gallery_front.DOCS / gallery_front.PARTS / f"{name}.png") as picture:
            assert picture.width == sum(box[2] - box[0] for box in shown.boxes), name


MEASURED_WITH_CHANGES = {"image_prompt"}  # whose report was made before this rule


def test_reports_of_the_gallery_are_of_clean_commits():
    """A figure of changed files cannot be made again from its commit."""
    reports = sorted((gallery_front.DOCS / "gallery").glob("*/report.json"))
    assert len(reports) > 8
    for path in reports:
        changed = {commit for commit in gallery_front.commits(json.loads(path.read_text())) if "dirty" in commit}
        assert not changed or path.parent.name in MEASURED_WITH_CHANGES, (path.parent.name, changed)


def test_the_front_page_of_the_site_shows_the_same_pictures():
    assert [picture for picture, _, _ in site_pages.made()] == [
        f"{gallery_front.PARTS}/{name}.png" for name in gallery_front.ITEMS
    ]


def test_a_picture_is_its_parts_beside_each_other(tmp_path):
    whole = Image.new("RGB", (6, 3), "red")
    whole.paste("blue", (4, 0, 5, 3))
    whole.save(tmp_path / "report.png")
    gallery_front.draw(item(), tmp_path, tmp_path / "best" / "stars.png")
    with Image.open(tmp_path / "best" / "stars.png") as picture:
        assert picture.size == (3, 3)
        assert [picture.getpixel((x, 1)) for x in range(3)] == [(255, 0, 0), (255, 0, 0), (0, 0, 255)]


@pytest.mark.parametrize("commit", [f"{COMMIT}-dirty", None])
def test_a_picture_without_a_clean_commit_is_refused(tmp_path, commit):
    (tmp_path / "report.json").write_text(json.dumps({"rows": [{"protocol": {"git_commit": commit}}]}))
    with pytest.raises(ConfigError, match="has git_commit"):
        gallery_front.write({"stars": item()}, tmp_path)
    (tmp_path / "report.json").write_text(json.dumps({"rows": []}))
    with pytest.raises(ConfigError, match=r"git_commit \[\]"):
        gallery_front.write({"stars": item()}, tmp_path)


def test_an_odd_item_stands_alone_in_its_line(tmp_path):
    (tmp_path / "report.json").write_text(json.dumps({"git_commit": COMMIT}))
    Image.new("RGB", (6, 3)).save(tmp_path / "report.png")
    gallery_front.write({name: item() for name in ("one", "two", "three")}, tmp_path)
    text = (tmp_path / gallery_front.PLACE).read_text()
    assert text.count("**[Stars](../a.md)** Look.<br>`diffusion sample`") == 3
    assert all(f"(best/{name}.png)](../a.md)" in text for name in ("one", "two", "three"))
    assert len([line for line in text.splitlines() if line.startswith("| [")]) == 2
