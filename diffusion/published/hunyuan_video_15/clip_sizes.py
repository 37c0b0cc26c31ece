"""The sizes of the clips that HunyuanVideo 1.5 was trained on."""

UNIT = 16  # pixels that divide the sides
NARROWEST = 4  # the largest ratio of the sides


def nearest_size(height: int, width: int, side: int) -> tuple[int, int]:
    """The (height, width) whose ratio is nearest to a given one, of the sizes that the model was trained on.

    These have about side^2 pixels. The result is no narrower than the given size.

    Args:
        height, width: sides of the given size.
        side: side in pixels of a square of as many pixels.

    Reference: the code of HunyuanVideo 1.5 (Tencent, 2025), data_utils.py.
    """
    area = round((side / UNIT) ** 2)
    rows, columns, sizes = area, 1, []
    while rows:
        if max(rows, columns) <= NARROWEST * min(rows, columns):
            sizes.append((rows, columns))
        if (columns + 1) * rows <= area:
            columns += 1
        else:
            rows -= 1
    wanted = height / width
    away = {size: round(size[0] / size[1], 5) - wanted for size in sizes}
    fitting = [size for size, ratio in away.items() if (ratio <= 0 if wanted >= 1 else ratio >= 0)]
    rows, columns = min(fitting, key=lambda size: abs(away[size]))
    return rows * UNIT, columns * UNIT
