"""What learned agents are measured against: random, oracles, filters, planners. No torch; they define 0 and 1."""
