"""Learning to learn from histories of learning: agents whose memory is a transformer's context over a whole trial."""
