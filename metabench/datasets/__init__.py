"""Offline datasets: one folder of memory-mapped columns per split, with a manifest that vouches for every byte."""

from metabench.datasets.generation import generate
from metabench.datasets.ids import DatasetId
from metabench.datasets.library import load_dataset, local_datasets
from metabench.datasets.trials import Episode, Transitions, Trial, TrialDataset, Windows

__all__ = [
    "DatasetId",
    "Episode",
    "Transitions",
    "Trial",
    "TrialDataset",
    "Windows",
    "generate",
    "load_dataset",
    "local_datasets",
]
