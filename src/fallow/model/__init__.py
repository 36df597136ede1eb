"""Values that are stored or cross a wire: frozen msgspec structs, and nothing else."""
