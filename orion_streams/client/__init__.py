"""The side of a client of the grid."""
