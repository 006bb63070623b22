"""What processes run on: connections, Faust on Redis Streams, a server, child processes."""
