"""Values: rules, events, the node-state table, commits. No clock, no I/O, no environment."""
