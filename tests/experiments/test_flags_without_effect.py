"""A flag that a command would ignore is refused, before anything is read or written."""

import pathlib

import pytest

from diffusion.recipe import ConfigError
from tests import command_flags, commands

CASES = [  # command, words of its line, flags one of which is added at a time
    ("encode", "--data=d --out=o --autoencoder=a", "--encoder_size=224"),
    ("encode", "--data=d --out=o --encoder=e", "--mean --dtype=float16"),
    ("encode_text", "--data=d --out=o --vocabulary=9", "--tokenizer=t"),
    ("encode_text", "--data=d --out=o --text_encoder=e --tokenizer=t", "--length=7"),
    ("caption", "--model=m --folder=f", "--seed=1"),
    ("credentials", "--make=folder", "--root=r.pem"),
    ("workflow", "--picture=p.png --out=o.json", "--comfyui=c --own_steps"),
    ("remake", "--list", "--workdir=w --quick --page=p.md"),
    ("remake", "--page=p.md", "--workdir=w --quick"),
    ("arena", "--out=o --scores", "--runs=a,b --number=3 --question=q --seed=1 --port=1 --data_dir=d"),
    ("evaluate", "--verify=r.json", "--workdir=w --samples=s --inception=i --out=o --ratio=a,b --floors=c,d"),
    ("evaluate", "--ratio=a,b --floors=c,d --out=o", "--workdir=w --samples=s --protocol=adm --seed=1"),
    ("evaluate", "--samples=s --reference=r --out=o", "--floors=c,d"),
    ("erase", "--model=m --concept=c --out=o", "--preserve=2"),
    ("zoo", "--page=p.md", "--row=dit_xl_2_256 --weights=w --seed=1"),
    ("zoo", "", "--reference=r --inception=i --encoder=e --autoencoder=a --out=o --number=9 --batch_size=2 --seed=1"),
    ("zoo", "--row=dit_xl_2_256", "--reference=r --autoencoder=a --out=o --number=9"),
    ("zoo", "--row=dit_xl_2_256 --weights=w --out=o --reference=r", "--encoder=e"),
    ("sweep", "--workdir=w --table", "--jobs=2 --devices=0 --retry=1 --run=0 --dry-run"),
    ("sweep", "--sweep=digits_weightings", "--figures=loss"),
    ("sweep", "--sweep=digits_weightings --dry-run", "--jobs=2 --devices=0 --retry=1 --run=0"),
    ("sweep", "--sweep=digits_weightings --run=0", "--jobs=2 --devices=0"),
    ("convert", "--source=run --out=o", "--architecture=dit --prefix=p."),
    ("convert", "--source=run --out=o --pipeline", "--architecture=dit --layout=ours --base=b --dtype=float16"),
    ("convert", "--source=tuned --out=o", "--prefix=p. --layout=ours --base=b --license=mit --dtype=float16"),
    ("convert", "--source=classes --out=o", "--prefix=p. --layout=ours --base=b --pipeline --license=mit"),
    ("convert", "--source=lora --out=o --base=b", "--architecture=dit --prefix=p. --dtype=float16"),
    ("convert", "--source=file --out=o --base=b", "--layout=ours"),
    ("watermark make", "--key=k --name=tree_ring", "--pictures=p --workdir=w --model=m --number=9 --level=0.1 --out=o"),
    ("watermark embed", "--key=k --pictures=p --out=o", "--name=n --arguments={} --model=m --prompt=p --level=0.1"),
    ("watermark detect", "--key=k --pictures=p", "--name=n --prompt=p --number=9 --out=o"),
    ("watermark detect", "--key=spread --pictures=p", "--workdir=w --model=m"),
    ("watermark measure", "--key=k --out=o --workdir=w", "--name=n --level=0.1 --prompt=p"),
    ("watermark measure", "--key=k --out=o --pictures=p", "--number=9 --prompt=p"),
]  # fmt: skip


def flag(word: str) -> str:
    """The name of the flag in a word of a command line."""
    return word.removeprefix("--").partition("=")[0]


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """A folder with a watermark's key, in which the sources of `convert` are known by their names."""
    from diffusion.experiments.sampling import tuned_run
    from diffusion.models import interchange
    from diffusion.recipe import class_folders
    from diffusion.sampling import watermarks

    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for name in ("file", "lora"):
        (tmp_path / name).touch()
    watermarks.make("spread", "spread_spectrum")
    monkeypatch.setattr(tuned_run, "base_of", lambda source: source.name == "tuned")
    monkeypatch.setattr(class_folders, "is_of_classes", lambda source: source.name == "classes")
    monkeypatch.setattr("diffusion.adapters.lora_names.is_lora", lambda names: names == "lora")
    shapes = lambda path: type("Tensors", (), {"shapes": path.name})
    monkeypatch.setattr(interchange, "open_tensors", shapes)
    return tmp_path


@pytest.mark.extended
@pytest.mark.parametrize("command, words, ignored", CASES)
def test_a_flag_that_would_be_ignored_is_refused(command, words, ignored, sources):
    name, *action = command.split()
    module = f"diffusion.experiments.{name}"
    before = sorted(sources.rglob("*"))
    for word in ignored.split():
        with command_flags.of(module, *words.split(), word) as (_, start):
            with pytest.raises(ConfigError, match=rf"^--{flag(word)} = .*(no effect|is |says )"):
                start.args[0]([module, *action])
    assert sorted(sources.rglob("*")) == before


def test_the_default_that_is_written_out_is_refused_too():
    """Whoever writes a flag expects an effect, also of its usual value."""
    with command_flags.of("diffusion.experiments.encode", "--data=d", "--out=o", "--encoder=e", "--dtype=float32") as (
        _,
        start,
    ):
        with pytest.raises(ConfigError, match=r"^--dtype = 'float32' has no effect without latents: name"):
            start.args[0]([])
    assert not pathlib.Path("o").exists()


@pytest.mark.parametrize(
    "command, words, flag",
    [
        ("sweep", ["--workdir=w", "--table", "--figures=loss", "--figures=nfe"], "--figures=nfe"),
        ("arena", ["--out=o", "--runs=a,b", "--runs", "c,d"], "--runs=c,d"),
        ("compare", ["a", "b", "--extend=a.py", "--extend=b.py"], "--extend=b.py"),
    ],
)
def test_a_list_that_is_named_twice_is_refused(command, words, flag, tmp_path):
    """The first was lost without a word: `--labels=3 --labels=8` sampled the class 8 alone."""
    ended = commands.run("diffusion", command, *words, cwd=tmp_path)
    name = flag.partition("=")[0]
    assert (
        ended.returncode == 2 and f"{name} is given 2 times, but only the last one would count: {flag}." in ended.stderr
    )
