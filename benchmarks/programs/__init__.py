"""Compiles our train steps and samplers for devices that are not here, and records XLA's figures."""
