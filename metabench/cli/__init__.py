"""The command line: a file a command. Starting it imports no torch."""
