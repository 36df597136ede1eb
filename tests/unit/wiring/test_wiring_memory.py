import gc

from fallow.wiring.memory import OLD, YOUNG, keep_for_long


def test_what_is_loaded_is_not_looked_through_again() -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    gc.unfreeze()
    try:
        keep_for_long()
        assert gc.get_freeze_count() > 10_000
        assert (gc.get_threshold()[0], gc.get_threshold()[2]) == (YOUNG, OLD)
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
        if frozen:
            gc.freeze()
