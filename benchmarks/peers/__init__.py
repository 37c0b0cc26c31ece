"""Benchmark programs that run other libraries, in the environment of `make fixtures`, without this library."""
