"""The command line inside a test, as the tests of the other commands have it."""

from tests.cli.conftest import home, orion

__all__ = ["home", "orion"]
