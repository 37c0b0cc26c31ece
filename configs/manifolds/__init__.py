"""Flow matching and diffusion on curved spaces, each of a mixture whose density is known:

    diffusion train --config=manifolds/sphere --workdir=runs/sphere
    diffusion sample --workdir=runs/sphere
    diffusion evaluate --workdir=runs/sphere --metrics=nll

The last command sets the test log-likelihood of the model beside the exact density's. See docs/manifolds.md.
"""
