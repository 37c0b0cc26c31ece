"""Measures the FID between two sets of real images by the number of samples N; this FID is bias alone.

    python -m benchmarks.fid_by_n --samples=cifar10@test[:5000] --reference=cifar10@train[:5000] \\
        --inception=inception.safetensors --out=docs/images/fid_by_n.png

The command draws subsets of N samples, computes their Frechet distance and KID to the reference, fits
FID = FID_inf + slope / N, and plots all three. It writes the numbers beside the picture as .json, and stores features
in the cache.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("samples", "cifar10@test[:5000]", "images, as for diffusion evaluate")
    flags.DEFINE_string("reference", "cifar10@train[:5000]", "reference images, as for diffusion evaluate")
    flags.DEFINE_string("protocol", "pytorch-fid", "protocol that prepares the images")
    flags.DEFINE_string("inception", None, "file of FID's Inception-v3")
    flags.DEFINE_string("data_dir", "", "folder of prepared datasets; by default TFDS_DATA_DIR")
    flags.DEFINE_integer("seed", 0, "seed of the subsets")
    flags.DEFINE_string("out", "docs/images/fid_by_n.png", "file for the picture; the numbers are written next to it")
    flags.mark_flag_as_required("inception")
    command_line.begin()

import pathlib

import numpy as np
from matplotlib.figure import Figure

from diffusion.experiments.evaluation import comparison, report
from diffusion.io import json_files
from diffusion.metrics import extrapolation, image_sets, inception, kernel_distance, protocols, references

SHARES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # share of the samples in a subset


def main(argv: list[str]) -> None:
    """Computes the features and the distances, fits the line, and writes the picture and the numbers."""
    args = flags.FLAGS
    net = inception.load(args.inception)
    protocol = protocols.get(args.protocol)
    space = references.inception_space(net, protocol)
    samples, real = (
        references.gather(image_sets.open_set(spec, args.data_dir), space, ("2048",), references.cache_folder())
        for spec in (args.samples, args.reference)
    )
    rows = samples.rows["2048"]
    against = real.rows["2048"]
    sizes = np.unique([int(share * len(rows)) for share in SHARES])
    fit = lambda chosen: extrapolation.extrapolate(rows, real.statistics.moments["2048"], chosen, args.seed)
    curve = fit(sizes)
    large = sizes[sizes > rows.shape[1]]  # the line holds only if N is large compared with the number of features
    line = fit(large) if len(large) > 2 else None
    rng = np.random.default_rng(args.seed)
    kid = [
        kernel_distance.mmd2(kernel_distance.cubic, rows[np.sort(rng.choice(len(rows), n, False))], against)
        for n in sizes
    ]
    numbers = {
        "sizes": sizes,
        "fid": curve.distances,
        "kid": [discrepancy.value for discrepancy in kid],
        "kid_standard_error": [discrepancy.standard_error for discrepancy in kid],
        "features": rows.shape[1],
        "line": None
        if line is None
        else {"value": line.value, "standard_error": line.standard_error, "slope": line.slope, "sizes": large},
        "samples": args.samples,
        "reference": args.reference,
        "reference_count": len(against),
        "protocol": protocol.name,
        "weights": net.digest,
        "seed": args.seed,
        "commit": report.git_commit(),
        "versions": references.versions(),
    }
    numbers = json_files.plain(
        {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in numbers.items()}
    )
    if line is not None:
        numbers["line"]["sizes"] = large.tolist()
    out = pathlib.Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    json_files.write(out.with_suffix(".json"), numbers)
    draw(numbers, out)
    print(f"{out}, {out.with_suffix('.json')}")


def draw(numbers: dict, out: pathlib.Path) -> None:
    """Draws the FID against N with the fitted line, and KID, which has no bias, against the same N.

    Args:
        numbers: the content of the .json file.
        out: the file of the picture.
    """
    sizes = np.array(numbers["sizes"])
    figure = Figure((9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(sizes, numbers["fid"], "o-", color="tab:blue", label="FID")
    if numbers["line"]:
        n = np.linspace(sizes[0], sizes[-1], 200)
        value = numbers["line"]["value"]
        slope = numbers["line"]["slope"]
        left.plot(n, value + slope / n, "--", color="tab:orange", label=f"{value:.2f} + {slope:,.0f} / N")
        left.axhline(value, color="tab:orange", lw=0.8)
    left.axvline(numbers["features"], color="gray", lw=0.8, ls=":")
    top = 0.96 * left.get_ylim()[1]
    left.text(numbers["features"], top, f" {numbers['features']} features", va="top", color="gray")
    left.set(xlabel="samples N", ylabel="FID", ylim=(0, None), title="Real against real images: FID is bias")
    left.legend()
    kid = 1000 * np.array(numbers["kid"])
    error = 1000 * np.array(numbers["kid_standard_error"])
    right.errorbar(sizes, kid, 2 * error, fmt="o-", color="tab:green", capsize=2)
    right.axhline(0, color="gray", lw=0.8)
    right.set(xlabel="samples N", ylabel="KID x 1,000 (± 2 standard errors)", title="KID has none")
    figure.savefig(out, dpi=130)


if __name__ == "__main__":
    command_line.run(main, comparison.FAILURES)
