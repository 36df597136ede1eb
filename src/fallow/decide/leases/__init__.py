"""Leases: which address and ports a member gets, and what becomes of them when it is gone."""

from fallow.decide.leases.book import LeaseBook, LeaseDefaults, LeaseRefused, LeaseWish
from fallow.decide.leases.life import follow_pools, leases_of, release

__all__ = ["LeaseBook", "LeaseDefaults", "LeaseRefused", "LeaseWish", "follow_pools", "leases_of", "release"]
