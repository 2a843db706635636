"""Pictures of runs, results and play: learning curves, profiles, films. Needs matplotlib where it draws curves."""
