"""The task families, one file each. None imports another; importing one registers its benchmarks."""
