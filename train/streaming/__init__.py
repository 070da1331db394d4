"""From a store to batches: which images come when, reading them ahead, transforming them, the loader and its state."""
