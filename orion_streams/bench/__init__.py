"""`orion bench`: the overhead of the grid over a bare relay of the same hops."""
