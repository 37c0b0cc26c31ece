"""The other distribution that brings a package called `diffusion`, in the folder where this one lies."""

import os
import re
import warnings


def warn(package: str) -> None:
    """Warns where another project's `diffusion` is installed over this package, or under it.

    This library's distribution is `jax-diffusion`. The distribution `diffusion` is another company's, and `pip` puts
    the files of both into one folder. Where theirs came last, their `__init__.py` is imported, and nothing can be said.

    Args:
        package: folder of this package.
    """
    site = os.path.dirname(package)
    for name in os.listdir(site):
        if other := re.fullmatch(r"diffusion-([^-]+)\.dist-info", name):
            warnings.warn(
                f"another project, the distribution diffusion {other[1]}, has put its files among those of "
                f"jax-diffusion in {package}. Run pip uninstall diffusion jax-diffusion, and install each in its own "
                "environment",
                stacklevel=3,
            )
