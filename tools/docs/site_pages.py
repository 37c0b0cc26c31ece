"""Adds to the documentation site what docs/ lacks: the front page, the course's notebooks, the zoo's rows, the API.

    make site

`make site` builds the site (mkdocs.yml), and mkdocs calls the functions `on_...` below. A page of the API shows the
public names of one module (`tools.docs.public_names`) with their docstrings. A page of a topic lists the names of its
modules, each with the first sentence of its docstring. The first page of the API lists the topics.
"""

import json
import pathlib
import posixpath
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from tools.docs import course, gallery_front, public_names
from tools.docs.public_names import Name

ROOT = pathlib.Path(__file__).parents[2]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
SECTION = re.compile("(Args|Attributes|Returns|Raises|Yields):")
CALL = re.compile(r"(\])(?=[(\[])")
ZOO = "zoo.md"
COURSE = "Learn"  # the heading in the navigation
TOPICS = {  # the API's topics, {title: modules and packages}; a module belongs to the longest name that it begins with
    "Processes and times": ("schedules", "parameterizations", "timesteps", "arrays"),
    "Objectives": ("objectives",),
    "Samplers and likelihoods": ("samplers", "flows", "sampling"),
    "Guidance, steering, editing, caches": ("guidance", "sampling.steering", "sampling.editing", "sampling.caching"),
    "Curved spaces, proteins, sound, symbols": ("manifolds", "data.proteins", "data.sound", "discrete"),
    "Networks": ("models",),
    "Layers": ("models.layers",),
    "Autoencoders and encoders": ("models.autoencoders", "models.image_encoders", "models.text_encoders"),
    "Published checkpoints": ("models.interchange",),
    "Published families": ("published", "rooms"),
    "Text to image and video": ("text_to_image", "text", "adapters", "sampling.videos"),
    "Data": ("data",),
    "Drawn scenes": ("data.shapes",),
    "Training": ("training",),
    "Metrics": ("metrics",),
    "Watermarks": ("sampling.watermarks",),
    "Files and commands": ("io", "package"),
}
TASKS = "tasks/"  # the folder of pages that a search shows first, before galleries with the same words
BEHIND = "---\nsearch: {boost: 0.3}\n---\n\n"  # a search shows pages of the API after the pages that people wrote


class Group(NamedTuple):
    """One topic of the API.

    Attributes:
        title: the topic's title.
        modules: the modules of the topic, in the order of `TOPICS`.
    """

    title: str
    modules: Sequence[str]


def groups(public: Mapping[str, Sequence[Name]]) -> list[Group]:
    """The topics with their modules.

    Args:
        public: the result of `public_names.public_names`.

    Raises:
        ValueError: if a module has no topic.
    """
    prefixes = {f"diffusion.{prefix}": title for title, names in TOPICS.items() for prefix in names}
    inside = {title: [] for title in TOPICS}
    for module in public:
        if module == "diffusion":
            continue
        matches = [prefix for prefix in prefixes if module == prefix or module.startswith(f"{prefix}.")]
        if not matches:
            raise ValueError(f"{module} has no topic: add it to TOPICS in tools/docs/site_pages.py")
        prefix = max(matches, key=len)
        inside[prefixes[prefix]].append((list(prefixes).index(prefix), module))
    return [Group(title, [module for _, module in sorted(modules)]) for title, modules in inside.items()]


def topic_place(title: str) -> str:
    """The path of a topic's page in the site."""
    return f"api/topics/{re.sub('[^a-z]+', '_', title.lower())}.md"


def place(module: str) -> str:
    """The path of a module's page in the site."""
    return f"api/{module.removeprefix('diffusion.')}.md"


def page(module: str, names: Sequence[Name], elsewhere: Collection[str] = ()) -> str:
    """The page of a module, in Markdown: for each name a directive that mkdocstrings replaces by the docstring.

    Args:
        module: the module.
        names: the module's public names.
        elsewhere: the paths of names that an earlier page shows too; links lead to that page.
    """
    shown = [f"::: {module}\n    options: {{members: false, show_root_heading: false, show_root_toc_entry: false}}"]
    for name in names:
        again = ", skip_local_inventory: true" if name.path in elsewhere else ""
        shown.append(f"::: {name.path}\n    options: {{heading: '{name.name}', toc_label: '{name.name}'{again}}}")
    return BEHIND + "\n\n".join([f"# {module}", *shown]) + "\n"


def module_pages(grouped: Sequence[Group], public: Mapping[str, Sequence[Name]]) -> dict[str, str]:
    """The pages of all modules, by their paths; if several pages show a name, links to it lead to the first one."""
    pages: dict[str, str] = {}
    shown: set[str] = set()
    for module in (module for group in grouped for module in group.modules):
        pages[place(module)] = page(module, public[module], shown)
        shown |= {name.path for name in public[module]}
    return pages


def index(grouped: Sequence[Group], public: Mapping[str, Sequence[Name]]) -> str:
    """The first page of the API, which lists the topics and their modules.

    Args:
        grouped: the result of `groups`.
        public: the result of `public_names.public_names`.
    """
    count = sum(len(public[module]) for group in grouped for module in group.modules)
    lines = [
        "# Public names",
        "",
        f"`diffusion` makes {count:,} names public. Each topic has a page that lists its names, with the module to "
        "import them from; a name leads to its arguments, shapes and errors. The search finds a name too.",
        "",
        "| topic | names | modules |",
        "| --- | --- | --- |",
    ]
    for group in grouped:
        packages = [
            f"[`{name}`]({place(f'diffusion.{name}').removeprefix('api/')})"
            if f"diffusion.{name}" in public  # a package without names of its own has no page
            else f"`{name}`"
            for name in TOPICS[group.title]
        ]
        topic = f"[{group.title}]({topic_place(group.title).removeprefix('api/')})"
        names = sum(len(public[module]) for module in group.modules)
        lines.append(f"| {topic} | {names} | {', '.join(packages)} |")
    return "\n".join(lines) + "\n"


def topic_page(group: Group, public: Mapping[str, Sequence[Name]], about: Mapping[str, str]) -> str:
    """The page of a topic: the names of its modules, each with the first sentence of its docstring.

    Args:
        group: the topic.
        public: the result of `public_names.public_names`.
        about: {module: the first sentence of its docstring}.
    """
    lines = [f"# {group.title}"]
    for module in group.modules:
        page = f"../{place(module).removeprefix('api/')}"
        lines += ["", f"## [{module}]({page})", "", f"{escaped(about[module])}.", ""]
        lines += ["| name | what it is |", "| --- | --- |"]
        lines += [f"| [`{name.name}`]({page}#{name.path}) | {escaped(name.sentence)} |" for name in public[module]]
    return BEHIND + "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """A sentence for a cell of a Markdown table: its signs are escaped, except those in backticks."""
    parts = re.split(r"(`[^`]*`)", text.replace("|", "\\|"))
    return "".join(part if part.startswith("`") else re.sub(r"([*_<>\[\]])", r"\\\1", part) for part in parts)


def front(readme: str) -> str:
    """The README as the front page of the site, with pictures from the gallery before its first second-level heading.

    The README's links start from the folder above docs/; here they lead to the same targets from docs/.
    """
    moved = _relinked(readme, lambda target: target.removeprefix("docs/") if target.startswith("docs/") else None)
    cards = [f"[![]({picture}) {title}]({page})" for picture, title, page in made()]
    shown = "\n".join(["## What it makes", "", '<div class="made" markdown>', "", *cards, "", "</div>", "", "## "])
    return re.sub("^## ", shown, moved, count=1, flags=re.MULTILINE)


def made() -> list[tuple[str, str, str]]:
    """The (picture, title, page) of each item of the gallery's first page; paths start from docs/."""
    return [
        (f"{gallery_front.PARTS}/{name}.png", item.title, item.report) for name, item in gallery_front.ITEMS.items()
    ]


def inward(markdown: str, path: str) -> str:
    """A page of docs/ with links that work in the site.

    A link to the README leads to the front page, and a link to a notebook leads to the notebook's page. A link to a
    file outside of docs/ becomes the file's path.

    Args:
        markdown: the text of the page.
        path: the path of the page in docs/.
    """
    folder = posixpath.dirname(path)

    def moved(target):
        address, mark, anchor = target.partition("#")
        place = posixpath.normpath(posixpath.join("docs", folder, address))
        if place.startswith("docs/learn/") and place.endswith(".ipynb"):
            return target.replace(".ipynb", ".md")
        if place == "README.md":
            return posixpath.relpath("index.md", folder or ".") + mark + anchor
        return target if place.startswith("docs/") else None

    return _relinked(markdown, moved)


def _relinked(markdown: str, moved: Callable[[str], str | None]) -> str:
    """A page with changed links, except in blocks of code.

    Args:
        markdown: the text of the page.
        moved: target of a link -> its new target; None for a file outside of the site, whose path replaces the link.
    """

    def mended(link):
        if ":" in link[3] or link[3].startswith("#"):
            return link[0]
        target = moved(link[3])
        if target is not None:
            return f"{link[1]}[{link[2]}]({target})"
        path, words = link[3].lstrip("./"), link[2].strip("`")
        if f"{path}/".startswith(f"{words.rstrip('/')}/"):  # the link's text is the path, or a folder of it
            return f"`{words}`"
        in_brackets = link.string[: link.start()].endswith("(") and link.string[link.end() :].startswith(")")
        return f"{link[2]}: `{path}`" if in_brackets else f"{link[2]} (`{path}`)"

    parts = re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(mended, part) for part in parts)


def zoo(markdown: str, known: Callable | None = None) -> str:
    """The page of the zoo with its rows at the end.

    Args:
        markdown: the text of docs/zoo.md.
        known: a function from a row to its facts; None computes them, which takes about a second for a row.
    """
    from diffusion.experiments.zoo import markdown as rows  # imported here, since the import takes seconds
    from diffusion.experiments.zoo.published_rows import ROWS

    return f"{markdown}\n{rows.page(ROWS.values(), known or rows.facts)}"


def notebooks() -> dict[str, dict]:
    """The executed notebooks of the course, by the paths of their pages."""
    return {
        f"learn/{path.stem}.md": json.loads(path.read_text()) for path in sorted((ROOT / "docs/learn").glob("*.ipynb"))
    }


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the notebooks of the course and the pages of the API to the navigation."""
    lessons: list = [{course.title(notebook): path} for path, notebook in notebooks().items()]
    for entry in config.nav or []:
        if COURSE in entry:
            entry[COURSE] = [*entry[COURSE], *lessons]
    public = public_names.public_names()
    entries: list[dict] = [{"Public names": "api/index.md"}]
    for group in groups(public):
        pages = [{module.removeprefix("diffusion."): place(module)} for module in group.modules]
        entries.append({group.title: [{"Its names": topic_place(group.title)}, *pages]})
    config.nav = [*(config.nav or []), {"API": entries}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the front page, the notebooks of the course and the pages of the API."""
    readme = (ROOT / "README.md").read_text()
    public = public_names.public_names()
    grouped = groups(public)
    about = public_names.module_sentences()
    contents: dict[str, str | bytes] = {"index.md": front(readme), "api/index.md": index(grouped, public)}
    contents |= {topic_place(group.title): topic_page(group, public, about) for group in grouped}
    contents |= module_pages(grouped, public)
    for path, notebook in notebooks().items():
        lesson = course.page(notebook, pathlib.PurePath(path).stem)
        contents[path] = lesson.markdown
        contents |= {f"learn/{name}": png for name, png in lesson.pictures.items()}
    for path, content in contents.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Changes the links that lead out of docs/, adds the rows of the zoo, and lets a search show tasks first."""
    if page.file.src_uri.startswith(TASKS):
        page.meta["search"] = {"boost": 3}
    if page.file.src_uri == gallery_front.PLACE:
        page.meta["hide"] = ["navigation", "toc"]  # the items fill the screen
    text = zoo(markdown) if page.file.src_uri == ZOO else markdown
    return inward(text, page.file.src_uri)


class Docstrings(griffe.Extension):
    """Converts docstrings, which are plain text, to Markdown."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Changes the docstring of a module, class, function or type."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """A docstring as Markdown: its Facts become a list, and a call such as `networks["model"](x, t)` no link."""
    lines, within = [], False
    for line in _with_listed_facts(docstring).splitlines():
        within = bool(SECTION.fullmatch(line)) or (within and (not line or line.startswith(" ")))
        equation = line.startswith("    ") and not within
        parts = [line] if equation else re.split(r"(`[^`]*`)", line)
        lines.append("".join(part if equation or part.startswith("`") else CALL.sub(r"\1\\", part) for part in parts))
    return "\n".join(lines)


def _with_listed_facts(docstring: str) -> str:
    def listed(section):
        entries = re.sub(r"\n {5,}", " ", section[1]).splitlines()  # a line with more indentation continues an entry
        pairs = [entry.strip().partition(":") for entry in entries]
        return "".join(f"- **{key}**: {value.strip()}\n" for key, _, value in pairs)

    return re.sub(r"^Facts:\n((?: .*(?:\n|$))+)", listed, docstring, flags=re.MULTILINE)
