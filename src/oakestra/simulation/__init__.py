"""A whole fleet in virtual time: the production tiers over a bad network on unreliable machines."""
