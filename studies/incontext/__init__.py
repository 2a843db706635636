"""Learning in context in a dark room: what exact inference would do."""
