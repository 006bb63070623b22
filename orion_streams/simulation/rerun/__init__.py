"""Run a recorded workload again, on simulated machines as fast, as full and as warm as the log shows.

collect_workload reads the log, recorded_heat fits temperatures, recorded_scene builds the house,
rerun_workload simulates it. All figures except the recorded ones are simulated.
"""
