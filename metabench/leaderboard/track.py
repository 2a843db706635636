"""The tracks: what an agent of each may learn from, what it may be shown, and which of its episodes are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from metabench.evaluation.results import PlayedAs

TrackName: TypeAlias = Literal["online", "offline-zero-shot", "offline-few-shot", "prompt-k", "oracle"]

_ALL, _FIRST, _LAST = slice(None), slice(0, 1), slice(-1, None)
_WORDS = ((_ALL, "all episodes of a trial"), (_FIRST, "the first episode"), (_LAST, "the last episode"))


@dataclass(frozen=True)
class Track:
    """One track. Whatever asks what a track means asks this record."""

    name: TrackName
    about: str  # in words, for the site and the docs
    played_as: PlayedAs  # what the evaluator files a result of its agents under
    sees: tuple[bool, ...]  # whether its agent is shown the hidden task: the values that are allowed
    judged: slice  # of a trial's episodes
    explores: bool  # training may take steps in the environment of training tasks
    needs_datasets: bool  # training is from declared datasets
    must_explore: bool = False  # a trained agent that took none is no member of it
    demonstrated: bool = False  # its agent is given k steps of somebody who knows the test task

    @property
    def uses(self) -> str:
        """What its agents may use, in words."""
        parts = ["interaction with training tasks"] if self.must_explore else []
        parts += ["the declared datasets"] if self.needs_datasets else []
        parts += ["the hidden task"] if all(self.sees) else []
        return ", and ".join(parts + (["k steps of the test task"] if self.demonstrated else []))

    @property
    def judged_on(self) -> str:
        """Which episodes of a trial count, in words."""
        return next(words for episodes, words in _WORDS if episodes == self.judged)

    def allows(self, privileged: bool) -> bool:
        """Whether an agent that is (or is not) shown the hidden task may enter."""
        return privileged in self.sees

    def check_training(self, trains: bool, env_steps: int, datasets: int) -> None:
        """ValueError in one sentence where what training used is not what the track allows."""
        if self.needs_datasets and not datasets:
            raise ValueError(f"the track {self.name} needs the datasets that were trained on, each with its sha256")
        if not self.explores and env_steps:
            raise ValueError(f"the track {self.name} allows no environment steps, {env_steps} declared")
        if not trains and (env_steps or datasets):
            raise ValueError("an agent that does not train has used no environment steps and no datasets")
        if self.must_explore and trains and not env_steps:
            raise ValueError(f"a trained agent of the track {self.name} has used environment steps; 0 are declared")


_TRACKS = (
    Track(
        name="online",
        about="trained by interaction; judged on all episodes of a trial",
        played_as="online",
        sees=(False,),
        judged=_ALL,
        explores=True,
        needs_datasets=False,
        must_explore=True,
    ),
    Track(
        name="offline-zero-shot",
        about="trained on the declared datasets only; judged on the first episode",
        played_as="offline",
        sees=(False,),
        judged=_FIRST,
        explores=False,
        needs_datasets=True,
    ),
    Track(
        name="offline-few-shot",
        about="trained on the declared datasets only; judged on the last episode, after its own experience",
        played_as="offline",
        sees=(False,),
        judged=_LAST,
        explores=False,
        needs_datasets=True,
    ),
    Track(
        name="prompt-k",
        about="trained on the declared datasets only and prompted with k steps of the test task; judged on the last",
        played_as="prompt-k",
        sees=(False, True),  # demonstrations are found by the task
        judged=_LAST,
        explores=False,
        needs_datasets=True,
        demonstrated=True,
    ),
    Track(
        name="oracle",
        about="shown the hidden task: an upper bound, not a competitor",
        played_as="oracle",
        sees=(True,),
        judged=_ALL,
        explores=True,
        needs_datasets=False,
    ),
)
TRACKS: Mapping[TrackName, Track] = {track.name: track for track in _TRACKS}


def track_for(played_as: str) -> TrackName:
    """The track an agent enters if nothing else is said: the last one, the most demanding, of those it may enter.

    Raises:
        ValueError: No track is played so.
    """
    names: list[TrackName] = [track.name for track in _TRACKS if track.played_as == played_as]
    if not names:
        known = ", ".join(dict.fromkeys(track.played_as for track in _TRACKS))
        raise ValueError(f"an agent is played as one of {known}, not as {played_as!r}")
    return names[-1]
