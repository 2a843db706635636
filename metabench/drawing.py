"""A canvas in world coordinates for the families' pictures: Pillow, drawn large and scaled down for smooth edges."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from metabench.rng import Array

Color: TypeAlias = "tuple[int, int, int]"
Point: TypeAlias = "tuple[float, float]"

# One palette for all families; readable in grey and by most colour-blind people (after Okabe and Ito).
PAPER, INK, LINE, SHADE = (250, 249, 246), (40, 44, 52), (214, 211, 203), (236, 233, 226)
BLUE, ORANGE, GREEN, GREY = (0, 114, 178), (230, 159, 0), (0, 158, 115), (150, 150, 150)

_OVERSAMPLE = 4


class Canvas:
    """A square picture of the world box [low, high]^2, y upwards."""

    def __init__(self, low: float, high: float, pixels: int = 320):
        self._low, self._high, self._pixels = low, high, pixels
        self._scale = pixels * _OVERSAMPLE / (high - low)
        self._image = Image.new("RGB", (pixels * _OVERSAMPLE, pixels * _OVERSAMPLE), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def _at(self, point: Point) -> Point:
        return (point[0] - self._low) * self._scale, (self._high - point[1]) * self._scale

    def disc(
        self, center: Point, radius: float, fill: Color | None, edge: Color | None = None, width: float = 0.0
    ) -> None:
        """A disc, or a ring where `fill` is None; lengths in world units."""
        (x, y), r = self._at(center), radius * self._scale
        self._draw.ellipse((x - r, y - r, x + r, y + r), fill, edge, round(width * self._scale))

    def box(
        self,
        low: Point,
        high: Point,
        fill: Color | None,
        edge: Color | None = None,
        width: float = 0.0,
        corner: float = 0.0,
    ) -> None:
        """An upright box with rounded corners; lengths in world units."""
        (x0, y1), (x1, y0) = self._at(low), self._at(high)
        self._draw.rounded_rectangle((x0, y0, x1, y1), corner * self._scale, fill, edge, round(width * self._scale))

    def line(self, start: Point, end: Point, color: Color, width: float) -> None:
        """A straight line; `width` in world units."""
        self._draw.line((*self._at(start), *self._at(end)), color, max(1, round(width * self._scale)))

    def pixels(self) -> Array:
        """The picture `[H, W, 3]` uint8."""
        return np.asarray(self._image.resize((self._pixels, self._pixels), Image.Resampling.LANCZOS)).copy()
