"""Stores to and from other programs' files: the research code's `xy` and `yinf`, NuML-like HDF5, Wire-Cell Bee."""
