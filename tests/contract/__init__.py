"""The Brain's contract: by hand, through the client, and against everything that breaks it."""
