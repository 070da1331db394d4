"""Closure test: simulate, tile, and compare what was tiled with the truth. ``closure.closure`` is where it starts."""
