"""The tables in docs/ say what the docstrings say, of every member of every family."""

import importlib
import inspect

import pytest

from diffusion import samplers
from diffusion.models.interchange import FAMILIES
from tools.docs import catalogue
from tools.docs.catalogue import DIAGRAMS, DOCS, PAGES, Section, facts, members, mistakes, summary, table, written

SECTIONS = [pytest.param(section, id=section.title) for sections in PAGES.values() for section in sections]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_member_states_its_facts(section):
    assert members(section)
    assert not mistakes(section)


@pytest.mark.parametrize("section", [case for case in SECTIONS if case.values[0].summary])
def test_what_a_table_says_of_a_member_is_whole(section):
    for name, function in members(section).items():
        said = summary(function)
        following = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split()).removeprefix(said)
        assert following[:1] in (".", ":"), f"{name}: {said!r} is cut out of a sentence"
        assert said[-1].isalnum() or said[-1] in ")]'\"`", f"{name}: {said!r} is cut out of a sentence"


@pytest.mark.parametrize("page", [*PAGES, *DIAGRAMS])
def test_pages_are_up_to_date(page):
    assert page not in catalogue.stale([page]), "run python -m tools.docs.catalogue"


@pytest.mark.parametrize("page", list(PAGES))
def test_pages_begin_with_advice_and_show_a_figure_that_is_there(page):
    text = (DOCS / f"{page}.md").read_text()
    assert text.index("## Which one should I use") < text.index(f"](images/{page}.png)") < text.index(catalogue.BEGIN)
    assert (DOCS / "images" / f"{page}.png").is_file()


def test_every_architecture_that_is_read_stands_on_the_page_of_models():
    text = (DOCS / "models.md").read_text()
    assert [name for name in FAMILIES if f"`{name}`" not in text] == []


def test_every_sampler_of_the_conformance_list_is_in_the_table():
    """The rule that finds members misses none of those that are tested."""
    from tests.conformance import SAMPLERS

    listed = members(PAGES["samplers"][0])
    assert {name.split("(")[0] for name in SAMPLERS} <= listed.keys()
    assert listed["ddpm"] is samplers.ddpm


def _made(x: int) -> "Section":
    """A member: of no use.

    Facts:
        kind: made up, a | b
            and going on
        paper: none

    Args:
        x: nothing.
    """


def test_a_function_is_in_one_table_at_most_and_every_one_with_facts_is_in_one():
    for module in {section.module for sections in PAGES.values() for section in sections}:
        tables = [members(s).values() for sections in PAGES.values() for s in sections if s.module == module]
        listed = [function for table in tables for function in table]
        assert len(listed) == len(set(listed))
        public = [getattr(importlib.import_module(module), name) for name in dir(importlib.import_module(module))]
        own = [f for f in public if inspect.isfunction(f) and f.__module__.startswith(module)]
        assert {f.__name__ for f in own if "Facts:" in (f.__doc__ or "")} <= {f.__name__ for f in listed}, module


def test_facts_are_read_with_their_continuations():
    assert facts(_made) == {"kind": "made up, a | b and going on", "paper": "none"}
    assert summary(_made) == "A member: of no use"


@pytest.mark.parametrize("lines, words", [("", "no Facts"), ("Facts:\n        Kind is odd", "not 'key: value'")])
def test_facts_that_cannot_be_read_are_refused_by_name(lines, words):
    function = lambda: None
    function.__doc__ = f"One sentence.\n\n    {lines}\n"
    with pytest.raises(ValueError, match=words) as error:
        facts(function)
    assert "lambda" in str(error.value)


def test_missing_and_unknown_keys_are_named(monkeypatch):
    section = Section("Made", __name__, ("kind", "nfe"), ("Section",))
    monkeypatch.setattr(catalogue, "members", lambda section: {"made": _made})
    lacking, unknown = mistakes(section)
    assert lacking.endswith("made: its Facts lack nfe")
    assert "paper, which is none of kind, nfe" in unknown


def test_a_bar_in_a_fact_does_not_break_the_table(monkeypatch):
    monkeypatch.setattr(catalogue, "members", lambda section: {"made": _made})
    rows = table(Section("Made", __name__, ("kind", "paper"), ("Section",))).splitlines()
    assert rows[-1] == r"| `made` | made up, a \| b and going on | none |"


def test_a_page_without_markers_is_refused():
    with pytest.raises(ValueError, match="once"):
        written("samplers", "# Samplers\n")
