"""`orion doctor`: what is wrong with the grid, and the line that mends each finding.

`collect_facts` asks the server, the Ollamas and the archive, read-only: the rights of the observer that
`orion acl` makes are enough. The findings are pure functions of the facts.
"""
