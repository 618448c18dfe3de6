"""Image grids as figures: each pixel of a small image becomes a whole number of screen pixels."""

from markupsafe import Markup

from robustok.report.html import part
from robustok.report.run import Grid

WIDTH, GAP, TALLEST = 1000, 20, 420  # room beside a section's heading on a laptop screen, in pixels
READABLE = 64  # side of a cell on the screen below which figures do not share a line
TALL = 1600  # of figures that are looked at one by one
SIDE_BY_SIDE = {"overview": 1, "pairs": 2, "changed": 1, "nearest": 1}  # figures that share a line at most


def gallery(grids: list[Grid]) -> Markup | None:
    """The figures of one group, beside each other as far as they stay readable."""
    if not grids:
        return None
    abreast = min(SIDE_BY_SIDE[grids[0].group], len(grids))
    while abreast > 1 and any(grid.cell * _scale(grid, _room(abreast)) < READABLE for grid in grids):
        abreast -= 1
    room = _room(abreast)
    return part("gallery", [(grid, room, _scale(grid, room)) for grid in grids], abreast)


def _room(abreast: int) -> int:
    """Pixels for each of the figures on a line."""
    return (WIDTH - GAP * (abreast - 1)) // abreast


def _scale(grid: Grid, room: int) -> int:
    """Pixels of the screen that a pixel of the image becomes, along each side."""
    width, height = grid.size
    tallest = TALL if grid.group in ("pairs", "changed") else TALLEST
    return max(1, min(room // width, tallest // height)) if grid.small else 1
