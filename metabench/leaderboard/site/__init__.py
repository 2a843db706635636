"""The leaderboards as a folder of HTML and JSON: no server, no network, no script from elsewhere."""
