"""The demo: `python -m demo` runs Fallow's main job on real parts and says what it sees."""
