"""ScratchItch: the robot against its maker's numbers, forces and rewards by hand, bodies, sessions, sane physics."""

import os

import mujoco
import numpy as np
import pytest

import metabench
from metabench import SlotRng, make_vec
from metabench.drift import Constant
from metabench.families import scratch_itch
from metabench.families.scratch_itch import BASE, MAN, START, WOMAN, Itch, ScratchItch
from metabench.simulator import FunctionalSimulator
from metabench.tasks import TaskBatch

STATE = mujoco.mjtState.mjSTATE_INTEGRATION
POSE = (np.pi / 6, np.pi / 2)
TOUCHED = ("trunk", "legs", "upper_arm", "forearm", "wrist")

# (x, y, z), (roll, pitch, yaw) of each joint in the link before it, from Kinova's description of the j2s7s300.
JOINTS = (
    ((0, 0, 0.15675), (0, np.pi, 0)),
    ((0, 0.0016, -0.11875), (-np.pi / 2, 0, np.pi)),
    ((0, -0.205, 0), (-np.pi / 2, 0, 0)),
    ((0, 0, -0.205), (np.pi / 2, 0, np.pi)),
    ((0, 0.2073, -0.0114), (-np.pi / 2, 0, np.pi)),
    ((0, 0, -0.10375), (np.pi / 2, 0, np.pi)),
    ((0, 0.10375, 0), (-np.pi / 2, 0, np.pi)),
)
HAND = ((0, 0, -0.16), (np.pi, 0, 0))
# (alpha, a, d) of the classic Denavit-Hartenberg parameters in Kinova's user guide, lengths D1 to D7 and offset e2.
D1, D2, D3, D4, D5, D6, D7, E2 = 0.2755, 0.2050, 0.2050, 0.2073, 0.1038, 0.1038, 0.1600, 0.0098
DH = (
    (np.pi / 2, 0, -D1),
    (np.pi / 2, 0, 0),
    (np.pi / 2, 0, -(D2 + D3)),
    (np.pi / 2, 0, -E2),
    (np.pi / 2, 0, -(D4 + D5)),
    (np.pi / 2, 0, 0),
    (np.pi, 0, -(D6 + D7)),
)


def turn(axis, angle):
    c, s = np.cos(angle), np.sin(angle)
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(4)
    matrix[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
    return matrix


def move(place):
    matrix = np.eye(4)
    matrix[:3, 3] = place
    return matrix


def frame(place, angles):
    roll, pitch, yaw = angles
    return move(place) @ turn("z", yaw) @ turn("y", pitch) @ turn("x", roll)


def rows(*itches):
    """Tasks from (along, around, size)."""
    return np.array([(*itch, *POSE) for itch in itches], dtype=float)


def simulate(values, family=None, seeds=None):
    family = family or ScratchItch()
    tasks = TaskBatch(np.full(len(values), -1), values)
    return FunctionalSimulator(family, Constant(), tasks, SlotRng.from_seeds(seeds or range(len(values))))


def data_of(simulator, slot):
    """MuJoCo's own view of a slot."""
    model = simulator.family.model_of(simulator.context, slot)
    data = mujoco.MjData(model)
    mujoco.mj_setState(model, data, simulator.state.physics[slot], STATE)
    mujoco.mj_forward(model, data)
    return model, data


def test_the_arm_has_its_makers_kinematics():
    model = ScratchItch().model
    data = mujoco.MjData(model)
    for joints in np.random.default_rng(0).uniform(-np.pi, np.pi, (200, 7)):
        data.qpos[4:] = joints
        mujoco.mj_kinematics(model, data)
        hand = frame(BASE, (0, 0, -np.pi / 2))
        for (place, angles), angle in zip(JOINTS, joints, strict=True):
            hand = hand @ frame(place, angles) @ turn("z", angle)
        hand = hand @ frame(*HAND)
        found = data.body("gripper")
        assert np.allclose(found.xpos, hand[:3, 3], atol=1e-12)
        assert np.allclose(found.xmat.reshape(3, 3), hand[:3, :3], atol=1e-12)


def test_the_users_guide_has_the_same_arm():
    """Denavit-Hartenberg parameters leave out where along its axis a joint sits: 1.6 mm, and 0.1 mm of rounding."""
    model = ScratchItch().model
    data, base = mujoco.MjData(model), np.linalg.inv(frame(BASE, (0, 0, -np.pi / 2)))
    for joints in np.random.default_rng(1).uniform(-np.pi, np.pi, (200, 7)):
        data.qpos[4:] = joints
        mujoco.mj_kinematics(model, data)
        hand = turn("y", np.pi)  # the guide's first frame looks down
        for (alpha, a, d), angle in zip(DH, joints, strict=True):
            hand = hand @ turn("z", angle) @ move((a, 0, d)) @ turn("x", alpha)
        found = base @ np.append(data.body("gripper").xpos, 1.0)
        assert np.linalg.norm(found[:3] - hand[:3, 3]) < 0.004, (found[:3], hand[:3, 3])


def test_joint_limits():
    """Kinova: 47 to 313, 30 to 330 and 65 to 295 degrees; the others turn twice round either way here."""
    limits = np.degrees(ScratchItch().model.jnt_range[4:])
    assert np.allclose(limits[1::2], [[47, 313], [30, 330], [65, 295]], atol=1e-6)
    assert np.allclose(limits[::2], [-360, 360])


def test_a_servo_turns_as_far_as_it_may_with_the_force_it_has():
    """Far from everything: Bullet's motor of gain 0.05 covers 1 - 0.95^5 of the increment; 1 N m at most."""
    simulator = simulate(rows((0.5, 0, 1)))
    limits, model = simulator.family.model.jnt_range[4:], simulator.family.model
    before = simulator.state.qpos[0, 4:].copy()
    for step in range(1, 4):
        simulator.step(np.array([[0, 0, 0, 0, 0, 0, 5.0]]))  # as good as 1
        after = simulator.state.qpos[0, 4:]
        assert after[6] - before[6] == pytest.approx(0.25 * (1 - np.exp(-0.25)), rel=0.05 if step > 1 else 0.25)
        before = after.copy()
    assert (np.abs(model.actuator_forcerange) == 1.0).all()
    for _ in range(60):
        simulator.step(np.full((1, 7), 1.0))
        assert np.abs(data_of(simulator, 0)[1].actuator_force).max() <= 1.0
    assert (simulator.state.qpos[0, 4:] < limits[:, 1] + 0.02).all()


def test_places_of_the_person():
    """Shoulder, elbow and wrist as measured in Assistive Gym's world, to the millimetre."""
    simulator = simulate(rows((0.5, 0, 1), (0.5, 0, 0)))
    known = {
        "upper_arm": [(-0.179, 0.030, 1.031), (-0.159, 0.030, 0.992)],
        "forearm": [(-0.319, 0.030, 0.790), (-0.291, 0.030, 0.763)],
        "wrist": [(-0.319, -0.260, 0.790), (-0.291, -0.231, 0.763)],
    }
    for name, places in known.items():
        assert np.allclose(simulator.family.body(simulator.state, name), places, atol=1.1e-3), name
    assert np.abs(simulator.family.body(simulator.state, "gripper") - START).max() <= 0.0501


def test_itches_lie_on_the_skin():
    """At the radius of their limb, from one radius below its joint to its end; sides as the docs have them."""
    along, around = np.linspace(0, 2, 41), np.linspace(0, 2 * np.pi, 41)
    simulator = simulate(rows(*((a, b, k % 2) for k, (a, b) in enumerate(zip(along, around, strict=True)))))
    family, state, context = simulator.family, simulator.state, simulator.context
    place = family.itch(state, context)
    for k in range(41):
        body = MAN if k % 2 else WOMAN
        upper = along[k] < 1
        radius, length = (body.upper_radius, body.upper_length) if upper else (body.fore_radius, body.fore_length)
        joint, end = (
            family.body(state, name)[k] for name in (("upper_arm", "forearm") if upper else ("forearm", "wrist"))
        )
        axis = (end - joint) / np.linalg.norm(end - joint)
        axial = (place[k] - joint) @ axis
        assert axial == pytest.approx(radius + (along[k] - min(int(along[k]), 1)) * (length - radius), abs=1e-9)
        assert np.linalg.norm(place[k] - joint - axial * axis) == pytest.approx(radius, abs=1e-9)
    sides = simulate(rows((1.5, 0, 1), (1.5, np.pi / 2, 1), (0.5, np.pi / 2, 1)))
    middle = (sides.family.body(sides.state, "forearm") + sides.family.body(sides.state, "wrist")) / 2
    off = sides.family.itch(sides.state, sides.context) - middle
    assert off[0, 0] < -0.02 and off[1, 2] > 0.02, "outward is -x, above is +z"
    shoulder = sides.family.body(sides.state, "upper_arm")[2]
    assert (sides.family.itch(sides.state, sides.context)[2] - shoulder)[1] == pytest.approx(-MAN.upper_radius)


def pressed(itches, steps=12):
    """Slots whose tips are led onto the forearm from outside, and on, all by one motion; they differ in the itch."""
    family = ScratchItch()
    simulator = simulate(rows(*itches), family, seeds=[0] * len(itches))
    model, jacobian = family.model_of(simulator.context, 0), np.zeros((3, family.model.nv))
    outcomes = []
    for _ in range(steps):
        data = mujoco.MjData(model)
        data.qpos[:] = simulator.state.qpos[0]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_jacBody(model, data, jacobian, None, model.body("tip").id)
        goal = (data.body("forearm").xpos + 0.6 * data.body("wrist").xpos) / 1.6 + np.array([-0.03, 0, 0])
        action = (
            np.linalg.pinv(jacobian[:, 4:], rcond=0.05) @ np.clip(goal - data.body("tip").xpos, -0.04, 0.04) / 0.0553
        )
        before = simulator.state
        action = np.tile(action / max(1, np.abs(action).max()), (len(itches), 1))
        outcomes.append((before, action, simulator.step(action)))
    return simulator, outcomes


def test_forces_are_the_contacts_of_the_same_instant():
    """The sensors' forces against MuJoCo's contacts, one by one, with the robot on the person's forearm."""
    simulator, _ = pressed([(1.375, 0.0, 1)], steps=30)
    family, (model, data) = simulator.family, data_of(simulator, 0)
    force = dict.fromkeys((*TOUCHED, "tip", "tool"), 0.0)
    for k in range(data.ncon):
        wrench, contact = np.zeros(6), data.contact[k]
        mujoco.mj_contactForce(model, data, k, wrench)
        for geom in (contact.geom1, contact.geom2):
            name = model.body(model.geom_bodyid[geom]).name
            if name in force:
                force[name] += wrench[0]
    assert force["tip"] > 0.3 and force["forearm"] > 0.3
    for name, value in force.items():
        assert family.force(simulator.state, name)[0] == pytest.approx(value, rel=1e-6, abs=1e-9)
    touch = family.touch(family.felt(simulator.state, simulator.context))
    assert touch.total[0] == pytest.approx(sum(force[name] for name in TOUCHED), rel=1e-6)
    assert np.allclose(touch.place[0], contact_of((model, data), "tip")[0], atol=1e-6)


def test_the_reward_by_hand():
    """Three tasks of one motion: the itch under the tip, 3 cm further down the arm, and on the other limb."""
    simulator, outcomes = pressed([(1.375, 0.0, 1), (1.50, 0.0, 1), (0.5, 0.0, 1)], steps=30)
    family, context, weights = simulator.family, simulator.context, (0.01, 0.25, 0.01, 0.05)
    scratched, touched = np.zeros(3), 0
    states = [before for before, _, _ in outcomes[1:]] + [simulator.state]
    for state, (before, action, outcome) in zip(states, outcomes, strict=True):
        tip, itch = family.body(state, "tip"), family.itch(state, context)
        row = data_at(family, context, state)
        for k in range(3):
            place, force = contact_of(row, "tip")
            near = place is not None and np.linalg.norm(place - itch[k]) < 0.025 and force > 0
            last = before.physics[k, -4:-1]
            scratch = near and force < 10 and np.linalg.norm(place - last) > 0.01
            at_itch = force if near else 0.0
            expected = (
                5.0 * scratch
                - np.linalg.norm(tip[k] - itch[k])
                - weights[0] * np.linalg.norm(action[k])
                - weights[1] * np.linalg.norm(row[1].sensor("gripper").data)
                - weights[2] * (sum(row[1].sensor(name).data[0] for name in TOUCHED) - at_itch)
                - weights[3] * (at_itch if at_itch >= 10 else 0.0)
            )
            assert outcome.reward[k] == pytest.approx(expected, abs=1e-6)
            scratched[k] += scratch
            touched += near
    assert np.array_equal(family.scratches(simulator.state), scratched)
    assert touched > 5 and scratched[0] >= 1 and scratched[2] == 0


def data_at(family, context, state):
    model = family.model_of(context, 0)
    data = mujoco.MjData(model)
    mujoco.mj_setState(model, data, state.physics[0], STATE)
    mujoco.mj_forward(model, data)
    return model, data


def contact_of(row, name):
    """The point on the person's skin that the tip presses in, and the normal force; None without a contact."""
    model, data = row
    for k in range(data.ncon):
        contact, wrench = data.contact[k], np.zeros(6)
        if name in (model.geom(contact.geom1).name, model.geom(contact.geom2).name):
            mujoco.mj_contactForce(model, data, k, wrench)
            outward = contact.frame[:3] if model.geom(contact.geom1).name == name else -contact.frame[:3]  # of the tip
            return contact.pos + outward * contact.dist / 2, wrench[0]  # MuJoCo's point is between the two surfaces
    return None, 0.0


class Scripted(ScratchItch):
    """What the person feels is read from a list; distance and speed are none."""

    script: list

    def felt(self, state, context):
        return self.script[0]


def felt(force, x, total=0.0):
    return np.array([[0, 0, 0, x, 0.0, 0.8, total, force, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("story", "counts"),
    [
        ([(5, -0.30)], [1]),  # the first touch counts, wherever it is
        ([(0, -0.30), (5, -0.30), (5, -0.30)], [0, 1, 1]),  # no force is no touch; staying is no scratch
        ([(5, -0.30), (5, -0.309), (5, -0.311), (5, -0.302)], [1, 1, 2, 2]),  # 1 cm from the last *scratch*
        ([(10, -0.30), (9.99, -0.30)], [0, 1]),  # 10 N is too much
        ([(5, -0.30), (12, -0.35), (5, -0.305)], [1, 1, 1]),  # too hard a touch leaves no mark
    ],
)
def test_what_counts_as_a_scratch(story, counts):
    simulator = simulate(rows((0.5, 0, 1)), family := Scripted())
    for (force, x), count in zip(story, counts, strict=True):
        family.script = [felt(force, x, total=force + 3)]
        before = family.scratches(simulator.state)[0]
        outcome = simulator.step(np.zeros((1, 7)))
        assert family.scratches(simulator.state)[0] == count
        expected = 5 * (count - before) - 0.01 * 3 - 0.05 * force * (force >= 10)
        assert outcome.reward[0] == pytest.approx(expected)
    assert not outcome.success[0]


def test_success_is_25_scratches():
    simulator = simulate(rows((0.5, 0, 1)), family := Scripted())
    for k in range(1, 28):
        family.script = [felt(1.0, 0.02 * k)]
        assert simulator.step(np.zeros((1, 7))).success[0] == (k >= 25)


def test_the_observation_is_assistive_gyms_without_the_itch():
    simulator = simulate(rows((0.2, 1.0, 1), (1.7, 4.0, 1)), seeds=[3, 3])
    rng = np.random.default_rng(0)
    for _ in range(60):
        observation = simulator.step(np.tile(rng.uniform(-1, 1, 7), (2, 1))).observation
        assert np.array_equal(*observation), "nothing of the itch shows, in all that can be seen"
    _, data = data_of(simulator, 0)
    to_base = np.linalg.inv(frame(BASE, (0, 0, -np.pi / 2)))
    seen = observation[0]
    for start, name in ((0, "tip"), (14, "upper_arm"), (17, "forearm"), (20, "wrist")):
        assert np.allclose(seen[start : start + 3], (to_base @ np.append(data.body(name).xpos, 1))[:3], atol=1e-9), name
    turned = np.zeros(9)
    mujoco.mju_quat2Mat(turned, seen[3:7])
    assert np.allclose(turned.reshape(3, 3), to_base[:3, :3] @ data.body("tool").xmat.reshape(3, 3), atol=1e-9)
    assert np.allclose(np.exp(1j * seen[7:14]), np.exp(1j * data.qpos[4:]))
    assert len(seen) == 30 - 6


@pytest.mark.parametrize("values", [(0.3, 2.0, 0.0, *POSE), (1.2, 1.0, -0.4, 0.3, 2.0), (1.2, 1.0, 1.4, 0.7, 1.8)])
def test_other_bodies_equal_models_written_for_them(values):
    """A model changed in place steps like one compiled from a file with that person's numbers in it."""
    family = ScratchItch()
    context = Itch(*(np.array([v]) for v in values))
    body = [float(v[0]) for v in context.body]
    wide, tall = body[0] / MAN.shoulder_x, (body[1] - 0.5) / (MAN.shoulder_z - 0.5)
    spec = mujoco.MjSpec.from_file(str(family.assets / family.xml))
    for geom in spec.body("trunk").geoms:
        geom.fromto = geom.fromto * np.tile((wide, 1.0, tall), 2)
    spec.body("upper_arm").pos = (body[0], 0.03, body[1])
    spec.body("forearm").pos = (0, 0, -body[2])
    spec.body("wrist").pos = (0, 0, -body[4] - body[5])
    for name, length, radius in (("upper_arm", body[2], body[3]), ("forearm", body[4], body[5])):
        spec.geom(name).fromto = (0, 0, 0, 0, 0, -length)
        spec.geom(name).size = (radius, 0, 0)
        spec.body(name).mass *= body[6] / MAN.mass
        spec.body(name).inertia *= body[6] / MAN.mass
    for name, angle in (("abduction", values[3]), ("elbow", values[4])):
        spec.joint(name).springref = angle
    written, ours = spec.compile(), family.model_of(context)
    ours_trunk = [k for k in range(ours.ngeom) if ours.geom_bodyid[k] == ours.body("trunk").id]
    written.geom_size[ours_trunk] = ours.geom_size[ours_trunk]  # the trunk's thickness is scaled, its length measured
    for name in ("geom_pos", "geom_size", "body_mass", "body_inertia", "body_pos", "qpos_spring", "dof_invweight0"):
        assert np.allclose(getattr(ours, name), getattr(written, name), atol=1e-9), name
    limbs = [written.geom(name).id for name in ("upper_arm", "forearm", "palm")]
    assert np.allclose(ours.geom_rbound[limbs], written.geom_rbound[limbs])
    state = family.initial(context, SlotRng.from_seeds([1]))
    datas = [mujoco.MjData(model) for model in (written, ours)]
    for data, model in zip(datas, (written, ours), strict=True):
        mujoco.mj_setState(model, data, state.physics[0], STATE)
    rng = np.random.default_rng(0)
    for _ in range(100):
        control = datas[0].qpos[4:] + rng.uniform(-0.25, 0.25, 7)
        for data, model in zip(datas, (written, ours), strict=True):
            data.ctrl[:] = control
            mujoco.mj_step(model, data, nstep=10)
        assert np.allclose(datas[0].qpos, datas[1].qpos, atol=1e-7)


def test_nothing_touches_at_the_start_and_a_resting_robot_rests():
    for split in ("train", "test", "ood"):
        env = make_vec("ScratchItch-v0", 200, split=split)
        env.reset(seed=0)
        state, family = env._trials.simulator.state, env.family
        assert max(family.force(state, name).max() for name in (*TOUCHED, "tip", "tool")) == 0.0
    for _ in range(50):
        env.step(np.zeros((200, 7)))
    assert np.abs(env._trials.simulator.state.qpos - state.qpos).max() < 1e-3


def test_an_itch_moves_and_the_person_stays():
    env = make_vec("ScratchItchSwitch-v0", 64, split="ood", expose_task=True)
    observation, _ = env.reset(seed=0)
    moved = 0
    for _ in range(150):
        before, (observation, *_, info) = observation, env.step(np.zeros((64, 7)))
        assert np.array_equal(observation[:, -3:], before[:, -3:]), "size and pose belong to the episode"
        changed = (observation[:, 24:26] != before[:, 24:26]).any(axis=1)
        assert not (changed & ~info["session_ended"]).any()
        moved += changed.sum()
    assert abs(moved / (150 * 64) - 0.02 * 19 / 20) < 0.006


def random_episodes(count, seed=0):
    """Returns of random episodes on fresh tasks; forces and speeds stay what a person survives."""
    env = make_vec("ScratchItch-v0", count, split="fresh", episodes_per_task=1)
    env.reset(seed=seed)
    rng, returns = np.random.default_rng(seed), np.zeros(count)
    for _ in range(199):
        observation, reward, *_ = env.step(rng.uniform(-1, 1, (count, 7)))
        state = env._trials.simulator.state
        assert np.isfinite(observation).all() and np.isfinite(state.physics).all()
        felt = env.family.felt(state, env._trials.simulator.context)
        assert env.family.touch(felt).total.max() < 60
        assert np.abs(state.qvel).max() < 5
        returns += reward
    return returns


def test_random_episodes_stay_sane():
    """Assistive Gym's random episodes gave -134, -66 and -28, its idle ones -69, -78 and -40."""
    returns = random_episodes(50)
    assert returns.min() > -200 and returns.max() < -15 and -110 < returns.mean() < -60
    env = make_vec("ScratchItch-v0", 50, split="test")
    env.reset(seed=0)
    idle = sum(env.step(np.zeros((50, 7)))[1] for _ in range(200))
    assert idle.min() > -90 and idle.max() < -25


@pytest.mark.slow
def test_a_thousand_random_episodes_stay_sane():
    for seed in range(4):
        random_episodes(250, seed)


def test_threads_do_not_matter(monkeypatch):
    def play(threads):
        family = ScratchItch()
        family.threads = threads
        simulator = simulate(metabench.spec("ScratchItch-v0").table().rows["ood"], family)
        rng = np.random.default_rng(0)
        return [simulator.step(rng.uniform(-1, 1, (20, 7)))[:2] for _ in range(40)]

    for one, two in zip(play(1), play(2), strict=True):
        assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1])


@pytest.mark.skipif(not {"MUJOCO_GL", "DISPLAY"} & set(os.environ), reason="nothing to draw with: set MUJOCO_GL")
def test_the_picture_shows_the_itch():
    seen, hidden = (simulate(rows((1.5, side, 1))) for side in (0.0, np.pi))  # outside, and behind the forearm
    red = []
    for simulator in (seen, hidden):
        picture = simulator.picture(0).astype(int)
        assert picture.shape == (480, 480, 3)
        red.append(((picture[..., 0] > 150) & (picture[..., 1:].max(axis=2) < 90)).sum())
    assert red[0] > 20 and red[1] < red[0] / 2


def test_constants_are_assistive_gyms():
    known = {"INCREMENT": 0.25, "SCRATCH_REWARD": 5, "ACTION_WEIGHT": 0.01, "VELOCITY_WEIGHT": 0.25}
    known |= {"FORCE_WEIGHT": 0.01, "HARD_FORCE_WEIGHT": 0.05, "HARD_FORCE": 10, "REACH": 0.025, "STROKE": 0.01}
    assert {name: getattr(scratch_itch, name) for name in known} == known
