"""The typed client of the API: for the command line, for agents that join, and for programs."""
