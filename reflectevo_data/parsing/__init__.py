"""Model text -> (reasoning, answer): trials, options, code blocks, hidden reasoning, one-stage messages."""
