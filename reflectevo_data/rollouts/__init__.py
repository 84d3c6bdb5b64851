"""The loop from trial 1 to the second trials, and the run directories that its records go into and are read from."""
