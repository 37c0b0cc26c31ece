"""Scores how well pictures match their prompts, with a published network or with your own function.

    diffusion prompt_scores --weights=clip-vit-large-patch14 --images=cats
    diffusion prompt_scores --score=pickscore --weights=PickScore_v1 --images=runs/a/pictures,runs/b/pictures
    diffusion prompt_scores --score=hpsv2 --weights=HPS_v2.1_compressed.pt --tokenizer=clip-vit-large-patch14 ...
    diffusion prompt_scores --score=imagereward --weights=ImageReward.pt --tokenizer=bert-base-uncased ...
    diffusion prompt_scores --score=vqascore --extend=my_vqa.py --answerer=my_vqa --images=theirs --prompts=prompts.txt

--score is one of the scores in docs/evaluation.md, or one that --extend registers. --weights is the published folder or
file of its network. --tokenizer is the folder of its vocabulary, if this is not in the folder of the weights. --images
are sets of pictures. Pictures from diffusion sample --prompt carry their prompts. For other pictures, --prompts names a
file with one prompt per line, in the order of the pictures. With several sets, the command also compares pictures with
equal prompts.

The command writes OUT/prompt_scores.json, with the protocol and the sha256 of the weights, and OUT/prompt_scores.csv,
with one line per picture.
"""

from absl import flags

from diffusion.experiments import command_line, command_words

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string(
        "score",
        "clip",
        "score to compute: clip, pickscore, hpsv2, hpsv2-plain, siglip, imagereward, vqascore, or one of your own",
    )
    flags.DEFINE_string("weights", "", "folder or file of the network")
    flags.DEFINE_alias("clip", "weights")
    flags.DEFINE_string("tokenizer", "", "folder of the network's vocabulary; by default the folder of the weights")
    flags.DEFINE_string("answerer", "", "name of your function for vqascore, registered by --extend")
    flags.DEFINE_list("images", None, "sets of pictures, separated by commas: folders or .npz files", required=True)
    flags.DEFINE_string("prompts", None, "file with one prompt per line, for pictures that carry no prompts")
    flags.DEFINE_string("out", ".", "folder for prompt_scores.json and prompt_scores.csv")
    flags.DEFINE_integer("batch_size", 32, "number of pictures at once", 1)
    command_line.begin()

import csv
import hashlib
import io
import itertools
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffusion.experiments.arena import competitors
from diffusion.experiments.arena.competitors import Competitor
from diffusion.experiments.evaluation import report
from diffusion.experiments.run_folder import workdir
from diffusion.io import files, json_files, opener
from diffusion.metrics import picture_scores
from diffusion.metrics.picture_scores import Columns, Scorer, Source
from diffusion.metrics.preference import preferred
from diffusion.metrics.prompt_following import clustered
from diffusion.metrics.prompt_following.readers import ReaderError
from diffusion.recipe import ConfigError, names, unknown
from diffusion.text_to_image import model_index
from diffusion.training.runtime import progress


def scorer_of(score: str, source: Source, answerer: str = "") -> Scorer:
    """Opens a score.

    Args:
        score: a name of `picture_scores.SCORES`.
        source: its weights and vocabulary.
        answerer: a name of `names.ANSWER_LIKELIHOODS`, for "vqascore"; "" for none.

    Raises:
        ConfigError: for an unknown name, other weights than the score's, or a vocabulary of another kind.
    """
    if score not in picture_scores.SCORES:
        raise unknown("--score", score, picture_scores.SCORES, "score")
    if answerer and answerer not in names.ANSWER_LIKELIHOODS:
        raise unknown("--answerer", answerer, names.ANSWER_LIKELIHOODS, "function; --extend=FILE adds one, among them")
    if answerer:
        source = source._replace(answer_log_probability=names.ANSWER_LIKELIHOODS[answerer]())
    try:
        return picture_scores.SCORES[score](source)
    except (FileNotFoundError, ValueError) as error:
        where = f"--weights={source.weights}" if source.weights else f"--score={score}"
        raise ConfigError(f"{where}: {error}") from error


def fingerprint(path: str) -> str:
    """The sha256 of a file, or of all configs, vocabularies and weights in a folder."""
    place = pathlib.Path(path).expanduser()
    if place.is_dir():
        return model_index.fingerprint(place)
    with opener.open_file(place) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def values_of(scorer: Scorer, pictures: Competitor, batch_size: int = 32) -> Columns:
    """The values of each picture, float64 `[N]` by column.

    Args:
        scorer: the scorer, as `scorer_of` returns it.
        pictures: the N pictures, with their prompts as requests.
        batch_size: number of pictures at once.
    """
    prompts = pictures.requests or []
    parts = []
    with progress.bar(f"reading {pictures.name}", len(prompts), "pictures") as advance:
        for start in range(0, len(prompts), batch_size):
            stop = min(start + batch_size, len(prompts))
            rows = np.arange(start, start + batch_size if scorer.compiled else stop)
            rows = np.minimum(rows, len(prompts) - 1)  # so that all batches have one size, and one program
            columns = scorer.columns([pictures.picture(int(row)) for row in rows], [prompts[row] for row in rows])
            parts.append({name: np.asarray(column)[: stop - start] for name, column in columns.items()})
            advance(stop)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def opened(name: str, prompts: Sequence[str] | None) -> Competitor:
    """A set of pictures with prompts.

    Args:
        name: the folder or file of the set.
        prompts: the prompts of the pictures, in their order; None to read the prompts in the files.

    Raises:
        ConfigError: if there are no pictures, or their number differs from the number of prompts.
    """
    pictures = competitors.opened(name)
    if prompts is None:
        if pictures.requests is None:
            raise ConfigError(
                f"--images={name}: not every picture carries a prompt. Name the prompts by --prompts=FILE, with one "
                "prompt per line, in the order of the pictures."
            )
        return pictures
    if len(prompts) != pictures.images.count:
        raise ConfigError(
            f"--prompts has {len(prompts)} lines, but {name} has {pictures.images.count} pictures. Valid: one line per "
            "picture."
        )
    return pictures._replace(requests=list(prompts))


def scored(scorer: Scorer, sets: Sequence[Competitor], batch_size: int = 32) -> tuple[dict[str, Any], list[Columns]]:
    """Scores sets of pictures. In a standard error, the pictures of one prompt count as one draw.

    Args:
        scorer: the scorer, as `scorer_of` returns it.
        sets: the sets of pictures with prompts.
        batch_size: number of pictures at once.

    Returns:
        (the record, the columns of each set).
    """
    columns_of_sets = [values_of(scorer, pictures, batch_size) for pictures in sets]
    set_figures = {
        pictures.name: {
            **{name: clustered.figure(columns[name], pictures.requests or []) for name in scorer.figures},
            "pictures": pictures.fingerprint,
        }
        for pictures, columns in zip(sets, columns_of_sets)
    }
    pair_figures = []
    for (first, ours), (second, theirs) in itertools.combinations(zip(sets, columns_of_sets), 2):
        if met := competitors.matched(first, second):
            here = ours["score"][[i for i, _, _ in met]]
            there = theirs["score"][[j for _, j, _ in met]]
            prompts = [prompt for _, _, prompt in met]
            higher = (here > there) + 0.5 * (here == there)
            pair = {"first": first.name, "second": second.name, "higher": clustered.share(higher, prompts)}
            if scorer.choice is not None:
                chosen = preferred(scorer.choice * here, scorer.choice * there)
                pair["preferred"] = clustered.figure(chosen, prompts)
            pair_figures.append(pair)
    record = {
        "protocol": dict(scorer.record),
        "sets": set_figures,
        "pairs": pair_figures,
        "software": report.software(),
    }
    return record, columns_of_sets


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    prompts = None
    if values.prompts:
        if not pathlib.Path(values.prompts).is_file():
            raise ConfigError(f"--prompts={values.prompts}: there is no such file.")
        prompts = opener.read_lines(values.prompts)
    out = workdir.output_folder(values.out)
    sets = [opened(name, prompts) for name in command_words.joined_paths(values.images)]
    if len({pictures.name for pictures in sets}) < len(sets):
        raise ConfigError(f"--images={','.join(values.images)}: a set is named twice. Valid: each set once.")
    scorer = scorer_of(values.score, Source(values.weights, values.tokenizer), values.answerer)
    record, columns_of_sets = scored(scorer, sets, values.batch_size)
    for part in ("weights", "tokenizer"):
        if path := getattr(values, part):
            record[part] = {"path": path, "sha256": fingerprint(path)}
    if values.answerer:
        record["answerer"] = values.answerer
    out.mkdir(parents=True, exist_ok=True)
    json_files.write(out / "prompt_scores.json", record)
    rows = io.StringIO()
    lines = csv.writer(rows)
    lines.writerow(["set", "picture", "prompt", *columns_of_sets[0]])
    for pictures, columns in zip(sets, columns_of_sets):
        for index, prompt in enumerate(pictures.requests or ()):
            numbers = (f"{column[index]:.6g}" for column in columns.values())
            lines.writerow([pictures.name, index, prompt, *numbers])
    with files.atomic(out / "prompt_scores.csv") as file:
        file.write(rows.getvalue().encode())
    cells = [
        [name, figures["score"]["samples"], *(report.with_error(figures[column]) for column in scorer.figures)]
        for name, figures in record["sets"].items()
    ]
    report.show(f"by {values.score}", ["pictures", "number", *scorer.figures.values()], cells)
    if record["pairs"]:
        cells = [
            [pair["first"], pair["second"], report.percent(pair["higher"])]
            + [report.with_error(pair["preferred"]) for _ in range("preferred" in pair)]
            for pair in record["pairs"]
        ]
        columns = ["first", "second", "first is higher"] + ["first is preferred"] * (scorer.choice is not None)
        report.show("pictures of equal prompts", columns, cells)
    print(f"wrote {out / 'prompt_scores.json'}, {out / 'prompt_scores.csv'}")


if __name__ == "__main__":
    command_line.run(main, (*workdir.FAILURES, ReaderError), compiles=True)
