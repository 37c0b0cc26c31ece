import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffusion.training.checkpointing import checkpoints
from diffusion.training.checkpointing.checkpoint_writer import Checkpoints
from diffusion.training.warm_start import read, warm_start
from tests.training import toys


@pytest.fixture(scope="module")
def source_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("source")
    state = toys.make_state(seed=5)
    state = state._replace(ema=jax.tree.map(lambda x: x + 1.0, state.ema))
    saver = Checkpoints(workdir)
    saver.save(state)
    saver.close()
    return workdir, jax.tree.map(np.asarray, state.ema)


def test_takes_the_average_of_another_run(source_run, tmp_path):
    workdir, expected = source_run
    (tmp_path / "2024").symlink_to(workdir)  # a run whose name is a number, as a checkpoint's is
    for path in (workdir, workdir / "checkpoints" / "0", tmp_path / "2024"):
        params, taken, skipped = warm_start(toys.make_state().params, read(path))
        assert toys.equal(params, expected)
        assert sorted(taken) == ["hidden/bias", "hidden/kernel", "out/kernel"] and skipped == []


def test_a_folder_of_a_checkpoint_is_that_step_and_a_run_its_latest(tmp_path, monkeypatch):
    read_steps = []
    load = lambda folder, step=None: ({"w": np.zeros(1)}, read_steps.append((folder.name, step)))
    monkeypatch.setattr(checkpoints, "load_ema", load)
    for path in ("run/checkpoints/20", "run", "20"):
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        assert [*read(tmp_path / path)] == ["w"]
    assert read_steps == [("run", 20), ("run", None), ("20", None)]


def test_names_each_leaf_that_is_skipped_and_why(source_run):
    _, average = source_run
    ours = {**toys.make_state().params, "out": {"kernel": jnp.zeros((9, 2))}, "new": jnp.ones(3)}
    source = {
        "hidden/kernel": average["hidden"]["kernel"],
        "hidden/bias": average["hidden"]["bias"],
        "out/kernel": average["out"]["kernel"],
        "old": np.zeros(1),
    }
    params, taken, skipped = warm_start(ours, source, pattern="kernel|new")
    assert taken == ["hidden/kernel"]
    np.testing.assert_array_equal(params["hidden"]["kernel"], average["hidden"]["kernel"])
    np.testing.assert_array_equal(params["hidden"]["bias"], ours["hidden"]["bias"])
    reasons = dict(line.split(": ", 1) for line in skipped)
    assert reasons.keys() == {"hidden/bias", "out/kernel", "new", "old"}
    assert "pattern" in reasons["hidden/bias"]
    assert reasons["out/kernel"] == "(8, 2) in the source, (9, 2) here"
    assert reasons["new"] == "not in the source" and reasons["old"] == "only in the source"


def test_names_without_their_collection_are_completed_if_none_has_it():
    """A file of bare parameters fits networks that keep them in "params"; one that names some is taken as it is."""
    ours = {"params": {"w": jnp.zeros(1), "b": jnp.zeros(1)}}
    params, taken, _ = warm_start(ours, {"w": np.ones(1), "b": np.ones(1)})
    assert sorted(taken) == ["params/b", "params/w"] and float(params["params"]["w"][0]) == 1
    _, taken, skipped = warm_start(ours, {"params/w": np.ones(1), "b": np.ones(1)})
    assert taken == ["params/w"] and skipped == ["params/b: not in the source", "b: only in the source"]
    _, taken, _ = warm_start(ours | {"heads": {"w": jnp.zeros(1)}}, {"w": np.ones(1)})
    assert taken == ["params/w"]  # a run's heads stand beside the collection


def test_parameters_keep_their_type():
    params, _, _ = warm_start({"w": jnp.zeros(2, jnp.bfloat16)}, {"w": np.ones(2, np.float32)})
    assert params["w"].dtype == jnp.bfloat16 and float(params["w"][1]) == 1


def test_reads_a_safetensors_file(tmp_path):
    save_file({"out.kernel": np.full((8, 2), 7.0, np.float32)}, tmp_path / "p.safetensors")
    params, taken, _ = warm_start(toys.make_state().params, read(tmp_path / "p.safetensors"))
    assert taken == ["out/kernel"]
    np.testing.assert_array_equal(params["out"]["kernel"], 7.0)


def test_the_names_of_another_library_are_shown_with_the_way_to_ours():
    with pytest.raises(ValueError, match=r"no leaf.* The first names of the source: .*\bproj/weight\..*--layout=ours"):
        warm_start(toys.make_state().params, {"proj/weight": np.zeros((8, 2))})


def test_nothing_taken_is_an_error():
    with pytest.raises(ValueError, match=r"no leaf.*pattern 'nothing'"):
        warm_start(toys.make_state().params, {"out/kernel": np.zeros((8, 2))}, "nothing")
    with pytest.raises(ValueError, match="regular expression"):
        warm_start({}, {}, "(")


def test_paths_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read(tmp_path / "nowhere")
    (tmp_path / "weights.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="safetensors"):
        read(tmp_path / "weights.pt")


def test_names_without_their_collection_are_those_of_parameters_alone():
    """`diffusion convert` writes "out/kernel" for "params/out/kernel"; names of several collections are as they are."""
    ones = {"out": {"kernel": jnp.ones(2)}}
    zeros = jax.tree.map(jnp.zeros_like, ones)
    _, taken, _ = warm_start({"params": zeros}, {"out/kernel": np.ones(2)})
    assert taken == ["params/out/kernel"]
    params, taken, _ = warm_start({"params": zeros, "adapter": zeros}, {"adapter/out/kernel": np.ones(2)})
    assert taken == ["adapter/out/kernel"]
    assert toys.equal(params, {"params": zeros, "adapter": ones})
