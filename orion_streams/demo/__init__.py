"""Simulated Ollamas, a grid of processes around them, and the story that `orion demo` tells."""
