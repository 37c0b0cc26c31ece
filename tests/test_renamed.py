"""The names of the version before this one are still there, and warn."""

import importlib
import sys

import pytest

RENAMED = {
    "adapters.lora_files": {"of_layers": "build_adapter"},
    "adapters.low_rank": {"of_adapters": "tuning_of_adapters"},
    "data": {"given_series": "series_masks"},
    "data.captions": {"of_stream": "tokenized_stream"},
    "data.level_sets": {"of_points": "cloud_points"},
    "data.sources.sequences": {"of_record": "describe_record"},
    "guidance": {"of_conditions": "with_conditions", "of_depths": "depth_branches"},
    "guidance.attention_losses": {"of_tokens": "token_maps"},
    "guidance.branches": {"of_conditions": "with_conditions"},
    "guidance.internal": {"of_depths": "depth_branches"},
    "io.clips": {"about": "properties"},
    "io.failures": {"of_machine": "is_machine_failure"},
    "io.files": {"whole": "atomic"},
    "io.schema": {"whole": "integer"},
    "manifolds.tangent_field": {"of_score": "score_field", "of_velocity": "velocity_field"},
    "metrics.attribute_reader": {"of": "from_params"},
    "metrics.clip_sets": {"of_records": "from_records"},
    "metrics.prompt_following.clustered": {"of_means": "mean_of_means"},
    "metrics.prompt_following.geneval": {"kept": "counted_objects"},
    "models.facts": {"of_frames": "takes_frames", "of_symbols": "takes_symbols"},
    "models.image_encoders.prompt_features": {"of": "image_features"},
    "models.interchange.families": {"of": "family_of"},
    "models.layers.attention_records": {"of_layers": "records"},
    "models.layers.extra_attention": {"of_layers": "stacked"},
    "objectives.masked": {"kept": "visible_patches"},
    "arrays.pytrees": {"of_leaves": "vector_network"},
    "schedules.noise_schedule": {"of_each_leaf": "leaf_schedules"},
    "training.runtime.process_memory": {"of_machine": "machine_memory"},
    "sampling.watermarks": {"of": "from_entry"},
}
MODULES = {name: importlib.import_module(f"diffusion.{name}") for name in RENAMED}


@pytest.mark.parametrize("name", RENAMED)
def test_a_deprecated_name_warns_and_gives_the_present_one(name):
    module = MODULES[name]
    for deprecated, present in RENAMED[name].items():
        with pytest.warns(DeprecationWarning, match=f"{module.__name__}.{deprecated} is now called {present}"):
            assert getattr(module, deprecated) is getattr(module, present)


MOVED = {
    "metrics": {"arrays": ("chunks",)},
    "models": {
        "published.cogvideox": ("CogVideoX",),
        "published.flux": ("Flux",),
        "published.flux2": ("Flux2",),
        "published.hunyuan_video": ("HunyuanVideo",),
        "published.ltx_video": ("LTXVideo",),
        "published.lumina2": ("Lumina2",),
        "published.qwen_image": ("QwenImage",),
        "published.sana": ("Sana",),
        "published.stable_diffusion": ("ConditionalUNet",),
        "published.stable_diffusion_3": ("MMDiT",),
        "published.z_image": ("ZImage",),
    },
    "models.frame_memory": {"models.layers.key_value_memory": ("causal_bias", "reading")},
    "models.interchange.folders": {"models.interchange.folder_writing": ("save", "write")},
    "objectives.autoencoding": {
        "objectives.autoencoder_terms": ("Perceived", "gaussian_kl", "hinge", "perceptual_distance", "vanilla"),
        "objectives.representation_autoencoder": ("rae_critic", "rae_decoder"),
    },
    "text": {
        "published.chroma.pipeline": ("chroma",),
        "published.cogvideox.pipeline": ("cogvideox",),
        "published.flux.pipeline": ("flux",),
        "published.flux2.pipeline": ("flux2", "flux2_klein"),
        "published.hunyuan_video.pipeline": ("hunyuan_video",),
        "published.ltx_video.pipeline": ("ltx_video",),
        "published.lumina2.pipeline": ("lumina2",),
        "published.pixart.pipeline": ("pixart",),
        "published.qwen_image.pipeline": ("qwen_image",),
        "published.sana.pipeline": ("sana",),
        "published.stable_diffusion.pipeline": ("stable_diffusion", "stable_diffusion_xl"),
        "published.stable_diffusion_3.pipeline": ("stable_diffusion_3",),
        "published.wan.pipeline": ("wan",),
        "published.z_image.pipeline": ("z_image",),
    },
    "training.checkpointing.checkpoints": {"training.checkpointing.checkpoint_writer": ("Checkpoints",)},
}
MOVES = [(name, there, moved) for name, places in MOVED.items() for there, names in places.items() for moved in names]


@pytest.mark.parametrize(("name", "there", "moved"), MOVES)
def test_a_name_that_moved_to_another_module_of_the_library_warns_and_is_that_one(name, there, moved):
    module, present = (importlib.import_module(f"diffusion.{each}") for each in (name, there))
    with pytest.warns(DeprecationWarning, match=rf"diffusion\.{name}\.{moved} is now diffusion\.{there}\.{moved}"):
        assert getattr(module, moved) is getattr(present, moved)


def test_a_name_that_moved_to_another_module_warns_and_gives_the_present_one():
    from diffusion.experiments.sampling import generate, run_denoiser

    with pytest.warns(DeprecationWarning, match=r"generate\.denoiser is now .*run_denoiser\.denoiser"):
        assert generate.denoiser is run_denoiser.denoiser


@pytest.mark.parametrize(
    ("deprecated", "present"),
    [
        ("adapters.prompt_features", "models.image_encoders.prompt_features"),
        ("adapters.redux_prompt", "published.flux.redux_prompt"),
        ("arguments", "arrays.arguments"),
        ("caching", "sampling.caching"),
        ("commands", "package.commands"),
        ("conditional_couplings", "objectives.couplings.conditional_transport"),
        ("conversions", "parameterizations.conversions"),
        ("couplings", "objectives.couplings"),
        ("couplings.transport", "objectives.couplings.transport"),
        ("editing", "sampling.editing"),
        ("equivariant_couplings", "objectives.couplings.equivariant_transport"),
        ("experiments.config", "recipe"),
        ("experiments.config.names", "recipe.names"),
        ("experiments.config.command_line", "experiments.command_line"),
        ("experiments.config.stored_runs", "experiments.run_folder.stored_runs"),
        ("flow_maps", "flows.flow_maps"),
        ("likelihood", "flows.likelihood"),
        ("metrics.chunks", "arrays.chunks"),
        ("ode", "flows.ode"),
        ("padding", "arrays.padding"),
        ("probability_flow", "flows.probability_flow"),
        ("proteins", "data.proteins"),
        ("public", "package.public"),
        ("pytrees", "arrays.pytrees"),
        ("sound", "data.sound"),
        ("sound.forms", "data.sound.forms"),
        ("steering", "sampling.steering"),
        ("steering.twists", "sampling.steering.twists"),
        ("videos", "sampling.videos"),
        ("watermarks", "sampling.watermarks"),
        ("weightings", "objectives.weightings"),
    ],
)
def test_the_deprecated_name_of_a_module_warns_and_gives_the_present_one(deprecated, present):
    sys.modules.pop(f"diffusion.{deprecated}", None)
    with pytest.warns(DeprecationWarning, match=f"diffusion.{deprecated} is now diffusion.{present}"):
        module = importlib.import_module(f"diffusion.{deprecated}")
    assert module is importlib.import_module(f"diffusion.{present}")
