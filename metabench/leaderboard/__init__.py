"""Leaderboards with replayable evidence: submissions, their verification, ranking and the static site."""
