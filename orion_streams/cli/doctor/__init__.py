"""`orion doctor`: looks at the whole grid, says what is wrong, and the line that mends each.

`gathering` asks the server, the Ollamas and the archive; the findings are pure functions of what it found.
It only reads: the rights of the observer that `orion acl` makes are enough.
"""

from orion_streams.cli.doctor.doctor_command import run

__all__ = ["run"]
