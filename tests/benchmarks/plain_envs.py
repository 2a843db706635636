"""Plain hand-written Gymnasium environments of two of our tasks: what a user would write without this package."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))


class PlainGridSwitch(gym.Env):
    """GridSwitch in Python scalars: 5 x 5, two candidates, p = 0.07, T_m = [[.2, .8], [.8, .2]]."""

    def __init__(self, pairs):
        self.pairs = pairs
        self.observation_space = spaces.Box(0, 4, (6,), np.float32)
        self.action_space = spaces.Discrete(5)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.a, self.b = (int(c) for c in self.pairs[self.np_random.integers(len(self.pairs))])
        free = [c for c in range(25) if c not in (self.a, self.b)]
        self.x, self.y = divmod(free[self.np_random.integers(23)], 5)
        self.paying = int(self.np_random.integers(2))
        self.t = 0
        return self._observe(), {}

    def _observe(self):
        return np.array([self.x, self.y, *divmod(self.a, 5), *divmod(self.b, 5)], dtype=np.float32)

    def step(self, action):
        dx, dy = MOVES[action]
        self.x, self.y = min(4, max(0, self.x + dx)), min(4, max(0, self.y + dy))
        goal = self.b if self.paying else self.a
        reward = 1.0 if self.x * 5 + self.y == goal else -0.1
        ended = self.np_random.random() < 0.07
        if ended and self.np_random.random() < 0.8:
            self.paying = 1 - self.paying
        self.t += 1
        return self._observe(), reward, False, self.t >= 60, {"session_ended": ended}


class PlainPointRobot(gym.Env):
    """PointRobot with NumPy vectors of two numbers, as its published code has it."""

    def __init__(self, goals):
        self.goals = goals
        self.observation_space = spaces.Box(-2, 2, (2,), np.float32)
        self.action_space = spaces.Box(-0.1, 0.1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.goal = self.goals[self.np_random.integers(len(self.goals))]
        self.position, self.t = np.zeros(2), 0
        return self.position.astype(np.float32), {}

    def step(self, action):
        self.position = self.position + np.clip(action, -0.1, 0.1)
        reward = -float(np.linalg.norm(self.position - self.goal))
        self.t += 1
        return self.position.astype(np.float32), reward, False, self.t >= 20, {}
