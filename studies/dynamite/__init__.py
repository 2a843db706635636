"""DynaMITE-RL and VariBAD: session-switching benchmarks."""
