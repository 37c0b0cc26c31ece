"""Other libraries' halves of the benchmarks: torch, in the environment of `make fixtures`, without this library."""
