"""Virtual machines on a server, and the control groups that stand for them."""
