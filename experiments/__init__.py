"""Experiments: one script a finding, each with its claims against theory."""

import sys

from jaxsoft.signals import exit_on_signal

if sys.argv[0] == "-m":  # python -m is still looking for its module: what it imports next takes seconds
    exit_on_signal()
