"""Meta-DT's world model: a recurrent encoder sums up the last steps as z, decoders foretell reward and next state.

Source: Meta-DT (arXiv 2410.11448) and the code it was released with (`context/model.py`, `train_context.py`):
observation, action and reward of each of the last h = 4 steps are embedded (16 each, ReLU), a GRU of 128 reads them,
a linear layer gives z in R^16. The reward decoder sees (s, a, s', z), the state decoder (s, a, z): two hidden layers
of 128. The loss is the mean squared error of what is foretold. Steps before the episode's first are zeros, for
training and acting alike.

Deviations, with reasons:
- Observations are taken in units of their standard deviation around their mean, also as the state decoder's target:
  raw columns of different units would be weighed by accident.
- Both decoders are trained where it is not known whether reward or dynamics vary between tasks.
- The encoder that is kept is the best on held-out episodes of the training tasks. The released code keeps the best on
  one random batch of test-task data.
- The learning rate warms up and falls linearly to zero; released it stays 1e-3, for far more updates.
- History never reaches into the episode before. `crossing=True` restores the released way, in which the first 4 steps
  of an episode see the previous one's last.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metabench_agents.parts.config import DYNAMICS_FAMILIES, REWARD_FAMILIES
from metabench_agents.parts.device import Device, descend, follow, set_rate
from metabench_agents.parts.fast.recording import recording
from metabench_agents.parts.fast.windows import Decoder, Embedding, Encoder, WindowUpdates
from metabench_agents.parts.run import Checkpoint, Run, pack, unpack, updates_done
from metabench_agents.sequence.episodes import Episodes, history
from metabench_agents.sequence.fitting import fit

Decoders = Literal["reward", "state", "both"]
WARMUP = 100  # updates until the learning rate is reached; released: none
CLIP = 1.0  # of the gradient's norm, as released
SELECT_EVERY = 500  # updates between two looks at the held-out episodes
_CHUNK = 65_536  # rows that are encoded together


@dataclass(frozen=True)
class WorldModelFitting:
    """How a world model is trained."""

    updates: int = 20_000  # in all; released: 200,000 to 4 million
    batch: int = 128  # steps of an update
    learning_rate: float = 2e-3  # Adam's highest; released: 1e-3
    decay: bool = True  # whether it falls linearly to zero; released: no


@dataclass(frozen=True)
class TrialModelFitting:
    """How a world model that reads whole trials is trained (`trials/model.py`)."""

    updates: int = 5_000  # in all
    trials: int = 32  # of an update
    episodes: int = 2  # of a task in a trial
    stretch: int = 50  # steps of an episode, at most
    siblings: bool = True  # z has to foretell a step of another episode of the task, too
    asked: int = 8  # of a trial's z, drawn anew each time, that have to foretell
    learning_rate: float = 2e-3  # Adam's highest, falling linearly to zero


@dataclass(frozen=True)
class WorldModelSettings:
    """Whether there is a world model, its sizes and its training."""

    used: bool = True  # False: no z, and prompts cut at random (ablation)
    sees: Literal["window", "trial"] = "window"  # what z is made of: the last h steps (the paper), or the whole trial
    average: bool = False  # window: z is the running mean of all z so far
    lasts: Literal["trial", "episode"] = "trial"  # whether a z that lasts is kept where an episode of the trial ends
    carried: float = field(default=0.7, metadata={"low": 0.0, "high": 1.0})  # share of windows learned from as if one
    # or two other episodes of the task had been seen before; where z lasts through the trial
    relabelled: int = field(default=0, metadata={"low": 0})  # copies of the data, with rewards of other training tasks,
    # that it learns from as well (`trials/relabelling.py`); where the reward is a function of what is seen
    decoders: Decoders | Literal["auto"] = "auto"  # what is foretold; auto: what varies between the family's tasks
    history: int = 4  # steps h that z is made of; prompts begin at step h or later
    context: int = 16  # size of z
    width: int = 128  # of the recurrence and of the decoders' layers
    fitting: WorldModelFitting = field(default_factory=WorldModelFitting)  # training of a model of windows
    trial: TrialModelFitting = field(default_factory=TrialModelFitting)  # training of a model of trials

    @property
    def updates(self) -> int:
        """How many make the world model."""
        return self.trial.updates if self.sees == "trial" else self.fitting.updates

    def settled(self, family: str) -> WorldModelSettings:
        """The same with the decoders of a family, by the name of its class, where they are left open."""
        return replace(self, decoders=decoders_for(family)) if self.decoders == "auto" else self


def decoders_for(family: str) -> Decoders:
    """What has to be foretold so that z tells the tasks of a family apart, by the name of its class."""
    return "state" if family in DYNAMICS_FAMILIES else "reward" if family in REWARD_FAMILIES else "both"


class StepInContext(NamedTuple):
    """One step, and the h steps before it; observations are already scaled."""

    past: Tensor  # [h, B, O + A + 1] observation, action, reward; zeros before the episode's first step
    observation: Tensor  # [B, O]
    action: Tensor  # [B, A]
    reward: Tensor  # [B]
    next_observation: Tensor  # [B, O]


def hidden(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with Xavier weights and no bias at the start, as released."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class ShortGRU(torch.autograd.Function):
    """A GRU over a few steps from a zero state, its gradient written out: three times as fast as `torch.nn.GRU` here.

    At 4 steps of 128 rows most of the time goes into small operations, not into products; and the zero state saves one
    product of four. Inputs are what the input weights make of the steps, `[h, B, 3 H]` in torch's order reset, update,
    new; the output is the last state `[B, H]`.
    """

    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # pyright: ignore
        """The last state."""
        width = weight.shape[1]
        state = gates.new_zeros(gates.shape[1], width)
        states, switches, offers, news = [state], [], [], []
        for t, step in enumerate(gates.unbind()):
            own = torch.addmm(bias, state, weight.t()) if t else bias.expand_as(step)
            switch = (step[:, : 2 * width] + own[:, : 2 * width]).sigmoid_()
            offer = own[:, 2 * width :]
            # tanh(x) = 2 sigmoid(2 x) - 1, four times as fast as torch's
            new = torch.addcmul(step[:, 2 * width :], switch[:, :width], offer).mul_(2).sigmoid_().mul_(2).sub_(1)
            state = torch.lerp(new, state, switch[:, width:])
            states.append(state)
            switches.append(switch)
            offers.append(offer)
            news.append(new)
        ctx.save_for_backward(weight, *states[:-1], *switches, *offers, *news)
        return state

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # pyright: ignore
        """Gradients of gates, weight and bias."""
        weight, *saved = ctx.saved_tensors
        steps, width = len(saved) // 4, weight.shape[1]
        states, switches, offers, news = (saved[i * steps : (i + 1) * steps] for i in range(4))
        to_gates = grad.new_empty(steps, len(grad), 3 * width)
        to_own = torch.empty_like(to_gates)
        aten = torch.ops.aten
        for t in range(steps - 1, -1, -1):
            reset, update = switches[t].chunk(2, dim=-1)
            there, own = to_gates[t], to_own[t]
            to_new = aten.tanh_backward(grad * (1 - update), news[t])
            there[:, :width] = to_new * offers[t]
            there[:, width : 2 * width] = grad * (states[t] - news[t])
            there[:, : 2 * width] = aten.sigmoid_backward(there[:, : 2 * width], switches[t])
            there[:, 2 * width :] = to_new
            own[:, : 2 * width] = there[:, : 2 * width]
            torch.mul(to_new, reset, out=own[:, 2 * width :])
            if t:
                grad = torch.addmm(grad * update, own, weight)
        past = torch.cat(states[1:]) if steps > 1 else states[0][:0]
        to_weight = to_own[1:].flatten(0, 1).t() @ past
        return to_gates, to_weight, to_own.sum(dim=(0, 1))


class HistoryEncoder(nn.Module):
    """The last h steps to z."""

    def __init__(self, observation: int, action: int, settings: WorldModelSettings):
        super().__init__()
        size, width = settings.context, settings.width
        self.split = (observation, action, 1)
        self.embed = nn.ModuleList(hidden(n, size) for n in self.split)
        self.weight_in, self.weight = (
            nn.Parameter(torch.empty(3 * width, 3 * size)),
            nn.Parameter(torch.empty(3 * width, width)),
        )
        self.bias_in, self.bias = nn.Parameter(torch.zeros(3 * width)), nn.Parameter(torch.zeros(3 * width))
        nn.init.orthogonal_(self.weight_in)
        nn.init.orthogonal_(self.weight)
        self.out = hidden(width, size)

    def forward(self, past: Tensor) -> Tensor:
        """`[h, B, O + A + 1]` to z `[B, Z]`."""
        parts = past.split(self.split, dim=-1)
        embedded = torch.cat([F.relu(f(x)) for f, x in zip(self.embed, parts, strict=True)], dim=-1)
        gates = F.linear(embedded, self.weight_in, self.bias_in)
        return self.out(ShortGRU.apply(gates, self.weight, self.bias))  # pyright: ignore[reportArgumentType]


class WorldModel(nn.Module):
    """Encoder and decoders, with the scale of the observations.

    Args:
        observation: Columns O.
        action: Columns A.
        settings: Sizes, with the decoders settled; ValueError if they are not.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, observation: int, action: int, settings: WorldModelSettings):
        super().__init__()
        if settings.decoders == "auto":
            raise ValueError("what a world model foretells is still open; settle it for a family, or name the decoders")
        size, width, decoders = settings.context, settings.width, settings.decoders
        self.steps, self.size = settings.history, size
        self.register_buffer("mean", torch.zeros(observation))
        self.register_buffer("std", torch.ones(observation))
        self.encoder = HistoryEncoder(observation, action, settings)
        self.embed_observation, self.embed_action = hidden(observation, size), hidden(action, size)
        self.reward = self._decoder(4 * size, width, 1) if decoders != "state" else None
        self.state = self._decoder(3 * size, width, observation) if decoders != "reward" else None

    @staticmethod
    def _decoder(inputs: int, width: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(hidden(inputs, width), nn.ReLU(), hidden(width, width), nn.ReLU(), hidden(width, outputs))

    def scaled(self, observation: Tensor) -> Tensor:
        """`[..., O]` in units of the standard deviation around the mean."""
        return (observation - self.mean) / self.std

    def foretell(self, step: StepInContext) -> tuple[Tensor | None, Tensor | None]:
        """The rewards `[B]` and the next observations `[B, O]`, scaled; None for what is not modelled."""
        z = self.encoder(step.past)
        here, act = F.relu(self.embed_observation(step.observation)), F.relu(self.embed_action(step.action))
        reward = state = None
        if self.reward is not None:
            there = F.relu(self.embed_observation(step.next_observation))
            reward = self.reward(torch.cat((here, act, there, z), dim=-1))[:, 0]
        if self.state is not None:
            state = self.state(torch.cat((here, act, z), dim=-1))
        return reward, state

    def error(self, step: StepInContext, *, mixed: bool = False) -> Tensor:
        """`[B]` |reward foretold - reward| + sum over the columns of |next observation foretold - it|.

        Args:
            step: StepInContexts.
            mixed: Compare the foretold state in the environment's units with the scaled true one, as released.
        """
        reward, state = self.foretell(step)
        error = torch.zeros_like(step.reward)
        if reward is not None:
            error = error + (reward - step.reward).abs()
        if state is not None:
            if mixed:
                state = state * self.std + self.mean
            error = error + (state - step.next_observation).abs().sum(dim=-1)
        return error


def loss(model: WorldModel, step: StepInContext) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean squared error of the reward plus that of the next observation (mean over its columns)."""
    reward, state = model.foretell(step)
    total, metrics = step.reward.new_zeros(()), {}
    if reward is not None:
        part = F.mse_loss(reward, step.reward)
        total, metrics["reward_error"] = total + part, part.detach()
    if state is not None:
        part = F.mse_loss(state, step.next_observation)
        total, metrics["state_error"] = total + part, part.detach()
    return total, metrics


class EpisodeSteps:
    """Every step of a set of episodes, ready to be gathered as transitions.

    Args:
        episodes: The set.
        model: Its scale and its h are used.
        crossing: History runs on into whatever episode lies before.
    """

    def __init__(self, episodes: Episodes, model: WorldModel, *, crossing: bool = False):
        self.table = torch.cat(
            (model.scaled(episodes.observation), episodes.action, episodes.reward[:, None]), dim=1
        )  # [N, O + A + 1]
        self.rows, self.first = episodes.rows()
        if crossing:  # the rows behind the episodes' ends are no steps: leave them out
            self.table, self.final = self.table[self.rows], self.table[self.rows + 1, : len(model.mean)]
            self.rows, self.first = torch.arange(len(self.rows)), torch.zeros_like(self.rows)
        self.crossing, self.steps, self.observation = crossing, model.steps, len(model.mean)
        self.action = episodes.action.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: Device) -> EpisodeSteps:
        """The same on a device."""
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(other, name, device.put(value))
        return other

    def past(self, pick: Tensor) -> Tensor:
        """`[h, B, O + A + 1]` what came before the steps `pick`."""
        before, inside = history(self.rows[pick], self.first[pick], self.steps)
        return self.table[before.t()] * inside.t()[..., None]

    def take(self, pick: Tensor) -> StepInContext:
        """The steps number `pick`."""
        now = self.table[self.rows[pick]]
        observation, action, reward = now.split((self.observation, self.action, 1), dim=1)
        following = self.final[pick] if self.crossing else self.table[self.rows[pick] + 1, : self.observation]
        return StepInContext(self.past(pick), observation, action, reward[:, 0], following)


@torch.inference_mode()
def evaluate_loss(model: WorldModel, steps: EpisodeSteps) -> float:
    """The loss over all the steps."""
    total = 0.0
    for pick in torch.arange(len(steps)).split(_CHUNK):
        total += float(loss(model, steps.take(pick))[0]) * len(pick)
    return total / len(steps)


@torch.inference_mode()
def contexts(model: WorldModel, episodes: Episodes, *, crossing: bool = False) -> Tensor:
    """The context z `[N, Z]` at every row, from the steps before it; zeros for the rows behind the episodes' ends."""
    steps = EpisodeSteps(episodes, model, crossing=crossing)
    out = torch.zeros(len(episodes.reward), model.size)
    real, _ = episodes.rows()
    for pick in torch.arange(len(steps)).split(_CHUNK):
        out[real[pick]] = model.encoder(steps.past(pick))
    return out


@torch.inference_mode()
def errors(model: WorldModel, episodes: Episodes, *, crossing: bool = False, mixed: bool = False) -> Tensor:
    """The model's error `[N]` at every row of the episodes; zeros for the rows behind their ends."""
    steps = EpisodeSteps(episodes, model, crossing=crossing)
    out = torch.zeros(len(episodes.reward))
    real, _ = episodes.rows()
    for pick in torch.arange(len(steps)).split(_CHUNK):
        out[real[pick]] = model.error(steps.take(pick), mixed=mixed)
    return out


class ModelTrainer:
    """Adam with the released clipping, and the best model so far by its loss on what it does not learn from.

    Args:
        model: Trained in place; its scales are set already.
        settings: Updates and learning rate.
        device: Where it is trained.
    """

    def __init__(self, model: nn.Module, settings: WorldModelFitting, device: Device | None = None):
        self.device = device = device or Device()
        self.twin, self.model = model, device.place(model if device.kind.type == "cpu" else copy.deepcopy(model))
        self.settings = settings
        self.optimiser = device.adam(self.model.parameters(), settings.learning_rate)
        self.best, self.least, self.done = pack({"world": model}, {}), torch.tensor(torch.inf), 0
        self.updates = device.updates(self.step)

    def draw(self, generator: torch.Generator) -> tuple[Any, ...]:
        """What an update learns from, as numbers of steps and episodes."""
        raise NotImplementedError

    def loss(self, *drawn: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss on what was drawn, and its parts; a pure function."""
        raise NotImplementedError

    def held_out(self) -> float:
        """The loss of `twin` on what is not learned from."""
        raise NotImplementedError

    def given(self, generator: torch.Generator) -> tuple[Any, ...]:
        """What the next update takes: what is drawn from `generator`, and the learning rate."""
        settings, self.done = self.settings, self.done + 1
        left = 1.0 - (self.done - 1) / settings.updates if settings.decay else 1.0
        return *self.draw(generator), settings.learning_rate * left * min(1.0, self.done / WARMUP)

    def update(self, generator: torch.Generator) -> Mapping[str, Tensor]:
        """The next update, on what is drawn from `generator`."""
        return self.step(*self.device.put(self.given(generator)))

    def step(self, *given: Any) -> dict[str, Tensor]:
        """An update on what was drawn, the learning rate behind it, as a pure function."""
        *drawn, rate = given
        set_rate(self.optimiser, rate)
        with self.device.products():
            total, metrics = self.loss(*drawn)
        descend(total, self.optimiser, CLIP)
        return {"loss": total.detach()} | metrics

    def look(self, done: int) -> Mapping[str, float]:
        """Every so often: the loss on what is held out, and the model kept where it is the least."""
        if done % SELECT_EVERY and done < self.settings.updates:
            return {}
        follow(self.twin, self.model)
        found = torch.tensor(self.held_out())
        if found < self.least:
            self.best, self.least = {n: t.clone() for n, t in pack({"world": self.twin}, {}).items()}, found
        return {"held_out_loss": float(found)}

    def tensors(self) -> dict[str, Tensor]:
        """What it takes to continue, and the best model."""
        return self.best | {"best": self.least} | pack({"now": self.model}, {"now-adam": self.optimiser})

    def restore(self, checkpoint: Checkpoint) -> int:
        """Takes up a checkpoint; returns how many updates are done."""
        tensors = checkpoint.tensors
        self.done = done = updates_done(checkpoint.iteration, 0, self.settings.updates)
        self.best, self.least = {n: t for n, t in tensors.items() if n.startswith("world/")}, tensors["best"]
        if done < self.settings.updates:  # later checkpoints, of the next phase, hold the best model alone
            unpack(tensors, {"now": self.model}, {"now-adam": self.optimiser})
        return done


class WorldModelTrainer(ModelTrainer):
    """Trains a model of windows.

    Args:
        model: Trained in place; its observation scale is set already.
        learn: Steps to learn from.
        judge: Steps to choose the best by.
        settings: Updates, batch, learning rate.
        device: Where it is trained.
    """

    def __init__(
        self,
        model: WorldModel,
        learn: EpisodeSteps,
        judge: EpisodeSteps,
        settings: WorldModelFitting,
        device: Device | None = None,
    ):
        super().__init__(model, settings, device)
        self.network, self.learn, self.judge = model, learn.to(self.device), judge
        self.mean_loss = self.device.compiled(loss)
        self.fast = compiled_updates(model, self.optimiser) if _suits(self.device) else None

    def draw(self, generator: torch.Generator) -> tuple[Tensor]:
        """Numbers of steps `[B]`, drawn evenly."""
        return (torch.randint(len(self.learn), (self.settings.batch,), generator=generator),)

    def loss(self, *drawn: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss on these steps."""
        (pick,) = drawn
        return self.mean_loss(self.model, self.learn.take(pick))

    def step(self, *given: Any) -> dict[str, Tensor]:
        """In compiled code where that is possible: on the CPU, in float32, update by update."""
        if self.fast is None or recording():
            return super().step(*given)
        pick, rate = given
        set_rate(self.optimiser, rate)
        reward, state = self.fast(*self.learn.take(pick))
        told = {"reward_error": reward, "state_error": state}
        told = {name: torch.tensor(error) for name, error in told.items() if error is not None}
        return {"loss": torch.stack(list(told.values())).sum()} | told

    def tensors(self) -> dict[str, Tensor]:
        """What it takes to continue."""
        if self.fast:
            self.fast.settle()
        return super().tensors()

    def restore(self, checkpoint: Checkpoint) -> int:
        """Takes up a checkpoint; returns how many updates are done."""
        done = super().restore(checkpoint)
        if self.fast:
            self.fast.bind()
        return done

    def held_out(self) -> float:
        """The loss over all steps to judge by."""
        return evaluate_loss(self.network, self.judge)


def _suits(device: Device) -> bool:
    return device.plain and device.form == "eager" and device.precision != "bf16"


def compiled_updates(model: WorldModel, optimiser: torch.optim.Optimizer) -> WindowUpdates:
    """The updates of a model of windows in compiled code."""
    encoder = model.encoder

    def both(*layers: Any) -> list[Tensor]:
        return [parameter for layer in layers for parameter in (layer.weight, layer.bias)]

    def decoder(layers: nn.Sequential | None) -> Decoder | None:
        return None if layers is None else Decoder(*both(layers[0], layers[2], layers[4]))

    own = (encoder.weight_in, encoder.weight, encoder.bias_in, encoder.bias)
    return WindowUpdates(
        Encoder(*own, *both(*encoder.embed, encoder.out)),
        Embedding(*both(model.embed_observation, model.embed_action)),
        decoder(model.reward),
        decoder(model.state),
        optimiser,
        CLIP,
    )


def train_model(trainer: ModelTrainer, *, seed: int, run: Run, checkpoint: Checkpoint | None) -> None:
    """The trainer's model ends as the best of its blocks by what is held out, or as it is in `checkpoint`.

    Args:
        trainer: Its model's scales are set already.
        seed: Of the run.
        run: Log and checkpoints.
        checkpoint: To continue from.
    """
    done = trainer.restore(checkpoint) if checkpoint else 0
    fit(
        run,
        "world model",
        trainer.updates,
        trainer.given,
        updates=trainer.settings.updates,
        seed=seed,
        phase=0,
        before=0,
        done=done,
        tensors=trainer.tensors,
        after_block=trainer.look,
        plays=False,
    )
    unpack(trainer.best, {"world": trainer.twin}, {})
