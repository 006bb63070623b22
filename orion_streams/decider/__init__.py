"""Pure decisions: what is missing in the grid, and which node a request goes to."""
