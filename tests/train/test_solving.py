"""The classical solver against its definition in plain Python, and where the answer is known."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import optimize, sparse

from larstore.errors import ConfigError, InputError, StoreError
from larstore.testing import make_geometry
from tests.preprocess.random_detectors import tpcs
from train.results.solving import LEAST_LIVE, METHODS, PASSES, solve_charges, wire_system
from train.results.wire_shares import plane_wires, voxel_shares

LARGE = {"damp": 0.2, "penalty": 300.0}


def random_shares(rng, n, n_wires, whole):
    """(n, wires) parts of voxels on wires; ``whole``: each voxel lies on one wire."""
    if whole:
        return np.eye(n_wires)[rng.integers(0, n_wires, n)]
    shares = rng.dirichlet(np.full(n_wires, 0.3), n) * (rng.random((n, n_wires)) < 0.7)
    total = shares.sum(axis=1, keepdims=True)
    return np.where(total > 1e-3, shares / np.maximum(total, 1e-3), 0.0)


def random_image(seed, whole=False, n_planes=3, n_wires=4):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 14))
    places = rng.choice(3 * 4 * 4, n, replace=False)
    coords = np.stack([places // 16, places // 4 % 4, places % 4], axis=1)
    charge = rng.gamma(1.0, 5000.0, (n, n_planes)) * np.where(rng.random((n, n_planes)) < 0.1, -0.2, 1.0)
    live = rng.integers(0, 2**n_planes, n).astype(np.uint8) | rng.integers(0, 2**n_planes, n).astype(np.uint8)
    return coords, charge, live, [random_shares(rng, n, n_wires, whole) for _ in range(n_planes)]


def as_system(coords, charge, live, shares):
    return wire_system(coords, charge, live, [sparse.csr_array(each) for each in shares])


def equations(coords, charge, live, shares):
    """{(plane, x, wire): ([part of each voxel], charge of the wire)} by the definition, a voxel at a time."""
    n, found = len(coords), {}
    for p, parts in enumerate(shares):
        is_live = [bool(live[v] >> p & 1) for v in range(n)]
        for x in sorted({int(c[0]) for c in coords}):
            here = [v for v in range(n) if coords[v][0] == x]
            wires = [w for w in range(parts.shape[1]) if any(parts[v][w] > 0 for v in here)]
            area = {w: sum(parts[v][w] for v in here) for w in wires}
            seen = {w: sum(parts[v][w] for v in here if is_live[v]) for w in wires}
            told = [v for v in here if is_live[v]]
            up = {v: max(charge[v][p], 0.0) for v in told}
            density = {w: sum(parts[v][w] * up[v] for v in told) / seen[w] if seen[w] else 0.0 for w in wires}
            for _ in range(PASSES):
                fit = {v: sum(parts[v][w] * density[w] for w in wires) for v in told}
                ratio = {v: up[v] / fit[v] if fit[v] else 0.0 for v in told}
                density = {
                    w: density[w] * sum(parts[v][w] * ratio[v] for v in told) / seen[w] if seen[w] else 0.0
                    for w in wires
                }
            certain = [w for w in wires if seen[w] >= LEAST_LIVE * area[w]]
            value = {
                w: area[w] * (density[w] + (sum(parts[v][w] * min(charge[v][p], 0.0) for v in told) / (seen[w] or 1)))
                for w in certain
            }
            for w in certain:
                seen_by = {u: sum(parts[v][w] * parts[v][u] for v in here) / area[u] for u in certain}
                row = [sum(seen_by[u] * parts[v][u] for u in certain) if v in here else 0.0 for v in range(n)]
                found[p, x, w] = (row, sum(seen_by[u] * value[u] for u in certain))
    return found


def dense_solution(matrix, measured, kept, method, damp, penalty):
    """What ``solve_charges`` must find, by another algorithm: an active set on the dense matrix with damping rows."""
    charge = np.zeros(len(kept))
    n = int(kept.sum())
    if n == 0:  # which SciPy's nnls does not survive
        return charge
    rows = np.vstack([matrix[:, kept], damp * np.eye(n)])
    goal = np.concatenate([measured, np.full(n, -penalty / damp if method == "lasso" else 0.0)])
    if method == "lsmr":
        charge[kept] = np.maximum(np.linalg.lstsq(rows, goal, rcond=None)[0], 0.0)
    else:
        charge[kept] = optimize.nnls(rows, goal)[0]
    return charge


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32), whole=st.booleans(), n_planes=st.integers(2, 3), method=st.sampled_from(METHODS))
def test_against_the_definition(seed, whole, n_planes, method):
    image = random_image(seed, whole, n_planes)
    system, expected = as_system(*image), equations(*image)
    keys = sorted(expected)
    assert list(zip(system.plane.tolist(), system.x.tolist(), system.wire.tolist(), strict=True)) == keys
    n = len(image[0])
    matrix = np.array([expected[key][0] for key in keys]).reshape(-1, n)
    measured = np.array([expected[key][1] for key in keys])
    assert_allclose(system.matrix.toarray(), matrix, rtol=1e-12)
    assert_allclose(system.measured, measured, rtol=1e-9, atol=1e-6)
    kept = np.random.default_rng(seed).random(n) < 0.7
    found = solve_charges(system, kept, method, **LARGE)
    assert found.converged
    assert not found.charge[~kept].any()
    assert (found.charge >= 0).all()
    scale = max(np.abs(measured).max(initial=0.0), 1.0)
    assert_allclose(found.charge, dense_solution(matrix, measured, kept, method, **LARGE), atol=1e-4 * scale)


def tiled(rng, coords, charge, shares):
    """Charges that tiling gives for these true ones, each voxel on one wire: a wire's, evenly over its voxels."""
    spread = np.empty((len(coords), len(shares)))
    for p, parts in enumerate(shares):
        wires = np.stack([coords[:, 0], parts.argmax(axis=1)], axis=1)
        _, number, count = np.unique(wires, axis=0, return_inverse=True, return_counts=True)
        number = number.ravel()
        spread[:, p] = (np.bincount(number, charge) / count)[number]
    return spread


@pytest.mark.parametrize("method", ["nnls", "lsmr"])
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_true_charges_come_back_where_the_wires_determine_them(method, seed):
    rng = np.random.default_rng(seed)
    coords, _, _, shares = random_image(seed, whole=True, n_wires=5)
    kept = rng.random(len(coords)) < 0.6
    charge = np.where(kept, rng.gamma(2.0, 4000.0, len(coords)), 0.0)
    system = as_system(coords, tiled(rng, coords, charge, shares), np.full(len(coords), 7, np.uint8), shares)
    values = np.linalg.svd(system.matrix.toarray()[:, kept], compute_uv=False)
    assume(kept.any() and len(values) == kept.sum() and values.min() > 0.1)
    found = solve_charges(system, kept, method, damp=0.0)
    assert_allclose(found.charge, charge, rtol=1e-3, atol=1e-3 * charge.max())


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_voxels_does_not_matter(method):
    coords, charge, live, shares = random_image(8)
    order = np.random.default_rng(1).permutation(len(coords))
    kept = np.arange(len(coords)) % 3 > 0
    assert len(coords) > 5
    one = solve_charges(as_system(coords, charge, live, shares), kept, method, **LARGE).charge
    other = as_system(coords[order], charge[order], live[order], [each[order] for each in shares])
    assert_allclose(solve_charges(other, kept[order], method, **LARGE).charge, one[order], atol=1.0)
    assert one.max() > 1000


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32))
def test_totals_of_slices_stay(seed):
    """The wires' charges sum to the plane's, whatever it is; the voxels' to those where the planes agree."""
    rng = np.random.default_rng(seed)
    coords, charge, _, shares = random_image(seed)
    for parts in shares:
        parts[parts.sum(axis=1) == 0, 0] = 1.0
    n = len(coords)
    system = as_system(coords, charge, np.full(n, 7, np.uint8), shares)
    for p in range(3):
        for x in np.unique(coords[:, 0]):
            rows = (system.plane == p) & (system.x == x)
            assert_allclose(system.measured[rows].sum(), charge[coords[:, 0] == x, p].sum(), rtol=1e-9, atol=1e-6)
    coords, _, _, shares = random_image(seed, whole=True)
    true = rng.gamma(1.0, 5000.0, n)
    agreed = as_system(coords, tiled(rng, coords, true, shares), np.full(n, 7, np.uint8), shares)
    found = solve_charges(agreed, np.ones(n, bool), damp=0.01).charge
    for x in np.unique(coords[:, 0]):
        here = coords[:, 0] == x
        assert_allclose(found[here].sum(), true[here].sum(), rtol=2e-3)


def test_what_is_not_live_gives_no_equation():
    coords = np.array([[0, 0, z] for z in range(4)])
    charge = np.array([[4000.0, 4000.0, 1e9], [1000.0, 1000.0, 1e9], [9e9, 500.0, 1e9], [700.0, 700.0, 1e9]])
    live = np.array([0b011, 0b011, 0b010, 0b011], np.uint8)
    system = as_system(coords, charge, live, [np.eye(4)] * 3)
    assert_array_equal(system.plane, [0, 0, 0, 1, 1, 1, 1])
    assert_array_equal(system.wire, [0, 1, 3, 0, 1, 2, 3])
    found = solve_charges(system, np.ones(4, bool), damp=0.0)
    assert_allclose(found.charge, [4000.0, 1000.0, 500.0, 700.0], rtol=1e-4)


def test_a_penalty_leaves_fewer_voxels():
    """Four crossings of two wires and two others, of which two are true, and a little noise on all wires."""
    coords = np.array([[0, y, z] for y in range(2) for z in range(2)])
    shares = [np.eye(2)[coords[:, 1]], np.eye(2)[coords[:, 2]], np.eye(3)[coords[:, 1] + coords[:, 2]]]
    true = np.array([8000.0, 0.0, 0.0, 8000.0])
    charge = tiled(None, coords, true, shares) + 40.0
    system = as_system(coords, charge, np.full(4, 7, np.uint8), shares)
    everything = np.ones(4, bool)
    least = solve_charges(system, everything, "nnls", damp=0.01).charge
    sparser = solve_charges(system, everything, "lasso", damp=0.01, penalty=500.0).charge
    assert (least > 1.0).sum() == 4
    assert_array_equal(sparser > 1.0, true > 0)


def test_nothing_to_solve():
    coords, charge, live, shares = random_image(3)
    system = as_system(coords, charge, live, shares)
    assert not solve_charges(system, np.zeros(len(coords), bool)).charge.any()
    dark = as_system(coords, charge, np.zeros(len(coords), np.uint8), shares)
    assert dark.matrix.shape == (0, len(coords))
    assert not solve_charges(dark, np.ones(len(coords), bool)).charge.any()
    empty = as_system(coords[:0], charge[:0], live[:0], [each[:0] for each in shares])
    assert solve_charges(empty, np.ones(0, bool)).charge.shape == (0,)


def test_wrong_arguments_are_refused():
    coords, charge, live, shares = random_image(3)
    for wrong in ((coords[:, :2], charge, live), (coords, charge[:, :2], live), (coords, charge, live[:-1])):
        with pytest.raises(InputError, match=r"do not belong together. Fix: "):
            as_system(*wrong, shares)
    with pytest.raises(InputError, match=r"do not belong together. Fix: "):
        as_system(coords, charge, live, [shares[0], shares[1], shares[2][:-1]])
    broken = charge.copy()
    broken[1, 2] = np.nan
    with pytest.raises(InputError, match=r"charge of voxel 1 is not finite. Fix: "):
        as_system(coords, broken, live, shares)
    system, everything = as_system(coords, charge, live, shares), np.ones(len(coords), bool)
    with pytest.raises(ConfigError, match=r"method 'ridge' is none. Fix: one of nnls, lasso, lsmr"):
        solve_charges(system, everything, "ridge")
    for name in ("damp", "penalty"):
        with pytest.raises(ConfigError, match=rf"{name} = -1.0. Fix: 0 or more"):
            solve_charges(system, everything, **{name: -1.0})
    with pytest.raises(InputError, match=r"kept has shape .*Fix: one boolean for each of"):
        solve_charges(system, everything.astype(int))


@settings(deadline=None, max_examples=12)
@given(tpc=tpcs(), seed=st.integers(0, 2**32))
def test_shares_are_the_areas_on_the_wires(tpc, seed):
    """Against many points in each voxel, each of which lies on the wire that is nearest."""
    rng, step, fine = np.random.default_rng(seed), (1, 3, 2), 30
    frame = tpc.frame
    coords = np.stack([np.zeros(5), rng.integers(0, frame.n_y // 3, 5), rng.integers(0, frame.n_z // 2, 5)], axis=1)
    planes = plane_wires(_geometry(tpc), tpc.number)
    found = voxel_shares(planes, frame, step, coords.astype(np.uint16))
    size = np.array(step[1:]) * frame.pixel_mm
    y, z = ((np.arange(fine) + 0.5) / fine * side for side in size)
    for plane, shares in zip(tpc.planes, found, strict=True):
        along = np.array([plane.normal[1], -plane.normal[0]])
        channels = np.unique(plane.channel)
        begin = np.minimum(plane.tail[:, 1:] @ along, plane.head[:, 1:] @ along)
        for row, (_, cell_y, cell_z) in enumerate(coords):
            corner = np.array([frame.origin_y_mm, frame.origin_z_mm]) + np.array([cell_y, cell_z]) * size
            place = ((corner[0] + y)[:, None] * plane.normal[0] + (corner[1] + z) * plane.normal[1]).ravel()
            distance = np.abs(place[:, None] - plane.offset_mm)
            expected = np.zeros(len(channels))
            for wire, on in enumerate(distance.min(axis=1) < plane.pitch_mm / 2):
                if on:
                    line = np.flatnonzero(distance[wire] < distance[wire].min() + 0.01 * plane.pitch_mm)
                    line = line[np.argsort(begin[line])]
                    after = line[1:][begin[line[1:]] <= (corner + size / 2) @ along]
                    expected[np.searchsorted(channels, plane.channel[after[-1] if len(after) else line[0]])] += 1
            expected /= max(expected.sum(), 1)
            if expected.any() and shares[[row]].sum() > 0:
                covered = (distance.min(axis=1) < plane.pitch_mm / 2).mean()
                assert_allclose(shares[[row]].toarray()[0], expected, atol=0.1 / min(1, 3 * covered))
            else:
                assert (distance.min(axis=1) < plane.pitch_mm / 2).mean() < 0.05


def _geometry(tpc):
    from preprocess.detector.model import Detector

    return Detector("random", {tpc.number: tpc}).geometry()


def test_a_geometry_without_the_wires_is_refused():
    with pytest.raises(StoreError, match=r"has no TPC 5. Fix: "):
        plane_wires(make_geometry((1,)), 5)
    with pytest.raises(StoreError, match=r"plane u of TPC 1 has one line of wires, so no pitch. Fix: "):
        plane_wires(make_geometry((1,), n_wires=1), 1)
