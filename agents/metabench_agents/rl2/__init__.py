"""RL²: a recurrent policy trained over whole trials learns to adapt in its hidden state.

Sources: Duan et al. 2016, "RL²: Fast Reinforcement Learning via Slow Reinforcement Learning" (arXiv 1611.02779); Wang
et al. 2016, "Learning to reinforcement learn" (arXiv 1611.05763). At every tick the core sees (o_t, a_{t-1}, r_{t-1},
whether an episode begins); its hidden state is kept across the episodes of a trial and starts at zero with each trial.
Where an episode begins, a_{t-1} and r_{t-1} are those that ended the trial's previous one; only at the trial's start
there are none. (Policies that learned under the protocol `slots-1` know none at any episode's start.)
The objective is the discounted return of the trial, maximised with PPO (arXiv 1707.06347) and GAE (arXiv 1506.02438).

Deviations, with reasons:
- PPO instead of TRPO (Duan et al.) or A2C (Wang et al.): what later work compares with (VariBAD's code runs RL² so).
- The heads see the embedded tick beside the hidden state: the core need not carry what is visible now. Helps early
  learning; RL² as run by VariBAD's code sees the hidden state alone (`network.skip=False`).
- Rewards are divided by a running scale of the discounted return, so that one setting serves tasks of any reward size.
- Every update sees whole trials: back-propagation through time is never truncated. Trials must be of one length, so
  benchmarks whose episodes may end early are refused, unless `view.whole` rests such episodes out to their limit.
- `core="transformer"` has a causal transformer in the GRU's place, over all ticks of the trial, with rotary positions
  (for on-policy learning: Parisotto et al. 2020, arXiv 1910.06764; here without its memory of segments, for the context
  is the trial). As theirs, the policy begins without memory; by output layers that begin at zero, which cost nothing,
  in place of their gates (`transformer.gate=gru`). While it plays, keys and values are kept. It acts eagerly whatever
  `form` says: its memory grows.
"""

from metabench_agents.parts.run import Run
from metabench_agents.rl2.learning import chosen, improve, load, orders, prepared, row_of, train, update
from metabench_agents.rl2.network import Agent, Memory, Network, RL2Memory, attending, fresh, loss
from metabench_agents.rl2.playing import (
    Act,
    Draw,
    Reply,
    Table,
    acting,
    collect,
    empty_rollout,
    env_seed,
    play_trials,
    reply,
    vector_envs,
)
from metabench_agents.rl2.seeds import Seeds, train_seeds
from metabench_agents.rl2.settings import (
    CONTROL,
    MERGE,
    NAME,
    RECOMMENDED,
    Config,
    CoreKind,
    NetworkConfig,
    TransformerConfig,
    recommended,
)

__all__ = [
    "CONTROL",
    "MERGE",
    "NAME",
    "RECOMMENDED",
    "Act",
    "Agent",
    "Config",
    "CoreKind",
    "Draw",
    "Memory",
    "Network",
    "NetworkConfig",
    "RL2Memory",
    "Reply",
    "Run",
    "Seeds",
    "Table",
    "TransformerConfig",
    "acting",
    "attending",
    "chosen",
    "collect",
    "empty_rollout",
    "env_seed",
    "fresh",
    "improve",
    "load",
    "loss",
    "orders",
    "play_trials",
    "prepared",
    "recommended",
    "reply",
    "row_of",
    "train",
    "train_seeds",
    "update",
    "vector_envs",
]
