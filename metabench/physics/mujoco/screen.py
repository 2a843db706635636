"""Pictures and windows of MuJoCo states, drawn by Gymnasium's own renderer."""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type stubs.

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import mujoco
from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

from metabench.rng import Array

SIZE = 480  # pixels of a picture's side, as Gymnasium's
FOLLOWING = {"type": int(mujoco.mjtCamera.mjCAMERA_TRACKING), "trackbodyid": 1}  # a window's camera, until it is moved


def require_screen(mode: str) -> None:
    """ValueError in one sentence where there is nothing to draw with."""
    display = {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ)
    if sys.platform != "linux" or display:
        return
    if mode == "human":
        raise ValueError("there is no display to open a window on: use render_mode='rgb_array'")
    if "MUJOCO_GL" not in os.environ:
        raise ValueError(
            "MuJoCo has no screen to draw with: start Python with MUJOCO_GL=egl (or osmesa) in its environment"
        )


class Screen:
    """Draws states of one model, as pictures or in a window. Belongs to the thread that made it, as OpenGL does.

    Args:
        stepped: The model whose states these are; kept to be compared with.
        model: The model that is drawn: the same, or one with more to look at.
        camera: Of the pictures, by name, where the model has it; a free one else.
        mode: "rgb_array" or "human".
    """

    def __init__(self, stepped: mujoco.MjModel, model: mujoco.MjModel, camera: str, mode: str):
        require_screen(mode)
        self.stepped, self._model, self._mode = stepped, model, mode
        self._data = mujoco.MjData(model)
        mujoco.mj_forward(model, self._data)
        known = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, camera) >= 0
        options: dict[str, Any] = {"camera_name": camera} if known else {"camera_id": -1}
        options |= {"default_cam_config": FOLLOWING} if mode == "human" else {"width": SIZE, "height": SIZE}
        self._renderer = MujocoRenderer(model, self._data, **options)

    def draw(self, physics: Array, markers: Sequence[dict[str, Any]]) -> Array | None:
        """The state `[S]` as a picture `[480, 480, 3]` uint8; None where it goes to a window."""
        mujoco.mj_setState(self._model, self._data, physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(self._model, self._data)
        viewer: Any = self._renderer._get_viewer(self._mode)
        for marker in markers:
            viewer.add_marker(**marker)
        picture = self._renderer.render(self._mode)
        return None if picture is None else picture.copy()

    def close(self) -> None:
        """Frees the context and closes the window."""
        self._renderer.close()
