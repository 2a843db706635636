"""ScratchItch: probe and pictures."""
