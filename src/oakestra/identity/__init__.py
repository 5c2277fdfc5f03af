"""Who is asking: passwords, access tokens, join tokens and certificates."""
