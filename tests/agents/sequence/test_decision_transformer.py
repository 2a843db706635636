"""The decision transformer: tokens, loss and updates; and its play, which must equal the training pass at each step."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from metabench_agents.parts.device import Device
from metabench_agents.parts.fast.precision import _exact, _known, products
from metabench_agents.sequence.decision_transformer import (
    DecisionTransformer,
    DecisionTransformerSettings,
    TransformerFitting,
    TransformerTrainer,
    aspiration_loss,
    loss,
)
from metabench_agents.sequence.episodes import Actions, Prompt, Window
from metabench_agents.sequence.playing import Choice, PlayingSettings, SequenceAgent, lookup
from metabench_agents.sequence.targets import Asking, TargetSettings
from torch import nn

from metabench import Timestep

BOX = spaces.Box(-2.0, 2.0, (2,), np.float32)
SMALL = DecisionTransformerSettings(window=6, layers=2, width=16, dropout=0.0)
FITTING = TransformerFitting(updates=20, warmup=5, batch=4)
PLAIN = PlayingSettings(explore=0)
LONG = 15  # steps of an episode


def player(net, codec, name, target, settings, **keywords):
    """An agent that asks for one return, for a task's, or at every step for what was learned."""
    kind = TargetSettings("expectile", every_step=True) if target is None else TargetSettings("return")
    value = target if callable(target) else torch.tensor(torch.inf if target is None else target)
    return SequenceAgent(net, codec, name, Asking(net, kind, value, settings.explore), settings, **keywords)


def network(context=0, settings=SMALL):
    torch.manual_seed(0)
    net = DecisionTransformer(3, 2, LONG, context, settings)
    net.mean, net.std, net.return_scale = (
        torch.tensor([1.0, 0.0, -1.0]),
        torch.tensor([2.0, 1.0, 0.5]),
        torch.tensor(4.0),
    )
    for parameter in net.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    return net


def window(rows=4, steps=6, context=0, valid=None):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(rows, steps, *shape, generator=generator)

    real = torch.ones(rows, steps, dtype=torch.bool) if valid is None else valid
    time = torch.arange(steps).expand(rows, steps)
    return Window(draw(3), draw(context), draw(2), draw(), time, real, draw(), torch.rand(rows, 1).expand(rows, steps))


def prompt(rows=4, steps=3):
    generator = torch.Generator().manual_seed(2)
    parts = (torch.randn(rows, steps, *shape, generator=generator) for shape in ((3,), (2,), ()))
    return Prompt(*parts, torch.arange(2, 2 + steps).expand(rows, steps))


@pytest.mark.parametrize("context", [0, 5])
def test_tokens_stand_in_their_order(context):
    net, w = network(context), window(context=context)
    tokens = net.tokens(w.observation, w.context, w.action, w.togo, w.time)
    when = net.time.weight[: w.time.shape[1]]
    seen = w.observation
    if context:
        net.context_mean, net.context_std = torch.full((context,), 0.5), torch.full((context,), 2.0)
        tokens = net.tokens(w.observation, w.context, w.action, w.togo, w.time)
        seen = torch.cat((net.encode(seen), (w.context - 0.5) / 2.0), -1)
    for place, part in enumerate((net.togo(w.togo[..., None]), net.observation(seen), net.action(w.action))):
        assert torch.allclose(tokens[:, place::3], net.norm(part + when), atol=1e-6)


def test_an_action_depends_on_what_came_before_it_only():
    net, w = network(), window()
    before = net(w)
    changed = w._replace(action=w.action.clone(), togo=w.togo.clone(), observation=w.observation.clone())
    changed.action[:, 3] += 1.0  # the action of step 3 itself, and all that follows
    for column in (changed.action, changed.togo, changed.observation):
        column[:, 4:] += 1.0
    after = net(changed)
    assert torch.allclose(before[:, :4], after[:, :4], atol=1e-6) and not torch.allclose(before[:, 4], after[:, 4])
    assert not torch.allclose(net(w, prompt()), before)


def test_the_loss_is_the_error_over_real_steps():
    valid = torch.ones(4, 6, dtype=torch.bool)
    valid[0, 2:] = valid[3, 5:] = False
    net, w = network(), window(valid=valid)
    total, metrics = loss(net, w, prompt())
    with torch.no_grad():
        expected = ((net(w, prompt()) - w.action) ** 2).mean(-1)[valid].mean()
    assert torch.allclose(total, expected) and metrics["loss"] == total
    nonsense = w._replace(observation=torch.where(valid[..., None], w.observation, 1e3))
    assert torch.allclose(loss(net, nonsense, prompt())[0], expected, rtol=1e-4), "padding reaches the loss"


def test_updates_lower_the_loss_and_follow_the_rate():
    net = network()
    trainer, w = TransformerTrainer(net, FITTING), window()
    losses = [float(trainer.update(w, None, i, torch.Generator())["loss"]) for i in range(20)]
    assert losses[-1] < losses[0]
    rates = [trainer.rate(i) for i in range(20)]
    assert np.allclose(rates[:6], [1e-4, 2e-4, 3e-4, 4e-4, 5e-4, 5e-4]) and rates[-1] == pytest.approx(5e-4 / 15)
    assert TransformerTrainer(network(), TransformerFitting(decay=False, warmup=1)).rate(3999) == 5e-4


@pytest.mark.parametrize("context", [0, 4])
def test_compiled_and_eager_give_the_same_loss(context):
    """`torch.compile` around the pure function; at these sizes on a CPU it is the slower one, see docs/speed.md."""
    net, w = network(context), window(context=context)
    expected, _ = loss(net, w, prompt())
    compiled = torch.compile(lambda: loss(net, w, prompt())[0], backend="aot_eager")()
    assert torch.allclose(compiled, expected, atol=1e-5)


def test_bf16_stays_near_fp32():
    w = window(32)
    losses = {}
    for precision in ("fp32", "bf16"):
        trainer = TransformerTrainer(network(), FITTING, Device(precision=precision))
        losses[precision] = [float(trainer.update(w, None, i, torch.Generator())["loss"]) for i in range(20)]
    assert np.allclose(losses["fp32"], losses["bf16"], rtol=0.02)


@pytest.mark.gpu
def test_updates_on_a_gpu_are_those_on_the_cpu():
    losses = {}
    for device in ("cpu", "cuda"):
        trainer, w = TransformerTrainer(network(), FITTING, Device(device)), window(32)
        losses[device] = [float(trainer.update(w, prompt(32), i, torch.Generator())["loss"]) for i in range(20)]
    assert np.allclose(losses["cpu"], losses["cuda"], rtol=1e-3)


def test_fast_products_are_float32_or_not_used():
    before = torch.backends.mkldnn.matmul.fp32_precision
    a, b = torch.randn(300, 200), torch.randn(200, 100)
    with products("fp32"):
        assert ((a @ b) - a.double() @ b.double()).abs().max() < 1e-4
        assert _exact() == _known["exact"]
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    with pytest.raises(ValueError, match="unknown precision 'fp8'"), products("fp8"):
        pass


def test_the_aspiration_is_an_expectile_of_the_returns_to_go():
    """With inputs that tell nothing it settles on the number whose weighted errors balance, found here by bisection."""
    net, w = network(), window(64)
    blank = w._replace(observation=w.observation * 0, last_reward=w.last_reward * 0, time=w.time * 0)
    optimiser = torch.optim.Adam(net.aspiration.parameters(), lr=0.02)
    for _ in range(300):
        optimiser.zero_grad()
        aspiration_loss(net, blank).backward()
        optimiser.step()
    values, low, high = blank.togo.flatten(), -10.0, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        pull = 0.97 * (values - middle).clamp(min=0).sum() - 0.03 * (middle - values).clamp(min=0).sum()
        low, high = (middle, high) if pull > 0 else (low, middle)
    zeros = torch.zeros(1)
    asked = net.aspire(torch.zeros(1, 3), zeros, zeros, torch.zeros(1, 0))
    assert float(asked.detach()) == pytest.approx(low, abs=0.03)


def test_the_aspiration_sees_the_last_reward_and_weighs_real_steps_only():
    net = network()
    valid = torch.ones(4, 6, dtype=torch.bool)
    valid[0, 3:] = False
    w, seen = window(valid=valid), []
    net.aspire = lambda *inputs: seen.append(inputs) or torch.zeros(4, 6)
    total = aspiration_loss(net, w)
    assert torch.equal(seen[0][1], w.last_reward)
    weight = torch.where(w.togo > 0, 0.97, 0.03) * w.togo**2
    assert torch.allclose(total, weight[valid].mean())


def test_an_agent_asks_for_what_was_learned():
    net = network()
    agent = player(net, Actions(BOX), "t", None, PLAIN)
    observation, reward, first = stream_of(2, 20, [[0, 15], [0]])
    _, belief = play(agent, observation, reward, first)
    assert not agent.privileged
    for t in (0, 1, 14, 15, 16):
        tick = belief.ticks[t]
        with torch.no_grad():
            expected = net.aspire(net.scaled(tick.observation), tick.reward, tick.time, tick.context)
        assert torch.allclose(tick.togo, expected)


def test_a_trial_begins_with_drawn_actions_and_no_later_episode_does():
    net, drawing = network(), PlayingSettings(explore=3)
    observation, reward, first = stream_of(4, 14, [[0, 7]] * 4)
    codec = Actions(spaces.Box(-0.5, 0.5, (2,), np.float32))
    actions, belief = play(player(net, codec, "t", None, drawing), observation, reward, first)
    again, _ = play(player(net, codec, "t", None, drawing), observation, reward, first)
    assert np.array_equal(actions, again)
    assert np.allclose(actions[:3], belief.probes.transpose(0, 1) * 0.5) and np.abs(actions).max() <= 0.5
    assert len(np.unique(actions[:3])) == 24, "every trial draws its own"
    shown = belief.ticks[2].action
    assert torch.equal(shown, belief.probes[:, 2]), "the network is shown what was done"
    unmoved, _ = play(player(net, codec, "t", None, PLAIN), observation, reward, first)
    assert np.array_equal(unmoved[7], actions[7]), "the next episode's first action is the network's own"


def test_probes_fill_the_box_of_raw_actions_too():
    box = spaces.Box(-0.1, 0.1, (2,), np.float32)
    probes = player(network(), Actions(box, raw=True), "t", None, PlayingSettings(explore=200)).begin(3).probes
    assert 0.09 < float(probes.abs().max()) <= 0.1


def test_hidden_actions_change_nothing_that_is_decided():
    w = window()
    seeing, blind = network(), network(settings=replace(SMALL, sees_actions=False))
    blind.load_state_dict(seeing.state_dict())
    other = w._replace(action=-w.action)
    seeing.eval(), blind.eval()
    assert torch.equal(blind(w), blind(other)) and not torch.allclose(seeing(w), seeing(other))


# --- play ---------------------------------------------------------------------------------------------------------


def stream_of(rows, ticks, starts):
    """A trial as the evaluator shows it, with episodes that start at `starts[row]`."""
    rng = np.random.default_rng(0)
    first = np.zeros((ticks, rows), dtype=bool)
    for row, ticks_of_row in enumerate(starts):
        first[ticks_of_row, row] = True
    observation = rng.normal(size=(ticks, rows, 3)).astype(np.float32)
    reward = np.where(first, 0.0, rng.normal(size=(ticks, rows)))
    return observation, reward, first


def play(agent, observation, reward, first):
    rows = first.shape[1]
    belief, action, out = agent.begin(rows), np.zeros((rows, 2), np.float32), []
    for t in range(len(first)):
        shown = np.where(first[t][:, None], 0, action)
        before = belief
        copied = [tensor.clone() for tick in before.ticks for tensor in tick]
        action, belief = agent.act(
            Timestep(observation[t], shown, reward[t], first[t], np.zeros_like(observation[t])), belief
        )
        assert all(torch.equal(a, b) for a, b in zip(copied, (x for tick in before.ticks for x in tick), strict=True))
        out.append(action)
    return np.stack(out), belief


def expected_action(net, codec, belief, row, tick, begin, target, in_front):
    """The training pass over the steps from `begin` to `tick` of one row."""
    ticks = belief.ticks[begin : tick + 1]
    steps = len(ticks)
    columns = {
        name: torch.stack([getattr(t, name)[row] for t in ticks])[None] for name in ("observation", "context", "action")
    }
    episode = next(t for t in range(tick, -1, -1) if belief.ticks[t].first[row])
    rewards = torch.stack([t.reward[row] for t in belief.ticks[episode : tick + 1]])
    togo = (target - rewards.cumsum(0))[begin - episode :][None] / net.return_scale
    time = torch.arange(begin - episode, tick - episode + 1)[None]
    valid = torch.ones(1, steps, dtype=torch.bool)
    seen = net.scaled(columns["observation"])
    with torch.inference_mode():
        window = Window(seen, columns["context"], columns["action"], togo, time, valid, togo, togo)
        return codec.to_env(net(window, in_front))[0, -1]


def begin_of(agent, tick, starts, sliding):
    """The step a row's window begins with, when rows are in step."""
    episode = max(s for s in starts if s <= tick)
    if sliding:
        return max(episode, tick - agent.window + 1)
    begin = episode
    while tick - begin >= agent.window:
        begin = begin + agent.window - agent.kept
    return begin


@pytest.mark.parametrize("sliding", [False, True])
@pytest.mark.parametrize("context", [0, 2])
def test_play_is_the_training_pass(sliding, context):
    """Every action of three episodes in step is that of the whole window computed anew, prompts included."""
    settings = PlayingSettings(explore=0, sliding=sliding)
    net, codec, starts = network(context), Actions(BOX), [0, 15, 30]
    given = prompt(3)

    def choose(ticks, step):
        return Choice(given, torch.tensor([True, False, True]), torch.zeros(3))

    def recall(ticks, now):
        return now._replace(context=now.observation[:, :context] * 0.1 + len(ticks) * 0.01)

    agent = player(net, codec, "test", 5.0, settings, recall=recall if context else None, choose=choose)
    observation, reward, first = stream_of(3, 45, [starts] * 3)
    actions, belief = play(agent, observation, reward, first)
    scaled = net.scale_prompt(given)
    for tick in range(45):
        begin = begin_of(agent, tick, starts, sliding)
        for row in range(3):
            in_front = Prompt(*(x[row : row + 1] for x in scaled)) if tick >= 15 and row != 1 else None
            expected = expected_action(net, codec, belief, row, tick, begin, 5.0, in_front)
            assert np.allclose(actions[tick, row], expected, atol=1e-4), (tick, row)


def test_episodes_out_of_step_do_not_mix():
    """Rows whose episodes end at different ticks act as each does alone, where the windows are the same."""
    net, codec = network(), Actions(BOX)
    agent = player(net, codec, "test", 5.0, PLAIN)
    starts = [[0, 4], [0, 2, 5], [0]]
    observation, reward, first = stream_of(3, 7, starts)
    together, belief = play(agent, observation, reward, first)
    for row in range(3):
        for tick in range(6):
            begin = max(s for s in starts[row] if s <= tick)
            if row == 2:
                begin = max(0, max([0, *(s - agent.kept for s in (2, 4, 5) if s <= tick)]))
            expected = expected_action(net, codec, belief, row, tick, begin, 5.0, None)
            assert np.allclose(together[tick, row], expected, atol=1e-4), (tick, row)


def test_play_does_not_depend_on_the_other_rows():
    agent = player(network(), Actions(BOX), "test", 5.0, PLAIN)
    observation, reward, first = stream_of(4, 30, [[0, 15]] * 4)
    together, _ = play(agent, observation, reward, first)
    alone, _ = play(agent, observation[:, 2:3], reward[:, 2:3], first[:, 2:3])
    assert np.allclose(together[:, 2:3], alone, atol=1e-5)


def test_the_better_of_two_prompts_is_kept():
    prompts = [prompt(2), Prompt(*(x + 1 for x in prompt(2))), Prompt(*(x + 2 for x in prompt(2)))]
    merits = [torch.tensor([1.0, 1.0]), torch.tensor([0.0, 2.0])]
    given = iter(zip(prompts, merits, strict=False))
    agent = player(network(), Actions(BOX), "t", 0.0, PLAIN, choose=lambda *_: Choice(*_with(*next(given))))
    _, belief = play(agent, *stream_of(2, 31, [[0, 15, 30]] * 2))
    scaled = [agent.network.scale_prompt(p) for p in prompts]
    assert torch.equal(belief.prompt.observation[0], scaled[0].observation[0])
    assert torch.equal(belief.prompt.observation[1], scaled[1].observation[1])
    assert belief.merit.tolist() == [1.0, 2.0]


def _with(given, merit):
    return given, torch.tensor([True, True]), merit


def test_demonstrations_and_targets_of_the_task_make_an_agent_privileged():
    find = lookup(np.array([[0.5], [1.5]]))
    targets, demonstrations = torch.tensor([3.0, 9.0]), prompt(2)

    def demonstrate(task):
        return Prompt(*(x[find(task)] for x in demonstrations))

    keywords = {"demonstrations": demonstrate, "track": "prompt-k"}
    agent = player(network(), Actions(BOX), "t", lambda task: targets[find(task)], PLAIN, **keywords)
    assert agent.privileged and not player(network(), Actions(BOX), "t", 0.0, PLAIN).privileged
    observation = np.concatenate((np.zeros((3, 3)), [[1.5], [0.5], [1.5]]), axis=1)
    step = Timestep(observation, np.zeros((3, 2)), np.zeros(3), np.ones(3, dtype=bool), np.zeros_like(observation))
    _, belief = agent.act(step, agent.begin(3))
    assert torch.allclose(belief.ticks[0].togo * 4.0, torch.tensor([9.0, 3.0, 9.0]))
    assert belief.prompted.all() and torch.equal(belief.prompt.action, demonstrations.action[[1, 0, 1]])
    with pytest.raises(ValueError, match="a task for which it has no data"):
        find(torch.tensor([[0.7]]))


@pytest.mark.parametrize("form", ["captured", "eager"])
def test_a_captured_transformer_learns_what_the_eager_one_does(form):
    """Dropout included: what it draws follows from a number that is handed in, here to the eager form as well."""
    from metabench_agents.sequence.fitting import dropout_key

    results = {}
    for kind in ("eager", form):
        torch.manual_seed(0)
        trainer, told = (
            TransformerTrainer(network(settings=replace(SMALL, dropout=0.2)), FITTING, Device("cpu", form=kind)),
            [],
        )
        for number in range(23):
            w, shown = shifted(number), prompt() if number % 7 == 6 else None
            given = (w, shown, trainer.rate(number), dropout_key(torch.Generator().manual_seed(number)))
            trainer.updates.add(*given)
            if number % 5 == 4:
                told.append(trainer.updates.means()["loss"])
        trainer.updates.flush()
        results[kind] = torch.cat([p.detach().flatten() for p in trainer.network.parameters()]), told
    (eager, told), (captured, also) = results["eager"], results[form]
    assert torch.allclose(eager, captured, atol=5e-5)  # Adam carries the rounding of 23 updates on
    assert told == pytest.approx(also, abs=1e-5)
    assert len(set(told)) == len(told)


def shifted(number):
    drawn = window()
    return drawn._replace(observation=drawn.observation + 0.1 * number)


def test_dropout_by_a_number_keeps_its_share_and_is_new_with_every_number():
    from metabench_agents.sequence.fitting import seed_dropout
    from metabench_agents.sequence.transformer import Dropout

    layers = nn.ModuleList([Dropout(0.25), Dropout(0.25)])
    x, rows = torch.ones(1000, 103), []
    for key in (1, 2, 1):
        seed_dropout(layers, torch.tensor(key))
        rows.append(torch.stack([layer(x) for layer in layers]))
    assert torch.equal(rows[0], rows[2]), "the same number gives the same"
    assert all(abs(float((row == 0).float().mean()) - 0.25) < 0.01 for row in rows)
    for one, other in ((rows[0][0], rows[0][1]), (rows[0], rows[1])):
        agree = float(((one == 0) == (other == 0)).float().mean())
        assert abs(agree - 0.625) < 0.02, "layers and numbers are independent"
    bits = (rows[0][0] == 0).float()
    assert (bits.mean(0) - 0.25).abs().max() < 0.08 and (bits.mean(1) - 0.25).abs().max() < 0.2
