"""Strata of the truth cluster that a voxel lies at: its particle, where it came from, its energy and its direction."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from larstore.errors import ConfigError, StoreError
from train.results.charge_units import ELECTRONS, truth_unit
from train.results.strata.bins import NONE, Bins, Codes, filled, labelled
from train.results.strata.clusters import LINEAR, REACH_MM, SMALL
from train.results.strata.places import sample_of
from train.results.strata.scene import Given, Voxels
from train.results.wire_shares import plane_wires

CLUSTER = f"the cluster (truth voxels of one track) of the nearest truth voxel, within {REACH_MM / 10:g} cm"
CLASSES = {"muon": (13, -13), "electron, gamma": (11, -11, 22), "proton": (2212,), "charged pion": (211, -211)}
OTHER, SMALL_LABEL = "other", f"small (< {SMALL} voxels)"
ORIGINS = ("beam", "cosmic")

W_ION_EV, RECOMBINATION = 23.6, 0.705  # energy for an electron; modified box at 2.1 MeV/cm and 500 V/cm
ENERGY_EDGES = (3e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7)  # electrons
ANGLES = labelled((15, 30, 45, 60, 75), ("15", "30", "45", "60", "75"), "°")

Floats = npt.NDArray[np.float64]


class Particle:
    """By the class of its cluster's particle."""

    def __init__(self) -> None:
        self.labels = {"particle": [*CLASSES, OTHER, SMALL_LABEL]}
        self.definitions = {
            "particle": (
                f"Particle of {CLUSTER}; clusters of less than {SMALL} truth voxels are small, whoever made them. "
                "None: nothing within reach, or particle or track not known."
            )
        }

    def codes(self, voxels: Voxels) -> dict[str, Codes]:
        """See ``Kind``."""
        clusters = voxels.scene.clusters
        if clusters is None:
            return {"particle": filled(len(voxels), NONE)}
        found = filled(len(clusters.pdg), len(CLASSES))
        for code, members in enumerate(CLASSES.values()):
            found[np.isin(clusters.pdg, members)] = code
        found[clusters.pdg == 0] = NONE
        found[clusters.size < SMALL] = len(CLASSES) + 1
        return {"particle": voxels.of_clusters(found)}


class Origin:
    """By what the user says about samples and particles."""

    def __init__(self, origins: Mapping[str | int, str]) -> None:
        self.labels = {"origin": list(ORIGINS)}
        self._samples = {key: ORIGINS.index(value) for key, value in origins.items() if isinstance(key, str)}
        self._pdg = {key: ORIGINS.index(value) for key, value in origins.items() if not isinstance(key, str)}
        told = [f"sample {key}" if isinstance(key, str) else f"PDG {key}" for key in origins]
        told = [f"{name} is {value}" for name, value in zip(told, origins.values(), strict=True)]
        self.definitions = {
            "origin": f"As told, since stores do not record it: {', '.join(told)}. A sample counts for all voxels of "
            f"its images, else the particle of {CLUSTER}."
        }

    def codes(self, voxels: Voxels) -> dict[str, Codes]:
        """See ``Kind``."""
        of_sample, clusters = self._samples.get(sample_of(voxels.image)), voxels.scene.clusters
        if of_sample is not None or clusters is None or not self._pdg:
            return {"origin": filled(len(voxels), NONE if of_sample is None else of_sample)}
        found = filled(len(clusters.pdg), NONE)
        for pdg, code in self._pdg.items():
            found[clusters.pdg == pdg] = code
        return {"origin": voxels.of_clusters(found)}


class Energy:
    """By the charge of its cluster."""

    def __init__(self) -> None:
        self._bins = energy_bins()
        self.definitions = {
            "energy": (
                f"Truth in this image of {CLUSTER}: electrons and, at {W_ION_EV} eV an electron and a recombination of "
                f"{RECOMBINATION} (a track of 2.1 MeV/cm at 500 V/cm), MeV."
            )
        }
        self.labels = {"energy": list(self._bins.labels)}

    def codes(self, voxels: Voxels) -> dict[str, Codes]:
        """See ``Kind``."""
        clusters = voxels.scene.clusters
        if clusters is None:
            return {"energy": filled(len(voxels), NONE)}
        return {"energy": voxels.of_clusters(self._bins.codes(clusters.charge))}


class Angle:
    """By the direction of its cluster, to the drift and to each plane's wires."""

    def __init__(self, planes: Sequence[str], normals: Mapping[int, Floats]) -> None:
        """``normals``: TPC -> (planes, 2) unit vectors (dy, dz) across the wires."""
        self._normals = normals
        self._names = ["drift_angle", "theta_xz_max", *(f"theta_xz_{plane}" for plane in planes)]
        self.labels = {name: list(ANGLES.labels) for name in self._names}
        self.definitions = {
            "drift_angle": (
                f"Angle between the drift and the principal axis of {CLUSTER}: weighted by truth, of clusters of "
                f"{SMALL} truth voxels or more with {100 * LINEAR:g} % of the variance along it."
            ),
            "theta_xz_max": "The largest θ_xz of the planes, of the same axis.",
        }
        for plane in planes:
            self.definitions[f"theta_xz_{plane}"] = (
                f"θ_xz of plane {plane}: angle between the same axis, seen along the wires, and the wire plane; "
                "tan θ_xz = abs(dx) / abs(d · normal), 90° is along the drift."
            )

    def codes(self, voxels: Voxels) -> dict[str, Codes]:
        """See ``Kind``."""
        clusters, normals = voxels.scene.clusters, self._normals.get(voxels.image.key[2])
        if clusters is None or normals is None:
            return {name: filled(len(voxels), NONE) for name in self._names}
        direction = clusters.direction
        along = np.abs(direction[:, 0])
        drift = np.arctan2(np.hypot(direction[:, 1], direction[:, 2]), along)
        planes = np.arctan2(along[:, None], np.abs(direction[:, 1:] @ normals.T))
        angles = np.degrees(np.column_stack([drift, planes.max(axis=1), planes]))
        return {name: voxels.of_clusters(ANGLES.codes(each)) for name, each in zip(self._names, angles.T, strict=True)}


def particle(given: Given) -> Particle | str:
    """By particle, or why not."""
    return given.without_truth_columns("pdg", "track") or given.without_scale or Particle()


def origin(given: Given) -> Origin | str:
    """By beam or cosmic, or why not. ConfigError for an origin that is neither, StoreError for an unknown sample."""
    if not given.origins:
        return (
            "stores do not record it: particles and tracks do not tell, as delta rays are tracks of their own and "
            "pions decay to muons. Say of which origin a sample or a PDG code is"
        )
    for key, value in given.origins.items():
        if value not in ORIGINS:
            raise ConfigError(f"origin of {key!r}: {value!r}. Fix: one of {', '.join(ORIGINS)}")
    named = {key for key in given.origins if isinstance(key, str)}
    unknown = sorted(named - set(given.store.inputs["sample"].astype(str)))
    if unknown:
        raise StoreError(f"{given.store.path}: origin of sample {unknown[0]!r}, which no input has. Fix: its name")
    reason = given.without_truth_columns("pdg", "track") or given.without_scale
    return reason if reason and not named else Origin(given.origins)


def energy(given: Given) -> Energy | str:
    """By energy of the cluster, or why not."""
    unit = truth_unit(given.store)
    if unit != ELECTRONS:
        return f"truth is in {unit}, not electrons"
    return given.without_truth_columns("pdg", "track") or given.without_scale or Energy()


def angle(given: Given) -> Angle | str:
    """By direction of the cluster, or why not."""
    reason = given.without_truth_columns("pdg", "track") or given.without_scale
    if reason:
        return reason
    geometry, normals = given.store.geometry, {}
    for tpc in given.tpcs:
        try:
            each = [np.array([plane.normal for plane in plane_wires(geometry, n)]) for n in geometry.joined or [tpc]]
        except StoreError as error:
            return str(error)
        if not all(np.allclose(other, each[0], atol=1e-3) for other in each):
            return f"the wires of the joined TPCs {geometry.joined} have different directions"
        normals[tpc] = each[0]
    return Angle(given.store.root.planes, normals)


def energy_bins() -> Bins:
    """Bins of a cluster's electrons, with the MeV that they stand for."""
    texts = []
    for edge in ENERGY_EDGES:
        mev = edge * W_ION_EV * 1e-6 / RECOMBINATION
        charge = f"{edge / 1e6:g} Me" if edge >= 1e6 else f"{edge / 1e3:g} ke"
        energy = f"{mev / 1e3:.1f} GeV" if mev >= 1e3 else f"{mev:.{0 if mev >= 10 else 1}f} MeV"
        texts.append(f"{charge} ({energy})")
    between = [f"{low} – {high}" for low, high in pairwise(texts)]
    return Bins(ENERGY_EDGES, (f"< {texts[0]}", *between, f"≥ {texts[-1]}"))
