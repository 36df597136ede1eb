"""Networks: what gives a machine the address of its lease."""
