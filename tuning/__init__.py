"""Searches over recipes with Ray Tune and Optuna."""
