"""Drawing with MuJoCo: one context for all bodies of a family, and a sentence where there is nothing to draw with."""

import os
import subprocess
import sys

import numpy as np
import pytest

mujoco = pytest.importorskip("mujoco")

from metabench.registry import make, make_vec  # noqa: E402

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="other systems draw without being asked")


def can_draw():
    if not {"MUJOCO_GL", "DISPLAY"} & set(os.environ):
        return False
    from metabench.physics.mujoco.screen import require_screen

    try:
        require_screen("rgb_array")
    except ValueError:
        return False
    return True


DRAW = """
import sys, gymnasium as gym, metabench
try:
    env = gym.make(f"metabench/{sys.argv[1]}", render_mode=sys.argv[2])
    env.reset(seed=0)
    env.render()
    print("drawn")
except ValueError as error:
    print("ValueError", str(error).replace(chr(10), " | "))
"""


def draw(id="CheetahVel-v0", mode="rgb_array", **settings):
    """What a fresh process says under these settings and nothing else of the kind."""
    names = ("MUJOCO_GL", "MUJOCO_EGL_DEVICE_ID", "PYOPENGL_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY")
    environment = {name: value for name, value in os.environ.items() if name not in names} | settings
    command = [sys.executable, "-W", "ignore", "-c", DRAW, id, mode]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"the process died with {done.returncode}: {done.stderr[-1000:]}"
    return done.stdout.strip()


BAD = [
    ({"MUJOCO_GL": ""}, "MUJOCO_GL=egl"),
    ({"DISPLAY": ":987"}, "DISPLAY=:987"),
    ({"MUJOCO_GL": "nonsense"}, "MUJOCO_GL=nonsense"),
    ({"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "977"}, "MUJOCO_EGL_DEVICE_ID=977"),
]
MORE = [  # a process each, three seconds, of kinds that stand above
    ({"MUJOCO_GL": "glfw"}, "MUJOCO_GL=glfw"),
    ({"MUJOCO_GL": "glfw", "DISPLAY": ":987"}, "DISPLAY=:987"),
    ({"MUJOCO_GL": "egl", "MUJOCO_EGL_DEVICE_ID": "one"}, "MUJOCO_EGL_DEVICE_ID=one"),
]
BAD += [pytest.param(*case, marks=pytest.mark.slow) for case in MORE]


@LINUX
@pytest.mark.parametrize(("settings", "words"), BAD, ids=lambda v: str(v)[:50])
def test_where_nothing_can_be_drawn_a_sentence_says_so(settings, words):
    said = draw(**settings)
    assert said.startswith("ValueError MuJoCo") and words in said and " | " not in said


@LINUX
@pytest.mark.parametrize(
    "id", ["CheetahVel-v0", *(pytest.param(id, marks=pytest.mark.slow) for id in ("ScratchItch-v0", "HopperParam-v0"))]
)
def test_osmesa_draws_or_is_said_to_be_missing(id):
    said = draw(id, MUJOCO_GL="osmesa")
    assert said == "drawn" or (said.startswith("ValueError MuJoCo cannot") and "MUJOCO_GL=osmesa" in said)


@LINUX
def test_meta_world_says_it_too():
    pytest.importorskip("metaworld")
    assert draw("MetaWorld-Reach-v0", DISPLAY=":987").startswith("ValueError MuJoCo cannot")


@LINUX
@pytest.mark.parametrize("settings", [{"DISPLAY": ":987"}, {}])
def test_a_window_without_a_display_ends_no_process(settings):
    said = draw(mode="human", **settings)
    assert said.startswith("ValueError ") and "use render_mode='rgb_array'" in said


def test_a_setting_that_was_found_wanting_is_not_tried_again(monkeypatch):
    from metabench.physics.mujoco import screen

    tried = []
    run = subprocess.run
    monkeypatch.setattr(screen.subprocess, "run", lambda *a, **k: tried.append(a) or run(*a, **k))
    monkeypatch.setenv("MUJOCO_GL", "wanting")
    if sys.platform != "linux":
        pytest.skip("other systems draw without being asked")
    for _ in range(2):
        with pytest.raises(ValueError, match="MuJoCo cannot draw under MUJOCO_GL=wanting"):
            screen.require_screen("rgb_array")
    assert len(tried) == 1


drawing = pytest.mark.skipif(not can_draw(), reason="nothing to draw with: set MUJOCO_GL")


@drawing
@pytest.mark.parametrize(("id", "contexts"), [("HopperParam-v0", 1), ("WalkerParam-v0", 1), ("ScratchItch-v0", 2)])
def test_slots_of_different_bodies_share_contexts_and_look_as_alone(id, contexts):
    tasks = [0, 1, 2]
    envs = make_vec(id, 3, render_mode="rgb_array", split="test")
    envs.reset(seed=0, options={"task": tasks})
    for _ in range(3):
        envs.step(np.ones(envs.action_space.shape, np.float32))
    pictures = [envs.render() for _ in range(2)]
    screen = envs.family._screens["rgb_array"]
    assert screen.contexts <= contexts  # the floor of ScratchItch is as large as its person
    envs.close()
    for slot, task in enumerate(tasks):
        env = make(id, render_mode="rgb_array", split="test")
        env.reset(seed=slot, options={"task": task})
        for _ in range(3):
            env.step(np.ones(env.action_space.shape, np.float32))
        alone = env.render()
        env.close()
        assert all((picture[slot] == alone).all() for picture in pictures)
    assert (pictures[0][0] != pictures[0][1]).any()


@drawing
def test_a_model_with_other_meshes_gets_a_context_of_its_own():
    from metabench.physics.mujoco.screen import Screen

    cube = "<mesh name='m' vertex='0 0 0  1 0 0  0 1 0  0 0 {z}'/>"
    text = "<mujoco><asset>{}</asset><worldbody><geom type='mesh' mesh='m'/></worldbody></mujoco>"
    models = [mujoco.MjModel.from_xml_string(text.format(cube.format(z=z))) for z in (1, 3)]
    screen = Screen("none", "rgb_array")
    pictures = []
    for model in (*models, models[0]):
        state = np.zeros(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION))
        pictures.append(screen.draw(model, state))
    screen.close()
    assert screen.contexts == 2 and (pictures[0] == pictures[2]).all() and (pictures[0] != pictures[1]).any()


def test_fresh_bodies_take_no_more_memory_than_the_bound(monkeypatch):
    from metabench.physics.mujoco import family as module

    envs = make_vec("WalkerParam-v0", 4, split="fresh", max_episode_steps=1, episodes_per_task=1)
    envs.reset(seed=0)
    size = mujoco.mj_sizeModel(envs.family.model)
    monkeypatch.setattr(module, "MODEL_BYTES", 6 * size)
    envs.family._models.clear()
    envs.family._model_bytes = 0
    for _ in range(12):
        envs.step(np.zeros(envs.action_space.shape, np.float32))
        held = sum(mujoco.mj_sizeModel(model) for model in envs.family._models.values())
        assert held == envs.family._model_bytes <= 6 * size
    assert len(envs.family._models) == 6
    last = next(reversed(envs.family._models))
    assert envs.tasks[3].context == pytest.approx(last)


@drawing
def test_two_families_draw_in_turn_as_each_does_alone():
    envs = [make(id, render_mode="rgb_array") for id in ("CheetahVel-v0", "HopperParam-v0")]
    for env in envs:
        env.reset(seed=0)
    alone = []
    for env in envs:
        alone.append(env.render())
        env.close()
    in_turn = [env.render() for env in (*envs, *envs)]
    for env in envs:
        env.close()
    assert all((one == two).all() for one, two in zip(in_turn, alone * 2, strict=True))
