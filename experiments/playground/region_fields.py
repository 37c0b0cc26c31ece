"""The fields for regions on the page: one line for each region, and files of masks."""

import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from diffusion.text_to_image.regions import Region


def sent(lines: Iterable[str], masks: Sequence[str], encoded: Callable[[str], str]) -> list[Any]:
    """The regions that the page's lines describe, as the input `regions` of a request.

    Args:
        lines: the lines: PROMPT:left,top,right,bottom, or PROMPT:mask=NAME with the name of an uploaded file.
        masks: the paths of the uploaded files.
        encoded: a function from a picture's path to its file in base64.

    Raises:
        ValueError: if a line has another form, or names a file that was not uploaded, or two files.
    """
    files = {pathlib.Path(path).name: path for path in masks}
    replaced = {name for path in masks if files[name := pathlib.Path(path).name] != path}
    regions = []
    for line in lines:
        region = Region.read(line)
        if isinstance(region.where, str):
            if region.where not in files:
                raise ValueError(
                    f"regions: no mask {region.where!r} was uploaded. Valid: {', '.join(files) or 'upload it first'}"
                )
            if region.where in replaced:
                raise ValueError(
                    f"regions: two masks named {region.where!r} were uploaded. Valid: masks of different names"
                )
            region = region._asdict() | {"where": encoded(files[region.where])}
        regions.append(line if isinstance(region, Region) else region)
    return regions


def shown(regions: Iterable[Region]) -> tuple[str, list[str]]:
    """The page's lines for some regions, and the paths of the regions' masks; the inverse of `sent`."""
    regions = list(regions)
    masks = dict.fromkeys(region.where for region in regions if isinstance(region.where, str))
    named = lambda where: pathlib.Path(where).name if isinstance(where, str) else where
    return "\n".join(region._replace(where=named(region.where)).text for region in regions), list(masks)
