"""Small random detectors for hypothesis: any angles, wires cut in two, channels with several wires."""

import math

import numpy as np
from hypothesis import strategies as st

from preprocess.detector.build import build_detector
from preprocess.detector.config import DetectorConfig
from preprocess.detector.wires import FaceWires, PlaneWires

PIXEL = 2.0


@st.composite
def planes(draw, ident, size):
    """A plane of parallel wires across the middle of the box, which it may leave uncovered at the rim."""
    angle = math.radians(draw(st.integers(-89, 90)))
    normal = np.array([math.sin(angle), math.cos(angle)])
    along = np.array([normal[1], -normal[0]])
    pitch = draw(st.sampled_from([1.3, 3.0, 4.67, 7.1]))
    n = draw(st.integers(2, 9))
    middle = normal @ np.array(size) / 2 + draw(st.sampled_from([0.0, 0.4]))
    rows = []
    for k in range(n):
        channel = 100 * ident + draw(st.integers(0, n - 1))  # a channel may come with several segments
        point = (middle + pitch * (k - (n - 1) / 2)) * normal
        centre = np.array(size) @ along / 2
        ends = [point + (centre + s) * along for s in (-40.0, 40.0)]
        if draw(st.integers(0, 3)) == 0:  # another channel continues the line
            cut = point + (centre + draw(st.integers(-6, 6))) * along
            rows += [(channel, ends[0], cut), (100 * ident + n, cut, ends[1])]
        else:
            rows.append((channel, *ends))
    x = 5.0 * (3 - ident)
    order = draw(st.permutations(range(len(rows))))
    tail, head = (np.array([[x, *rows[i][j]] for i in order]) for j in (1, 2))
    channel = np.array([rows[i][0] for i in order], np.int32)
    return PlaneWires(ident, channel, np.zeros(len(rows), np.int32), tail, head)


@st.composite
def tpcs(draw):
    size = draw(st.integers(5, 19)) * PIXEL, draw(st.integers(5, 19)) * PIXEL
    n_planes = draw(st.sampled_from([2, 3, 3]))
    face = FaceWires(
        0, 0, tuple(draw(planes(ident, size)) for ident in range(n_planes)), ((0.0, size[0]), (0.0, size[1]))
    )
    return build_detector(DetectorConfig(name="random", wires="-", pixel_mm=PIXEL), [face], "random").tpc(1)
