"""What knowing the drivers of HighwayMerge is worth."""
