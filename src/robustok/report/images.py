"""Image grids as figures: each pixel of a small image becomes a whole number of screen pixels."""

from robustok.report.markup import Markup, element, void
from robustok.report.run import Grid

WIDTH, GAP, TALLEST = 1000, 20, 420  # room beside a section's heading on a laptop screen, in pixels
SMALL = 96  # cells up to this side are magnified pixel by pixel
READABLE = 64  # side of a cell on the screen below which figures do not share a line
SIDE_BY_SIDE = {"overview": 1, "pairs": 2, "changed": 3}  # figures that share a line at most


def gallery(grids: list[Grid]) -> Markup | None:
    """The figures of one group, beside each other as far as they stay readable."""
    if not grids:
        return None
    abreast = min(SIDE_BY_SIDE[grids[0].group], len(grids))
    while abreast > 1 and any(grid.cell * _scale(grid, _room(abreast)) < READABLE for grid in grids):
        abreast -= 1
    return element("div", *(_figure(grid, _room(abreast)) for grid in grids), class_=f"gallery abreast-{abreast}")


def _room(abreast: int) -> int:
    """Pixels for each of the figures on a line."""
    return (WIDTH - GAP * (abreast - 1)) // abreast


def _scale(grid: Grid, room: int) -> int:
    """How many pixels of the screen a pixel of the image becomes, along each side."""
    width, height = grid.size
    return max(1, min(room // width, TALLEST // height)) if grid.cell <= SMALL else 1


def _figure(grid: Grid, room: int) -> Markup:
    """A grid as large as `room` pixels allow, with its title above and its caption below."""
    width, height = (side * _scale(grid, room) for side in grid.size)
    picture = void(
        "img",
        src=grid.uri,
        alt=f"{grid.title}: {grid.rows} rows of {grid.columns} images. {', '.join(grid.labels)}".strip(),
        width=width,
        height=height,
        class_="pixels" if grid.cell <= SMALL else None,
    )
    labels = element(
        "div",
        *(element("span", label) for label in grid.labels),
        class_="labels",
        aria_hidden="true",
        style=f"grid-template-columns:repeat({grid.columns},1fr)",
    )
    return element(
        "figure",
        element("h3", grid.title),
        labels if grid.labels else None,
        picture,
        element("figcaption", grid.caption) if grid.caption else None,
        style=f"width:{min(room, width)}px",
    )
