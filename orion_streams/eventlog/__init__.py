"""Where events are kept: Redis, memory, files and archives."""
