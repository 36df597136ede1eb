"""How Python looks for garbage in a process that holds much for long."""

import gc

# Python's own numbers make it look through everything that lives now and then: a third of a second with 2,000 members,
# in which nobody is answered. Nearly all of our garbage is free without a look, and most of the rest dies young.
YOUNG, MIDDLE, OLD = 20_000, 20, 50


def keep_for_long() -> None:
    """Take what there is now for what stays, and look seldom through what is old. Call it once all is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)
