"""A small TPC of three planes, and events of straight tracks in it, tiled, with their waveforms."""

import math

import numpy as np

import larstore
from larstore.records import ImageRecord
from larstore.testing import add_images
from preprocess.detector.build import build_detector
from preprocess.detector.config import DetectorConfig
from preprocess.detector.model import Detector
from preprocess.detector.wires import FaceWires, PlaneWires
from preprocess.truth import truth_at, voxelise_truth
from preprocess.voxels import Tiler

SIDE, TICKS, STEP = 240.0, 160, (8, 4, 4)


def small_tpc():
    """Three planes at ±35.7° and 0° whose wires, 4.7 mm apart, cover a square."""
    planes = []
    for ident, degrees in enumerate((35.7, -35.7, 0.0)):
        normal = np.array([math.sin(math.radians(degrees)), math.cos(math.radians(degrees))])
        along = np.array([normal[1], -normal[0]])
        offset = np.arange(-240.0, 240.0, 4.7)
        middle = np.array([SIDE, SIDE]) / 2 + offset[:, None] * normal
        tail, head = (np.column_stack([np.zeros(len(offset)), middle + s * along]) for s in (-240.0, 240.0))
        channel = (200 * ident + np.arange(len(offset))).astype(np.int32)
        planes.append(PlaneWires(ident, channel, np.zeros(len(offset), np.int32), tail, head))
    face = FaceWires(0, 0, tuple(planes), ((0.0, SIDE), (0.0, SIDE)))
    return build_detector(DetectorConfig(name="square", wires="-", pixel_mm=2.0), [face], "square").tpc(1)


def straight_tracks(tpc, file, tracks=25):
    """Waveform (ticks, channels) of straight tracks, whose electrons all arrive on the nearest wire of each plane.

    And their truth: voxels and values.
    """
    rng = np.random.default_rng(file)
    ends = rng.uniform(5, [TICKS - 5, SIDE - 5, SIDE - 5], (tracks, 2, 3))
    along = np.linspace(0, 1, 2000)[:, None]
    place = np.concatenate([a + along * (b - a) for a, b in ends])
    electrons = np.repeat(rng.gamma(20.0, 1.0, tracks), 2000)
    waveform = np.zeros((TICKS, len(tpc.channels)), np.float32)
    tick = place[:, 0].astype(int)
    for plane in tpc.planes:
        at = place[:, 1] * plane.normal[0] + place[:, 2] * plane.normal[1]
        wire = np.abs(at[:, None] - plane.offset_mm).argmin(axis=1)
        np.add.at(waveform, (tick, plane.column[wire]), electrons)
    frame = tpc.frame
    pixel = (place[:, 1:] - [frame.origin_y_mm, frame.origin_z_mm]) / frame.pixel_mm
    truth = voxelise_truth(np.column_stack([tick, pixel, electrons]), STEP, (TICKS, frame.n_y, frame.n_z))
    return waveform, truth


def simulated(tpc, file, tracks=25, bad=()):
    """An image of `straight_tracks`, tiled."""
    waveform, truth = straight_tracks(tpc, file, tracks)
    voxels = Tiler(tpc)(waveform, threshold=1.0, downsample=STEP, bad_channels=bad)
    return ImageRecord(
        file, 0, 1, voxels.coords, voxels.charge, voxels.live, truth_at(voxels.coords, *truth), *truth, input="made"
    )


def tracks_store(path, files=3, tracks=25, drift=True, bad=()):
    """A store of such images with a prediction ``net``: true voxels score 0.3 to 1, ghosts 0 to 0.7.

    ``drift``: the geometry tells the way back to centimetres.
    """
    tpc = small_tpc()
    geometry = Detector("square", {1: tpc}).geometry()
    if drift:
        known = {"drift_length_mm": 128.0, "drift_speed_mm_us": 1.6, "tick_us": 0.5, "tick_zero_drift": 0.0}
        geometry.tpcs[1] = geometry.tpcs[1].model_copy(update=known)
    larstore.create(path, geometry=geometry, downsample=STEP, provenance={}, shard_rows=4096, chunk_rows=256)
    for file in range(files):
        add_images(path, [simulated(tpc, file, tracks, bad)])
    with larstore.PredictionWriter(path, "net", {"checkpoint_sha256": "a" * 64}) as writer:
        for shard, images in writer.groups(larstore.open(path).select()):
            writer.write(shard, [(image, guessed(image)) for image in images])
        writer.commit()
    return path


def guessed(image):
    """A score that knows something of the truth."""
    random = np.random.default_rng(image.key[0]).random(len(image))
    return np.where(image.truth > 0, 0.3 + 0.7 * random, 0.7 * random).astype(np.float32)
