"""The whole grid on a virtual clock: the real pure core, simulated machines, no process, no sleep.

`workloads` says what is asked and of which house, `physics` and `thermal` what the machines do with it,
`policies` who chooses the node, `engine` lets virtual time pass. Every figure from here is simulated.
"""
