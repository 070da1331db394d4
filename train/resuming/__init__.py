"""Checkpoints: what is in them, when they are written, and how a run goes on from its own or from another's."""
