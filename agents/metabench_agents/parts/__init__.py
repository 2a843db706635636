"""What two rooms or more share: layers, losses, memory, the run. Knows no algorithm."""
