"""The top tier: keeps what users want, picks a cluster for every slot, and shows what is."""
