"""Writes the table on docs/families.md that says how closely each published family agrees with diffusers.

    python -m tools.docs.family_comparison

The command rewrites the rows between the markers. It reads what the tests compare: facts.py of each family, and the
fixtures, which diffusers computed. The deviation in a row is the bound that the variant's test allows.
"""

import importlib
import json
import pathlib
from collections.abc import Iterator

from safetensors import safe_open

from tests.text_to_image import made_pipelines

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "families.md"
BEGIN, END = "<!-- python -m tools.docs.family_comparison -->\n", "<!-- end of the comparison -->\n"
HEAD = ("family", "variant", "class", "samplers and steps", "deviation", "what the test changes in the class")
MEAN = "its picture is encoded by the mean of the distribution, where diffusers draws a sample"
CLEAN = "prompts are not cleaned (clean_caption), and the size is the requested one (use_resolution_binning)"
POSITIONS = "its text encoder receives the positions of the picture's tokens, and pictures have fewer pixels"
NINE_TOKENS = "prompt_template counts nine tokens for a picture, which is what the small image tower outputs"
REASONS = {
    "chroma": "its attention mask is cast to booleans; diffusers adds it to the scores as numbers",
    "cogvideox_from_image": MEAN,
    "cogvideox_frames_from_image": MEAN,
    "hidream": "default_sample_size is made small, and pictures have that number of pixels",
    "hunyuan_image": "the pipeline is called with one prompt at a time",
    "hunyuan_image_distilled": "the pipeline is called with one prompt at a time",
    "hunyuan_video_from_image": NINE_TOKENS,
    "hunyuan_video_concat_from_image": NINE_TOKENS,
    "ltx_from_image": MEAN,
    "ltx_conditions": MEAN,
    "ltx2_from_image": "its picture is not compressed by H.264 first (image_crf)",
    "pixart": CLEAN,
    "alpha": CLEAN,
    "qwen_image_21": "the pipeline is called with one prompt at a time",
    "qwen_image_edit": POSITIONS,
    "qwen_image_layered": "pictures have fewer pixels, and the latents are those of the last step",
    "qwen_image_edit_plus": POSITIONS,
    "sana": CLEAN,
    "sprint": CLEAN,
    "stable_cascade": "stage B takes 12 steps",
    "wan_from_image": "prompts are not cleaned by ftfy",
    "wan_first_and_last": "prompts are not cleaned by ftfy",
    "wan_vace": "prompts are not cleaned by ftfy",
    "wan_vace_first_and_last": "prompts are not cleaned by ftfy",
    "wan_5b_from_image": "prompts are not cleaned by ftfy",
}
"""{variant: what its test changes in diffusers' class}. The tests of the other variants change nothing."""


def variants() -> dict[str, tuple[str, dict[str, float]]]:
    """All variants: {variant: (family, {trajectory: the bound on the error of its latents})}.

    A bound is relative to the largest latent.
    """
    table = {}
    for path in sorted(made_pipelines.FIXTURES.parents[1].glob("published/*/facts.py")):
        facts = importlib.import_module(f"tests.published.{path.parent.name}.facts")
        kinds = ("", "CLIP_", "STAGED_", "SOUND_", "LAYERED_")
        for name in (f"{kind}TRAJECTORIES" for kind in kinds):
            table |= {variant: (path.parent.name, cases) for variant, cases in getattr(facts, name, {}).items()}
    return table


def perturbed() -> Iterator[tuple[str, ...]]:
    """The rows of perturbed-attention guidance."""
    families = {variant: family for variant, (family, _) in variants().items()}
    with safe_open(made_pipelines.FIXTURES / "perturbed.safetensors", framework="numpy") as file:
        metadata = file.metadata()
    for case, (base, kind, _) in json.loads(metadata["cases"]).items():
        yield (
            families[base],
            f"{case}, perturbed",
            f"`{kind}`",
            f"the default ({metadata['steps']})",
            "1e-4",
            REASONS.get(base, ""),
        )


def rows() -> list[tuple[str, ...]]:
    """The rows of the table, grouped by family."""
    result = []
    for variant, (family, cases) in variants().items():
        metadata = made_pipelines.fixture(variant)[0]
        kind = json.loads(metadata["files"]["model_index.json"])["_class_name"]
        steps = sorted({metadata["steps"][case] for case in cases})
        names = dict.fromkeys(case.partition(",")[0].partition(" ")[0] for case in cases)
        samplers = f"{', '.join(names)} ({', '.join(map(str, steps))})"
        result.append((family, variant, f"`{kind}`", samplers, f"{max(cases.values()):.0e}", REASONS.get(variant, "")))
    order = {family: i for i, (family, *_) in enumerate(result)}
    return sorted([*result, *perturbed()], key=lambda row: order[row[0]])


def table() -> str:
    """The table in Markdown."""
    lines = [HEAD, ("---",) * len(HEAD), *(tuple(part.replace("e-0", "e-") for part in row) for row in rows())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def written(page: str) -> str:
    """The page with its table rewritten."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
