"""The whole cluster under faults, on a virtual clock: `orion simulate --faults`.

The router with its retention and the agents' worker core are the product's; the server is the log in memory
with consumer groups; Ollamas, clients and what carries messages are small ones that follow the same
protocol. One thread, one seed: the same seed gives the same run, byte for byte, on any machine.
"""
