"""Many machines on one: private networks, container engines with a power switch, a registry and small images.

For the tests and the demo; nothing in the product imports it. See docs/guides/testbed.md.
"""
