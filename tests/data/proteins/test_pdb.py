"""PDB files: columns against the published table, what comes back, and what is refused."""

import numpy as np
import pytest

from diffusion.data.proteins import pdb

ATOMS = np.random.default_rng(0).uniform(-999, 9999, (3, 4, 3)).round(3)
# wwPDB format 3.3, ATOM: first and last column (from 1), the content of the first CA of the second residue
COLUMNS = {
    (1, 6): "ATOM  ",
    (7, 11): "    6",
    (13, 16): " CA ",
    (17, 17): " ",
    (18, 20): "GLY",
    (22, 22): "A",
    (23, 26): "   2",
    (27, 27): " ",
    (31, 38): f"{ATOMS[1, 1, 0]:8.3f}",
    (39, 46): f"{ATOMS[1, 1, 1]:8.3f}",
    (47, 54): f"{ATOMS[1, 1, 2]:8.3f}",
    (55, 60): "  1.00",
    (61, 66): "  0.00",
    (77, 78): " C",
    (79, 80): "  ",
}
NUMBERS = ("   1 ", "   1A", "   2 ")  # columns 23 to 27


def test_columns_are_those_of_the_format(tmp_path):
    pdb.save(tmp_path / "a.pdb", ATOMS)
    lines = (tmp_path / "a.pdb").read_text().splitlines()
    assert {len(line) for line in lines} == {80}
    assert [line[:6] for line in lines] == ["ATOM  "] * 12 + ["TER   ", "END   "]
    for (first, last), content in COLUMNS.items():
        assert lines[5][first - 1 : last] == content
    assert [line[12:16] for line in lines[:4]] == [" N  ", " CA ", " C  ", " O  "]
    assert (lines[12][6:11], lines[12][17:26]) == ("   13", "GLY A   3")  # the end of the chain names its last residue


def test_a_chain_comes_back(tmp_path):
    pdb.save(tmp_path / "a.pdb", ATOMS)
    np.testing.assert_array_equal(pdb.load(tmp_path / "a.pdb"), ATOMS)


def test_side_chains_second_chains_and_models_are_left_out(tmp_path):
    pdb.save(tmp_path / "a.pdb", ATOMS)
    text = (tmp_path / "a.pdb").read_text()
    first = text.splitlines()[1]
    side = first.replace(" CA ", " CB ")
    other = first[:16] + "B" + first[17:30] + "   0.000" * 3 + first[54:]
    chain_b = text.replace(" A ", " B ").replace("END", "   ")
    (tmp_path / "b.pdb").write_text("\n".join([side, *text.splitlines()[:12], other, chain_b]))
    np.testing.assert_array_equal(pdb.load(tmp_path / "b.pdb"), ATOMS)


def test_modified_residues_belong_to_the_chain_and_water_does_not(tmp_path):
    """Selenomethionine, often the first residue, has HETATM records; it was left out without a word."""
    pdb.save(tmp_path / "a.pdb", ATOMS)
    lines = (tmp_path / "a.pdb").read_text().splitlines()
    modified = [line.replace("ATOM  ", "HETATM").replace("GLY", "MSE") for line in lines[:4]]
    water = lines[3].replace("ATOM  ", "HETATM").replace("GLY", "HOH").replace("A   1", "A   7")
    calcium = lines[1].replace("ATOM  ", "HETATM").replace("GLY", " CA").replace("A   1", "A   8")
    sugar = calcium.replace(" A ", " B ")
    for end in ([lines[12], water, calcium], [water, calcium]):
        (tmp_path / "b.pdb").write_text("\n".join([*modified, sugar, *lines[4:12], *end]))
        np.testing.assert_array_equal(pdb.load(tmp_path / "b.pdb"), ATOMS)
    (tmp_path / "b.pdb").write_text("\n".join([*lines[:8], *(line[:22] + "   3" + line[26:] for line in modified)]))
    np.testing.assert_array_equal(pdb.load(tmp_path / "b.pdb"), ATOMS[[0, 1, 0]])


def test_a_later_model_is_left_out_also_where_it_is_longer_and_no_line_ends_the_chain(tmp_path):
    pdb.save(tmp_path / "a.pdb", ATOMS)
    lines = (tmp_path / "a.pdb").read_text().splitlines()[:12]
    models = ["MODEL        1", *lines[:8], "ENDMDL", "MODEL        2", *lines, "ENDMDL"]
    (tmp_path / "b.pdb").write_text("\n".join(models))
    np.testing.assert_array_equal(pdb.load(tmp_path / "b.pdb"), ATOMS[:2])


def test_residues_of_one_number_keep_the_order_of_the_file(tmp_path):
    """1B before 1A, as some schemes of numbering count; column 28 belongs to no field."""
    pdb.save(tmp_path / "a.pdb", ATOMS)
    lines = (tmp_path / "a.pdb").read_text().splitlines()[:12]
    numbers = ("   1B", "   1A", "   2 ")
    numbered = [line[:22] + numbers[i // 4] + " x"[i % 2] + line[28:] for i, line in enumerate(lines)]
    (tmp_path / "b.pdb").write_text("\n".join(numbered))
    np.testing.assert_array_equal(pdb.load(tmp_path / "b.pdb"), ATOMS)


def test_the_largest_coordinate_is_the_one_that_is_written_as_the_largest(tmp_path):
    atoms = ATOMS.copy()
    atoms[2, 3, 1] = 9999.9994
    pdb.save(tmp_path / "a.pdb", atoms)
    np.testing.assert_array_equal(pdb.load(tmp_path / "a.pdb"), atoms.round(3))


def test_residues_of_one_number_are_told_apart_by_their_insertion_codes(tmp_path):
    """Residues 1, 1A and 2, as in antibodies; of CA of the second B and A, the first counts."""
    pdb.save(tmp_path / "a.pdb", ATOMS)
    lines = (tmp_path / "a.pdb").read_text().splitlines()[:12]
    numbered = [line[:22] + NUMBERS[i // 4] + line[27:] for i, line in enumerate(lines)]
    first = numbered[5][:16] + "B" + numbered[5][17:]
    later = numbered[5][:16] + "A" + numbered[5][17:30] + "   0.000" * 3 + numbered[5][54:]
    (tmp_path / "b.pdb").write_text("\n".join([*numbered[:5], first, later, *numbered[6:]]))
    np.testing.assert_array_equal(pdb.load(tmp_path / "b.pdb"), ATOMS)
    (tmp_path / "c.pdb").write_text("\n".join([*numbered[:7], *numbered[8:]]))
    with pytest.raises(ValueError, match="residue 1A of chain A lacks O;"):
        pdb.load(tmp_path / "c.pdb")


@pytest.mark.parametrize("residue", ["GLYC", "", "G Y", "GL\u00dc"])
def test_names_that_their_column_does_not_hold(residue, tmp_path):
    with pytest.raises(ValueError, match=r"residue = .*Valid: one to three"):
        pdb.save(tmp_path / "no.pdb", ATOMS, residue)


def test_what_the_columns_do_not_hold_is_refused(tmp_path):
    wide = ATOMS.copy()
    wide[2, 3, 1] = 9999.9996  # rounds to five digits before the point
    low = ATOMS.copy()
    low[0, 0, 0] = -1000
    none = ATOMS.copy()
    none[1, 2, 2] = np.nan
    for atoms, message in (
        (wide, "y of O in residue 3 is 10000"),
        (low, "x of N in residue 1 is -1000"),
        (none, "z of C in residue 2 is nan"),
        (np.zeros((10_000, 4, 3)), "most 9999 residues; the chain has 10000"),
        (ATOMS[:, :3], r"got \[3, 3, 3\]"),
    ):
        with pytest.raises(ValueError, match=message):
            pdb.save(tmp_path / "no.pdb", atoms)
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_chain_are_refused(tmp_path):
    pdb.save(tmp_path / "a.pdb", ATOMS)
    lines = (tmp_path / "a.pdb").read_text().splitlines()
    for name, kept, message in (
        ("gap", lines[:4] + lines[8:], "residue 2 of chain A lacks N, CA, C, O"),
        ("atom", lines[:6] + lines[7:], "residue 2 of chain A lacks C;"),
        ("number", [lines[0][:30] + "   x.000" + lines[0][38:]], "line 1: columns"),
        ("nan", [lines[0][:30] + "     nan" + lines[0][38:]], "line 1: columns 23-26 and 31-54 must be finite numbers"),
        ("short", [*lines[:3], lines[3][:16]], "line 4: columns"),
        ("digits", [*lines[:3], lines[3][:50]], "line 4: columns"),
        ("none", lines[12:], "no ATOM record"),
    ):
        path = tmp_path / f"{name}.pdb"
        path.write_text("\n".join(kept))
        with pytest.raises(ValueError, match=message):
            pdb.load(path)


def test_files_longer_than_forty_lines_of_a_residue_are_not_read(tmp_path):
    """Of 80 columns and an end each, for the 9,999 residues that the number of a residue can count."""
    most = 40 * (80 + 1) * 9999
    with open(tmp_path / "a.pdb", "wb") as file:
        file.truncate(most)
    with pytest.raises(ValueError, match="no ATOM record"):
        pdb.load(tmp_path / "a.pdb")
    with open(tmp_path / "a.pdb", "ab") as file:
        file.truncate(most + 1)
    with pytest.raises(ValueError, match=f"at most {most}, for a chain of 9999 residues"):
        pdb.load(tmp_path / "a.pdb")


def test_the_longest_chain_and_the_shortest_name_fill_their_columns(tmp_path):
    atoms = np.zeros((9999, 4, 3))
    atoms[:, :, 2] = np.arange(9999)[:, None]
    pdb.save(tmp_path / "a.pdb", atoms, "U")
    np.testing.assert_array_equal(pdb.load(tmp_path / "a.pdb"), atoms)
    with open(tmp_path / "a.pdb") as file:
        assert next(file)[16:27] == "   U A   1 "
