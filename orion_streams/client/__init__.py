"""The client of the grid, async and blocking."""
