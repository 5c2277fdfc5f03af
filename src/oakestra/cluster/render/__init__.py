"""Render a cluster's records as what it sends: an assignment per worker, and its report to root. Pure."""
