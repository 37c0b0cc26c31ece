"""The remakes by name, and how one of your own is added."""

from diffusion.experiments.remake import (
    autoguidance_toy,
    c2ot_moons,
    consistency_toy,
    dit_cost,
    edm2_cost,
    edm_solvers,
    gan_digits,
    gaussian_likelihood,
    interval_cost,
    jit_cost,
    jit_toy,
    latent_cost,
    reflow_toy,
    sbi_posteriors,
    terminal_snr,
)
from diffusion.experiments.remake.claims import Remake
from diffusion.recipe import ConfigError, unknown

MODULES = (
    terminal_snr,
    dit_cost,
    jit_cost,
    interval_cost,
    edm2_cost,
    latent_cost,
    edm_solvers,
    autoguidance_toy,
    gaussian_likelihood,
    jit_toy,
    c2ot_moons,
    reflow_toy,
    consistency_toy,
    gan_digits,
    sbi_posteriors,
)
REMAKES: dict[str, Remake] = {module.REMAKE.name: module.REMAKE for module in MODULES}


def add(remake: Remake) -> None:
    """Adds a remake, so that the command lists and measures it: what a file that --extend names does.

    Raises:
        ConfigError: if there is one of that name.
    """
    if remake.name in REMAKES:
        raise ConfigError(f"the name {remake.name!r} is already taken by a remake. Choose another name.")
    REMAKES[remake.name] = remake


def find(name: str) -> Remake:
    """The remake of a name.

    Raises:
        ConfigError: if there is none.
    """
    if name not in REMAKES:
        raise unknown("remake", name, REMAKES)
    return REMAKES[name]
