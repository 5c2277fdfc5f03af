"""A whole fleet on one machine: every host a network namespace with the production tiers in it, all behind a switch.

Knows nothing of applications; what runs on a host is started by name, as on a machine of its own.
"""
