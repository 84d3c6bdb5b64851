"""A module a command of `reflectevo-data`: `add_arguments(parser)` and `run(args)`, which returns the exit code."""
