"""Reproduces a published table or figure, and reports whether the values agree.

    diffusion remake --list
    diffusion remake terminal_snr --workdir=runs/remake/terminal_snr
    diffusion remake dit_cost --workdir=runs/remake/quick --quick      # runs the code, without a verdict
    diffusion remake --page=docs/remakes.md

A remake is one file in experiments/remake. It states the paper, its values, the code that measures them again, and the
details that the paper does not state. The rule for the verdict is the same for all remakes (docs/remakes.md). Finished
parts are stored, and the same command continues with the missing parts. The command writes the record
WORKDIR/remake.json, and for some remakes WORKDIR/picture.png. --page=docs/remakes.md writes a page of all records and
pictures in the folder docs/remakes. To add your own remake, pass --extend=FILE, where FILE calls `remakes.add`.
"""

from absl import flags

from diffusion.experiments import command_line, flag_errors

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_bool("list", False, "list the remakes and exit")
    flags.DEFINE_string("workdir", None, "folder for the parts and the record")
    flags.DEFINE_bool("quick", False, "run the code on a little data, without a verdict")
    flags.DEFINE_string("page", None, "file for a page of all records in the folder of its name")
    command_line.begin(takes_words=True)

import pathlib

from diffusion.experiments.evaluation import report
from diffusion.experiments.remake import measuring, remakes, remakes_page
from diffusion.experiments.run_folder import workdir
from diffusion.io.files import write_text
from diffusion.recipe import ConfigError


def listed() -> None:
    """Prints a line for each remake."""
    lines = [
        (remake.name, remake.title, remake.paper.partition(' "')[0], remake.place, f"{remake.minutes:g}")
        for remake in remakes.REMAKES.values()
    ]
    report.show("Remakes", ("name", "what", "paper", "place", "minutes"), lines)


def write_page(path: pathlib.Path) -> None:
    """Writes the page of the records in the folder with the page's name, without the suffix."""
    files = [(remake, path.with_suffix("") / f"{name}.json") for name, remake in remakes.REMAKES.items()]
    entries = [(remake, measuring.read_record(file)) for remake, file in files if file.exists()]
    waiting = [remake for remake, file in files if not file.exists()]
    write_text(path, remakes_page.page(entries, waiting))
    print(f"{path}: {len(entries)} of {len(files)} remakes")


def main(argv: list[str]) -> None:
    """Runs the command line."""
    values = flags.FLAGS
    if values.list:
        flag_errors.refuse(["workdir", "quick", "page"], "has no effect with --list.")
        return listed()
    if values.page:
        flag_errors.refuse(["workdir", "quick"], "has no effect with --page, which measures nothing.")
        return write_page(pathlib.Path(values.page))
    if len(argv) != 2:
        raise ConfigError(f"remake needs one name. Valid: {', '.join(remakes.REMAKES)}. --list describes them.")
    remake = remakes.find(argv[1])
    if values.workdir is None:
        raise ConfigError(f"--workdir is missing, e.g. --workdir=runs/remake/{remake.name}.")
    folder = pathlib.Path(values.workdir)
    with workdir.lock(folder):
        record = measuring.remake_in(folder, remake, values.quick)
    if values.quick:
        print(
            f"The code of {remake.name} runs. --quick gives no verdict. Run the command without --quick in another "
            "--workdir for one."
        )
        return None
    report.show(f"{remake.title}: {remake.paper}, {remake.place}", remakes_page.HEADER, remakes_page.rows(record))
    print(f"{remakes_page.summary(record)}; record: {folder / measuring.RECORD}")
    return None


if __name__ == "__main__":
    command_line.run(main, workdir.FAILURES)
