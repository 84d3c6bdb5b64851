"""Upstream's files, in the shapes that they had over time -> run directories of ours."""
