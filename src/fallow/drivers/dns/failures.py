"""What can go wrong with a name server; apart from it, so that who only wants to name it needs none of its parts."""


class NameServerError(Exception):
    """Names cannot be served; the text says why."""
