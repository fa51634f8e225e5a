"""Errors of the model rooms; needs no torch."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names file and key and says how to mend it."""
