"""Two frames that nobody here made: simulated ProtoDUNE-SP and real ProtoDUNE-HD data."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from preprocess.detector import load_detector
from preprocess.voxels import Tiler

pytestmark = pytest.mark.skipif("LARSTORE_TEST_DATA" not in os.environ, reason="LARSTORE_TEST_DATA is not set")


def read_frame(name, tpc):
    """(ticks, channels) waveform of a frame archive in the TPC's columns."""
    with tarfile.open(Path(os.environ["LARSTORE_TEST_DATA"]) / "frames" / name) as archive:
        arrays = {
            member.name.split("_")[0]: np.load(io.BytesIO(archive.extractfile(member).read()), allow_pickle=False)
            for member in archive
            if member.name.startswith(("frame_", "channels_"))
        }
    waveform = np.zeros((arrays["frame"].shape[1], len(tpc.channels)), np.float32)
    waveform[:, np.searchsorted(tpc.channels, arrays["channels"])] = arrays["frame"].T
    return waveform


@pytest.mark.parametrize(
    ("archive", "detector", "number"),
    [
        ("pdsp-sim-sp-0.29.3.tar.bz2", "protodune-sp", 1),
        ("protodunehd-sp-frames-anode1.tar.bz2", "protodunehd-wires-larsoft-v1.json.bz2", 2),
    ],
)
def test_frames_tile_to_sane_images(archive, detector, number):
    if detector.endswith("bz2"):
        detector = Path(os.environ["LARSTORE_TEST_DATA"]) / "geometry" / detector
    tpc = load_detector(detector).tpc(number)
    waveform = read_frame(archive, tpc)
    voxels = Tiler(tpc)(waveform)
    assert 1_000 < len(voxels) < 5_000_000
    # What the planes see of one charge agrees to some tenths, and no plane gets more than its waveform holds.
    sums = voxels.charge.sum(axis=0, dtype=np.float64)
    assert sums.max() < 2 * sums.min()
    for p, plane in enumerate(tpc.planes):
        columns = np.unique(plane.column)
        assert sums[p] <= waveform[:, columns].clip(min=0).sum(dtype=np.float64) * 1.001
    # The other face, which does not see these tracks, gets far less out of the shared channels.
    other = Tiler(load_detector(detector).tpc(number - 1 if number % 2 else number + 1))(waveform)
    assert len(other) < len(voxels) / 10
