"""Strata: which voxels belong together when figures are told apart by place, particle, angle and surroundings."""

from train.results.strata.strata import ALL, Strata

__all__ = ["ALL", "Strata"]
