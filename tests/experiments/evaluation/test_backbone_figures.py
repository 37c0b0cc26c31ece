"""Figures and pictures of backbones: ideal chains, chains that are off by a known length, and what is beside what."""

import functools
import types

import numpy as np
import pytest

from diffusion.data.proteins import backbone, pdb
from diffusion.experiments.evaluation import backbone_figures
from diffusion.metrics import bootstrap
from diffusion.objectives import Moves
from diffusion.recipe import ConfigError
from tests.experiments.evaluation import charts

RESIDUES = 12
HELIX, STRAND = (-57.8, -47.0, 180.0), (-139.0, 135.0, -178.0)  # phi, psi, omega in degrees


@functools.cache
def chain(kind=HELIX):
    """Frames `[RESIDUES, 3, 4]` of an ideal chain."""
    atoms = backbone.from_torsions(np.radians([kind] * RESIDUES).astype(np.float32))
    return np.asarray(backbone.frames_of(np.asarray(atoms) - np.asarray(atoms)[:, 1].mean(0)))


def moved(frames, residue, by):
    """A chain of which all residues from one on are moved, in units of ten Angstrom."""
    frames = np.array(frames)
    frames[residue:, :, 3] += by
    return frames


def ca(frames):
    return np.asarray(backbone.atoms_of(frames))[..., 1, :]


@pytest.mark.extended
def test_ideal_chains_have_no_errors_and_their_own_structure():
    frames = np.stack([chain(HELIX), chain(STRAND)])
    found = backbone_figures.figures(frames, ca(frames)[::-1])
    for name, most in (("c_n_error", 2e-3), ("ca_ca_error", 0.05), ("ca_c_n_error", 0.3), ("c_n_ca_error", 0.3)):
        assert found[name].shape == (2,) and found[name].max() < most, name
    assert found["helix"][0] > 0.6 and found["helix"][1] == 0 and found["strand"][0] == 0 and found["strand"][1] > 0.6
    assert (found["ramachandran"] > 0.8).all() and (found["clashes"] == 0).all() and found["sound_chains"].all()
    assert found["nearest_rows"].tolist() == [1, 0]
    np.testing.assert_allclose(found["nearest_rmsd"], 0, atol=1e-2)
    spread = lambda x: np.sqrt(((x - x.mean(0)) ** 2).sum(-1).mean())
    np.testing.assert_allclose(found["radius_of_gyration"], [spread(x) for x in ca(frames)], rtol=1e-4)


@pytest.mark.extended
def test_a_gap_counts_in_the_bonds_and_breaks_the_chain():
    """A residue moved by 3 Angstrom along the bond: |C-N - 1.329| is 3 in one of eleven bonds."""
    atoms = np.asarray(backbone.atoms_of(chain(STRAND)))
    bond = atoms[6, 0] - atoms[5, 2]
    frames = moved(chain(STRAND), 6, 0.3 * bond / np.linalg.norm(bond))[None]
    found = backbone_figures.figures(frames, ca(frames))
    assert found["c_n_error"][0] == pytest.approx(3 / (RESIDUES - 1), abs=5e-3)
    assert found["ca_ca_error"][0] > 0.1 and not found["sound_chains"][0] and found["clashes"][0] == 0


@pytest.mark.extended
def test_a_clash_breaks_a_chain_too():
    frames = np.array(chain(STRAND))
    frames[8, :, 3] = (
        frames[2, :, 3] + 0.1
    )  # 1.7 Angstrom, for lengths are in units of ten, from a residue that is no neighbour
    found = backbone_figures.figures(frames[None], ca(frames[None]))
    assert found["clashes"][0] >= 1 and not found["sound_chains"][0]


@pytest.mark.extended
def test_angles_are_off_by_their_difference_in_degrees():
    between = {"C-N": np.full((1, 4), 1.5), "CA-CA": np.full((1, 4), 3.0), "CA-C-N": np.full((1, 4), 100.0),
               "C-N-CA": np.full((1, 4), 130.0)}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone_figures.backbone_geometry, "between_residues", lambda atoms: between)
        found = backbone_figures.figures(chain()[None], ca(chain()[None]))
    expected = {"c_n_error": 0.171, "ca_ca_error": 0.8, "ca_c_n_error": 16.2, "c_n_ca_error": 8.3}
    for name, value in expected.items():
        assert found[name][0] == pytest.approx(value, abs=0.06), name


def test_shares_are_of_residues_and_structure_is_of_the_second_atoms(monkeypatch):
    """Of four residues two are in a box of torsions, two in a helix and one in a strand."""
    seen = []
    geometry = backbone_figures.backbone_geometry
    kinds = np.array([[geometry.HELIX, geometry.HELIX, geometry.STRAND, 0]])
    monkeypatch.setattr(geometry, "ramachandran", lambda torsions: np.array([[0, 1, 2, 0]]))
    monkeypatch.setattr(geometry, "secondary_structure", lambda ca: seen.append(ca) or kinds)
    frames = chain()[None]
    found = backbone_figures.figures(frames, ca(frames))
    assert {name: found[name].tolist() for name in ("ramachandran", "helix", "strand")} == {
        "ramachandran": [0.5], "helix": [0.5], "strand": [0.25]
    }  # fmt: skip
    np.testing.assert_allclose(seen[0], ca(frames), atol=1e-6)


class Prior:
    def sample(self, keys):
        return np.stack([moved(chain(), 6, 50.0)] * len(keys))


@pytest.fixture
def subject(monkeypatch):
    source = types.SimpleNamespace(backbones=True)
    monkeypatch.setattr(backbone_figures, "held_out_source", lambda subject: source)
    reads = Moves(field=None, prior=Prior(), manifold=None)
    recipe = types.SimpleNamespace(objective=types.SimpleNamespace(reads=reads))
    monkeypatch.setattr(backbone_figures, "recipe_of_run", lambda subject: recipe)
    half = lambda kinds, labels: types.SimpleNamespace(
        images=np.stack([chain(k) for k in kinds]),
        labels=np.array(labels),
        spec=types.SimpleNamespace(classes=("coil", "strand", "sheet")),
    )
    return types.SimpleNamespace(
        config={"evaluate": {"split": "test"}, "data": {"source": {"name": "folds"}}, "model": {"num_classes": 3}},
        built=None,
        images=np.stack([chain(HELIX), chain(HELIX), chain(STRAND)]),
        labels=np.array([0, 1, 1]),
        train=half((STRAND, HELIX), [1, 0]),
        real=half((STRAND, HELIX, STRAND, STRAND), [1, 0, 0, 1]),
    ), source


@pytest.mark.extended
def test_samples_stand_beside_real_chains_and_noise(subject):
    run, _ = subject
    found = backbone_figures.geometry(run)
    value = {name: figure["value"] for name, figure in found.items()}
    assert value["nearest_of_its_fold"] == pytest.approx(2 / 3)  # the second is near a helix, and asked for a strand
    assert value["nearest_of_its_fold_of_real"] == pytest.approx(2 / 3)  # of three held-out chains, one wrong
    assert "nearest_of_its_fold_of_noise" not in value and "nearest_rows" not in value
    assert (value["sound_chains"], value["sound_chains_of_real"], value["sound_chains_of_noise"]) == (1, 1, 0)
    by_class = {name: found.pop(f"sound_chains_{name}") for name in ("coil", "strand")}
    assert {figure["samples"] for figure in found.values()} == {3}  # none of the class sheet, which has no sample
    assert [figure["samples"] for figure in by_class.values()] == [1, 2]
    for figure in (found["sound_chains"], found["sound_chains_of_real"]):  # 3 of 3: Wilson's interval
        assert figure["standard_error"] is None and figure["interval"] == pytest.approx((3 / (3 + 1.959964**2), 1))
    helices = backbone_figures.figures(run.images, ca(run.train.images))["helix"]
    assert found["helix"] == bootstrap.mean(helices)
    assert value["helix_of_real"] == pytest.approx(helices[0] / 3, abs=1e-6)
    assert value["ca_ca_error_of_noise"] > 5
    assert set(found) <= {f"{name}{of}" for name in backbone_figures.HOW for of in ("", "_of_real", "_of_noise")}


@pytest.mark.extended
def test_samples_of_a_model_without_classes_are_of_no_fold(subject):
    """Their labels are zeros, which are no helices."""
    run, _ = subject
    run.config["model"]["num_classes"] = 0
    found = backbone_figures.geometry(run)
    assert "nearest_of_its_fold" not in found and not {"sound_chains_coil", "sound_chains_strand"} & found.keys()
    assert found["nearest_of_its_fold_of_real"]["value"] == pytest.approx(2 / 3)


@pytest.mark.extended
def test_sound_chains_are_counted_by_class(subject):
    """The second of two strands has a break."""
    run, _ = subject
    run.images[2] = moved(chain(STRAND), 6, 50.0)
    value = {name: figure["value"] for name, figure in backbone_figures.geometry(run).items()}
    assert value["sound_chains"] == pytest.approx(2 / 3)
    assert (value["sound_chains_coil"], value["sound_chains_strand"]) == (1, 0.5)


def test_the_fold_of_a_nearest_chain_is_compared_with_the_class_of_the_same_chain(subject, monkeypatch):
    """Samples of the classes 0, 1, 1 are nearest to training chains of 1, 1, 0; held-out chains to their own.

    The first three held-out chains in another order, of the classes 0, 1, 0, are measured.
    """
    run, _ = subject
    monkeypatch.setattr(backbone_figures, "drawn_rows", lambda number, most: np.array([2, 0, 1]))
    monkeypatch.setattr(backbone_figures.backbone, "atoms_of", lambda frames: np.zeros((len(frames), 1, 3)) + [0, 1, 2])
    rows, numbers = iter(([0, 0, 1], [1, 0, 1], [0, 0, 0])), []
    moves = iter((run.images, run.real.images[[2, 0, 1]]))

    def figures(frames, train):
        if len(numbers) < 2:
            np.testing.assert_array_equal(frames, next(moves))
        numbers.append(len(frames))
        assert train.tolist() == [[1], [1]]  # the second atom of each residue, CA
        return {"sound_chains": np.ones(len(frames)), "nearest_rows": np.array(next(rows))}

    monkeypatch.setattr(backbone_figures, "figures", figures)
    value = {name: figure["value"] for name, figure in backbone_figures.geometry(run).items()}
    assert value["nearest_of_its_fold"] == pytest.approx(1 / 3) and value["nearest_of_its_fold_of_real"] == 1
    assert "nearest_of_its_fold_of_noise" not in value
    assert numbers == [3, 3, 3]  # the held-out chains are as many as the samples


@pytest.mark.extended
def test_the_nearest_chain_is_sought_for_the_first_ones(subject, monkeypatch):
    monkeypatch.setattr(backbone_figures, "NEAREST", 2)
    found = backbone_figures.geometry(subject[0])
    assert found["nearest_rmsd"]["samples"] == found["nearest_of_its_fold"]["samples"] == 2
    assert found["helix"]["samples"] == 3


def test_a_run_on_other_data_is_refused(subject):
    run, source = subject
    for backbones in (False, None):
        source.backbones = backbones
        with pytest.raises(ConfigError, match="--metrics=backbone is for runs on backbone frames,"):
            backbone_figures.geometry(run)
    assert not backbone_figures.are_backbones(types.SimpleNamespace())


@pytest.mark.extended
def test_each_chain_is_a_file_by_its_class(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(backbone_figures, "draw", lambda ca, labels, names, path: drawn.append((ca, path)))
    frames = np.stack([chain(HELIX), chain(STRAND)])
    paths = backbone_figures.write(frames, np.array([1, 0]), ("strand", "helix"), tmp_path)
    assert paths == [tmp_path / "pdb", tmp_path / "samples.png"]
    assert sorted(path.name for path in (tmp_path / "pdb").iterdir()) == ["00000_helix.pdb", "00001_strand.pdb"]
    kept = pdb.load(tmp_path / "pdb" / "00001_strand.pdb")
    np.testing.assert_allclose(kept[:, 1], ca(frames)[1], atol=2e-3)
    ((shown, path),) = drawn
    np.testing.assert_allclose(shown, ca(frames), atol=1e-5)
    assert path == tmp_path / "samples.png"
    backbone_figures.write(frames, np.array([1, 0]), (), tmp_path)
    assert (tmp_path / "pdb" / "00000_class_1.pdb").is_file()


def test_a_chain_that_is_not_finite_has_no_file(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(backbone_figures, "draw", lambda ca, labels, names, path: shown.append((ca, labels.tolist())))
    monkeypatch.setattr(backbone_figures.backbone, "atoms_of", lambda frames: frames)
    monkeypatch.setattr(backbone_figures.backbone, "with_oxygen", lambda atoms: atoms)
    atoms = np.arange(4)[:, None, None, None] + np.zeros((4, 2, 4, 3))
    atoms[1, 1, 2, 0] = np.nan
    atoms[2, 0, 0, 0] = -np.inf
    with pytest.warns(UserWarning, match="2 of the 4 chains are not finite: they have no PDB file and are not in the"):
        backbone_figures.write(atoms, np.array([1, 0, 1, 0]), ("a/b", "c"), tmp_path)
    assert sorted(path.name for path in (tmp_path / "pdb").iterdir()) == ["00000_c.pdb", "00003_a%2Fb.pdb"]
    ((ca, labels),) = shown
    assert ca[:, 0, 0].tolist() == [0, 3] and labels == [1, 0]
    with pytest.raises(ValueError, match="none of the 2 chains is finite"):
        backbone_figures.write(atoms[1:3], np.array([0, 1]), (), tmp_path)


# ==== The picture ====


@pytest.fixture
def drawn(monkeypatch):
    return charts.kept(monkeypatch, backbone_figures)


def test_a_column_a_class_and_a_row_a_chain(drawn):
    points = np.random.default_rng(0).normal(size=(9, 5, 3)) * [3.0, 2, 1]
    labels = np.array([0, 2, 2, 2, 2, 2, 0, 2, 1])
    backbone_figures.draw(points, labels, ("left_one", "middle", "right"), "unused.png")
    axes = drawn[0].axes
    assert [each.get_title() for each in axes if each.get_title()] == ["left one", "middle", "right"]
    assert len(axes) == 2 + 1 + 4  # four rows at most
    assert drawn[0].get_size_inches().tolist() == pytest.approx([6.0, 2.6 * 4])
    shapes = {(each.get_subplotspec().rowspan.start, each.get_subplotspec().colspan.start) for each in axes}
    assert shapes == {(0, 0), (1, 0), (0, 1), (0, 2), (1, 2), (2, 2), (3, 2)}
    for each in axes:
        assert len(each.get_lines()) == 4  # bonds between five residues
        (low, high), (left, right) = each.get_zlim(), each.get_xlim()
        assert high - low == pytest.approx(right - left)  # one scale
        heights = np.concatenate([line.get_data_3d()[2] for line in each.get_lines()])
        assert high == pytest.approx(-low) and high == pytest.approx(0.62 * np.abs(heights).max())
        assert (each.elev, each.azim) == (0, -90)  # x to the right, z up
        first, last = each.get_lines()[0].get_color(), each.get_lines()[-1].get_color()
        assert first[2] > first[0] and last[0] > last[2]  # from blue to red


@pytest.mark.extended
def test_chains_of_one_class_fill_six_columns(drawn):
    points = np.random.default_rng(0).normal(size=(8, 5, 3))
    backbone_figures.draw(points, np.zeros(8, int), (), "unused.png")
    spans = [each.get_subplotspec() for each in drawn[0].axes]
    assert len(spans) == 8 and {span.get_gridspec().get_geometry() for span in spans} == {(2, 6)}
    assert not any(each.get_title() for each in drawn[0].axes)
    backbone_figures.draw(np.tile(points, (2, 1, 1)), np.arange(16) % 8, (), "unused.png")
    titles = [each.get_title() for each in drawn[1].axes if each.get_title()]
    assert titles == [f"class {label}" for label in range(6)]


def test_a_chain_stands_upright_and_keeps_its_hand():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50, 3)) * [1.0, 9, 3] + 5
    turned = backbone_figures._upright(points)
    std = turned.std(0)
    assert std[2] > std[0] > std[1]  # along z, then x
    np.testing.assert_allclose(turned.mean(0), 0, atol=1e-12)
    rotation = np.linalg.lstsq(points - points.mean(0), turned, rcond=None)[0]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_two_classes_have_a_column_each(drawn):
    points = np.random.default_rng(0).normal(size=(3, 5, 3))
    backbone_figures.draw(points, np.array([0, 1, 1]), ("one", "two"), "unused.png")
    assert {axes.get_subplotspec().get_gridspec().get_geometry() for axes in drawn[0].axes} == {(2, 2)}
