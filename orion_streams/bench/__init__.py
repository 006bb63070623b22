"""What the grid costs on top of a bare relay of the same hops: `orion bench`."""
