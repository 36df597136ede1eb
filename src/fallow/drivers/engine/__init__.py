"""Container engines over the Docker Engine API."""
