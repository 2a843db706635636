"""MetaDreamer: PEARL's frame with a generative model that imagines tasks between the real ones, and plays in them.

Source: Wen, Zhang, Tseng and Peng 2023, "MetaDreamer: Efficient Meta-Reinforcement Learning with Imaginary Tasks"
(arXiv 2311.06673; IEEE RA-L 9(11), 2024). Its full text and code could not be had; what follows is known from the
abstract and from public reviews that describe and quote it:

- PEARL's frame, but with a GRU as encoder, trained by reconstruction and decoupled from the policy;
- a beta-VAE over the latent context, beta 5 (1 as the variant), with two cluster losses: compactness within a task, and
  separation between tasks up to a threshold sigma;
- a physics-informed decoder: accelerations are 3 tanh(.), p' = p + v dt, v' = v + a dt; a plain network elsewhere;
- meta-imagination: interpolation of one latent dimension at a time, f(k) being the dimension of factor k, with
  density D_k;
- MDP-imagination: the policy is rolled out in the decoder from real starts, for real and imagined tasks; no gradient
  through the model;
- runs named R8, R16, R8I8, R8IR8, R16I8; 100 to 1000 times less real data than PEARL to the same return.

Everything else is our choice, not the paper's: the weights of the cluster losses and sigma, all network sizes, the
decoder's deviation, the number and length of rollouts, the share of imagined data, and how the runs' names are read
(`RUNS`).

Choices and deviations, with reasons:
- f(k) is measured, not found by eye: the assignment of factors to dimensions with the most mutual information of the
  Gaussian copula between posterior means and the training tasks' parameters. Only training tasks are used.
- Beliefs at half of the reconstructed positions are those after a random part of the context, so that short contexts,
  as a trial begins with, are in the training data.
- The policy's guesses for real tasks are drawn from beliefs computed once per imagination: the encoder stands still
  while the policy learns.
- Imagined tasks are drawn anew from all interpolations, and imagined data thrown away, at every imagination: latents
  move while the encoder learns. Half of the imagined episodes act on guesses from the prior, as half of the real ones
  do.
- The decoder also predicts whether the task's own rule ends the episode.
- Observations are told to all networks as in `pearl.py`; the decoder's units are moments of the initial data.
- Soft actor-critic, its option `normalised_values`, data collection and test protocol are PEARL's as in `pearl.py`; so
  the encoder is told of the transition that ends an episode where the next one begins, unless it was trained under the
  protocol `slots-1`.
"""

from metabench_agents.context.metadreamer.in_rounds import (
    Rounds,
    build_rounds,
    dream,
    renew,
    restore_rounds,
    rounds_tensors,
    train_in_rounds,
)
from metabench_agents.context.metadreamer.learning import (
    MetaDreamerState,
    build,
    collect,
    diagnose,
    given,
    given_model,
    imagine,
    learn,
    load_training,
    model_step,
    real_beliefs,
    restore,
    tensors,
    train,
    update,
    update_model,
)
from metabench_agents.context.metadreamer.network import MetaDreamerAgent, MetaDreamerNetwork, load
from metabench_agents.context.metadreamer.settings import (
    ABLATIONS,
    MERGE,
    NAME,
    RECOMMENDED,
    RENAMED,
    ROUNDS,
    RUNS,
    Config,
    real_tasks,
    recommended,
    spread,
)
from metabench_agents.parts.run import Run

__all__ = [
    "ABLATIONS",
    "MERGE",
    "NAME",
    "RECOMMENDED",
    "RENAMED",
    "ROUNDS",
    "RUNS",
    "Config",
    "MetaDreamerAgent",
    "MetaDreamerNetwork",
    "MetaDreamerState",
    "Rounds",
    "Run",
    "build",
    "build_rounds",
    "collect",
    "diagnose",
    "dream",
    "given",
    "given_model",
    "imagine",
    "learn",
    "load",
    "load_training",
    "model_step",
    "real_beliefs",
    "real_tasks",
    "recommended",
    "renew",
    "restore",
    "restore_rounds",
    "rounds_tensors",
    "spread",
    "tensors",
    "train",
    "train_in_rounds",
    "update",
    "update_model",
]
