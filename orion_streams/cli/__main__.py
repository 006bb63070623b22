"""`python -m orion_streams.cli`, by which the processes of a grid are started."""

import sys

from orion_streams.cli import main

sys.exit(main())
