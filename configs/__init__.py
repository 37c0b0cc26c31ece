"""Recipes: each file defines `get_config(arg="")`; `arg` names a preset that shrinks or changes the recipe."""
