"""The sections of reports in the gallery: those that are there, once, after the rest of the page."""

import numpy as np
from PIL import Image, ImageSequence

from diffusion.io import clips
from tools.docs import gallery_reports

PAGE = "# Gallery\n\nWords.\n\n## Samples\n\n![Samples](samples.png)\n"


def test_sections_are_those_of_the_reports_that_are_there_and_are_replaced(tmp_path):
    assert gallery_reports.page(PAGE, tmp_path) == PAGE
    for folder in gallery_reports.REPORTS:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "report.md").write_text("figures")
    made = gallery_reports.page(PAGE, tmp_path)
    assert made.startswith(PAGE) and gallery_reports.page(made, tmp_path) == made
    for folder, report in gallery_reports.REPORTS.items():
        assert made.count(f"\n## {report.title}\n") == 1
        assert all(f"]({folder}/{name})" in made for name in report.pictures)
    (tmp_path / "control" / "report.md").unlink()
    rest = gallery_reports.page(made, tmp_path)
    assert gallery_reports.REPORTS["control"].title not in rest and "A drawing as a prompt" in rest


def test_a_copy_of_a_report_of_clips_has_every_frame_as_webp(tmp_path):
    frames = np.repeat(np.uint8([250, 180, 90, 20]), 3 * 64).reshape(4, 8, 8, 3)
    report, place = tmp_path / "report", tmp_path / "gallery"
    report.mkdir()
    clips.write_gif(report / "test.gif", frames, 4.0)
    (report / "report.md").write_text("![clips](test.gif)\n")
    (report / "report.json").write_text("{}\n")
    gallery_reports.with_clips(report, place)
    assert (place / "report.md").read_text() == "![clips](test.webp)\n"
    assert sorted(path.name for path in place.iterdir()) == ["frames.png", "report.json", "report.md", "test.webp"]
    with Image.open(place / "frames.png") as four:
        np.testing.assert_allclose(np.asarray(four)[::8, 0, 0], [250, 180, 90, 20], atol=4)
    with Image.open(place / "test.webp") as film:
        made = np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)])
        assert film.info["duration"] == 250
    assert np.abs(made.astype(int) - frames).max() <= 4
