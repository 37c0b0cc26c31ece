"""The card of an exported model: README.md in Hugging Face's format, from the records of the run or the source.

    write(folder, build_run_card("runs/digits", "DiT", license="cc-by-4.0"))

A generated card ends with its checksum. A card that a person has written or changed is recognized by it, and is not
replaced.
"""

import hashlib
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from diffusion.experiments.evaluation import figures, report, run_report
from diffusion.experiments.run_folder import workdir
from diffusion.io import json_lines, opener
from diffusion.io.files import write_text
from diffusion.recipe.values import config_hash, plain
from diffusion.training.checkpointing import checkpoints

NAME = "README.md"
FAILURES = "KNOWN_FAILURES.md"  # a file that a person writes into the run folder, on known failures of the model
UNKNOWN = "unknown"  # one of Hugging Face's names of licenses
MARK = re.compile(r"\n<!-- written by diffusion; sha256 of what stands above: ([0-9a-f]{64}) -->\n\Z")
STATED = re.compile(  # a field of the license, quoted or not, before a comment
    r"^(license(?:_name|_link)?): *"
    r"""(?:"([^"\n]*)"|'([^'\n]*)'|([^\s"'#][^\n]*?))"""
    r"[ \t]*(?:[ \t]#[^\n]*)?\r?$",
    re.MULTILINE,
)
SECTIONS = ("tuning", "objective", "schedule", "parameterization", "model", "optimizer", "ema")
BASE_SECTIONS = ("schedule", "parameterization", "model")  # sections that a run which tunes takes from its base


class Card(NamedTuple):
    """The content of a model card.

    Attributes:
        title: the title of the model.
        license: an identifier of Hugging Face's list, such as "apache-2.0", "other" or "unknown".
        front: further fields of the front matter, texts or lists of texts.
        data, recipe, figures, failures: Markdown.
    """

    title: str
    license: str
    front: Mapping[str, str | Sequence[str]]
    data: str
    recipe: str
    figures: str
    failures: str


def text(card: Card) -> str:
    """The content of README.md: YAML front matter, whose values are written as JSON, and then Markdown."""
    front = {"license": card.license, **card.front}
    lines = [f"{name}: {json.dumps(value if isinstance(value, str) else list(value))}" for name, value in front.items()]
    content = "\n".join(
        ["---", *lines, "---", "", f"# {card.title}"]
        + [
            f"\n## {heading}\n\n{body}"
            for heading, body in (
                ("Data", card.data),
                ("Recipe", card.recipe),
                ("Figures", card.figures),
                ("Known failures", card.failures),
            )
        ]
    )
    return f"{content}\n\n<!-- written by diffusion; sha256 of what stands above: {_digest(content + chr(10))} -->\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def is_ours(content: bytes) -> bool:
    """Whether `text` generated a card, and nobody has changed it since."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return False
    mark = MARK.search(text)
    return mark is not None and _digest(text[: mark.start()]) == mark[1]


def write_beside(file: str | pathlib.Path, card: Card) -> pathlib.Path:
    """Writes the card of a single file beside it, such as style.md for style.safetensors; a person's card stays.

    Returns:
        The path of the card.
    """
    path = pathlib.Path(file).with_suffix(".md")
    if not path.is_file() or is_ours(opener.read(path)):
        write_text(path, text(card))
    return path


def write(folder: str | pathlib.Path, card: Card, before: str | pathlib.Path | None = None) -> pathlib.Path:
    """Writes README.md into a folder; a README.md that a person wrote stays.

    Args:
        folder: the folder of the model.
        card: the content of the card.
        before: a folder that this folder will replace; a README.md in it that a person wrote is copied. None for none.

    Returns:
        The path of README.md.
    """
    path = pathlib.Path(folder) / NAME
    for old in (path, *([pathlib.Path(before) / NAME] if before is not None else [])):
        if old.is_file() and not is_ours(content := opener.read(old)):
            if old != path:
                path.write_bytes(content)
            return path
    write_text(path, text(card))
    return path


def build_run_card(
    run: str | pathlib.Path,
    network: str,
    license: str = UNKNOWN,
    front: Mapping[str, Any] | None = None,
    step: int | None = None,
) -> Card:
    """The card of a network that a run trained, from the records in the run folder.

    Args:
        run: the run folder.
        network: the exported network, in a word or two.
        license: the license on the card.
        front: further fields of the front matter.
        step: the training step of the exported checkpoint; None for the latest.

    Raises:
        ConfigError: if the folder holds no run.
    """
    run = pathlib.Path(run)
    config = workdir.read_config(run)
    data = config["data"]
    source = data.get("source", {}).get("name") or "tfds"
    name = str(source if source != "tfds" else data.get("name") or "unnamed")
    tags = ["diffusion", "jax"] + ([] if _base(config) else [str(config["model"]["name"])])
    said = {"tags": tags, "datasets": [name], **(front or {})}
    step = checkpoints.latest(run) if step is None else step
    return Card(
        f"{network} of the run {run.resolve().name}", license, said, _data(data, name), _recipe(config, step),
        _figures(run, step), _failures(run, step),
    )  # fmt: skip


def build_source_card(
    source: str | pathlib.Path, network: str, license: str = "", base: str | pathlib.Path = ""
) -> Card:
    """The card of a converted network, which names its source and states the source's license.

    Args:
        source: the folder or file that was converted.
        network: the network, in a word or two.
        license: the license on the card; "" for the license on the source's card, or "unknown".
        base: the folder of the pipeline from which the other networks come; "" for none.
    """
    source = pathlib.Path(source)
    rest = f", in the pipeline {pathlib.Path(base).name}" if base else ""
    front: dict[str, Any] = {"license": license} if license else {"license": UNKNOWN, **stated_license(source)}
    license = front.pop("license")
    front |= {"tags": ["diffusion"]}
    if base:
        front |= {"library_name": "diffusers", "base_model": pathlib.Path(base).name}
    unknown = "The source does not state this; see the card of the original model."
    return Card(
        f"{network}, from {source.name}", license, front, unknown,
        f"Converted from `{source.name}`{rest} by `diffusion convert`; the numbers are the source's.",
        "None were measured after the conversion.",
        f"Those of the source. {unknown}",
    )  # fmt: skip


def build_lora_card(
    source: str | pathlib.Path, said: Mapping[str, str], license: str, base: str | pathlib.Path
) -> Card:
    """The card of a converted LoRA file, with the facts in its metadata.

    Args:
        source: the file that was converted.
        said: the metadata of the file, of which base_model, trigger_words and config_sha256 are used.
        license: the license on the card; "" for "unknown".
        base: the folder of the pipeline to which the LoRA belongs.
    """
    card = build_source_card(source, "LoRA", license)
    named = pathlib.Path(base).name
    front = {**card.front, "tags": ["diffusion", "lora"], "library_name": "diffusers"}
    front["base_model"] = said.get("base_model", named)
    if words := said.get("trigger_words"):
        front["instance_prompt"] = words
    trained = f" It was trained by the config of SHA-256 `{said['config_sha256']}`." if "config_sha256" in said else ""
    return card._replace(front=front, recipe=f"{card.recipe} It was read for `{named}`.{trained}")


def stated_license(folder: pathlib.Path) -> dict[str, str]:
    """{"license", "license_name", "license_link"}, as far as the front matter of a folder's README.md states them."""
    path = folder / NAME
    if not path.is_file():
        return {}
    front = re.match(r"---\r?\n(.*?)\n---", opener.read(path).decode(errors="replace"), re.DOTALL)
    lines = STATED.findall(front[1]) if front else []
    return {name: text for name, *forms in lines if (text := "".join(forms))}


def _data(data: Mapping[str, Any], name: str) -> str:
    lines = [f"- dataset: `{name}`, split `{data.get('split')}`"]
    for what, path in (("latents", data["latents"]["dir"]), ("captions", data["text"]["dir"])):
        if path:
            lines.append(f"- {what}: `{pathlib.Path(path).name}`, encoded before the training")
    if augmentation := data.get("augment") or data.get("augmentation"):
        lines.append(f"- augmentation: `{json.dumps(plain(augmentation))}`")
    return "\n".join(lines)


def _base(config: Mapping[str, Any]) -> str:
    """The name of the folder that a run tunes; "" for a run that trains its own network."""
    return pathlib.Path(config["base"]["path"]).name if (config.get("tuning") or {}).get("name") else ""


def _recipe(config: Mapping[str, Any], step: int | None) -> str:
    train = config["train"]
    exported = "" if step is None else f"Step {step:,} of "
    base = _base(config)
    sections = [name for name in SECTIONS if not (base and name in BASE_SECTIONS)]
    entries = {name: plain(config[name]) for name in sections if (config.get(name) or {}).get("name", name)}
    same = f" The network, its parameterization and its schedule are those of the base model, `{base}`." if base else ""
    return (
        f"{exported}{train['steps']:,} planned steps of {train['batch_size']} examples; config "
        f"`{config_hash(config)[:16]}`. The moving average was exported.{same}\n\n```json\n"
        + json.dumps(entries, indent=2)
        + "\n```"
    )


def _figures(run: pathlib.Path, step: int | None) -> str:
    """The rows of report.json, and the last loss of the training up to a step."""
    lines = []
    content, others = _report(run, step)
    if content is not None:
        with figures.reading(run / "report.json"):
            lines.append(report.table(("", "samples", "reference", "measured", "records"), run_report.rows(content)))
    rows = json_lines.rows(run / "metrics.jsonl")
    with figures.reading(run / "metrics.jsonl"):
        losses = [row for row in rows if "loss" in row and (step is None or row["step"] <= step)]
        if losses:
            lines += ["", f"Training loss at step {losses[-1]['step']:,}: {losses[-1]['loss']:.4g}."]
    if content is None:
        which = f"an evaluation of {others} and none of these weights" if others else "no evaluation"
        lines.append(f"The run folder records {which} (`diffusion evaluate` writes one).")
    return "\n".join(lines).strip()


def _report(run: pathlib.Path, step: int | None) -> tuple[dict[str, Any] | None, str]:
    """The report of a run's samples, if they are of its moving average at a step.

    Returns:
        (the content of report.json, or None; a phrase for the weights if the report is of other weights, else "").
    """
    content = figures.read_report(run)
    tables = [content.get(name) if isinstance(content, dict) else None for name in ("figures", "protocol")]
    measured, protocol = (table if isinstance(table, dict) else {} for table in tables)
    if not ({"asked_class", "frechet"} <= measured.keys() and "dataset" in protocol):
        return None, ""
    with figures.reading(run / "report.json"):
        checkpoint = figures.checkpoint_of_samples(content)
        if step is not None and checkpoint.get("step", step) != step:
            return None, f"step {checkpoint['step']}"
        if checkpoint.get("weights", "ema") != "ema":
            return None, "other weights than the moving average"
    return content, ""


def _failures(run: pathlib.Path, step: int | None) -> str:
    """The failures that a person described in the run folder; if there are none, those that the report shows."""
    if (run / FAILURES).is_file():
        return opener.read_text(run / FAILURES).strip()
    with figures.reading(run / "report.json"):
        shown = "\n".join(_shown(_report(run, step)[0]))
    return shown or (
        f"None are recorded, and none were looked for. Describe them in {FAILURES} of the run folder, or here."
    )


def _shown(content: dict[str, Any] | None) -> Iterable[str]:
    if content is None:
        return
    accuracy = content["figures"].get("asked_class")
    if accuracy and accuracy["share"] < 1:
        yield f"- {1 - accuracy['share']:.1%} of the samples are not recognised as the requested class."
    for name, distance in content["figures"]["frechet"].items():
        ratio = distance["ratio"]
        interval = distance["ratio_interval"]  # None for features of many dimensions
        if interval and interval[0] > 1:
            times = f"{ratio:.2f} times that of other real examples"
            yield f"- The Frechet distance of the samples to real examples ({name}) is {times}."
    for name, part in run_report.under_protocols(content):
        yield from (f"- {name}: {warning}" for warning in part.get("warnings", ()))
