"""A recorded workload run again, on simulated machines that are as fast, as full and as warm as a log says.

`gathering` reads the log, `heat` fits temperatures, `scene` builds the house, `running` lets it run. Every
figure but those of the log itself is simulated.
"""
