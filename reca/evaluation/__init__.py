"""Scores: pure rules over what a judge saw, one record per item, totals that can be recomputed from the records."""
