"""The report of a sweep in a browser: what a reader does with it, and that it asks no network for anything."""

import json
import time

import pytest

from diffusion.experiments.sweeps import html_report
from tests import browser
from tests.experiments.sweeps import made_sweep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(not browser.installed(), reason=browser.MISSING),
]

FIRST = "#table-body tbody tr:first-child"
LINES = "#curves [data-line]"


@pytest.fixture(scope="module")
def page():
    with browser.open() as window:
        yield window


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The report of a sweep over samplers and steps, finished; and of one over two choices that runs."""
    folder = tmp_path_factory.mktemp("sweeps")
    html_report.write(made_sweep.samplers(folder / "samplers"))
    html_report.write(made_sweep.weightings(folder / "weightings"))
    return folder


@pytest.fixture
def samplers(page, folder):
    visit(page, folder / "samplers")
    yield page
    assert page.errors() == []


def visit(page, place, state=""):
    page.visit("about:blank")  # a new fragment alone would not load the page anew
    _ = page.requests(), page.errors()
    page.visit(f"file://{place}/report.html{state}")


def column(page, number):
    return page.texts(f"#table-body tbody tr > :nth-child({number + 1})")


def test_a_finished_report_is_one_file_that_asks_for_nothing(samplers):
    samplers.until("return document.querySelectorAll('#curves path').length > 0")
    time.sleep(3)  # longer than between two looks at the news
    wanted = [address for address in samplers.requests() if not address.startswith("data:")]
    assert len(wanted) == 1 and wanted[0].endswith("/samplers/report.html")
    loaded = samplers.run("return [...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert loaded and samplers.run("return document.images.length") == 28


def test_columns_sort_by_number_both_ways_and_by_keyboard(samplers):
    assert samplers.count("#table-body tbody tr") == 28
    samplers.click('[data-sort="f:steps"]')
    assert column(samplers, 2)[:5] == ["1", "1", "1", "1", "2"]  # and not 1, 100, 2
    assert samplers.run("return document.querySelector('[aria-sort]').innerText").startswith("steps")
    samplers.type('[data-sort="v:fd_pixels"]', "<Enter>")
    values = [float(text.split()[0]) for text in column(samplers, 5)]
    assert values == sorted(values)
    samplers.type('[data-sort="v:fd_pixels"]', "<Enter>")  # the focus stayed there
    assert column(samplers, 5)[0].split()[0] == f"{max(values):g}"
    assert samplers.run("return document.querySelector('[aria-sort]').ariaSort") == "descending"
    assert samplers.count("td.best") >= 3


@pytest.mark.parametrize(("words", "left"), [
    ("euler", 7), ("euler 100", 1), ("steps=20", 4), ("steps<=4 heun", 3), ("fd_pixels<0.2 UNIPC", 3), ("none such", 0),
])  # fmt: skip
def test_words_filter_table_and_charts_alike(samplers, words, left):
    samplers.type("#filter", words)
    assert samplers.count("#table-body tbody tr") == left == samplers.count(LINES)
    assert samplers.count("#against-x1 .point") == left == samplers.count("#pictures-body figure")
    samplers.click(".clear")
    assert samplers.count("#table-body tbody tr") == 28


def test_values_filter(samplers):
    samplers.click('[data-menu="sampler"] summary')
    samplers.click('[data-menu="sampler"] label:nth-child(1) input')
    assert samplers.count("#table-body tbody tr") == 21 and "euler" not in column(samplers, 1)
    assert samplers.texts('[data-menu="sampler"] summary') == ["sampler (3 of 4)"]


def test_lines_are_switched_off_in_the_legend_and_in_the_table(samplers):
    samplers.click("#legend-x1 li:nth-child(2) button")  # heun
    assert samplers.count(LINES) == 21 and samplers.count("#against-x1 [data-line]") == 3
    assert samplers.run("return document.querySelector('#legend-x1 li:nth-child(2) button').ariaPressed") == "false"
    assert samplers.count("#table-body tr.off") == 7  # still in the table, but pale
    samplers.click("#table-body tr.off input[type=checkbox]")
    assert samplers.count(LINES) == 22


def test_every_figure_leads_to_its_command(samplers, folder):
    samplers.click(f'{FIRST} a[data-figure="fd_pixels"]')
    result = samplers.texts("#table-body .detail .command code")
    assert len(result) == 3 and all("diffusion train" in text and "diffusion evaluate" in text for text in result)
    samplers.click("#against-part .card .tools button")
    message = samplers.texts("#dialog")[0]
    assert message.count("diffusion train") == 84 and "diffusion sweep --sweep" in message
    samplers.click("#dialog .close")
    assert samplers.count("#pictures-body figcaption .copy") == 28
    samplers.run("navigator.clipboard.writeText = text => { window.copied = text; return Promise.resolve(); }")
    samplers.click("#pictures-body figcaption .copy")
    assert "--config.sample.steps=1 " in samplers.run("return window.copied")


def test_points_lie_where_their_figures_are(samplers):
    """On a linear axis, the heights of three points are as far apart as their figures; so are the ends of the bars."""
    samplers.run("choose({logy: '0', q: 'euler', y: 'fd_pixels'})")
    result = samplers.run("""
      return [...document.querySelectorAll('#against-x1 [data-line]')].map(line => ({
        y: [...line.querySelectorAll('.point')].map(point => Number(point.getAttribute('cy'))),
        bars: [...line.querySelectorAll('.bar')].map(bar => bar.getBBox().height)}))[0]""")
    message = json.loads(samplers.run("return document.getElementById('data').textContent"))
    figures = [group["figures"]["fd_pixels"] for group in message["groups"][:7]]
    scale = (result["y"][0] - result["y"][3]) / (figures[0][0] - figures[3][0])
    for point, figure, bar in zip(result["y"], figures, result["bars"]):
        assert point - result["y"][0] == pytest.approx(scale * (figure[0] - figures[0][0]), abs=0.2)
        assert bar == pytest.approx(-scale * (figure[2] - figure[1]), abs=0.3)


def test_choices_are_in_the_address(page, folder):
    visit(page, folder / "samplers")
    page.type("#filter", "heun")
    page.click('[data-sort="f:steps"]')
    page.click('[data-sort="f:steps"]')
    address = page.run("return location.href")
    page.visit("about:blank")
    page.visit(address)
    assert page.run("return document.getElementById('filter').value") == "heun"
    assert column(page, 2) == ["100", "50", "20", "8", "4", "2", "1"]


def test_pictures_open_and_turn_by_keys(samplers):
    samplers.click("#pictures-body figure:nth-child(3) .picture")
    assert samplers.texts("#dialog h2") == ["sampler=euler,steps=4,seed=0"]
    samplers.type("#dialog .turn button", "<ArrowRight>")
    assert samplers.texts("#dialog h2") == ["sampler=euler,steps=8,seed=0"]
    samplers.run("document.getElementById('dialog').close()")


def test_page_follows_the_sweep_and_keeps_its_place(page, folder):
    place = folder / "running"
    made = made_sweep.weightings(place)._replace(directory=place)
    version = html_report.write(made)
    visit(page, place, "#sort=-v:fd_pixels&error=sd")
    assert page.texts("#head .counts span:first-child")[0] == "53 done"
    page.run("scrollTo(0, 2000)")  # below what is there before the charts are drawn
    runs = [*made.runs[:-5], *(run._replace(status="done") for run in made.runs[-5:])]
    assert html_report.write(made._replace(runs=runs), version) != version
    page.until("return document.querySelector('#head .counts').innerText.includes('58 done')")
    page.until("return Math.abs(scrollY - 2000) < 3")
    assert page.run("return document.querySelector('[aria-sort]').innerText").startswith("fd_pixels")
    assert "top=" not in page.run("return location.hash") and page.errors() == []


def test_reasons_of_failures_are_told(page, folder):
    visit(page, folder / "weightings", "#q=failed")
    page.click(f"{FIRST} .opener")
    assert "not finite in step 412" in page.texts(".reason")[0]
    assert column(page, 3)[0] == "2/3 failed"


def test_three_hundred_runs_are_drawn_and_sorted_at_once(page, tmp_path):
    """Not a measurement: a quadratic page would take minutes."""
    html_report.write(made_sweep.large(tmp_path))
    assert (tmp_path / "report.html").stat().st_size < 30e6
    began = time.monotonic()
    visit(page, tmp_path)
    page.until("return document.querySelectorAll('#curves [data-line]').length === 300", 60)
    for name in ("v:fd_pixels", "f:width", "v:loss"):
        page.click(f'[data-sort="{name}"]')
    page.type("#filter", "width=64")
    assert page.count("#table-body tbody tr") == 25 == page.count(LINES)
    assert time.monotonic() - began < 60 and page.errors() == []


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 420])
def test_narrow_windows_do_not_scroll_sideways(page, folder, width, dark):
    for name in ("samplers", "weightings"):
        page.resize(width, 850, dark)
        visit(page, folder / name)
        page.until("return document.querySelectorAll('#curves path').length > 0")
        assert page.run("return document.documentElement.scrollWidth") == width
        page.run("document.querySelector('#table-body .opener').click()")
        for menu in range(1, page.count(".menu") + 1):  # sheets over the page, each of which has to stay in it
            page.click(f".menu:nth-child({menu}) summary")
            page.until(f"return document.querySelector('.menu:nth-child({menu}) .sheet').style.left !== ''")
            assert page.run("return document.documentElement.scrollWidth") == width
        ground = page.run("return getComputedStyle(document.body).backgroundColor")
        assert (ground == "rgb(18, 22, 29)") == dark
    page.resize(1280, 900)
