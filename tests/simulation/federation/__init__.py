"""A federation under virtual time: a host as it is, and member clusters that follow a script."""
