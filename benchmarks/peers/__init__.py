"""The parts of the benchmarks that run other libraries, in the environment of `make fixtures`, without this library."""
