"""Single environments in a row: how code without a batched environment plays."""

import gymnasium as gym
import numpy as np


class Singles:
    """Single environments stepped one after the other, with what the collectors of RL² and VariBAD read."""

    def __init__(self, id, count):
        keywords = {"vector_kwargs": {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}}
        self.env = gym.make_vec(f"metabench/{id}", count, vectorization_mode="sync", **keywords)
        self.num_envs = count
        self.single_observation_space, self.single_action_space = (
            self.env.single_observation_space,
            self.env.single_action_space,
        )

    def reset(self, seed):
        observation, info = self.env.reset(seed=seed)
        return observation.astype(np.float32), info

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        told = {"session_ended": np.zeros(self.num_envs, dtype=bool)}
        if (terminated | truncated).all():  # trials have one length
            told["final_obs"] = np.stack(info["final_obs"]).astype(np.float32)
        return observation.astype(np.float32), reward, terminated, truncated, told
