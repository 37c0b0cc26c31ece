"""The config of an existing run, from its folder: `--config=configs/saved.py:runs/digits`.

`experiments.sample` and `experiments.evaluate` read it of their own accord, so that `--config.FIELD=...` there changes
a field of the run that `--workdir` names.
"""

import pathlib

from ml_collections import ConfigDict

from experiments.config import ConfigError, from_json


def get_config(arg: str = "") -> ConfigDict:
    """The config in WORKDIR/config.json; `arg` is WORKDIR."""
    file = pathlib.Path(arg) / "config.json"
    if not arg or not file.is_file():
        raise ConfigError(f"--workdir={arg} holds no run: there is no {file}. Train one first: "
                          "python -m experiments.train --config=configs/digits.py --workdir=runs/digits")
    return from_json(file.read_text())
