"""Where model-written code runs: tests as plans, values on the wire, the walls, the process that runs the code."""
