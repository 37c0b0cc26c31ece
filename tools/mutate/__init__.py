"""Mutation testing: one small wrong change at a time, to see whether a test fails (`python -m tools.mutate --help`)."""
