"""`metabench dataset ...`: list, info, generate, verify, download, publish, to-minari, from-minari."""

from metabench.cli.dispatch import Command, Group

_ROOM = "metabench.cli.dataset"
GROUP = Group(
    about="Offline datasets: one memory-mapped folder per split, with a manifest that vouches for every byte.",
    commands={
        "list": Command(f"{_ROOM}.list", "list", "what is here, and what mirrors have"),
        "generate": Command(
            f"{_ROOM}.generate", "generate metabench/point-robot/mixed-v0", "make a set (seconds for grids and points)"
        ),
        "info": Command(f"{_ROOM}.info", "info point-robot/mixed-v0", "origin, policies, returns of every task"),
        "verify": Command(
            f"{_ROOM}.verify", "verify point-robot/mixed-v0 --replay 20", "bytes, contents, episodes in the simulator"
        ),
        "download": Command(
            f"{_ROOM}.download", "download point-robot/mixed-v0 --mirror URL", "from a mirror, resumed and checked"
        ),
        "to-minari": Command(
            f"{_ROOM}.to_minari", "to-minari point-robot/mixed-v0", "for everything that reads Minari"
        ),
        "from-minari": Command(
            f"{_ROOM}.from_minari", "from-minari D4RL/pen/human-v2 pen/human-v2", "one that Minari has here"
        ),
        "publish": Command(f"{_ROOM}.publish", "publish mirror/", "the static tree that a mirror serves"),
    },
    more='In Python: data = metabench.load_dataset("metabench/point-robot/mixed-v0", split="train")',
    example="dataset",
    does="offline datasets: generate, download, verify, Minari",
)
