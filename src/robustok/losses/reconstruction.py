"""Distances between images, pixel by pixel."""

from robustok.shapes import Images, Scalar


def l1(target: Images, output: Images) -> Scalar:
    """Mean absolute difference; pixels in [-1, 1], so 2 is the most."""
    return (target.float() - output.float()).abs().mean()


def l2(target: Images, output: Images) -> Scalar:
    """Mean squared difference; pixels in [-1, 1], so 4 is the most."""
    return (target.float() - output.float()).square().mean()
