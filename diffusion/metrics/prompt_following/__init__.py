"""The rules of text-to-image benchmarks, as published: GenEval, DPG-Bench, T2I-CompBench and T2I-CompBench++.

None has weights: what sees pictures is a function that the caller brings, of a form that `readers` states and checks.
`diffusion prompt_benchmark` makes a paper's table of them.
"""

from typing import TYPE_CHECKING

from diffusion.package import public

if TYPE_CHECKING:
    from diffusion.metrics.prompt_following import (
        clustered as clustered,
        dpg_bench as dpg_bench,
        geneval as geneval,
        readers as readers,
        t2i_compbench as t2i_compbench,
        t2i_compbench_plus as t2i_compbench_plus,
    )

public.declare(__name__)
