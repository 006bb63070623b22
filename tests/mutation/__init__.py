"""Tests by exact values of what .ci/mutants showed to be unproven, and the plugin that it runs with."""
