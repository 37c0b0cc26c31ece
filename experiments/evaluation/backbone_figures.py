"""Measures protein backbones of a run against real chains and noise, and writes pictures and PDB files."""

import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from diffusion.data.proteins import backbone, pdb
from diffusion.data.sources.spec import Source
from diffusion.experiments.evaluation.plots import blank, save
from diffusion.experiments.evaluation.real_images import drawn_rows
from diffusion.experiments.evaluation.subject import has_classes, held_out_source, recipe_of_run
from diffusion.io import files
from diffusion.metrics import backbone_geometry, bootstrap
from diffusion.objectives import Moves
from diffusion.recipe import ConfigError

NEAREST = 600  # the most chains of a set whose nearest training chain is searched
SHOWN = (4, 6)  # the most rows and columns of the picture
NOISE_SEED = 0  # the seed of the noise that is compared with the samples


def are_backbones(source: Source) -> bool:
    """Whether the examples of a source are frames of backbones; its attribute `backbones` states it."""
    return bool(getattr(source, "backbones", False))


def geometry(subject: Any) -> dict:
    """Measures bonds, angles, breaks, clashes, torsions, secondary structure, size and novelty of backbones.

    Each figure is also measured for the same number of held-out chains (`_of_real`), and for the noise from which
    samples start (`_of_noise`).

    Args:
        subject: `model_metrics.Subject` of a run on frames of backbones.

    Raises:
        ConfigError: for another run.
    """
    config = subject.config
    if not are_backbones(held_out_source(subject)):
        raise ConfigError(
            "--metrics=backbone is for runs on backbone frames, but config.data.source = "
            f"{dict(config['data']['source'])} has none. Valid: e.g. ideal_folds."
        )
    recipe = recipe_of_run(subject)
    reads = recipe.objective.reads
    if not isinstance(reads, Moves):
        raise ConfigError(
            f"--metrics=backbone is for runs on manifolds, but config.objective.name = {config.objective.name!r}. "
            "Valid: e.g. riemannian_flow_matching."
        )
    count = len(subject.images)
    noise = reads.prior.sample(jax.random.split(jax.random.key(NOISE_SEED), count))
    train = backbone.atoms_of(subject.train.images)[:, :, 1]
    metrics = {}
    chosen = drawn_rows(len(subject.real.images), count)
    sets = {"": subject.images, "_of_real": subject.real.images[chosen], "_of_noise": np.asarray(noise)}
    for suffix, frames in sets.items():
        figures_of_set = figures(frames, np.asarray(train))
        rows = figures_of_set.pop("nearest_rows")
        if suffix == "_of_real" or (suffix == "" and has_classes(subject)):
            labels = (subject.labels if suffix == "" else subject.real.labels[chosen])[: len(rows)]
            figures_of_set["nearest_of_its_fold"] = subject.train.labels[rows] == labels
        for name, values in figures_of_set.items():
            figure = bootstrap.proportion if values.dtype == bool else bootstrap.mean
            metrics[f"{name}{suffix}"] = figure(np.asarray(values))
        if suffix == "" and has_classes(subject):
            sound, names = figures_of_set["sound_chains"], subject.real.spec.classes
            shares = bootstrap.means_by_class(sound, subject.labels, names, bootstrap.proportion)
            metrics |= {f"sound_chains_{name}": share for name, share in shares.items()}
    return metrics


def figures(frames: np.ndarray, train: np.ndarray) -> dict[str, np.ndarray]:
    """{figure: one value per chain}, and "nearest_rows", the rows of the nearest training chains.

    Args:
        frames: the frames of the chains, `[N, n, 3, 4]`.
        train: the positions of CA of the training chains in Angstrom, `[M, n, 3]`.
    """
    atoms = np.asarray(backbone.atoms_of(frames))
    ca = atoms[:, :, 1]
    between = backbone_geometry.between_residues(atoms)
    ideal = {
        "C-N": backbone.C_N,
        "CA-CA": backbone.CA_CA,
        "CA-C-N": np.degrees(backbone.CA_C_N),
        "C-N-CA": np.degrees(backbone.C_N_CA),
    }
    off = {name: np.abs(between[name] - value).mean(-1) for name, value in ideal.items()}
    basins = backbone_geometry.ramachandran(np.asarray(backbone.torsions_of(atoms)))
    structure = backbone_geometry.secondary_structure(ca)
    distance, rows = backbone_geometry.nearest(ca[:NEAREST], train)
    broken = (between["C-N"] > backbone_geometry.BREAK).any(-1)
    clashes = np.asarray(backbone.clashes(ca))
    return {
        "c_n_error": off["C-N"],
        "ca_ca_error": off["CA-CA"],
        "ca_c_n_error": off["CA-C-N"],
        "c_n_ca_error": off["C-N-CA"],
        "clashes": clashes,
        "sound_chains": ~broken & (clashes == 0),
        "ramachandran": (basins > 0).mean(-1),
        "helix": (structure == backbone_geometry.HELIX).mean(-1),
        "strand": (structure == backbone_geometry.STRAND).mean(-1),
        "radius_of_gyration": backbone_geometry.radius_of_gyration(ca),
        "nearest_rmsd": distance,
        "nearest_rows": rows,
    }


def write(frames: np.ndarray, labels: np.ndarray, names: Sequence[str], out: pathlib.Path) -> list[pathlib.Path]:
    """Writes the chains as PDB files in OUT/pdb, and a picture OUT/samples.png; returns both paths.

    Chains that are not finite are left out with a warning; the other files keep their numbers.

    Args:
        frames: the frames of the chains, `[N, n, 3, 4]`.
        labels: the classes, int `[N]`.
        names: the names of the classes, for titles and files; () for their numbers.
        out: the folder.

    Raises:
        ValueError: if no chain is finite.
    """
    atoms = np.asarray(backbone.with_oxygen(backbone.atoms_of(frames)))
    rows = np.flatnonzero(np.isfinite(atoms).all(axis=(1, 2, 3)))
    if not len(rows):
        raise ValueError(f"none of the {len(atoms)} chains is finite, so there is nothing to write")
    if len(rows) < len(atoms):
        warnings.warn(
            f"{len(atoms) - len(rows)} of the {len(atoms)} chains are not finite: they have no PDB file and are not in "
            "the picture",
            stacklevel=2,
        )
    with files.whole_folder(out / "pdb") as folder:
        for row in rows:
            pdb.save(folder / files.file_name(f"{row:05d}_{_title(labels[row], names)}.pdb"), atoms[row])
    draw(atoms[rows, :, 1], labels[rows], names, out / "samples.png")
    return [out / "pdb", out / "samples.png"]


def draw(ca: np.ndarray, labels: np.ndarray, names: Sequence[str], path: str | os.PathLike) -> None:
    """Draws the traces of CA, with a column for each class; the colour runs from blue at the first residue to red.

    Each chain is turned so that its longest axis is vertical.

    Args:
        ca: the positions of CA in Angstrom, `[N, n, 3]`, finite.
        labels: the classes, int `[N]`.
        names: the names of the classes; () for their numbers.
        path: the PNG to write.
    """
    from matplotlib import colormaps

    classes = np.unique(labels)[: SHOWN[1]]
    columns = len(classes) if len(classes) > 1 else SHOWN[1]
    chosen = [np.flatnonzero(labels == label) for label in classes]
    if len(classes) == 1:
        chosen = [chosen[0][start::columns] for start in range(columns)]
    rows = min(SHOWN[0], max(map(len, chosen)))
    figure = blank(2.0 * columns, 2.6 * rows)
    for column, members in enumerate(chosen):
        for row, member in enumerate(members[:rows]):
            axes: Any = figure.add_subplot(rows, columns, row * columns + column + 1, projection="3d")
            points = _upright(ca[member])
            segments = np.stack([points[:-1], points[1:]], 1)
            colours = colormaps["coolwarm"](np.linspace(0, 1, len(segments)))
            for segment, colour in zip(segments, colours):
                axes.plot(*segment.T, color=colour, linewidth=2.2)
            axes.scatter(*points.T, c=colormaps["coolwarm"](np.linspace(0, 1, len(points))), s=7, depthshade=False)
            middle, reach = points.mean(0), np.abs(points - points.mean(0)).max() * 0.62
            for low, set_limits in zip(middle, (axes.set_xlim, axes.set_ylim, axes.set_zlim)):
                set_limits(low - reach, low + reach)
            axes.set_box_aspect((1, 1, 1))
            axes.view_init(elev=0, azim=-90)
            axes.set_axis_off()
            if row == 0 and len(classes) > 1:
                axes.set_title(_title(classes[column], names).replace("_", " "), fontsize=9)
    figure.subplots_adjust(0, 0, 1, 0.95, 0, 0)
    save(figure, path)


def _title(label: int, names: Sequence[str]) -> str:
    return names[label] if names else f"class_{label}"


def _upright(points: np.ndarray) -> np.ndarray:
    """Points with their longest axis along z and their next along x, by a rotation without reflection."""
    centred = points - points.mean(0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    long, wide = axes[0], axes[1]
    turned = np.stack([wide, np.cross(long, wide), long])
    return centred @ turned.T


HOW: Mapping[str, str] = {
    "c_n_error": "mean |C-N - 1.329| of neighbours, Angstrom",
    "ca_ca_error": "mean |CA-CA - 3.80| of neighbours, Angstrom",
    "ca_c_n_error": "mean difference of the angle CA-C-N from 116.2, degrees",
    "c_n_ca_error": "mean difference of the angle C-N-CA from 121.7, degrees",
    "clashes": "pairs of CA nearer than 3.66 Angstrom, neighbours left out, a chain",
    "sound_chains": "share of chains without a break (C-N above 2.5 Angstrom) and without a clash",
    "ramachandran": "share of residues in the helix's or the strand's box of phi and psi",
    "helix": "share of residues in helices, by CA alone (P-SEA)",
    "strand": "share of residues in strands, by CA alone (P-SEA)",
    "radius_of_gyration": "Angstrom",
    "nearest_rmsd": "of CA to the nearest training chain after superposition, Angstrom",
    "nearest_of_its_fold": "share of chains whose nearest training chain has the requested class",
}
