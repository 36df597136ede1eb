"""The real control plane and the real agents under virtual time, with seeded faults. See `docs/design/simulator.md`."""
