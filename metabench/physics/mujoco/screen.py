"""Pictures and windows of MuJoCo states, drawn by Gymnasium's own renderer in one OpenGL context.

Where there is nothing to draw with, OpenGL's libraries do not always raise: some abort the process. So the first
picture of a process is tried in a child process, which may die of it.
"""

# pyright: reportAttributeAccessIssue=false
# MuJoCo is a compiled module without type stubs.

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import mujoco
import numpy as np
from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

from metabench.rng import Array

SIZE = 480  # pixels of a picture's side, as Gymnasium's
FOLLOWING = {"type": int(mujoco.mjtCamera.mjCAMERA_TRACKING), "trackbodyid": 1}  # a window's camera, until it is moved
MAX_DRAWN = 32  # models kept ready to be drawn, of a screen
MAX_CONTEXTS = 8  # of OpenGL, of a screen; a window is one
PATIENCE = 120  # s that the child process may take
_SETTINGS = ("MUJOCO_GL", "MUJOCO_EGL_DEVICE_ID", "PYOPENGL_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY")
# What the graphics card is given once, when a context is made: another model with the same can be drawn in it.
_UPLOADED = ("mesh_vert", "mesh_normal", "mesh_face", "mesh_texcoord", "tex_data", "hfield_data", "skin_vert")

_TRY = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
"""
_TRY_PICTURE = """
from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer
MujocoRenderer(model, data, width=16, height=16, camera_id=-1).render("rgb_array")
"""
_TRY_WINDOW = """
import glfw
if not glfw.init() or not glfw.get_primary_monitor():
    raise SystemExit("there is no display, or it cannot be opened")
glfw.window_hint(glfw.VISIBLE, 0)
window = glfw.create_window(16, 16, "", None, None)
if not window:
    raise SystemExit("the display opens no window")
glfw.make_context_current(window)
mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
"""
_DONE = "print('drawn', flush=True); import os; os._exit(0)"  # before anything is freed, which may fail as well


def require_screen(mode: str) -> None:
    """ValueError in one sentence where there is nothing to draw with."""
    if sys.platform != "linux":
        return
    gl, display = os.environ.get("MUJOCO_GL"), os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if mode == "human" and not display:
        raise ValueError("there is no display to open a window on: use render_mode='rgb_array'")
    if gl == "" or (gl is None and not display):
        empty = " (it is there and empty)" * (gl == "")
        raise ValueError(
            f"MuJoCo has no screen to draw with: start Python with MUJOCO_GL=egl (or osmesa) in its environment{empty}"
        )
    if fault := _fault(mode, tuple((name, os.environ[name]) for name in _SETTINGS if name in os.environ)):
        raise ValueError(fault)


@functools.lru_cache(maxsize=64)
def _fault(mode: str, settings: tuple[tuple[str, str], ...]) -> str:
    """Why nothing can be drawn under these settings, which are the environment's; empty if something can."""
    if not sys.executable:
        return ""
    code = _TRY + (_TRY_WINDOW if mode == "human" else _TRY_PICTURE) + _DONE
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        tried = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        reason = f"no picture after {PATIENCE} s"
    except OSError:
        return ""  # no child process can be had: what fails, fails here
    else:
        if "drawn" in tried.stdout:
            return ""
        lines = [line.strip() for line in tried.stderr.splitlines() if line.strip()]
        reason = lines[-1][:300] if lines else f"it dies with {tried.returncode}"
    return _sentence(mode, reason, settings)


def _sentence(mode: str, reason: object, settings: Sequence[tuple[str, str]]) -> str:
    told = " ".join(f"{name}={value}" for name, value in settings) or "this environment"
    what = "open a window" if mode == "human" else "draw"
    hint = "use render_mode='rgb_array'" if mode == "human" else "start Python with MUJOCO_GL=egl (or osmesa)"
    return f"MuJoCo cannot {what} under {told} ({reason}): {hint}, or install what it needs"


class Screen:
    """Draws states of models, as pictures or in a window. Belongs to the thread that made it, as OpenGL does.

    Models that differ in numbers alone, as those of a family's tasks do, share the context.

    Args:
        camera: Of the pictures, by name, where the model has it; a free one else.
        mode: "rgb_array" or "human".
    """

    def __init__(self, camera: str, mode: str):
        require_screen(mode)
        self._camera, self._mode = camera, mode
        self._renderers: list[Any] = []  # Gymnasium's, with a context each; the last used last
        self._drawn: OrderedDict[int, tuple[Any, Any, Any]] = OrderedDict()  # id -> stepped, drawn, its data
        self.contexts = 0  # that were made

    def draw(
        self,
        stepped: mujoco.MjModel,
        physics: Array,
        markers: Sequence[dict[str, Any]] = (),
        drawn: Callable[[], mujoco.MjModel] | None = None,
    ) -> Array | None:
        """A state `[S]` of the model `stepped` as a picture `[480, 480, 3]` uint8; None where it goes to a window.

        `drawn` makes the model that is drawn, where that is another one with the same states and more to look at.
        """
        model, data = self._ready(stepped, drawn)
        mujoco.mj_setState(model, data, physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(model, data)
        try:
            viewer = self._viewer(model, data)
            for marker in markers:
                viewer.add_marker(**marker)
            picture = self._renderers[-1].render(self._mode)
        except (RuntimeError, AttributeError, ImportError, mujoco.FatalError) as error:
            settings = [(name, os.environ[name]) for name in _SETTINGS if name in os.environ]
            raise ValueError(_sentence(self._mode, error, settings)) from error
        return None if picture is None else picture.copy()

    def _ready(self, stepped: mujoco.MjModel, drawn: Callable[[], mujoco.MjModel] | None) -> tuple[Any, Any]:
        known = self._drawn.get(id(stepped))
        if known is None:
            model = stepped if drawn is None else drawn()
            known = self._drawn[id(stepped)] = stepped, model, mujoco.MjData(model)
            if len(self._drawn) > MAX_DRAWN:
                self._drawn.popitem(last=False)
        self._drawn.move_to_end(id(stepped))
        return known[1:]

    def _viewer(self, model: Any, data: Any) -> Any:
        """Gymnasium's viewer, looking at this model: a new one where no context has what the model needs."""
        renderer = next((one for one in self._renderers if _alike(one.model, model)), None)
        if renderer is None:
            while len(self._renderers) >= (1 if self._mode == "human" else MAX_CONTEXTS):
                self._renderers.pop(0).close()
            rest = mujoco.MjData(model)
            mujoco.mj_forward(model, rest)  # where a free camera looks must not depend on the state that is drawn first
            renderer = MujocoRenderer(model, rest, **self._options(model))
            renderer._get_viewer(self._mode)
            self.contexts += 1
        else:
            self._renderers.remove(renderer)
        self._renderers.append(renderer)
        viewer: Any = renderer._get_viewer(self._mode)
        viewer.make_context_current()  # another screen's may be
        if self._mode != "human" and renderer.model is not model:
            rest = mujoco.MjData(model)
            mujoco.mj_forward(model, rest)
            viewer.model, viewer.data = model, rest
            viewer._init_camera()
            extent, zones = model.stat.extent, model.vis.map  # as mjr_makeContext takes them from its model
            viewer.con.shadowClip = extent * zones.shadowclip
            viewer.con.fogStart, viewer.con.fogEnd = extent * zones.fogstart, extent * zones.fogend
        renderer.model, renderer.data, viewer.model, viewer.data = model, data, model, data
        return viewer

    def _options(self, model: Any) -> dict[str, Any]:
        known = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, self._camera) >= 0
        options: dict[str, Any] = {"camera_name": self._camera} if known else {"camera_id": -1}
        more = {"default_cam_config": FOLLOWING} if self._mode == "human" else {"width": SIZE, "height": SIZE}
        return options | more

    def close(self) -> None:
        """Frees the context and closes the window; both are made anew when they are needed."""
        while self._renderers:
            self._renderers.pop().close()


def _alike(one: Any, two: Any) -> bool:
    """Whether a context made for one model draws the other."""
    if one is two:
        return True
    sizes = ("nq", "nv", "nbody", "ngeom", "nmesh", "ntex", "nhfield", "nskin", "ncam", "nmat")
    if not all(getattr(one, name) == getattr(two, name) for name in sizes):
        return False
    planes = one.geom_type == mujoco.mjtGeom.mjGEOM_PLANE  # drawn as large as the model they were uploaded with
    if planes.any() and (one.stat.extent != two.stat.extent or (one.geom_size != two.geom_size)[planes].any()):
        return False
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in _UPLOADED)
