"""Experiments: one script a finding, each with its claims against theory."""
