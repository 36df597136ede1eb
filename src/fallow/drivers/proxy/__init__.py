"""Reverse proxies that carry requests to endpoints."""
