"""Images of several TPCs as one: the common frame, what becomes of voxels that they share, and the run of it all."""
