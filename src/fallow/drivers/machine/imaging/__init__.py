"""Images of virtual machines, built on this machine."""
