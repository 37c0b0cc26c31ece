"""The sections of reports in the gallery: those that are there, once, after the rest of the page."""

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
