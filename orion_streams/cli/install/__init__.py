"""A machine becomes a part of the house: `orion init`, `install`, `status`, `uninstall`.

What is written is made by pure functions of facts (`starter`, `units`, `server_files`, `plan`); `machine`
finds the facts, and `apply` makes a plan true.
"""
