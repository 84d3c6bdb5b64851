"""Model text and problem -> verdict: the pool of verifiers, what each compares, leaks of the answer, voting."""
