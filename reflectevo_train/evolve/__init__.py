"""Rounds of generate, build, train and evaluate; the demo runs them on the miniature."""
