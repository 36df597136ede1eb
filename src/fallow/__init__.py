"""Fallow: containers on the capacity your servers leave idle."""
