"""Evaluations -> a comparison for people; imports without torch, transformers and TRL."""
