"""A canvas in world coordinates for the families' pictures: Pillow, drawn large and scaled down for smooth edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

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


# highway-env's colours, so that its users know at a glance what they see.
ROAD, MARKING, EGO_CAR, CAR, WRECK = (100, 100, 100), (255, 255, 255), (50, 200, 0), (100, 200, 255), (255, 100, 100)
_CAR_LENGTH, _CAR_WIDTH, _LANE_WIDTH = 5.0, 2.0, 4.0  # m


class RoadCanvas:
    """A stretch of road from above in the look of highway-env's viewer; y downwards where `down`, as it has it."""

    def __init__(self, left: float, right: float, low: float, high: float, scale: float = 5.5, down: bool = False):
        self._left, self._low, self._high, self._down = left, low, high, down
        self._size = round((right - left) * scale), round((high - low) * scale)  # pixels
        self._scale = scale * _OVERSAMPLE
        self._image = Image.new("RGB", (self._size[0] * _OVERSAMPLE, self._size[1] * _OVERSAMPLE), ROAD)
        self._draw = ImageDraw.Draw(self._image)

    def _at(self, point: Point) -> Point:
        y = point[1] - self._low if self._down else self._high - point[1]
        return (point[0] - self._left) * self._scale, y * self._scale

    def marking(self, points: Sequence[Point], dashed: bool = False) -> None:
        """A white line through points, m; dashed as highway-env dashes where it is straight: 3 m of every 4.33 m."""
        width = max(1, round(0.3 * self._scale))
        if not dashed:
            self._draw.line([self._at(p) for p in points], MARKING, width, joint="curve")
            return
        (x0, y0), (x1, y1) = points[0], points[-1]
        length = float(np.hypot(x1 - x0, y1 - y0))
        for start in np.arange(0.0, length, 4.33).tolist():
            a, b = start / length, min(start + 3.0, length) / length
            ends = [(x0 + t * (x1 - x0), y0 + t * (y1 - y0)) for t in (a, b)]
            self._draw.line([self._at(p) for p in ends], MARKING, width)

    def vehicle(self, center: Point, heading: float, ego: bool = False, crashed: bool = False) -> None:
        """A car of 5 x 2 m, its nose in the direction `heading`, rad: green the ego, blue the others, red a wreck."""
        c, s = float(np.cos(heading)), float(np.sin(heading))
        corners = ((-0.5, -0.5), (-0.5, 0.5), (0.5, 0.5), (0.5, -0.5))
        place = [(a * _CAR_LENGTH, b * _CAR_WIDTH) for a, b in corners]
        turned = [self._at((center[0] + c * a - s * b, center[1] + s * a + c * b)) for a, b in place]
        fill = WRECK if crashed else EGO_CAR if ego else CAR
        self._draw.polygon(turned, fill, INK, max(1, round(0.2 * self._scale)))
        glass = [(0.1, -0.4), (0.1, 0.4), (0.26, 0.36), (0.26, -0.36)]  # a windscreen tells the front from the back
        place = [(a * _CAR_LENGTH, b * _CAR_WIDTH) for a, b in glass]
        self._draw.polygon([self._at((center[0] + c * a - s * b, center[1] + s * a + c * b)) for a, b in place], INK)

    def square(self, center: Point, size: float) -> None:
        """An obstacle."""
        half = size / 2
        (x0, y0), (x1, y1) = (
            self._at((center[0] - half, center[1] - half)),
            self._at((center[0] + half, center[1] + half)),
        )
        self._draw.rectangle((x0, min(y0, y1), x1, max(y0, y1)), (200, 200, 0), INK, max(1, round(0.2 * self._scale)))

    def caption(self, text: str) -> None:
        """Words in the upper left corner."""
        self._draw.text((6 * _OVERSAMPLE, 4 * _OVERSAMPLE), text, MARKING, ImageFont.load_default(12 * _OVERSAMPLE))

    def pixels(self) -> Array:
        """The picture `[H, W, 3]` uint8."""
        return np.asarray(self._image.resize(self._size, Image.Resampling.LANCZOS)).copy()
