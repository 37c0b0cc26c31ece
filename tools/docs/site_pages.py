"""What the documentation site has beside docs/: the front page, the course's notebooks, the rows of the zoo, the API.

    make site

builds the site (mkdocs.yml), and mkdocs calls the functions `on_...` below. A page of the API shows the public names of
one module (`tools.docs.public_names`) from their docstrings. A page of a topic lists the names of its modules, each
with its sentence, and the first page lists the topics.
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
TOPICS = {  # of the API: title -> modules and packages; a module belongs to the longest name that it begins with
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
TASKS = "tasks/"  # the pages that a search for a task leads to, before the galleries that show the same words
BEHIND = "---\nsearch: {boost: 0.3}\n---\n\n"  # in a search the pages for readers come first


class Group(NamedTuple):
    """The modules of the API under one topic.

    Attributes:
        title: the topic.
        modules: whose public names it has, in the order of `TOPICS`.
    """

    title: str
    modules: Sequence[str]


def groups(public: Mapping[str, Sequence[Name]]) -> list[Group]:
    """The modules by their topic.

    Args:
        public: from `public_names.public_names`.

    Raises:
        ValueError: for a module without a topic.
    """
    prefixes = {f"diffusion.{prefix}": title for title, names in TOPICS.items() for prefix in names}
    inside = {title: [] for title in TOPICS}
    for module in public:
        if module == "diffusion":
            continue
        found = [prefix for prefix in prefixes if module == prefix or module.startswith(f"{prefix}.")]
        if not found:
            raise ValueError(f"{module} has no topic: add it to TOPICS in tools/docs/site_pages.py")
        prefix = max(found, key=len)
        inside[prefixes[prefix]].append((list(prefixes).index(prefix), module))
    return [Group(title, [module for _, module in sorted(modules)]) for title, modules in inside.items()]


def topic_place(title: str) -> str:
    """The page of a topic, by its path in the site."""
    return f"api/topics/{re.sub('[^a-z]+', '_', title.lower())}.md"


def place(module: str) -> str:
    """The page of a module, by its path in the site."""
    return f"api/{module.removeprefix('diffusion.')}.md"


def page(module: str, names: Sequence[Name], elsewhere: Collection[str] = ()) -> str:
    """The page of a module, in Markdown: of each name the place of its docstring, which mkdocstrings shows there.

    Args:
        module: the module.
        names: its public names.
        elsewhere: the paths of the names that another page shows too, to which links lead.
    """
    shown = [f"::: {module}\n    options: {{members: false, show_root_heading: false, show_root_toc_entry: false}}"]
    for name in names:
        again = ", skip_local_inventory: true" if name.path in elsewhere else ""
        shown.append(f"::: {name.path}\n    options: {{heading: '{name.name}', toc_label: '{name.name}'{again}}}")
    return BEHIND + "\n\n".join([f"# {module}", *shown]) + "\n"


def module_pages(grouped: Sequence[Group], public: Mapping[str, Sequence[Name]]) -> dict[str, str]:
    """The pages of all modules by their paths; of a name that several modules have, links lead to the first page."""
    pages: dict[str, str] = {}
    shown: set[str] = set()
    for module in (module for group in grouped for module in group.modules):
        pages[place(module)] = page(module, public[module], shown)
        shown |= {name.path for name in public[module]}
    return pages


def index(grouped: Sequence[Group], public: Mapping[str, Sequence[Name]]) -> str:
    """The first page of the API: its topics, and the modules of each.

    Args:
        grouped: from `groups`.
        public: from `public_names.public_names`.
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
    """The page of a topic: the names of its modules, each with its sentence.

    Args:
        group: of `groups`.
        public: from `public_names.public_names`.
        about: the sentence of each module.
    """
    lines = [f"# {group.title}"]
    for module in group.modules:
        page = f"../{place(module).removeprefix('api/')}"
        lines += ["", f"## [{module}]({page})", "", f"{escaped(about[module])}.", ""]
        lines += ["| name | what it is |", "| --- | --- |"]
        lines += [f"| [`{name.name}`]({page}#{name.path}) | {escaped(name.sentence)} |" for name in public[module]]
    return BEHIND + "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """A sentence as Markdown's own text, apart from what it has in backticks."""
    parts = re.split(r"(`[^`]*`)", text.replace("|", "\\|"))
    return "".join(part if part.startswith("`") else re.sub(r"([*_<>\[\]])", r"\\\1", part) for part in parts)


def front(readme: str) -> str:
    """The README as a page of docs/, with pictures of what the project makes before its second heading.

    Its links, which start from the folder above, lead to the same places.
    """
    moved = _relinked(readme, lambda target: target.removeprefix("docs/") if target.startswith("docs/") else None)
    cards = [f"[![]({picture}) {title}]({page})" for picture, title, page in made()]
    shown = "\n".join(["## What it makes", "", '<div class="made" markdown>', "", *cards, "", "</div>", "", "## "])
    return re.sub("^## ", shown, moved, count=1, flags=re.MULTILINE)


def made() -> list[tuple[str, str, str]]:
    """What the front page shows: the pictures, titles and pages of the gallery's items, from docs/."""
    return [
        (f"{gallery_front.PARTS}/{name}.png", item.title, item.report) for name, item in gallery_front.ITEMS.items()
    ]


def inward(markdown: str, path: str) -> str:
    """A page of docs/, with links to the README made to lead to the front page.

    Args:
        markdown: its text.
        path: its own, in docs/.
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
    """A page whose links lead elsewhere; those to files outside of the site become the path of the file."""

    def mended(link):
        if ":" in link[3] or link[3].startswith("#"):
            return link[0]
        target = moved(link[3])
        if target is not None:
            return f"{link[1]}[{link[2]}]({target})"
        path, words = link[3].lstrip("./"), link[2].strip("`")
        if f"{path}/".startswith(f"{words.rstrip('/')}/"):  # the path itself, or its folder
            return f"`{words}`"
        in_brackets = link.string[: link.start()].endswith("(") and link.string[link.end() :].startswith(")")
        return f"{link[2]}: `{path}`" if in_brackets else f"{link[2]} (`{path}`)"

    parts = re.split(r"(^```.*?^```)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else LINK.sub(mended, part) for part in parts)


def zoo(markdown: str, known: Callable | None = None) -> str:
    """The page of the zoo with its rows at the end.

    Args:
        markdown: the text of docs/zoo.md.
        known: a function from a row to its facts; None for those that are computed, a second for each row.
    """
    from diffusion.experiments.zoo import markdown as rows  # takes seconds
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
    made: dict[str, str | bytes] = {"index.md": front(readme), "api/index.md": index(grouped, public)}
    made |= {topic_place(group.title): topic_page(group, public, about) for group in grouped}
    made |= module_pages(grouped, public)
    for path, notebook in notebooks().items():
        lesson = course.page(notebook, pathlib.PurePath(path).stem)
        made[path] = lesson.markdown
        made |= {f"learn/{name}": png for name, png in lesson.pictures.items()}
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Mends the links that lead out of docs/, adds the rows of the zoo, and puts tasks first in a search."""
    if page.file.src_uri.startswith(TASKS):
        page.meta["search"] = {"boost": 3}
    if page.file.src_uri == gallery_front.PLACE:
        page.meta["hide"] = ["navigation", "toc"]  # the items fill the screen
    text = zoo(markdown) if page.file.src_uri == ZOO else markdown
    return inward(text, page.file.src_uri)


class Docstrings(griffe.Extension):
    """Docstrings, which are written to be read as they stand, as Markdown."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Changes the docstring of a module, class, function or type."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(docstring: str) -> str:
    """A docstring with its Facts as a list, and with no links where it has a call, `networks["model"](x, t)`."""
    lines, within = [], False
    for line in _with_listed_facts(docstring).splitlines():
        within = bool(SECTION.fullmatch(line)) or (within and (not line or line.startswith(" ")))
        equation = line.startswith("    ") and not within
        parts = [line] if equation else re.split(r"(`[^`]*`)", line)
        lines.append("".join(part if equation or part.startswith("`") else CALL.sub(r"\1\\", part) for part in parts))
    return "\n".join(lines)


def _with_listed_facts(docstring: str) -> str:
    def listed(section):
        entries = re.sub(r"\n {5,}", " ", section[1]).splitlines()  # an entry may go on in a line that is further in
        pairs = [entry.strip().partition(":") for entry in entries]
        return "".join(f"- **{key}**: {value.strip()}\n" for key, _, value in pairs)

    return re.sub(r"^Facts:\n((?: .*(?:\n|$))+)", listed, docstring, flags=re.MULTILINE)
