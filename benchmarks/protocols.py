"""Measures the same images under every protocol, to show how resizing, scaling and rounding change a Frechet distance.

    python -m benchmarks.protocols --samples=cifar10@test[:5000] --reference=cifar10@train[:5000] \\
        --inception=inception.safetensors --out=protocols.md

Writes a Markdown table. In each row, samples and reference are prepared under the same protocol. A sentence below the
table states the distance for two different protocols, which the evaluation refuses.
"""

from absl import flags

from diffusion.experiments import command_line

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("samples", "cifar10@test[:5000]", "images, as for diffusion evaluate")
    flags.DEFINE_string("reference", "cifar10@train[:5000]", "reference images, as for diffusion evaluate")
    flags.DEFINE_string("inception", None, "file of FID's Inception-v3")
    flags.DEFINE_string("data_dir", "", "folder of prepared datasets; by default TFDS_DATA_DIR")
    flags.DEFINE_string("out", "protocols.md", "file for the table")
    flags.mark_flag_as_required("inception")
    command_line.begin()

import pathlib

from diffusion.experiments.evaluation import comparison, records, report
from diffusion.io.files import write_text
from diffusion.metrics import frechet, image_sets, inception, protocols, references

METRICS = ("fid", "kid")


def main(argv: list[str]) -> None:
    """Measures under one protocol after the other; stored features let an interrupted command continue."""
    args = flags.FLAGS
    lines = ["| protocol | resize to 299 | scaling of bytes b | FID | KID x 1,000 |", "|---|---|---|---|---|"]
    for name, protocol in protocols.PROTOCOLS.items():
        request = comparison.Request(
            args.samples, args.reference, name, args.inception, metrics=METRICS, data_dir=args.data_dir
        )
        content = records.measure(request)
        figures = content["figures"]
        kid = figures["kid"]
        lines.append(
            f"| {name} | `{protocol.resize}` | `{protocol.scaling}` | {_figure(figures['fid'])} | "
            f"{1000 * kid['value']:.3f} ± {1000 * kid['standard_error']:.3f} |"
        )
        print(lines[-1], flush=True)
    mixed = _mixed(args, "pytorch-fid", "edm")
    lines += [
        "",
        f"Samples under pytorch-fid against statistics under edm, which the evaluation refuses: FID {mixed:.2f}.",
        "",
        f"Samples {args.samples}, {figures['fid']['samples']:,} images; reference {args.reference}, "
        f"{figures['fid']['reference']:,} images; {report.git_commit()}.",
    ]
    write_text(pathlib.Path(args.out), "\n".join(lines) + "\n")
    print(args.out)


def _figure(figure: dict) -> str:
    return f"{figure['value']:.3f} ± {figure['standard_error']:.3f}"


def _mixed(args, of_samples: str, of_reference: str) -> float:
    """The distance between samples and a reference under different protocols, which cannot be compared."""
    net = inception.load(args.inception)
    moments = []
    for spec, name in ((args.samples, of_samples), (args.reference, of_reference)):
        space = references.inception_space(net, protocols.PROTOCOLS[name])
        images = image_sets.open_set(spec, args.data_dir)
        gathered = references.gather(images, space, ("2048",), references.cache_folder())
        moments.append(gathered.statistics.moments["2048"])
    return frechet.frechet_distance(*moments)


if __name__ == "__main__":
    command_line.run(main, comparison.FAILURES)
