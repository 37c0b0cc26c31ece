"""Benchmarks of text-to-image models (GenEval, DPG-Bench, T2I-CompBench): `diffusion prompt_benchmark`.

benchmarks.py has each as one value: its prompts, its files of pictures, its readers, how they judge, its figures.
making.py makes pictures that are missing, and judging.py keeps what is judged, so that nothing is judged twice.
"""
