"""Sparse convolutions on sites sorted by key: tensor, rules, layers, and one file per backend."""
