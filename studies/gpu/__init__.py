"""What a GPU makes of the agents: checks, speeds and learning curves, in one command of less than nine minutes."""
