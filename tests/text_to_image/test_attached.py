"""Attachments: what they add to a denoiser's condition, by weights and intervals of t, as diffusers' ControlNets do."""

import dataclasses
import functools
import gzip
import json
import pathlib
import tempfile
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from diffusion import samplers, text_to_image
from diffusion.io import pictures
from diffusion.models import interchange
from diffusion.models.attachment import Attachment, check_base, same_size_to_inpaint
from diffusion.models.interchange import families, schedulers
from diffusion.models.layers import conditions
from diffusion.models.quantised import quantised
from diffusion.published.flux.control_net import FluxControlNet
from diffusion.published.flux.network import Flux
from diffusion.published.pixart.control_net import PixArtControlNet
from diffusion.published.pixart.network import PixArt
from diffusion.published.stable_diffusion import control_net_table as control_net_tables
from diffusion.published.stable_diffusion.control_net import ControlNet
from diffusion.published.stable_diffusion.network import ConditionalUNet
from diffusion.published.stable_diffusion_3.control_net import MMDiTControlNet
from diffusion.published.stable_diffusion_3.network import MMDiT
from diffusion.text_to_image import canvas, pipelines, png, programs
from diffusion.text_to_image.attached import Attached, condition_with
from diffusion.text_to_image.picture_controls import Control
from diffusion.text_to_image.requests import Request
from tests.peers.made_weights import drawn, made
from tests.text_to_image import made_pipelines


class Sum:
    """A denoiser whose prediction is x plus the text plus the residuals."""

    def apply(self, variables, x, clock, condition):
        residuals = condition.get("residuals", ())
        return x[..., :1] + condition["text"][:, None, None] + sum(residuals)


def model():
    process = schedulers.read({"_class_name": "FlowMatchEulerDiscreteScheduler"})
    return types.SimpleNamespace(
        denoiser=Sum(), process=process, kind=pipelines.KINDS["StableDiffusionPipeline"], sees_picture=False
    )


def constant(value):
    """An attachment that adds a parameter times the weight, and what it sees."""

    def entries(params, weight, seen, x, t, clock, condition):
        assert x.shape[-1] == 1 and "seen" not in condition and "residuals" not in condition
        return {"residuals": (weight[:, None, None, None] * (params + seen),)}

    return Attachment(jnp.float32(value), entries)


def at(attachment, weight=1.0, times=(0.0, 1.0), seen=(0.0, 0.0)):
    seen = tuple(jnp.full((1, 1, 1, 1), value, jnp.float32) for value in seen)
    return Attached(attachment, seen, jnp.float32(weight), jnp.asarray(times))


def output(attached, t=0.5, unconditional=None, beside=0):
    """What the network puts out at x = 0 for two pictures, [2]."""
    condition = {"text": jnp.zeros((2, 1))}
    condition |= {"beside": jnp.ones((2, 2, 2, beside))} if beside else {}
    if unconditional is not None:
        unconditional = condition | {"text": jnp.full((2, 1), unconditional)}

    @jax.jit
    def predicted(t, attached):
        denoise = text_to_image.denoise(model(), {}, condition, unconditional, 3.0, attached)
        prediction = denoise(jnp.zeros((2, 2, 2, 1)), t)
        return prediction.eps - prediction.x0

    velocity = np.asarray(predicted(t, attached))
    np.testing.assert_allclose(velocity, np.broadcast_to(velocity[:1, :1, :1], velocity.shape), rtol=1e-6)
    return float(velocity[0, 0, 0, 0])


@pytest.mark.extended
def test_several_attachments_add_up_each_with_its_weight_between_its_times():
    one, other = constant(1.0), constant(10.0)
    assert output(()) == 0
    assert output((at(one), at(other, 0.5)), beside=3) == pytest.approx(6)
    interval = lambda t: output((at(one), at(other, 1.0, (0.25, 0.75))), t)
    assert [interval(t) for t in (0.2, 0.25, 0.5, 0.75, 0.8)] == pytest.approx([1, 11, 11, 11, 1])
    assert interval(np.array([0.2, 0.2])) == pytest.approx(1)


def test_residuals_of_two_kinds_of_layers_add_up_where_both_have_them():
    one = {"residuals": ((1.0, 2.0), ())}
    other = {"residuals": ((10.0, 20.0), (5.0,))}
    assert conditions.added(one, other)["residuals"] == ((11.0, 22.0), (5.0,))
    assert conditions.added(conditions.added({}, other), one)["residuals"] == ((11.0, 22.0), (5.0,))
    with pytest.raises(ValueError, match="shorter"):
        conditions.added(one, {"residuals": ((10.0,), ())})


def test_the_branches_of_guidance_see_what_is_theirs():
    """u + 3 (c - u), with c = 1 + 2 and u = 4 + 1 + 5."""
    assert output((at(constant(1.0), seen=(2.0, 5.0)),), unconditional=4.0) == pytest.approx(10 + 3 * (3 - 10))


def test_branches_repeat_the_times_of_the_pictures_and_an_attachment_sees_no_perturbation():
    """Four rows are two pictures in each of two branches; the first picture's time alone is in the interval."""
    one = at(constant(1.0), times=(0.0, 0.5))
    condition = {"seen": (jnp.zeros((4, 1, 1, 1)),), "identity": jnp.ones(4), "text": jnp.zeros((4, 1))}
    x, t = jnp.zeros((4, 2, 2, 1)), jnp.array([0.2, 0.8])
    seen = []
    entries = one.attachment.entries
    recording = lambda *inputs: seen.append({*inputs[6]}) or entries(*inputs)
    one = one._replace(attachment=Attachment(one.attachment.params, recording))
    result = condition_with((one,), condition, x, t, t, {})
    np.testing.assert_array_equal(np.ravel(result["residuals"][0]), [1, 0, 1, 0])
    assert seen and all(names == {"text"} for names in seen) and "identity" in result


def test_outside_of_its_interval_an_attachment_is_not_evaluated():
    assert output((at(constant(np.nan), 1.0, (0.0, 0.4)),)) == 0
    assert np.isnan(output((at(constant(np.nan), 1.0, (0.0, 0.6)),)))


class Halving:
    """An autoencoder of half the side, whose latents are every second pixel."""

    factor, scale, shift = 2, np.float32(3.0), np.float32(0.5)

    def apply(self, variables, picture, method):
        assert method == "encode"
        return picture[:, ::2, ::2]


def test_an_attachment_that_inpaints_reads_what_is_kept_and_where():
    """Black where the mask is, and the first pixel of each latent says whether it is kept."""
    shown = np.full((4, 4, 3), 255, np.uint8)
    mask = np.zeros((4, 4), bool)
    mask[1:, 1:] = True
    one = Attachment(jnp.float32(1.0), read=same_size_to_inpaint, entries=None, latents=True, inpaints=True)
    control = Control("paint", shown, mask=mask)
    (read,) = canvas.opened_controls([control], {"paint": one}, (4, 4))
    assert read.mask is None
    np.testing.assert_array_equal(read.picture[0, ..., 3], ~mask)
    np.testing.assert_array_equal(
        read.picture[0, ..., :3], np.broadcast_to(np.where(mask, -1, 1)[..., None], (4, 4, 3))
    )
    halving = types.SimpleNamespace(modules={"vae": Halving()})
    seen, other = programs.control_inputs(halving, types.SimpleNamespace(tile=0), {}, one, jnp.asarray(read.picture))
    assert seen is other
    np.testing.assert_allclose(seen[0, :, :, 3], [[1, 1], [1, 0]])
    np.testing.assert_allclose(seen[0, :, :, 0], [[1.5, 1.5], [1.5, -4.5]])  # (z - 0.5) 3
    plain = dataclasses.replace(one, shifted=False)
    seen, _ = programs.control_inputs(halving, types.SimpleNamespace(tile=0), {}, plain, jnp.asarray(read.picture))
    np.testing.assert_allclose(seen[0, :, :, 0], [[3, 3], [3, -3]])
    with pytest.raises(ValueError, match=r"'paint' has no mask, but this attachment inpaints\..*a mask,"):
        canvas.opened_controls([control._replace(mask=None)], {"paint": one}, (4, 4))
    with pytest.raises(ValueError, match="mask of the control 'paint' must be Bool with"):
        canvas.opened_controls([control._replace(mask=mask[:2])], {"paint": one}, (4, 4))
    with pytest.raises(ValueError, match="the mask of the control 'paint' is False everywhere"):
        canvas.opened_controls([control._replace(mask=mask & False)], {"paint": one}, (4, 4))
    with pytest.raises(ValueError, match=r"picture of the control 'paint' does not fit: it has 2 x 4 pixels"):
        canvas.opened_controls([control._replace(picture=shown[:2])], {"paint": one}, (4, 4))


@pytest.mark.parametrize("text, control", [
    ("edges:a.png", Control("edges", "a.png")),
    ("edges:a.png:0.8", Control("edges", "a.png", 0.8)),
    ("edges:c:/a.png:-1:0.2-1", Control("edges", "c:/a.png", -1.0, (0.2, 1.0))),
    ("edges:a.png:.5:0-.5", Control("edges", "a.png", 0.5, (0.0, 0.5))),
    ("any:a.png:1:0-1:mode=12", Control("any", "a.png", 1.0, (0.0, 1.0), None, 12)),
])  # fmt: skip
def test_a_control_is_written_as_text_as_a_tuple_or_as_a_table(text, control):
    assert Control.parsed(text) == Control.read(tuple(control)) == Control.read(control._asdict()) == control
    assert Request(controls=[tuple(control)]).controls == (control,)
    assert png.request({"controls": [control._asdict()]}, Request()).controls == (control,)


@pytest.mark.parametrize("wrong, message", [
    ([("edges",)], "controls: 1 values. Valid: an attachment and a picture"),
    (["edges"], "controls: 'edges'. Valid: an attachment and a picture"),
    ([{"attachment": "edges"}], "controls: a table with attachment. Valid"),
    ([{"attachment": "edges", "picture": "a", "path": "b"}], "controls: a table with attachment, picture, path"),
    ([("", "a.png")], "controls: attachment = ''. Valid: a name"),
    ([("edges", 3)], "controls: picture = 3. Valid: the path of a picture"),
    ([("edges", "a.png", 1e6)], "controls: weight = 1000000.*. Valid: a number from -100 to 100"),
    ([("edges", "a.png", 1, (0, 2))], r"controls: times = \[0, 2\]. Valid: a list of 2, each a number from 0 to 1"),
    ([("edges", "a.png", 1, (0.9, 0.1))], r"controls: times = \(0.9, 0.1\)\. Valid: the smaller t first, \(0.1, 0.9\)"),
    ([("edges", "a.png")] * 17, "controls = .*. Valid: a list of 0 to 16"),
])  # fmt: skip
def test_a_control_is_refused_where_it_is_made(wrong, message):
    with pytest.raises(ValueError, match=message):
        Request(controls=wrong)


def test_a_text_that_is_no_control_is_refused():
    with pytest.raises(ValueError, match="'edges' is not a control; write ATTACHMENT:PICTURE"):
        Control.parsed("edges")


@pytest.mark.parametrize("control, message", [
    (("depth", np.zeros((8, 8, 3), np.uint8)), r"the control 'depth' names no attachment of this model\."),
    (("edges", np.zeros((8, 4, 3), np.uint8)),
     r"'edges' does not fit: it has 8 x 4 pixels \(height x width\).*but the pictures have 8 x 8: scale or"),
    (("edges", np.zeros((8, 8), np.uint8)), r"'edges' must be uint8 \[H, W, 3\]; got uint8 \[8, 8"),
    (("edges", "nothing.png"), "nothing.png: there is no such file"),
])  # fmt: skip
def test_a_control_that_does_not_fit_is_refused_in_a_sentence(control, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        canvas.opened_controls([Control.read(control)], {"edges": constant(1.0)}, (8, 8))


def test_a_file_for_another_base_is_refused_by_its_first_leaf():
    own = {"a": {"kernel": np.zeros((2, 3))}, "hint": np.zeros(1), "z": np.zeros(4)}
    base = {"a": {"kernel": np.zeros((2, 3))}, "b": np.zeros(1), "z": np.zeros(4)}
    check_base(own, base, "hint", "this one")
    check_base(own, base | {"a": quantised(base["a"], "int8")}, "hint", "this one")
    deeper = {"a": {"kernel": np.zeros((7, 3))}, "z": np.zeros(4)}
    check_base(own, deeper, "hint", "this one", stacks=("a/",))  # of another number of layers
    with pytest.raises(ValueError, match=r"kernel has the shape \[2, 3\] there, but \[7, 3\] in this model"):
        check_base(own, deeper, "hint", "this one", stacks=("b/",))
    with pytest.raises(ValueError, match=r"for another base: z has the shape \[4\] there, but \[5\] in this model"):
        check_base(own, base | {"z": np.zeros(5)}, "hint", "this one")
    with pytest.raises(ValueError, match=r"is for another base: it has a/kernel \[2, 3\], which this model lacks"):
        check_base(own, {"z": np.zeros(5)}, "hint", "this one")
    unet = ConditionalUNet((8,), (1,), (2,), 8, groups=4)
    with pytest.raises(ValueError, match="this ControlNet is for a ConditionalUNet; the denoiser is a MMDiT"):
        ControlNet(unet).attachment({}, MMDiT(), {})


@pytest.mark.extended
@pytest.mark.parametrize("kind, denoiser, other", [
    (PixArtControlNet, PixArt((8, 8, 4), width=24, depth=2, heads=2, text_width=8), {"heads": 3}),
    (MMDiTControlNet, MMDiT(width=16, depth=2, heads=2, text_width=8, pooled_width=8, positions=8), {"heads": 4}),
    (FluxControlNet, Flux(width=24, depth=1, singles=1, heads=2, text_width=8, pooled_width=8, axes=(4, 4, 4)),
     {"heads": 1, "axes": (8, 8, 8)}),
])  # fmt: skip
def test_a_transformers_control_net_of_other_heads_is_refused(kind, denoiser, other):
    """No shape shows them: the parameters are those of its base."""
    module = kind.beside(denoiser)
    struct = lambda net: jax.eval_shape(net.init, jax.random.key(0), *families.family_of(net).example(net))["params"]
    own, base = struct(module), struct(denoiser)
    module.attachment(own, denoiser, base)
    words = f"is for another base: it has 2 attention heads, but this model has {other['heads']}"
    with pytest.raises(ValueError, match=words):
        module.attachment(own, denoiser.clone(**other), base)


def test_no_control_net_is_made_beside_chroma():
    chroma = Flux(width=24, depth=1, singles=1, heads=2, pooled_width=0, axes=(4, 4, 4), approximator=(8, 12, 2))
    with pytest.raises(ValueError, match=r"approximator = \(8, 12, 2\) \(Chroma\)\. Valid: a FLUX\.1"):
        FluxControlNet.beside(chroma)


def test_a_union_is_refused_in_its_own_name():
    config = {"addition_embed_type": "text_time", "global_pool_conditions": True}
    with pytest.raises(interchange.Refusal, match=r"^ControlNetUnionModel: global_pool_conditions = True is not"):
        control_net_tables.UNION.build(config)


@pytest.mark.extended
def test_a_union_of_a_unet_receives_a_kind_and_has_one_width():
    unet = ConditionalUNet((8,), (1,), (2,), 8, groups=4, added_width=14, size_width=2)
    union = ControlNet(unet, (4, 4), modes=3, kind_heads=2)
    family = families.family_of(union)
    *arguments, mode = family.example(union)
    params = jax.eval_shape(union.init, jax.random.key(0), *arguments, mode)["params"]
    base = jax.eval_shape(unet.init, jax.random.key(0), *arguments[:3])["params"]
    assert family.name == "ControlNetUnionModel" and union.attachment(params, unet, base).modes == 3
    for module, given, words in (
        (union, (), "modes = 3 has no mode = None"),
        (union.clone(modes=0), (mode,), "Valid: None"),
    ):
        with pytest.raises(ValueError, match=words):
            jax.eval_shape(module.init, jax.random.key(0), *arguments, *given)
    config = family.describe(union)
    assert family.build(config) == union
    for wrong, words in (
        ({"num_proj_channel": 4}, "num_proj_channel = 4 is not the width of the first level, 8"),
        ({"num_trans_head": 3}, "num_trans_head = 3 does not divide num_trans_channel = 8"),
        ({"addition_embed_type": None}, "addition_embed_type = None is not supported"),
    ):
        with pytest.raises(interchange.Refusal, match=words):
            family.build(config | wrong)


def test_the_files_of_a_picture_are_its_controls_and_the_attachments_in_use():
    request = Request(image="a.png", controls=[("edges", "b.png")])
    source = {"loras": {"c.safetensors": 1.0}, "attachments": {"edges": "net", "depth": "other"}}
    assert png.named_files(request, source) == ["a.png", "b.png", "c.safetensors", "net"]
    request = Request(
        image="a.png",
        mask="m.png",
        watermark="w.json",
        reference="r.png",
        images=("1.png", "2.png"),
        regions=[("a cat", "left.png"), ("a dog", (0, 0, 0.5, 1))],
        controls=[{"attachment": "edges", "picture": "b.png", "mask": "c.png"}],
    )
    files = ["a.png", "m.png", "w.json", "r.png", "1.png", "2.png", "left.png", "b.png", "c.png", "net"]
    assert sorted(png.named_files(request, {**source, "loras": {}})) == sorted(files)
    assert png.named_files(Request(), {"embeddings": {"e.safetensors": "<cat>"}}) == ["e.safetensors"]


def test_a_picture_names_the_checksum_of_all_that_was_read(tmp_path, monkeypatch):
    """Of a LoRA's folder, an adapter's with its encoder, or a pipeline's; of the encoder beside a file; below ~ too."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("lora/a.safetensors", "lora/adapter_config.json", "ip/a.bin", "ip/image_encoder/config.json",
                 "redux/model_index.json", "redux/image_embedder/w.safetensors", "seen.png"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    attachments = {"style": "~/ip/a.bin", "all": "~/redux"}
    request = Request(controls=[("style", "~/seen.png"), ("all", "~/seen.png")])

    def files():
        return png.records(request, {"loras": {"~/lora": 1.0}, "attachments": attachments})[0]["files"]

    before = files()
    assert [*before] == ["~/seen.png", "~/lora", "~/ip/a.bin", "~/redux", "~/ip/image_encoder"]
    for changed, name in (("lora/a.safetensors", "~/lora"), ("ip/image_encoder/config.json", "~/ip/image_encoder"),
                          ("redux/image_embedder/w.safetensors", "~/redux")):  # fmt: skip
        (tmp_path / changed).write_text("other")
        after = files()
        assert [one for one in after if after[one] != before[one]] == [name]
        before = after
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError, match="other: there is no such file"):  # such as / in a stranger's picture
        png.checksum(str(tmp_path / "other"))


# ---- as diffusers does it


@functools.cache
def fixture(base=""):
    arrays = load_file(made_pipelines.FIXTURES / f"controlled{base and '_'}{base}.safetensors")
    return json.loads(gzip.decompress(arrays.pop("about").tobytes())), arrays


def net(name, place, base=""):
    """The folder of a ControlNet of a fixture."""
    about, arrays = fixture(base)
    of = lambda entry: about[entry][name] if base else about[entry]
    place.mkdir(parents=True)
    (place / "config.json").write_text(json.dumps(of("config")))
    tensors = {key: made(f"{name}.{key}", tuple(shape)) for key, shape in of("shapes").items()}
    if "pos_embed.pos_embed" in tensors:
        tensors["pos_embed.pos_embed"] = arrays["table"]
    save_file(tensors, place / "diffusion_pytorch_model.safetensors")
    return place


def picture(name, side=16):
    return np.clip(drawn(f"picture {name}", side, side, 3) * 40 + 128, 0, 255).round().astype(np.uint8)


@functools.cache
def controlled(base=""):
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        names = fixture(base)[0]["config"] if base else ("edges", "depth")
        nets = {name: net(name, place / name, base) for name in names}
        return text_to_image.load(
            made_pipelines.folder(base or "sd", place / "model", fixture(base)[0].get("base")), attachments=nets
        )


@pytest.mark.extended
def test_a_folder_of_controlled_pictures_opens_with_its_control_nets(tmp_path):
    """Two ControlNets as MultiControlNetModel saves them; one that the caller names so replaces the folder's."""
    entry = {"_class_name": "StableDiffusionControlNetPipeline", "controlnet": ["diffusers", "MultiControlNetModel"]}
    index = json.loads(made_pipelines.fixture("sd")[0]["files"]["model_index.json"]) | entry
    folder = made_pipelines.folder("sd", tmp_path / "model", {"files": {"model_index.json": json.dumps(index)}})
    nets = {"controlnet": net("edges", folder / "controlnet"), "controlnet_1": net("depth", folder / "controlnet_1")}
    model = text_to_image.load(folder)
    for name, place in nets.items():
        jax.tree.map(np.testing.assert_array_equal, model.attachments[name].params, interchange.load(place)[1])
    other = text_to_image.load(folder, attachments={"controlnet": nets["controlnet_1"], "more": nets["controlnet"]})
    assert list(other.attachments) == ["controlnet", "controlnet_1", "more"]
    same = [other.attachments[name].params for name in ("controlnet", "controlnet_1")]
    jax.tree.map(np.testing.assert_array_equal, *same)
    (folder / "model_index.json").write_text(json.dumps(index | {"controlnet": [None, None]}))
    with pytest.raises(interchange.Refusal, match="has no controlnet, which this pipeline needs"):
        text_to_image.load(folder)


# DDIM's ten steps are at 901, 801 .. 1 there, t = 0.902 .. 0.002 here; the fourth to the seventh are those within 0.25
# .. 0.75 of the steps.
TIMES = {"one, weak, in the middle": (0.29, 0.61)}


def latents(model, controls, steps):
    """Where DDIM's steps from the made latents end, of the peers' prompts with their guidance."""
    prompts = ["a cat", "the red car on a hill"]
    with pytest.warns(UserWarning, match="too long|tokens"):
        both = text_to_image.conditions(model, prompts, "bad", 7.5, 16, 16)
    ready = [
        Attached(one.attachment, one.attachment.encode(one.attachment.params, jnp.asarray(one.picture)),
                 jnp.float32(one.control.weight), jnp.asarray(one.control.times))
        for one in canvas.opened_controls(controls, model.attachments, (16, 16))
    ]  # fmt: skip
    trajectory = schedulers.trajectory(model.process, "ddim", steps)

    def sampled(params, attached, x, conditional, unconditional):
        denoise = text_to_image.denoise(model, params, conditional, unconditional, 7.5, attached)
        keys = jax.random.split(jax.random.key(0), 2)
        return samplers.sample(trajectory.sampler, denoise, model.process.schedule, x, trajectory.plan, keys)

    x = trajectory.start * jnp.asarray(drawn("latents", 2, 8, 8, 4))
    return jax.jit(sampled)(model.params["unet"], tuple(ready), x, *both)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one", "one, weak, in the middle", "two"])
def test_ten_controlled_steps_end_where_diffusers_pipeline_does(name):
    about, arrays = fixture()
    used, weights, _ = about["cases"][name]
    controls = [Control(one, picture(one), weight, TIMES.get(name, (0.0, 1.0))) for one, weight in zip(used, weights)]
    ours = latents(controlled(), controls, about["steps"])
    theirs = arrays[f"latents/{name}"]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


PAINTED = np.zeros((16, 16), bool)  # as in tests/peers/controlled_transformers.py
PAINTED[3:11, 5:14] = True
BASES = {
    "mmdit": ("one", "one, pooled, in the middle", "one, of pictures", "two", "one, to inpaint"),
    "flux": ("one", "union, of two kinds", "union, of two kinds, in numbers", "one, of pixels"),
    "xl": ("one of a union", "two of a union, in the middle"),
}


@pytest.mark.slow
@pytest.mark.parametrize("base, name", [(base, name) for base, names in BASES.items() for name in names])
def test_five_controlled_steps_end_where_diffusers_pipeline_does(base, name):
    """A control acts in the steps i of N that lie within a part of them, start <= i / N and (i + 1) / N <= end.

    Of several pictures of one union FluxControlNetPipeline takes the first alone where that part is stated in numbers,
    its default: it makes a list of one start and one end, as many as networks, and `zip` with it cuts the other scales.
    """
    about, arrays = fixture(base)
    model = controlled(base)
    case, steps = about["cases"][name], about["steps"]
    trajectory = schedulers.trajectory(model.process, "euler", steps, tokens=16)
    start, end = case["between"]
    within = [float(t) for i, t in enumerate(trajectory.plan.t) if start <= i / steps and (i + 1) / steps <= end]
    times = (min(within) - 1e-4, max(within) + 1e-4)
    prompts = ["a cat", "the red car on a hill"]
    with pytest.warns(UserWarning, match="too long|tokens"):
        conditional, unconditional = text_to_image.conditions(model, prompts, "bad", 7.5, 16, 16)
    other = None if model.distilled else unconditional
    ready = []
    modes = case["modes"] or [None] * len(case["nets"])
    used_nets = case["nets"][:1] if case.get("in_numbers") else case["nets"]
    for used, scale, mode, shown in zip(used_nets, case["scales"], modes, ("edges", "depth")):
        side = case.get("side", 16)
        mask = PAINTED if case.get("inpaints") else None
        control = Control(used, picture(shown, side), scale, mode=mode, mask=mask)
        ((attachment, read, _, _),) = canvas.opened_controls([control], model.attachments, (side, side))
        seen = programs.control_inputs(
            model, types.SimpleNamespace(tile=0), model.params["vae"], attachment, jnp.asarray(read)
        )
        seen = seen if mode is None else tuple((branch, jnp.full(1, mode)) for branch in seen)
        ready.append(Attached(attachment, seen, jnp.float32(scale), jnp.asarray(times)))

    def sampled(params, attached, x, conditional, other):
        denoise = text_to_image.denoise(model, params, conditional, other, 7.5, attached)
        keys = jax.random.split(jax.random.key(0), 2)
        return samplers.sample(trajectory.sampler, denoise, model.process.schedule, x, trajectory.plan, keys)

    x = trajectory.start * jnp.asarray(drawn("latents", 2, 8, 8, 4))
    ours = jax.jit(sampled)(model.params[model.kind.denoiser.folder], tuple(ready), x, conditional, other)
    theirs = arrays[f"latents/{name}"]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.slow
def test_generate_follows_two_kinds_of_a_union_and_refuses_a_kind_that_it_does_not_know():
    model = controlled("flux")
    same = {"steps": 2, "seeds": [1], "height": 16, "width": 16}
    draw = lambda *controls: text_to_image.generate(model, "a cat", controls=controls, **same)
    union = lambda mode: Control("union", picture("edges"), 0.9, mode=mode)
    assert (draw(union(0)) != draw(union(2))).any()
    for mode, valid in ((None, "0 to 2"), (3, "0 to 2")):
        with pytest.raises(ValueError, match=f"'union' has mode = {mode}. Valid: {valid}"):
            draw(union(mode))
    with pytest.raises(ValueError, match=r"'edges' has mode = 1\. Valid: None"):
        draw(Control("edges", picture("edges"), mode=1))


@pytest.mark.slow
@pytest.mark.parametrize("base, width, leaf", [
    ("mmdit", {"text_width": 64}, "text_embedding/kernel has the shape"),
    ("flux", {"pooled_width": 32}, "conditioning/pooled/hidden/kernel has the shape"),
])  # fmt: skip
def test_a_transformers_control_net_of_another_base_is_refused_by_its_first_leaf(base, width, leaf, tmp_path):
    model = controlled(base)
    module, _ = interchange.load(net("edges", tmp_path / "edges", base))
    other = type(module).beside(model.denoiser.clone(**width))
    example = families.family_of(other).example(other)
    shapes = jax.eval_shape(other.init, jax.random.key(0), *example)["params"]
    with pytest.raises(ValueError, match=f"this ControlNet is for another base: {leaf}"):
        module.attachment(shapes, model.denoiser, model.params["transformer"])
    with pytest.raises(ValueError, match=r"the denoiser is a ConditionalUNet"):
        module.attachment(shapes, ConditionalUNet((8,), (1,), (2,), 8, groups=4), {})


@pytest.mark.slow
def test_generate_and_watch_follow_controls_and_a_weight_of_zero_changes_nothing(tmp_path):
    model = controlled()
    same = {"steps": 3, "guidance": 2.0, "sampler": "ddim", "seeds": [1, 2], "height": 16, "width": 16}
    free = text_to_image.generate(model, "a cat", **same)
    pictures.write(tmp_path / "edges.png", picture("edges"), {})
    path = str(tmp_path / "edges.png")
    follow = lambda *controls, **more: text_to_image.generate(model, "a cat", controls=controls, **{**same, **more})
    whole = follow(("edges", path))
    assert (whole != free).mean() > 0.1
    np.testing.assert_array_equal(follow(("edges", picture("edges"), 0.0)), free)
    np.testing.assert_array_equal(follow(("edges", path), batch_size=2)[0], follow(("edges", path), batch_size=2)[0])
    assert (follow(("edges", path), ("depth", picture("depth"), 0.5)) != whole).mean() > 0.1
    *_, last = text_to_image.watch(model, "a cat", controls=[("edges", path)], **same)
    assert np.abs(last.pictures.astype(int) - whole).max() <= 1


@pytest.mark.slow
def test_a_control_net_of_another_base_is_refused_by_its_first_leaf(tmp_path):
    model = controlled()
    module, _ = interchange.load(net("edges", tmp_path / "edges"))
    wider = ControlNet(module.unet.clone(text_width=40), module.hint_widths)
    shapes = jax.eval_shape(
        wider.init, jax.random.key(0), jnp.zeros((1, 8, 8, 4)), jnp.zeros(1), {"text": jnp.zeros((1, 3, 40))},
        jnp.zeros((1, 16, 16, 3)),
    )["params"]  # fmt: skip
    interchange.save(tmp_path / "wide", wider, jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes))
    words = r"wide: this ControlNet is for another base: down_1_.*cross_attention/key/kernel has the shape"
    with pytest.raises(interchange.Refusal, match=words):
        text_to_image.with_attachments(model, {"wide": tmp_path / "wide"})
    with pytest.raises(interchange.Refusal, match="unet holds a ConditionalUNet, which is not an attachment"):
        place = made_pipelines.folder("sd", tmp_path / "model")
        text_to_image.with_attachments(model, {"unet": place / "unet"})


def test_a_mask_of_an_inpainting_control_is_black_and_white():
    """As a picture's alpha has it: 255 where it is painted, 0 elsewhere."""
    mask = np.eye(4, dtype=bool)
    one = Attachment(jnp.float32(1.0), read=lambda picture, size: picture, entries=None, inpaints=True)
    (read,) = canvas.opened_controls(
        [Control("paint", np.zeros((4, 4, 3), np.uint8), mask=mask)], {"paint": one}, (4, 4)
    )
    np.testing.assert_array_equal(read.picture[0, ..., 3], np.where(mask, 255, 0))


def test_a_kind_of_control_is_one_that_the_attachment_knows():
    shown = np.zeros((4, 4, 3), np.uint8)
    for modes, valid, wrong in ((0, [None], [0, 1]), (1, [0], [None, 1]), (3, [0, 2], [None, 3])):
        one = Attachment(jnp.float32(1.0), read=lambda picture, size: picture, entries=None, modes=modes)
        for mode in valid:
            canvas.opened_controls([Control("edges", shown, mode=mode)], {"edges": one}, (4, 4))
        for mode in wrong:
            with pytest.raises(ValueError, match=f"mode = {mode}"):
                canvas.opened_controls([Control("edges", shown, mode=mode)], {"edges": one}, (4, 4))


def test_an_interval_is_closed_and_a_mask_is_the_strength_over_the_picture():
    """Two pictures at t = 0.25 and 0.75, the ends of the interval; then a mask of a half and one."""
    one = at(constant(1.0), 0.5, (0.25, 0.75))
    recording = lambda *inputs: {"residuals": (inputs[1],)}
    one = one._replace(attachment=Attachment(one.attachment.params, recording))
    weights = lambda one, t: np.asarray(
        condition_with((one,), {"seen": (jnp.zeros((2, 1)),)}, jnp.zeros((2, 1, 2, 1)), t, t, {})["residuals"][0]
    )
    for t, expected in (([0.25, 0.75], [0.5, 0.5]), ([0.2, 0.8], [0, 0]), ([0.5, 0.8], [0.5, 0])):
        np.testing.assert_array_equal(weights(one, jnp.array(t)), expected)
    masked = one._replace(mask=jnp.array([[[0.5, 1.0]]]))
    np.testing.assert_array_equal(weights(masked, jnp.array([0.5, 0.8])), [[[0.25, 0.5]], [[0, 0]]])


def test_a_mask_of_a_control_is_read_where_its_attachment_takes_one():
    shown, mask = np.zeros((4, 4, 3), np.uint8), np.eye(4, dtype=bool)
    opened = lambda **how: canvas.opened_controls(
        [Control("edges", shown, mask=mask)],
        {"edges": Attachment(jnp.float32(1.0), read=lambda picture, size: picture, entries=None, **how)}, (4, 4),
    )  # fmt: skip
    (control,) = opened(masked=True)
    assert control.mask.shape == (1, 4, 4) and control.mask.dtype == np.float32
    np.testing.assert_array_equal(control.mask[0], np.eye(4))
    with pytest.raises(ValueError, match="the mask of the control 'edges' would have no effect"):
        opened(masked=False)
