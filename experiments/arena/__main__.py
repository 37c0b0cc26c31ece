"""Opens a page on which people choose the better of two pictures, without knowing which run made them.

    diffusion arena --runs=runs/a,runs/b --out=runs/arena
    diffusion arena --out=runs/arena              # continues it
    diffusion arena --out=runs/arena --scores     # prints the scores of the votes so far, without a page

A competitor is a run with samples, or any other set of images: a folder of pictures, an .npz file, or a dataset as
NAME@SPLIT. If classes or prompts are known, both pictures of a pair have the same class or prompt. The left and right
arrow keys choose a picture, the down arrow means a tie, and Backspace withdraws the last vote. Each vote is written to
OUT/votes.jsonl before the next pair is shown. At the end the command writes scores.csv, votes.csv, arena.md and
scores.png. See docs/evaluation.md.
"""

from absl import flags

from diffusion.experiments import command_line, command_words, flag_errors

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_list(
        "runs",
        None,
        "competitors: run folders with samples or other sets of images, separated by commas; needed only "
        "for a new --out",
    )
    flags.DEFINE_string("out", None, "folder for the arena: its pairs, votes and scores")
    flags.DEFINE_integer("number", None, "total number of comparisons; 200 by default", 1)
    flags.DEFINE_string("question", None, 'question that the page asks; by default "Which picture is better?"')
    flags.DEFINE_integer(
        "seed", None, "seed for the pairs and for the order in which each voter sees them; 0 by default", 0
    )
    flags.DEFINE_integer("port", 8777, "port of the page", 0, 65535)
    flags.DEFINE_string("data_dir", "", "folder of prepared datasets, for NAME@SPLIT; by default TFDS_DATA_DIR")
    flags.DEFINE_bool("scores", False, "print the scores of the votes so far and exit, without opening a page")
    flags.mark_flag_as_required("out")
    command_line.begin()

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from diffusion.experiments.arena import comparisons, competitors, scores, server, votes as votes_file
from diffusion.experiments.arena.comparisons import Arena
from diffusion.experiments.arena.votes import Vote
from diffusion.experiments.evaluation import report
from diffusion.experiments.run_folder import workdir
from diffusion.recipe import ConfigError
from diffusion.recipe.extensions import printed

USUAL = {"number": 200, "question": "Which picture is better?", "seed": 0}


def begun(
    folder: pathlib.Path, names: Sequence[str], settings: Mapping[str, Any], data_dir: str = ""
) -> tuple[Arena, list[competitors.Competitor]]:
    """The arena in a folder and its competitors; a new arena is drawn if the folder holds none.

    Args:
        folder: the arena's folder.
        names: the competitors' names; empty to continue the arena in the folder.
        settings: the settings that the command line sets, by their names in `USUAL`; an existing arena must have the
            same values.
        data_dir: the folder of prepared datasets.

    Raises:
        ConfigError: if the competitors cannot be compared, or the folder's arena has other competitors or settings.
        WorkdirError: if there is no arena to continue, or a file is damaged.
    """
    known = (folder / comparisons.FILE).is_file()
    arena = comparisons.read(folder) if known or not names else None
    opened = [competitors.opened(name, data_dir) for name in names or (arena.names if arena else ())]
    if arena is None:
        arena = comparisons.drawn(opened, **{**USUAL, **settings})
        folder.mkdir(parents=True, exist_ok=True)
        comparisons.write(arena, folder)
        return arena, opened
    comparisons.require_same(arena, opened, folder)
    existing = {"number": len(arena.comparisons), "question": arena.question, "seed": arena.seed}
    if "number" in settings:  # an arena with few pictures has fewer comparisons than were requested
        settings = {**settings, "number": min(settings["number"], comparisons.possible(opened))}
    for name, value in settings.items():
        if value != existing[name]:
            raise ConfigError(
                f"--{name}={value}: the arena in {folder} has {existing[name]!r}. Leave --{name} out to continue this "
                "arena, or choose another --out."
            )
    return arena, opened


def conclude(arena: Arena, votes: Sequence[Vote], folder: pathlib.Path) -> None:
    """Writes the scores of the votes into the arena's folder, and prints them."""
    if not votes:
        print(f"{folder}: there are no votes yet.")
        return
    ranking = scores.scores(arena, votes)
    paths = scores.write(arena, votes, ranking, folder)
    for title, header, rows in scores.tables(arena, votes, ranking):
        report.show(title, header, rows)
    print("\n".join([scores.agreement_line(arena, votes), "wrote " + ", ".join(map(str, paths))]))


def next_command(folder: pathlib.Path, data_dir: str) -> str:
    """The command that continues an arena, with the flags for the code and the folder of its datasets."""
    return printed("arena", f"--out={folder}", *([f"--data_dir={data_dir}"] if data_dir else []))


def main(argv: list[str]) -> None:
    """Serves until it is interrupted, then writes the scores."""
    values = flags.FLAGS
    folder = workdir.output_folder(values.out)
    if values.scores:
        flag_errors.refuse(
            ["runs", *USUAL, "port", "data_dir"], "has no effect with --scores, which reads the votes in --out."
        )
        arena = comparisons.read(folder)
        return conclude(arena, votes_file.read(folder, len(arena.comparisons)), folder)
    with workdir.lock(folder, "--out"):
        settings = {name: values[name].value for name in USUAL if values[name].value is not None}
        arena, opened = begun(folder, command_words.joined_paths(values.runs or ()), settings, values.data_dir)
        voting = server.Voting(arena, opened, folder)
        try:
            page = server.serve(voting, values.port)
        except OSError as error:
            raise ConfigError(
                f"--port={values.port}: {error.strerror}. Choose another port, or 0 for any free one."
            ) from error
        pairs = f"{len(arena.comparisons)} pairs of {len(opened)} runs, {len(voting.votes())} votes so far"
        print(f"{pairs}: open http://127.0.0.1:{page.server_port} (Ctrl-C ends it)", flush=True)
        try:
            page.serve_forever()
        except KeyboardInterrupt:
            print()
        finally:
            page.server_close()
        conclude(arena, voting.votes(), folder)
        print(f"Continue with: {next_command(folder, values.data_dir)}")


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES)
