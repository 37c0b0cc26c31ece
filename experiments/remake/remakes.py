"""The remakes by name, and the function that adds one of your own."""

from diffusion.experiments.remake import (
    autoguidance_toy,
    c2ot_moons,
    consistency_toy,
    edm_solvers,
    flow_map_toy,
    gan_digits,
    gaussian_likelihood,
    jit_toy,
    plane_pairs,
    published_costs,
    reflow_toy,
    sbi_posteriors,
    sddm_toy,
    terminal_snr,
)
from diffusion.experiments.remake.claims import Remake
from diffusion.recipe import ConfigError, unknown

MODULES = (
    edm_solvers,
    autoguidance_toy,
    gaussian_likelihood,
    jit_toy,
    c2ot_moons,
    plane_pairs,
    reflow_toy,
    consistency_toy,
    flow_map_toy,
    gan_digits,
    sbi_posteriors,
    sddm_toy,
)
REMAKES: dict[str, Remake] = {
    remake.name: remake
    for remake in (terminal_snr.REMAKE, *published_costs.COSTS, *(module.REMAKE for module in MODULES))
}


def add(remake: Remake) -> None:
    """Adds a remake, so that the command lists and measures it; a file that --extend names calls this function.

    Raises:
        ConfigError: if a remake of that name exists.
    """
    if remake.name in REMAKES:
        raise ConfigError(f"the name {remake.name!r} is already taken by a remake. Choose another name.")
    REMAKES[remake.name] = remake


def find(name: str) -> Remake:
    """The remake with a name.

    Raises:
        ConfigError: if there is no such remake.
    """
    if name not in REMAKES:
        raise unknown("remake", name, REMAKES)
    return REMAKES[name]
