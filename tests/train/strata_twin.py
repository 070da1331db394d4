"""Strata in plain Python, voxel by voxel, as slow as they are easy to check; and a small simulated store for them."""

import math

import larstore
from larstore.errors import LarstoreError
from larstore.testing import add_images
from preprocess.config import RunConfig
from preprocess.pipeline import process_unit
from preprocess.plan import Unit
from preprocess.simulation import SimulationConfig
from preprocess.testing import make_inputs, small_detector, write_small_detector

REACH, SMALL, LINEAR = 200.0, 50, 0.8
CLASSES = ((13,), (11, 22), (2212,), (211,))  # then other, small
ENERGIES = (3e4, 1e5, 3e5, 1e6, 3e6, 1e7, 3e7)


def simulated_store(folder):
    """Four events of the small detector's TPCs 1 and 3 with muons, a pion and a shower, and dead channels."""
    detector, path = small_detector(folder), folder / "run.zarr"
    config = SimulationConfig(muons=4.0, times_us=(-20.0, 120.0), beam_tracks=2.0, showers=1.0, dead_channels=0.04)
    inputs = [p for p in make_inputs(folder / "in", detector, (1, 3), 1, 2, 11, config) if "_wire-" in p.name]
    geometry = detector.geometry()
    columns = ("collected", "pdg", "track")
    larstore.create(
        path, geometry=geometry, provenance={}, truth_columns=columns, shard_rows=1 << 16, chunk_rows=1 << 12
    )
    for read_out in inputs:
        tpc = int(read_out.name.partition("-TPC")[2].partition(".")[0])
        run = RunConfig(
            inputs=(str(read_out),), output=path, detector=str(write_small_detector(folder)), threshold=300.0,
            sample=f"of-tpc-{tpc}", threads=1,
        )  # fmt: skip
        made = process_unit(Unit(str(read_out), 1, tpc, read_out.stat().st_size), run, geometry.hash)
        if not made.images:
            raise LarstoreError(f"{read_out}: no event")
        add_images(path, made.images, made.inputs)
    return path


def code(value, edges):
    """The bin of a value: how many edges are not above it; -1 for NaN."""
    return -1 if math.isnan(value) else sum(edge <= value for edge in edges)


def tracks_of(coords, value, track, pdg, sides):
    """Track -> number of voxels, charge, pdg, axis (None: no direction)."""
    found = {}
    for one in sorted({t for t in track if t >= 0}):
        rows = [i for i in range(len(track)) if track[i] == one]
        most = max(rows, key=lambda i: (value[i], -i))
        places = [[c * s for c, s in zip(coords[i], sides, strict=True)] for i in rows]
        axis = principal_axis(places, [value[i] for i in rows]) if len(rows) >= SMALL else None
        found[one] = (len(rows), sum(value[i] for i in rows), pdg[most], axis)
    return found


def principal_axis(places, weights):
    """By power iteration; None where less than LINEAR of the variance lies along it."""
    total = sum(weights)
    mean = [sum(w * p[k] for p, w in zip(places, weights, strict=True)) / total for k in range(3)]
    matrix = [
        [sum(w * (p[a] - mean[a]) * (p[b] - mean[b]) for p, w in zip(places, weights, strict=True)) for b in range(3)]
        for a in range(3)
    ]
    vector = [0.61, 0.53, 0.59]
    for _ in range(2000):
        vector = [sum(matrix[a][b] * vector[b] for b in range(3)) for a in range(3)]
        length = math.hypot(*vector)
        if length == 0:
            return None
        vector = [v / length for v in vector]
    trace = matrix[0][0] + matrix[1][1] + matrix[2][2]
    return vector if length >= LINEAR * trace else None


def nearest(voxel, truth, sides, reach=REACH):
    """Rows of ``truth`` that are nearest to a voxel, all of equals; empty where none is within reach."""
    lengths = [math.dist(*([c * s for c, s in zip(v, sides, strict=True)] for v in (voxel, other))) for other in truth]
    least = min(lengths, default=math.inf)
    return [i for i, length in enumerate(lengths) if length <= least + 1e-6] if least < reach else []


def particle(size, pdg):
    """Its code, from a cluster's size and particle."""
    if size < SMALL:
        return 5
    return next((k for k, members in enumerate(CLASSES) if abs(pdg) in members), 4 if pdg else -1)


def angles(axis, normals):
    """Degrees to the drift, the largest θ_xz, and those of the planes; NaN without an axis."""
    if axis is None:
        return [math.nan] * (2 + len(normals))
    drift = math.degrees(math.acos(min(abs(axis[0]), 1.0)))
    planes = [math.degrees(math.atan2(abs(axis[0]), abs(axis[1] * n[0] + axis[2] * n[1]))) for n in normals]
    return [drift, max(planes), *planes]


def neighbours(voxel, tiled):
    """Voxels of a set of tuples within two steps of a voxel along each axis."""
    x, y, z = voxel
    steps = range(-2, 3)
    return sum((x + a, y + b, z + c) in tiled for a in steps for b in steps for c in steps)


def dead_distance(cell, dead, sides):
    """From a cell (y, z) to the nearest dead one, ∞ without any."""
    return min((math.hypot(*((a - b) * s for a, b, s in zip(cell, d, sides, strict=True))) for d in dead),
               default=math.inf)  # fmt: skip
