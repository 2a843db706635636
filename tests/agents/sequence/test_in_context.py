"""AD and DPT: histories as tensors, losses by hand, what tokens see, the cache, and that they learn in context."""

import numpy as np
import pytest
import torch
from metabench_agents.parts.config import with_settings
from metabench_agents.parts.run import Run
from metabench_agents.sequence.incontext import ad, dpt
from metabench_agents.sequence.incontext.context import ContextFitting, ContextSettings
from metabench_agents.sequence.incontext.histories import draw_stretches, load_histories
from metabench_agents.sequence.incontext.moves import Choices, Motions, fresh_streams, moves_of

import metabench
from metabench import Timestep
from metabench.datasets import generate
from metabench.evaluation.results import Protocol
from metabench.runs import Stopped

ID = "GridNavigation-v0"
SMALL = ContextSettings(layers=2, heads=2, width=16, window=12)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(generate("grid-navigation/history-v0", "test", episodes=100, root=tmp_path_factory.mktemp("data")))


def listen(patch, told, kind=Choices):
    """Every output that an action is drawn from is kept."""
    draw = kind.draw
    patch.setattr(kind, "draw", lambda self, outputs, *rest: (told.append(outputs), draw(self, outputs, *rest))[1])


def networks():
    torch.manual_seed(0)
    return ad.HistoryNetwork(ID, SMALL), dpt.DecisionNetwork(ID, SMALL)


def test_histories_are_the_learners_steps_in_order(data):
    found, histories = metabench.load_dataset(data), load_histories(ID, data, "test")
    assert len(histories) == 10 and (histories.length == 50 * 15).all()
    assert torch.equal(histories.action.long(), torch.from_numpy(np.array(found.column("action"))).long())
    assert torch.equal(histories.expert.long(), torch.from_numpy(found.expert_actions()).long())
    skipped = load_histories(ID, data, "test", skip=4)
    assert len(skipped) == 40 and sorted(skipped.length.unique().tolist()) == [12 * 15, 13 * 15]
    episode = found[0 + 4 * 2]  # the third of the first learner's first share
    rows = slice(2 * 15, 3 * 15)
    assert np.array_equal(skipped.observation[rows].numpy(), episode.observations)
    assert np.array_equal(skipped.reward[rows].numpy(), episode.rewards)
    assert np.array_equal(skipped.following[rows][-1].numpy(), episode.final_observation)
    assert skipped.first[rows].tolist() == [True] + [False] * 14 and skipped.time[rows].tolist() == list(range(15))
    assert len(skipped.action) == len(histories.action)
    assert skipped.reward.sum() == pytest.approx(float(histories.reward.sum()), abs=1e-2)


def test_stretches_stay_inside_their_history(data):
    histories = load_histories(ID, data, "test")
    rows, which = draw_stretches(histories, 500, 30, 0.5, torch.Generator().manual_seed(0))
    assert (rows[:, 0] >= histories.start[which]).all()
    assert (rows[:, -1] < histories.start[which] + histories.length[which]).all()
    assert 0.4 < (rows[:, 0] == histories.start[which]).float().mean() < 0.6
    stretch = ad.stretch_of(histories, rows, which, Choices(5))
    begins = rows[:, 0] == histories.start[which]
    assert (stretch.last_action[begins, 0] == -1).all() and (stretch.last_reward[begins, 0] == 0).all()
    assert (stretch.last_action[~begins, 0] >= 0).all()
    assert torch.equal(stretch.last_action[:, 1:], stretch.action[:, :-1])
    with pytest.raises(ValueError, match="no history has 751 steps"):
        draw_stretches(histories, 1, 751, 0.5, torch.Generator())


def some_stretch(steps, rows=3):
    generator = torch.Generator().manual_seed(1)
    actions = torch.randint(5, (rows, steps + 1), generator=generator)
    return ad.Stretch(
        torch.randint(5, (rows, steps, 2), generator=generator).float(),
        actions[:, :-1],
        torch.rand(rows, steps, generator=generator),
        torch.arange(steps)[None].expand(rows, -1) % 5 == 0,
        torch.arange(steps)[None].expand(rows, -1) % 5,
        actions[:, 1:],
    )


def by_hand(logits, label):
    total = 0.0
    for row, answer in zip(logits.detach().double().reshape(-1, 5).numpy(), label.reshape(-1).tolist(), strict=True):
        total -= row[answer] - np.log(np.exp(row).sum())
    return total / label.numel()


def test_ads_loss_by_hand():
    network, stretch = networks()[0], some_stretch(12)
    total, metrics = ad.loss(network, stretch)
    assert float(total.detach()) == pytest.approx(by_hand(network(stretch), stretch.action), abs=1e-6)
    right = (network(stretch).argmax(-1) == stretch.action).double().mean()
    assert float(metrics["accuracy"]) == pytest.approx(float(right))


def test_ad_sees_the_past_alone():
    network, stretch = networks()[0], some_stretch(12)
    changed = stretch._replace(observation=stretch.observation.clone())
    changed.observation[:, 7] = 4 - changed.observation[:, 7]
    gap = (network(stretch) - network(changed)).abs().amax(dim=(0, 2))
    assert (gap[:7] == 0).all() and (gap[7:] > 0).all()


def some_questions(rows=3, steps=12):
    generator = torch.Generator().manual_seed(2)

    def cells(*shape):
        return torch.randint(5, (*shape, 2), generator=generator).float()

    context = dpt.Transitions(
        cells(rows, steps),
        torch.randint(5, (rows, steps), generator=generator),
        torch.rand(rows, steps, generator=generator),
        cells(rows, steps),
    )
    label = torch.randint(5, (rows, 4), generator=generator)
    return dpt.Questions(context, cells(rows, 4), torch.tensor([0, 5, 12, 5]), label)


def test_dpts_loss_by_hand():
    network, questions = networks()[1], some_questions()
    total, _ = dpt.loss(network, questions)
    assert float(total.detach()) == pytest.approx(by_hand(network(questions), questions.label), abs=1e-6)


def test_a_query_sees_its_prefix_and_itself_alone():
    network, questions = networks()[1], some_questions()
    told = network(questions)
    later = questions._replace(context=questions.context._replace(reward=questions.context.reward.clone()))
    later.context.reward[:, 5:] += 1.0
    gap = (network(later) - told).abs().amax(dim=(0, 2))
    assert gap[0] == gap[1] == gap[3] == 0 and gap[2] > 0
    other = questions._replace(observation=questions.observation.clone())
    other.observation[:, 1] = 4 - other.observation[:, 1]
    gap = (network(other) - told).abs().amax(dim=(0, 2))
    assert gap[1] > 0 and gap[0] == gap[2] == gap[3] == 0


def with_answers(many=3):
    torch.manual_seed(0)
    return dpt.DecisionNetwork(ID, SMALL, many)


def some_answers(told, rows=3, many=3):
    generator = torch.Generator().manual_seed(4)
    cells = torch.randint(5, (rows, many, 2), generator=generator).float()
    answers = dpt.Answers(cells, torch.randint(5, (rows, many), generator=generator))
    return some_questions(rows)._replace(answers=answers, told=torch.tensor(told))


def test_a_query_sees_the_newest_answers_it_is_told():
    network, questions = with_answers(), some_answers([0, 1, 3, 2])
    logits = network(questions)
    for which, seen in enumerate(([1, 2, 3], [2, 3], [2])):  # of the four queries, those that are told of it
        changed = questions.answers._replace(action=questions.answers.action.clone())
        changed.action[:, which] = (changed.action[:, which] + 1) % 5
        gap = (network(questions._replace(answers=changed)) - logits).abs().amax(dim=(0, 2))
        assert (gap > 0).nonzero()[:, 0].tolist() == seen
    aged = dpt.Answers(*(column.flip(1) for column in questions.answers))  # the same answers in another order
    assert (network(questions._replace(answers=aged)) - logits).abs().amax(dim=(0, 2))[2] > 0
    later = questions._replace(context=questions.context._replace(reward=questions.context.reward + 1.0))
    gap = (network(later) - logits).abs().amax(dim=(0, 2))
    assert gap[0] == 0 and (gap[1:] > 0).all(), "an answer shows a query what is not in its prefix"


def test_answers_are_steps_of_the_context_and_the_newest_are_right(data):
    """They stand in front of the context, which is the same steps; how many are sound is drawn evenly, or is none."""
    histories, generator, right = load_histories(ID, data, "test"), torch.Generator().manual_seed(0), np.zeros(6)
    rows = torch.cat([draw_stretches(histories, 100, 60, 1.0, generator)[0] for _ in range(10)])
    agree = histories.action[rows] == histories.expert[rows]
    answers, ordered = dpt._draw_answers(histories, rows, agree, 6, generator)
    assert torch.equal(ordered.sort(dim=1).values, rows.sort(dim=1).values)
    pairs = torch.cat((histories.observation, histories.action[:, None].float()), dim=1)[ordered]
    asked = torch.cat((answers.observation, answers.action[..., None].float()), dim=2)
    assert (asked[:, :, None] == pairs[:, None, :6]).all(-1).any(-1).all(), "an answer is not in front"
    for k in range(6):
        where = (pairs == asked[:, k, None]).all(-1).float().argmax(1, keepdim=True)
        step = ordered.gather(1, where)[:, 0]
        right[k] = (histories.action[step] == histories.expert[step]).double().mean()
    chance = float(agree.double().mean())
    sound = (1 - dpt.UNSOUND) * np.arange(6, 0, -1) / 7
    assert right == pytest.approx(sound + (1 - sound) * chance, abs=0.05)


def test_without_answers_all_is_as_it_was(data):
    """The same draws, the same names of the tensors: what was published before there were answers."""
    histories = load_histories(ID, data, "test")
    config = dpt.Config(labels="noisy", queries=7, network=SMALL, fitting=ContextFitting(batch=5))
    old = dpt.draw_questions(histories, config, Choices(5), torch.Generator().manual_seed(0))
    new = dpt.draw_questions(
        histories, with_settings(config, {"answers": 4}), Choices(5), torch.Generator().manual_seed(0)
    )
    assert old.answers == () and old.told == () and new.told.shape == (7,) and new.answers.action.shape == (5, 4)
    assert all(torch.equal(one, other) for one, other in zip(old[1:4], new[1:4], strict=True))
    without, also = with_answers(0).state_dict(), with_answers().state_dict()
    assert {name for name in also if name not in without} == {"answer.weight", "answer.bias", "age.weight"}
    assert all(torch.equal(value, also[name]) for name, value in without.items())
    assert dpt.Config().answers == 0
    with pytest.raises(ValueError, match=r"--answers must be at most the 12 steps of --network\.window, got 13"):
        dpt.draw_questions(histories, with_settings(config, {"answers": 13}), Choices(5), torch.Generator())


@pytest.mark.parametrize(("labels", "low", "high"), [("exact", 1, 1), ("noisy", 0.55, 0.65), ("taken", 0.3, 0.9)])
def test_labels_are_what_they_are_called(data, labels, low, high):
    """Of labels that are uniform with probability one half, one in ten is right by chance."""
    histories = load_histories(ID, data, "test")
    config = dpt.Config(labels=labels, noise=0.5, queries=400, network=SMALL, fitting=ContextFitting(batch=20))
    questions = dpt.draw_questions(histories, config, Choices(5), torch.Generator().manual_seed(0))
    goal = torch.from_numpy(metabench.spec(ID).table().rows["test"][:, 0].astype(np.int64))
    from metabench.yardsticks.grid_navigation import to_cell

    # The oracle's answer is the same for every query of one task at one cell.
    assert questions.label.shape == (20, 400) and questions.prefix.min() >= 0 and questions.prefix.max() <= 12
    seen = questions.observation.flatten(0, 1)
    answers = torch.stack(
        [torch.as_tensor(to_cell(torch.cat((seen, g.expand(len(seen), 1).float()), 1).numpy())) for g in goal]
    ).view(len(goal), 20, 400)
    share = (answers == questions.label).float().mean(dim=2).amax(dim=0)
    assert low <= share.mean() <= high


def ticks(agent, count, rows=4):
    """Plays `count` ticks of GridNavigation; what the agent was shown and its beliefs."""
    env = metabench.make_vec(ID, rows, split="test", episodes_per_task=20)
    observation, _ = env.reset(seed=0)
    belief, action, reward = agent.begin(rows), np.zeros(rows, np.int64), np.zeros(rows)
    first, final, seen = np.ones(rows, bool), np.zeros((rows, 2), np.float32), []
    for _ in range(count):
        step = Timestep(observation, action, reward, first, final)
        action, after = agent.act(step, belief)
        seen.append((step, belief, action))
        belief = after
        observation, reward, _, first, info = env.step(action)
        final = info["final_obs"] if first.any() else np.zeros((rows, 2), np.float32)
    return seen


def test_ads_cache_equals_the_whole_forward(monkeypatch):
    network, logits = networks()[0], []
    agent = ad.HistoryAgent(network, True)
    listen(monkeypatch, logits)
    seen = ticks(agent, 40)
    columns = [torch.from_numpy(np.stack([np.asarray(s[0][k]) for s in seen], 1)) for k in range(4)]
    observation, action, reward, first = columns
    action = action.long()
    action[:, 0] = -1
    time = (torch.arange(40) % 15)[None].expand(4, -1)
    begin = 0
    for t in range(40):
        if t - begin == 12:  # the window is full: its older half is dropped
            begin += 6
        part = slice(begin, t + 1)
        stretch = ad.Stretch(
            *(c[:, part] for c in (observation.float(), action, reward.float(), first, time)), action[:, part]
        )
        assert torch.allclose(network(stretch)[:, -1], logits[t], atol=1e-5), t


@pytest.mark.parametrize("answers", [0, 3])
def test_dpts_cache_equals_the_whole_forward(monkeypatch, answers):
    """And an episode of fifteen steps begins without answers."""
    network, logits = with_answers(answers), []
    agent = dpt.DecisionAgent(network, True)
    listen(monkeypatch, logits)
    seen = ticks(agent, 40)
    steps = [s[0] for s in seen]
    came = [np.where(s.first[:, None], s.final, s.observation) for s in steps[1:]]
    begin = 0
    for t in range(40):
        if t - begin == 13:  # thirteen transitions do not fit
            begin += 6
        part = range(begin, t)

        def stacked(values, like, part=part):
            rows = [torch.as_tensor(np.asarray(values[k])) for k in part]
            return torch.stack(rows, 1) if rows else like

        context = dpt.Transitions(
            stacked([s.observation for s in steps], torch.zeros(4, 0, 2)).float(),
            stacked([s[2] for s in seen], torch.zeros(4, 0)).long(),
            stacked([s.reward for s in steps[1:]], torch.zeros(4, 0)).float(),
            stacked(came, torch.zeros(4, 0, 2)).float(),
        )
        query = torch.as_tensor(np.asarray(steps[t].observation)).float()[:, None]
        questions = dpt.Questions(context, query, torch.tensor([t - begin]), torch.zeros(4, 1).long())
        if answers:
            last = range(t - 1, max(t - t % 15, t - answers) - 1, -1)
            given = dpt.Answers(
                stacked([s.observation for s in steps], torch.zeros(4, 0, 2), last).float(),
                stacked([s[2] for s in seen], torch.zeros(4, 0), last).long(),
            )
            questions = questions._replace(answers=given, told=torch.tensor([len(last)]))
        assert torch.allclose(network(questions)[:, 0], logits[t], atol=1e-5), t


def test_trials_whose_episodes_began_at_different_ticks_have_answers_of_their_own():
    """Each of two trials, one of which begins an episode in between, is answered as it is alone."""
    agent = dpt.DecisionAgent(with_answers(), True)

    def step(t, rows):
        cells = np.array([[t % 5, t % 3], [t % 4, t % 5]], np.float32)
        first, action = np.array([t == 0, t in (0, 4)]), np.array([t % 5, (t + 2) % 5])
        return Timestep(*(column[rows] for column in (cells, action, np.array([0.1 * t, 1.0]), first, cells)))

    beliefs = {rows: agent.begin(len(rows)) for rows in ((0, 1), (0,), (1,))}
    logits = {}
    for t in range(9):
        for rows, belief in beliefs.items():
            told = []
            with pytest.MonkeyPatch.context() as patch:
                listen(patch, told)
                _, beliefs[rows] = agent.act(step(t, list(rows)), belief)
            logits[rows] = told[0]
        assert torch.allclose(logits[0, 1][0], logits[(0,)][0], atol=1e-5)
        assert torch.allclose(logits[0, 1][1], logits[(1,)][0], atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ad.HistoryAgent(networks()[0], True),
        lambda: dpt.DecisionAgent(networks()[1], True),
        lambda: dpt.DecisionAgent(with_answers(), True),
    ],
)
def test_beliefs_are_values(make):
    agent = make()
    for step, belief, action in ticks(agent, 30):
        assert np.array_equal(agent.act(step, belief)[0], action)


def test_actions_are_drawn_as_often_as_predicted():
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.3, 0.4]])).expand(20_000, -1)
    drawn, _ = Choices(4).draw(logits, fresh_streams(20_000), True)
    assert np.bincount(drawn, minlength=4) / 20_000 == pytest.approx([0.1, 0.2, 0.3, 0.4], abs=0.015)
    assert (Choices(4).draw(logits, fresh_streams(20_000), False)[0] == 3).all()


POINT = "PointRobot-v0"


@pytest.fixture(scope="module")
def walks(tmp_path_factory):
    """Data whose actions are a box and whose policies remember nothing."""
    return str(generate("point-robot/replay-v0", "test", episodes=20, root=tmp_path_factory.mktemp("walks")))


def test_a_gaussians_loss_and_draws_by_hand():
    moves = moves_of(POINT)
    assert isinstance(moves, Motions) and (moves.size, moves.outputs) == (2, 4)
    outputs = torch.tensor([[[0.3, -0.2, -1.0, 5.0]]])  # the second deviation is cut to e^0.5
    label = torch.tensor([[[0.1, 0.9]]])
    mean, deviation = np.tanh([0.3, -0.2]), np.exp([-1.0, 0.5])
    expected = np.sum(0.5 * ((label[0, 0].numpy() - mean) / deviation) ** 2 + np.log(deviation * np.sqrt(2 * np.pi)))
    total, metrics = moves.loss(outputs, label)
    assert float(total) == pytest.approx(expected, abs=1e-5)
    assert float(metrics["miss"]) == pytest.approx(np.abs(label[0, 0].numpy() - mean).mean(), abs=1e-6)
    many = torch.tensor([[0.3, -0.2, -3.0, -3.0]]).expand(20_000, -1)
    drawn, streams = moves.draw(many, fresh_streams(20_000), True)
    half = np.asarray(metabench.spec(POINT).family().action_space.high)
    assert drawn.mean(0) / half == pytest.approx(mean, abs=2e-3)
    assert drawn.std(0) / half == pytest.approx([np.exp(-3.0)] * 2, abs=2e-3)
    assert not np.array_equal(moves.draw(many, streams, True)[0], drawn)
    assert moves.draw(many, streams, False)[0] / half == pytest.approx(np.tile(mean, (20_000, 1)), abs=1e-6)


def test_what_nobody_has_done_is_nothing_and_wild_labels_are_even():
    for moves, action in (
        (Choices(3), torch.tensor([0, 2])),
        (moves_of(POINT), torch.tensor([[0.5, -0.5], [0.1, 0.0]])),
    ):
        assert (moves.features(moves.nothing(action)) == 0).all()
        known = moves.where(torch.tensor([True, False]), action)
        assert (
            torch.equal(moves.features(known)[0], moves.features(action)[0]) and (moves.features(known)[1] == 0).all()
        )
        label = moves.label(action)[:1].expand(10_000, *action.shape[1:])
        wild = moves.wild(label, 0.5, torch.Generator().manual_seed(0))
        changed = (wild != label).reshape(10_000, -1).any(1).float().mean()
        assert float(changed) == pytest.approx(0.5 * 2 / 3 if isinstance(moves, Choices) else 0.5, abs=0.02)


def test_learners_that_remember_nothing_are_a_task_each(walks):
    found, histories = metabench.load_dataset(walks), load_histories(POINT, walks, "test")
    assert len(histories) == 5 and (histories.length == 20 * 20).all() and not len(histories.expert)
    codec = moves_of(POINT).codec
    assert np.allclose(codec.to_env(histories.action), np.array(found.column("action")), atol=1e-6)
    assert len(load_histories(POINT, walks, "test", skip=4)) == 20
    early, late = histories.reward[: 5 * 20].sum(), histories.reward[15 * 20 : 20 * 20].sum()
    assert late > early, "from the random policy to the expert"


@pytest.mark.parametrize("algorithm", [ad, dpt])
def test_an_agent_in_a_box_is_its_seed_continues_and_acts(algorithm, walks, tmp_path):
    fitting = ContextFitting(updates=200, batch=2, warmup=5)
    config = algorithm.Config(data=walks, split="test", skip=1, network=SMALL, fitting=fitting)
    config = with_settings(config, {"labels": "taken"} if algorithm is dpt else {})
    agent = algorithm.train(POINT, config, seed=3, run=Run(tmp_path, show=False))
    protocol = Protocol(benchmark=POINT, split="test", episodes=3, repeats=1, seed=0)
    result = metabench.evaluate(agent, protocol)
    assert metabench.evaluate(algorithm.load(tmp_path), protocol).returns == result.returns
    agent.sample = False
    assert metabench.evaluate(agent, protocol).returns != result.returns
    if algorithm is dpt:
        with pytest.raises(ValueError, match="--answers are of a choice"):
            dpt.DecisionNetwork(POINT, SMALL, 3)


@pytest.mark.parametrize("algorithm", [ad, dpt])
def test_a_run_is_continued_to_the_same_bits_and_read_again(algorithm, data, tmp_path):
    fitting = ContextFitting(updates=200, batch=2, warmup=5)
    config = algorithm.Config(data=data, split="test", network=SMALL, fitting=fitting)
    config = with_settings(config, {"answers": 3} if algorithm is dpt else {})
    whole = algorithm.train(ID, config, seed=3, run=Run(tmp_path / "whole", show=False))
    run = Run(tmp_path / "parts", show=False)
    run.request_stop()  # after a hundred updates
    with pytest.raises(Stopped):
        algorithm.train(ID, config, seed=3, run=run)
    again = algorithm.train(ID, config, seed=3, run=Run(tmp_path / "parts", show=False))
    read = algorithm.load(tmp_path / "parts")
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name])
        assert torch.equal(value, read.network.state_dict()[name])


def test_other_actions_are_refused_in_a_sentence(monkeypatch):
    class Family:
        action_space = metabench.spec(POINT).family().action_space.__class__(-np.inf, np.inf, (2,))

    class Spec:
        family = Family

    monkeypatch.setattr("metabench_agents.sequence.incontext.moves.metabench.spec", lambda benchmark: Spec())
    with pytest.raises(ValueError, match="choose among up to 255 actions or act in a box"):
        moves_of("any")


@pytest.mark.slow
def test_ad_learns_in_context(tmp_path, monkeypatch):
    """On goals it has never seen, later episodes of a trial are better than its first, with nothing updated."""
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path / "data"))
    generate("grid-navigation/history-v0", "train", episodes=50 * 40)
    network, fitting = ContextSettings(layers=2, heads=2, width=64, window=120), ContextFitting(updates=1500, batch=16)
    config = ad.Config(network=network, fitting=fitting)
    agent = ad.train(ID, config, seed=0, run=Run(tmp_path / "run", show=False))
    protocol = Protocol(benchmark=ID, split="test", episodes=30, repeats=20, seed=0)
    curve = metabench.evaluate(agent, protocol).trials().mean(axis=0)
    assert curve[-5:].mean() > curve[0] + 3.0


@pytest.mark.slow
def test_dpt_learns_in_context(tmp_path, monkeypatch):
    """On goals it has never seen: far from random at once, and better in later episodes."""
    monkeypatch.setenv("METABENCH_DATA", str(tmp_path / "data"))
    generate("grid-navigation/history-v0", "train", episodes=50 * 40)
    network, fitting = ContextSettings(layers=2, heads=2, width=64, window=120), ContextFitting(updates=1000, batch=16)
    config = dpt.Config(network=network, fitting=fitting)
    agent = dpt.train(ID, config, seed=0, run=Run(tmp_path / "run", show=False))
    protocol = Protocol(benchmark=ID, split="test", episodes=30, repeats=20, seed=0)
    curve = metabench.evaluate(agent, protocol).trials().mean(axis=0)
    assert curve[0] > metabench.spec(ID).references("test")["random"]["mean"] + 2.0
    assert curve[-5:].mean() > curve[0] + 1.2
