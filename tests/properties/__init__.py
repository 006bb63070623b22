"""The laws of routing, each for every input that Hypothesis can think of."""
