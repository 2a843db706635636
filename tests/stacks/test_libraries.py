"""Other libraries' own code on our environments; each needs its package and is skipped without it."""

import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest

import metabench
from metabench.stacks import RL2Vector

ROOT = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]  # their warnings are not ours


def test_stable_baselines_sees_the_vector_environment():
    pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

    from metabench.stacks.sb3 import SB3VecEnv

    env, twin = (RL2Vector(metabench.make_vec("HighwayEnvMerge-v0", 3, episodes_per_task=2)) for _ in range(2))
    venv = SB3VecEnv(env)
    venv.seed(5)
    assert np.array_equal(venv.reset(), twin.reset(seed=5)[0])
    ended = 0
    for _ in range(250):
        action = np.array([venv.action_space.sample() for _ in range(3)])
        observation, reward, done, infos = venv.step(action)
        expected, r, terminated, truncated, info = twin.step(action)
        assert np.array_equal(observation, expected) and np.allclose(reward, r) and reward.dtype == np.float32
        assert np.array_equal(done, terminated | truncated)
        for slot in np.flatnonzero(done):
            assert np.array_equal(infos[slot]["terminal_observation"], info["final_obs"][slot])
            assert infos[slot]["TimeLimit.truncated"] == (truncated[slot] and not terminated[slot])
            ended += 1
        assert [one["task_id"] for one in infos] == info["task_id"].tolist()
    assert ended
    venv.set_options([{"task": 0}] * 3)
    assert len(venv.reset()) == 3 and [one["task_id"] for one in venv.reset_infos] == [0] * 3
    wrapped = VecNormalize(VecMonitor(venv))
    wrapped.reset()
    assert np.isfinite(wrapped.step(np.array([venv.action_space.sample() for _ in range(3)]))[0]).all()
    with pytest.raises(ValueError, match="the slots are one environment"):
        venv.env_method("reset")
    with pytest.raises(TypeError, match="under SAME_STEP"):
        SB3VecEnv(metabench.make_vec("PointRobot-v0", 2, autoreset_mode="NextStep"))


def test_the_recipe_trains_evaluates_and_is_accepted(tmp_path, monkeypatch, capsys):
    """The page's blocks as they stand, with fewer steps."""
    pytest.importorskip("sb3_contrib")
    pytest.importorskip("safetensors")
    import shutil

    from metabench.leaderboard.records import read_boards
    from metabench.leaderboard.verify import verify

    (tmp_path / "leaderboards").mkdir()
    shutil.copy(ROOT / "leaderboards" / "boards.toml", tmp_path / "leaderboards")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "other_libraries.md").read_text(), re.DOTALL)
    names = {}
    for block in blocks:
        if "sb3" in block or "submit(" in block:
            exec(compile(block.replace("STEPS = 500_000", "STEPS = 512"), "other_libraries.md", "exec"), names)
    written = capsys.readouterr().out.strip().splitlines()[-1]
    verdict = verify(Path(written), read_boards(Path("leaderboards/boards.toml")))
    assert verdict.accepted, verdict.fault


@pytest.mark.parametrize("id", ["PointRobot-v0", "GridSwitch-v0", "HopperParam-v0", "MetaWorld-DrawerOpen-v0"])
def test_torchrl_rolls_out(id):
    pytest.importorskip("torchrl")
    from torchrl.envs import GymEnv, GymWrapper, check_env_specs

    check_env_specs(GymEnv(f"metabench/{id}"))
    single = GymEnv(f"metabench/{id}").auto_register_info_dict().rollout(5)
    assert single["next", "task_id"].shape[0] == 5
    if id.startswith("MetaWorld"):  # TorchRL fills what is not there with zeros, and then finds them outside the Box
        return
    given = {"max_episode_steps": 10}
    envs = GymWrapper(gym.make_vec(f"metabench/{id}", 4, **given))
    rollout = envs.rollout(60, break_when_any_done=False)
    done = rollout["next", "done"].squeeze(-1)
    same = (rollout["next", "observation"][:, :-1] == rollout["observation"][:, 1:]).all(-1)
    assert done.sum() == 4 * 6 and same[~done[:, :-1]].all()
    moved = (rollout["next", "observation"] != 0).any(-1)
    assert moved[done].all()  # the last observation of an episode, not the next one's first


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_a_loop_as_cleanrl_writes_it(mode):
    """PPO's collection with Gymnasium's vector wrappers, and its bootstrap at truncations."""
    torch = pytest.importorskip("torch")
    envs = gym.make_vec("metabench/PointRobot-v0", 4, autoreset_mode=mode)
    envs = gym.wrappers.vector.RecordEpisodeStatistics(envs)
    if mode == "NextStep":
        envs = gym.wrappers.vector.NormalizeObservation(envs)
    envs = gym.wrappers.vector.ClipAction(envs)
    size = int(np.prod(envs.single_observation_space.shape))
    policy = torch.nn.Linear(size, int(np.prod(envs.single_action_space.shape)))
    observation, _ = envs.reset(seed=1)
    returns = []
    for _ in range(64):
        with torch.no_grad():
            action = policy(torch.as_tensor(observation, dtype=torch.float32)).numpy()
        observation, reward, _terminated, _truncated, info = envs.step(action)
        assert reward.shape == (4,)
        if "episode" in info:
            returns += info["episode"]["r"][info["_episode"]].tolist()
    assert len(returns) == 4 * 3 and np.isfinite(returns).all()
