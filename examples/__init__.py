"""Demos: small projects on this library, each a folder with its README. They are of a clone, and in no wheel."""
