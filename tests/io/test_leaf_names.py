"""The names of a pytree's leaves, and the pytree of named leaves."""

from diffusion.io.leaf_names import leaf_name, leaves_of, nested


def test_leaves_are_nested_by_their_names_and_named_by_their_nests():
    tree = {"a": {"b": {"c": 1, "d": 2}, "e": 3}, "f": 4}
    names = {"a/b/c": 1, "a/b/d": 2, "a/e": 3, "f": 4}
    assert leaves_of(tree) == names
    assert nested(names) == tree
    assert nested({}) == {}


def test_a_name_has_the_places_in_lists():
    tree = {"params": {"blocks": [{"kernel": 1}, {"kernel": 2}]}}
    assert leaves_of(tree) == {"params/blocks/0/kernel": 1, "params/blocks/1/kernel": 2}
    assert leaf_name(()) == ""


def test_what_is_a_leaf_may_be_chosen():
    """The shape of an array is a tuple, whose numbers would be leaves."""
    tree = {"a": (2, 3), "b": {"c": ()}}
    assert leaves_of(tree) == {"a/0": 2, "a/1": 3}
    assert leaves_of(tree, lambda part: isinstance(part, tuple)) == {"a": (2, 3), "b/c": ()}
