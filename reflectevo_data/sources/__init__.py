"""Where problems come from: 17 sources on the Hub, the miniature, files of one's own; and what overlaps with a test set."""
