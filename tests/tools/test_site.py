"""The documentation: every public name says what it is, every link and picture is there, and the site is built."""

import collections
import html.parser
import json
import os
import pathlib
import posixpath
import re
import subprocess
import sys
import types
import urllib.parse
from typing import NamedTuple

import pytest
import yaml

from diffusion.experiments.zoo import markdown, published_rows, sampling_cost
from tests import browser
from tools.docs import course, public_names, site_pages
from tools.docs.public_names import Name

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if path.parent != DOCS / "images")
UNKNOWN = markdown.Facts(1, sampling_cost.Cost(1, 10**9, 3600.0))  # of a network that is not traced
FENCED = re.compile(r"^```.*?^```|`[^`\n]*`|<!--.*?-->", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def public():
    return public_names.public_names()


@pytest.mark.extended
def test_every_public_name_says_what_it_is(public):
    names = [name for names in public.values() for name in names]
    assert len(names) > 800
    assert [f"{name.module}.{name.name}" for name in names if len(name.sentence.split()) < 2] == []
    assert [module for module, sentence in public_names.module_sentences().items() if len(sentence.split()) < 2] == []


def test_public_names_are_those_of_the_lists_and_of_the_modules(tmp_path):
    folder = tmp_path / "made"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text('"""A package."""\n')
    (folder / "inner" / "__init__.py").write_text(
        "from made.inner.parts import hidden as shown, kept, kept_here as kept_here\n"
        "from made.inner import parts as parts\n"
        'TABLE = {}\n"""All of them."""\nOTHER = 1\n__all__ = ["shown", "TABLE"]\n'
    )
    (folder / "inner" / "parts.py").write_text(
        'def hidden(x):\n    """Steps i = 0 .. T - 1 of J. Doe\'s method: two.\n\n    More.\n    """\n\n'
        'def kept():\n    """Kept. And more."""\n\ndef kept_here():\n    """Kept here."""\n\n'
        "def _private():\n    pass\n\n"
        '@overload\ndef twice(x: int): ...\n\ndef twice(x):\n    """Twice."""\n\n'
        'Kind = str\n"""A kind."""\nSIZE = 2\nT = TypeVar("T")\nclass Thing:\n    """A thing,\n    of two lines."""\n'
    )
    (folder / "_private.py").write_text("def function(): ...\n")
    assert public_names.public_names(tmp_path, "made") == {
        "made.inner": [
            Name("made.inner", "kept_here", "function", "Kept here", "made.inner.parts.kept_here"),
            Name(
                "made.inner",
                "shown",
                "function",
                "Steps i = 0 .. T - 1 of J. Doe's method: two",
                "made.inner.parts.hidden",
            ),
            Name("made.inner", "TABLE", "constant", "All of them", "made.inner.TABLE"),
        ],
        "made.inner.parts": [
            Name("made.inner.parts", "kept", "function", "Kept", "made.inner.parts.kept"),
            Name("made.inner.parts", "Kind", "type", "A kind", "made.inner.parts.Kind"),
            Name("made.inner.parts", "Thing", "class", "A thing, of two lines", "made.inner.parts.Thing"),
            Name("made.inner.parts", "twice", "function", "Twice", "made.inner.parts.twice"),
        ],
    }


@pytest.mark.extended
def test_every_module_of_the_api_stands_under_one_topic(public):
    groups = site_pages.groups(public)
    counts = collections.Counter(module for group in groups for module in group.modules)
    assert counts == {module: 1 for module in public if module != "diffusion"}
    assert [group.title for group in groups] == list(site_pages.TOPICS) and all(group.modules for group in groups)
    topic = {module: group.title for group in groups for module in group.modules}
    assert topic["diffusion.models"] == "Networks" and topic["diffusion.models.layers.attention"] == "Layers"
    assert topic["diffusion.published.flux"] == "Published families"
    assert groups[0].modules[0] == "diffusion.schedules"
    with pytest.raises(ValueError, match=r"diffusion\.unheard_of has no topic"):
        site_pages.groups({"diffusion.unheard_of": []})


@pytest.mark.extended
def test_no_page_of_the_api_lists_more_names_than_a_reader_can_look_through(public):
    sentences = public_names.module_sentences()
    for group in site_pages.groups(public):
        text = site_pages.topic_page(group, public, sentences)
        assert 3 <= text.count("\n| [`") < 350, group.title
    index = site_pages.index(site_pages.groups(public), public)
    assert index.count("\n| [") == len(site_pages.TOPICS)
    assert "[`samplers`](samplers.md), `flows`, [`sampling`](sampling.md)" in index
    assert re.search(r"\[Layers\]\(topics/layers\.md\) \| \d+ \| `models\.layers` \|", index)  # has no page of its own


def test_the_front_page_shows_what_the_project_makes():
    shown = site_pages.front("# a\n\nb\n\n## c\n\nd\n")
    assert shown.startswith("# a\n\nb\n\n## What it makes\n\n<div")
    assert shown.endswith("</div>\n\n## c\n\nd\n")
    for picture, title, _ in site_pages.made():
        assert f"![]({picture}) {title}](" in shown and (DOCS / picture).is_file()


def test_a_name_that_yaml_takes_for_a_value_stands_on_its_page():
    names = [site_pages.Name("made", name, "function", "A sentence", f"made.{name}") for name in ("yes", "twice")]
    options = [yaml.safe_load(line) for line in site_pages.page("made", names).splitlines() if "heading:" in line]
    assert [each["options"].get("heading") for each in options] == [None, "yes", "twice"]


def navigation():
    """The pages of docs/ that the site's navigation names."""

    class Loader(yaml.SafeLoader):
        """Leaves out what only mkdocs can read."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    found = []

    def visit(entry):
        for value in entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else ():
            visit(value)
        if isinstance(entry, str):
            found.append(entry)

    visit(yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)["nav"])
    return found


def test_links_to_a_name_of_two_modules_lead_to_one_page(public):
    """A network of a published family is public in its room, and among the models."""
    text = "\n".join(site_pages.module_pages(site_pages.groups(public), public).values())
    blocks = re.findall(r"^::: (\S+)\n +options: (.*)$", text, re.MULTILINE)
    primary = collections.Counter(path for path, options in blocks if "skip_local_inventory: true" not in options)
    assert primary.keys() == {path for path, _ in blocks} and set(primary.values()) == {1}
    assert len(blocks) > len(primary)


def test_every_page_has_its_place_in_the_navigation():
    pages = ["index.md", *(path.relative_to(DOCS).as_posix() for path in PAGES)]
    assert sorted(navigation()) == sorted(pages), "a page of docs/ has its line under nav in mkdocs.yml"


def anchors(text):
    """What the headings of a page are called in a link, on the site and by GitHub."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    titles = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


def links(text):
    """(address, anchor) of each link and picture of a page that leads to another file or place of the project."""
    targets = [target.partition("#") for _, _, target in site_pages.LINK.findall(FENCED.sub("", text))]
    return [(urllib.parse.unquote(address), anchor) for address, _, anchor in targets if "://" not in address]


@pytest.mark.parametrize("path", [*ROOT.glob("*.md"), *PAGES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_and_picture_is_there(path):
    missing = []
    for address, anchor in links(path.read_text()):
        file = path.parent / address if address else path
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            missing.append(f"{address}#{anchor}")
    assert missing == []


class Sources(NamedTuple):
    """What mkdocs makes the site of, but for the API's modules.

    Attributes:
        pages: path in the site -> text in Markdown.
        pictures: paths of those that the notebooks have drawn.
        api: path of a module's page -> its anchors.
    """

    pages: dict[str, str]
    pictures: set[str]
    api: dict[str, set[str]]


@pytest.fixture(scope="module")
def sources(public):
    grouped = site_pages.groups(public)
    pages = {path.relative_to(DOCS).as_posix(): path.read_text() for path in DOCS.rglob("*.md")}
    pages["zoo.md"] = site_pages.zoo(pages["zoo.md"], known=lambda row: UNKNOWN)
    pages["index.md"] = site_pages.front((ROOT / "README.md").read_text())
    pages["api/index.md"] = site_pages.index(grouped, public)
    about = public_names.module_sentences()
    pages |= {site_pages.topic_place(group.title): site_pages.topic_page(group, public, about) for group in grouped}
    pictures = set()
    for path, notebook in site_pages.notebooks().items():
        shown = course.page(notebook, pathlib.PurePath(path).stem)
        pages[path] = shown.markdown
        pictures |= {f"learn/{name}" for name in shown.pictures}
    api = {site_pages.place(module): {name.path for name in names} for module, names in public.items()}
    return Sources({path: site_pages.inward(text, path) for path, text in pages.items()}, pictures, api)


@pytest.mark.extended
def test_every_link_of_the_sites_sources_leads_to_a_page_of_the_site(sources):
    """The slow test below says the same of the built pages."""
    missing = []
    for path, text in sources.pages.items():
        for address, anchor in links(text):
            place = posixpath.normpath(posixpath.join(posixpath.dirname(path), address)) if address else path
            if place in sources.pages:
                found = not anchor or anchor in anchors(sources.pages[place])
            elif place in sources.api:
                found = not anchor or anchor in sources.api[place]
            else:
                found = place in sources.pictures or (not place.endswith(".md") and (DOCS / place).is_file())
            if not found:
                missing.append(f"{path}: {address}#{anchor}")
    assert not missing, ", ".join(missing)


BROKEN = ("[a](nowhere.md)", "[a](samplers.md#nowhere)", "[a](#nowhere)", "![a](images/no.png)")


@pytest.mark.extended
@pytest.mark.parametrize("wrong", BROKEN)
def test_a_link_that_leads_nowhere_is_found(sources, wrong):
    broken = sources._replace(pages={**sources.pages, "tour.md": sources.pages["tour.md"] + wrong})
    with pytest.raises(AssertionError, match=r"^tour\.md: [^ ]*no"):
        test_every_link_of_the_sites_sources_leads_to_a_page_of_the_site(broken)


def test_links_lead_to_the_same_places_from_the_site():
    readme = "See [a](docs/a.md#b), ![c](docs/images/c.png), [d](#d), [e](configs/e.py) and [f](https://f.example)."
    mended = "See [a](a.md#b), ![c](images/c.png), [d](#d), e (`configs/e.py`) and [f](https://f.example)."
    assert site_pages.front(readme) == mended
    page = "[a](../README.md#a), [b](b.md), [c](../benchmarks/gpu/README.md)\n\n```\nf[0](x)\n```\n"
    mended = "[a](index.md#a), [b](b.md), c (`benchmarks/gpu/README.md`)\n\n```\nf[0](x)\n```\n"
    assert site_pages.inward(page, "samplers.md") == mended
    page = "[a](../../README.md), [b](../samplers.md), [c](picture.png), [d](../../configs/digits.py)"
    mended = "[a](../index.md), [b](../samplers.md), [c](picture.png), d (`configs/digits.py`)"
    assert site_pages.inward(page, "gallery/README.md") == mended
    page = "(the [card](../weights/README.md)) ([its card](../weights/README.md)), [`weights/`](../weights/README.md)"
    mended = "(the card (`weights/README.md`)) (its card: `weights/README.md`), `weights/`"
    assert site_pages.inward(page, "samplers.md") == mended


def test_a_search_leads_to_the_task_before_pages_with_the_same_words():
    boosts = {}
    for path in ("tasks/own_pictures.md", "gallery/techniques/report.md"):
        page = types.SimpleNamespace(file=types.SimpleNamespace(src_uri=path), meta={})
        site_pages.on_page_markdown("own pictures", page, None, None)
        boosts[path] = page.meta.get("search", {}).get("boost", 1)
    assert boosts["tasks/own_pictures.md"] > boosts["gallery/techniques/report.md"] == 1


def test_docstrings_become_markdown():
    docstring = (
        'It calls networks["model"](x, t) and `f[0](x)`.\n\n    y = f[0](x)\n\n'
        "Facts:\n    kind: a\n        b\n    paper: c\n\n"
        "Args:\n    x: a[0][1].\n\n    More."
    )
    assert site_pages.as_markdown(docstring) == (
        'It calls networks["model"]\\(x, t) and `f[0](x)`.\n\n    y = f[0](x)\n\n- **kind**: a b\n- **paper**: c\n\n'
        "Args:\n    x: a[0]\\[1].\n\n    More."
    )
    assert site_pages.escaped("a_b | `c_d` [x]") == "a\\_b \\| `c_d` \\[x\\]"


class Page(html.parser.HTMLParser):
    """What a page loads, where it leads, and its anchors."""

    def __init__(self, text):
        super().__init__()
        self.loads = []
        self.leads = []
        self.ids = set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if "id" in values:
            self.ids.add(values["id"])
        if tag in ("script", "img", "iframe", "source") and values.get("src"):
            self.loads.append(values["src"])
        if tag == "link":
            self.loads.append(values["href"])
        if tag == "a" and "href" in values:
            self.leads.append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr[-3000:]
    return folder


@pytest.mark.slow
def test_the_site_is_built_whole_and_asks_the_network_for_nothing(site, public):
    pages = {path: Page(path.read_text()) for path in site.rglob("*.html") if path.name != "404.html"}  # for servers
    html = [path.relative_to(DOCS).with_suffix(".html") for path in PAGES]
    assert {site / str(path).replace("README", "index") for path in html} <= pages.keys()
    for module, names in public.items():
        shown = pages[site / "api" / f"{module.removeprefix('diffusion.')}.html"].ids
        assert {name.path for name in names} <= shown, module
    rows = {name for name in published_rows.ROWS if not name.startswith("tiny_")}  # which other tests add
    assert rows <= pages[site / "zoo.html"].ids
    for path, found in pages.items():
        for target in {*found.loads, *found.leads}:
            address, _, anchor = target.partition("#")
            if target in found.leads and target not in found.loads and urllib.parse.urlsplit(target).scheme:
                continue  # a link to a paper
            file = (path.parent / urllib.parse.unquote(address)).resolve() if address else path
            assert file.is_file(), f"{path}: {target}"
            assert not anchor or file.suffix != ".html" or anchor in pages[file].ids, f"{path}: {target}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text()), style
    index = json.loads((site / "search" / "search_index.json").read_text())
    assert any("diffusion.samplers.runge_kutta.heun" in entry["location"] for entry in index["docs"])


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.skipif(not browser.installed(), reason=browser.MISSING)
def test_a_browser_finds_names_without_a_network_in_light_and_dark(site):
    seen = []
    for dark in (False, True):
        with browser.open() as page:
            page.resize(400 if dark else 1280, 900, dark=dark)
            page.visit((site / "index.html").as_uri())
            seen.append(page.run("return getComputedStyle(document.body).backgroundColor"))
            assert page.run("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")
            assert page.run("return document.documentElement.scrollWidth <= innerWidth")
            dimmed = page.run("return getComputedStyle(document.querySelector('article img')).filter")
            assert dimmed == ("brightness(0.8)" if dark else "none")
            if dark:
                page.click("label[for=__search]")
            page.type("input[name=query]", "zero_terminal_snr")
            page.until("return document.querySelectorAll('.md-search-result__link').length > 0", 600)
            assert any("zero_terminal_snr" in text for text in page.texts(".md-search-result__link"))
            page.run("document.querySelector('input[name=query]').value = ''")
            page.type("input[name=query]", "own pictures")
            page.until(
                "return document.querySelector('.md-search-result__link')?.innerText.startsWith('Train on')", 600
            )
            requested = [address for address in page.requests() if not address.startswith(("file:", "data:", "blob:"))]
            assert (requested, page.errors()) == ([], [])
    assert seen[0] != seen[1]
