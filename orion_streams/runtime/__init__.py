"""Connections, Faust on Redis Streams, the embedded server, child processes, access rights."""
