"""Fields of CogVideoX's config in both directions."""

from diffusion.published.cogvideox import CogVideoX, table


def test_the_defaults_are_diffusers():
    assert table.CONFIG.build({}) == CogVideoX()


def test_learned_positions_are_of_latent_frames_and_the_config_counts_those_of_the_clip():
    """The first latent frame is one frame of the clip, and every other one four."""
    fields = {"use_rotary_positional_embeddings": True, "use_learned_positional_embeddings": True, "sample_frames": 49}
    module = table.CONFIG.build(fields | {"max_text_seq_length": 7})
    assert (module.positions, module.words, module.learned) == ("rope", 7, 13)
    config = table.CONFIG.describe(module)
    assert {name: config[name] for name in fields} == fields and config["max_text_seq_length"] == 7


def test_divisors_of_positions_are_those_of_the_frames_and_of_rows_and_columns():
    fields = {"temporal_interpolation_scale": 2.0, "spatial_interpolation_scale": 3.0}
    assert table.CONFIG.build(fields).spacing == (2.0, 3.0)
    assert table.CONFIG.build({"sample_height": 6, "sample_width": 8}).grid == (6, 8)
