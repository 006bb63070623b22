"""A machine becomes a part of the house."""
