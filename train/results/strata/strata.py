"""The strata of a store: which of them there are, and those of each voxel and truth voxel of an image."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from larstore import Image, Store
from larstore.errors import ConfigError, StoreError
from train.results.strata import places, surroundings, tracks
from train.results.strata.bins import Codes
from train.results.strata.scene import Coords, Given, Kind, Scene, Voxels

KINDS: dict[str, Callable[[Given], Kind | str]] = {
    "sample": places.sample,
    "tpc": places.tpc,
    "segment": places.segment,
    "particle": tracks.particle,
    "origin": tracks.origin,
    "energy": tracks.energy,
    "angle": tracks.angle,
    "dead": surroundings.dead,
    "occupancy": surroundings.occupancy,
}
ALL = tuple(KINDS)


class Strata:
    """Tells the voxels of a store's images apart, in several ways at once.

    Each way has a name: that of its kind, but for ``angle`` (``drift_angle``, ``theta_xz_max``, ``theta_xz_P`` for each
    plane P) and ``occupancy`` (``occupancy``, ``image_voxels``).

    Attributes:
        labels: name -> what codes 0, 1, … stand for. Nothing that images hold changes them.
        definitions: name -> one sentence for a report.
        missing: kind -> why the store cannot give it.
    """

    def __init__(
        self,
        store: Store,
        kinds: Sequence[str] = ALL,
        truth_threshold: float = 0.0,
        origins: Mapping[str | int, str] | None = None,
    ) -> None:
        """Make the kinds that the store can give; only its index, tables and geometry are read.

        Args:
            store: of the images.
            kinds: some of ``ALL``.
            truth_threshold: clusters are made of truth voxels above it, in the store's units.
            origins: sample name or PDG code -> "beam" or "cosmic", which stores do not record.

        Raises:
            ConfigError: no such kind or origin.
            StoreError: no input has a sample of ``origins``.
        """
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown:
            raise ConfigError(f"strata: no kind {unknown[0]!r}. Fix: some of {', '.join(ALL)}")
        given = Given(store, truth_threshold, dict(origins or {}))
        self.store, self.truth_threshold = store, truth_threshold
        self.missing: dict[str, str] = {}
        self._kinds: list[Kind] = []
        for name in dict.fromkeys(kinds):
            made = KINDS[name](given)
            if isinstance(made, str):
                self.missing[name] = made
            else:
                self._kinds.append(made)
        self.labels = {name: labels for kind in self._kinds for name, labels in kind.labels.items()}
        self.definitions = {name: text for kind in self._kinds for name, text in kind.definitions.items()}
        self._scene: Scene | None = None

    def codes(self, image: Image) -> dict[str, Codes]:
        """Name -> (n,) int16, the stratum of each voxel of an image of the store; -1: in none."""
        return self._codes(image, image.coords)

    def true_codes(self, image: Image) -> dict[str, Codes]:
        """Name -> (m,) int16, the stratum of each voxel of ``image.truth_voxels``, tiled or not; -1: in none.

        m = 0 where no truth voxels are known. What tiled voxels and truth voxels share is worked out once if an image
        is asked for both in turn.
        """
        truth = image.truth_voxels
        return self._codes(image, np.empty((0, 3), np.uint16) if truth is None else truth[0])

    def _codes(self, image: Image, coords: Coords) -> dict[str, Codes]:
        if image.store.path != self.store.path:
            raise StoreError(
                f"{image.store.path}: its images are not those of {self.store.path}, which the strata are of. "
                "Fix: Strata of the images' store"
            )
        if self._scene is None or self._scene.image.key != image.key:
            self._scene = Scene(image, self.truth_threshold)
        voxels = Voxels(self._scene, coords)
        return {name: codes for kind in self._kinds for name, codes in kind.codes(voxels).items()}
