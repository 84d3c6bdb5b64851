"""Predictions -> counts, shares, intervals and comparisons; imports without torch, transformers and TRL."""
