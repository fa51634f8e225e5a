"""Cluster files for `ray up`, and how a driver finds or starts Ray."""
