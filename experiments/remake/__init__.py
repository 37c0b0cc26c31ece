"""Reproductions of published figures: each remake is one file with its paper, values, recipe and verdict."""
