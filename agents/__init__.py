"""The processes of the grid: router, and per node health, residency and work."""
