"""Meta-DT and its offline baselines."""
