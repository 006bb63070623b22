"""The whole cluster under faults, on a virtual clock: `orion simulate --faults`.

The router, its intake, fold, decisions, outbox and retention are the real ones; the server is the log in
memory with consumer groups; agents, Ollamas and clients are small ones that follow the same protocol. One
thread, one seed: the same seed gives the same run, byte for byte, on any machine.
"""
