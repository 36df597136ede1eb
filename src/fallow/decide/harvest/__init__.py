"""Lending what primary applications leave idle: how much there is, who may use it, and who has to go."""
