"""Completers: prompts in, completions out, whatever the engine."""
