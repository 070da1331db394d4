"""Arrays of events: numpy, xarray and dask give what the Tiler gives, in the form of a store's to_xarray()."""

import re
import threading
import time
import weakref
from pathlib import Path

import dask
import dask.array
import numpy as np
import pytest
import xarray
from numpy.testing import assert_array_equal

import larstore
from larstore.errors import ConfigError, InputError
from larstore.records import ImageRecord
from larstore.testing import add_images
from preprocess import arrays as module
from preprocess import tile, tile_events
from preprocess.testing import small_detector

SETTINGS = {"threshold": 1.0, "downsample": (4, 2, 3)}
TICKS = 30


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LARSTORE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield small_detector(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def tpc(detector):
    return detector.tpc(1)


@pytest.fixture(scope="module")
def waveforms(tpc):
    random = np.random.default_rng(5)
    lit = random.random((4, TICKS, len(tpc.channels))) < 0.15
    lit[2] = False  # an event without an image
    return np.where(lit, random.uniform(2, 9, lit.shape), 0).astype(np.float32)


def labelled(waveforms, tpc):
    return xarray.DataArray(
        waveforms,
        dims=("event", "tick", "channel"),
        coords={
            "event": [17, 4, 23, 5],
            "run": ("event", [1, 1, 2, 2]),
            "sample": "muons",
            "tick": np.arange(100, 100 + TICKS),
            "channel": tpc.channels,
        },
        attrs={"units": "electrons"},
    )


def split(ds):
    """(coords, charge, live) of each image."""
    ends = np.cumsum(ds.voxel_count.values)
    for end, count in zip(ends.tolist(), ds.voxel_count.values.tolist(), strict=True):
        rows = slice(end - count, end)
        yield ds["coords"].values[rows], ds.charge.values[rows], ds.live.values[rows]


def assert_is(ds, waveforms, tpc, bad=((),) * 4, **settings):
    """Each image is what its event gives alone."""
    assert len(ds.voxel_count) == len(waveforms)
    for (coords, charge, live), waveform, b, lit in zip(
        split(ds), waveforms, bad, ds.lit_samples.values.tolist(), strict=True
    ):
        expected = tile(waveform, tpc, bad_channels=b, **(SETTINGS | settings))
        assert_array_equal(coords, expected.coords)
        assert_array_equal(charge, expected.charge)
        assert_array_equal(live, expected.live)
        assert lit == expected.lit_samples
    assert ds.sizes["voxel"] == ds.voxel_count.sum()


def test_numpy(waveforms, tpc):
    ds = tile_events(waveforms, tpc, **SETTINGS)
    assert_is(ds, waveforms, tpc)
    assert ds.voxel_count.values[2] == 0
    assert (ds.voxel_count.values[[0, 1, 3]] > 100).all()
    assert ds.event.values.tolist() == [0, 1, 2, 3]
    assert "units" not in ds.charge.attrs


def test_an_array_with_labels_keeps_them(waveforms, tpc):
    ds = tile_events(labelled(waveforms, tpc).transpose("channel", "event", "tick"), tpc, **SETTINGS)
    assert_is(ds, waveforms, tpc, first_tick=100)
    assert ds.event.values.tolist() == [17, 4, 23, 5]
    assert ds.run.values.tolist() == [1, 1, 2, 2]
    assert ds.run.dims == ("image",)
    assert ds.sample.item() == "muons"
    assert ds.tpc.values.tolist() == [1] * 4
    assert ds.charge.attrs["units"] == "electrons"
    assert "units" not in tile_events(labelled(waveforms, tpc), tpc, scale=2.0).charge.attrs
    said = tile_events(labelled(waveforms, tpc), tpc, first_tick=8, **SETTINGS)
    assert_is(said, waveforms, tpc, first_tick=8)


@pytest.mark.parametrize("chunks", [(1, -1, -1), (2, 11, 100), (-1, -1, 64)], ids=str)
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_dask(waveforms, tpc, chunks, scheduler):
    with dask.config.set(scheduler=scheduler):
        lazy = dask.array.from_array(waveforms, chunks)
        assert_is(tile_events(lazy, tpc, **SETTINGS), waveforms, tpc)
        ds = tile_events(labelled(lazy, tpc), tpc, **SETTINGS)
    assert_is(ds, waveforms, tpc, first_tick=100)
    assert ds.event.values.tolist() == [17, 4, 23, 5]


def test_of_a_dask_array_few_events_are_in_memory_at_once(tpc):
    alive, most, made = set(), [], threading.Lock()

    def event(block_id=None):
        waveform = np.zeros((1, TICKS, len(tpc.channels)), np.float32)
        with made:
            alive.add(block_id[0])
            most.append(len(alive))
            weakref.finalize(waveform, alive.discard, block_id[0])
        time.sleep(0.002)
        return waveform

    shape = (40, TICKS, len(tpc.channels))
    lazy = dask.array.map_blocks(event, chunks=((1,) * 40, *shape[1:]), dtype=np.float32, meta=np.empty((0, 0, 0)))
    with dask.config.set(scheduler="threads", num_workers=2):
        assert tile_events(lazy, tpc).sizes["image"] == 40
    assert len(most) == 40
    assert max(most) <= 8


def test_of_an_open_file_one_event_is_read_at_a_time(tmp_path, waveforms, tpc, monkeypatch):
    path = tmp_path / "waveforms.nc"
    labelled(waveforms, tpc).to_dataset(name="waveform").to_netcdf(path, engine="h5netcdf")
    seen = []
    real = module._tile_event
    monkeypatch.setattr(module, "_tile_event", lambda w, *rest: seen.append(w.shape) or real(w, *rest))
    with xarray.open_dataset(path, engine="h5netcdf") as ds:
        assert_is(tile_events(ds.waveform, tpc, **SETTINGS), waveforms, tpc, first_tick=100)
        assert not ds.waveform.variable._in_memory
    assert seen == [waveforms.shape[1:]] * 4


def test_bad_channels_for_all_or_by_event(waveforms, tpc):
    rows = [[3, 100, 110], [90, 105, 130]]
    for_all = tile_events(labelled(waveforms, tpc), tpc, bad_channels=rows, **SETTINGS)
    assert_is(for_all, waveforms, tpc, bad=[rows] * 4, first_tick=100)
    by_event = tile_events(labelled(waveforms, tpc), tpc, bad_channels={4: [3, 90], 5: rows}, **SETTINGS)
    assert_is(by_event, waveforms, tpc, bad=[(), [3, 90], (), rows], first_tick=100)
    assert not by_event.equals(for_all)
    by_place = tile_events(waveforms, tpc, bad_channels={1: [3]}, **SETTINGS)
    assert_is(by_place, waveforms, tpc, bad=[(), [3], (), ()])


def test_settings_reach_the_tiler(waveforms, tpc):
    digitised = (waveforms * 10).astype(np.int16)
    settings = {"threshold": 4.0, "min_live_planes": 3, "scale": 0.1, "downsample": [1, 5, 7], "threads": 2}
    assert_is(tile_events(digitised, tpc, **settings), digitised, tpc, **settings)


def test_no_events_are_an_empty_dataset(waveforms, tpc):
    ds = tile_events(waveforms[:0], tpc)
    assert dict(ds.sizes) == {"image": 0, "voxel": 0, "plane": 3, "axis": 3}
    assert ds["coords"].dtype == np.uint16


def test_it_is_the_form_of_a_stores_dataset(tmp_path, waveforms, detector, tpc):
    """Same names, dimensions, types and attributes as of the store with these images."""
    ds = tile_events(labelled(waveforms, tpc), tpc, **SETTINGS)
    path = tmp_path / "a.zarr"
    larstore.create(path, geometry=detector.geometry(), downsample=(4, 2, 3), provenance={})
    images = [
        ImageRecord(1, event, 1, coords, charge, live)
        for event, (coords, charge, live) in zip(ds.event.values.tolist(), split(ds), strict=True)
    ]
    add_images(path, images)
    kept = larstore.open(path).select().to_xarray()
    order = np.argsort(ds.event.values)
    assert_array_equal(kept.voxel_count, ds.voxel_count[order])
    for name in ("coords", "charge", "live", "voxel_count"):
        assert ds[name].dims == kept[name].dims, name
        assert ds[name].dtype == kept[name].dtype, name
        assert ds[name].attrs == kept[name].attrs, name
    for name in ("event", "tpc", "plane", "axis"):
        assert ds[name].dims == kept[name].dims, name
    assert ds.attrs == kept.attrs


def test_a_pure_function_for_dask(waveforms, tpc):
    tasks = [dask.delayed(tile)(waveform, tpc, threads=1, **SETTINGS) for waveform in waveforms]
    for image, waveform in zip(dask.compute(*tasks, scheduler="threads"), waveforms, strict=True):
        assert_array_equal(image.charge, tile(waveform, tpc, **SETTINGS).charge)


def test_a_tiler_is_kept_for_each_tpc(waveforms, detector, tmp_path):
    module._remembered.cache_clear()
    for number in (1, 3, 1):
        tile(waveforms[0], detector.tpc(number))
        tile(waveforms[0], small_detector(tmp_path).tpc(number))  # loaded again: equal, not the same
    assert module._remembered.cache_info().misses == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w, tpc: w[0], "shape (30, 210)"),
        (lambda w, tpc: w[:, :, :7], "7 channels, TPC 1 of small has 210"),
        (lambda w, tpc: dask.array.from_array(w)[:, :, :7], "7 channels"),
        (lambda w, tpc: labelled(w, tpc).rename(tick="time"), "'time'"),
        (lambda w, tpc: labelled(w, tpc).isel(event=0), "('tick', 'channel')"),
        (lambda w, tpc: labelled(w, tpc).isel(channel=slice(None, None, -1)), "coordinate channel"),
        (lambda w, tpc: labelled(w, tpc).assign_coords(tick=np.arange(TICKS) * 0.5), "(0.0 … 14.5)"),
        (lambda w, tpc: labelled(w, tpc).assign_coords(tick=np.arange(TICKS) + 0.5), "(0.5 … 29.5)"),
        (lambda w, tpc: labelled(w, tpc).assign_coords(tick=np.arange(TICKS)[::-1]), "(29 … 0)"),
        (lambda w, tpc: dask.array.from_array(w)[dask.array.from_array(w[:, 0, 0]) >= 0], "compute_chunk_sizes()"),
    ],
)
def test_other_arrays_are_refused(waveforms, tpc, change, says):
    with pytest.raises(InputError, match=re.escape(says)) as error:
        tile_events(change(waveforms, tpc), tpc)
    assert "Fix:" in str(error.value)


@pytest.mark.parametrize("lazy", [False, True])
def test_an_error_names_the_event(waveforms, tpc, lazy):
    def given(values):
        return labelled(dask.array.from_array(values, (1, -1, -1)) if lazy else values, tpc)

    wrong = waveforms.copy()
    wrong[3, 7, 11] = np.nan
    with pytest.raises(InputError, match=r"^event 5: The waveform is nan at tick 107, channel 11"):
        tile_events(given(wrong), tpc)
    with pytest.raises(InputError, match=r"^event (17|4|5): The image has [\d,]+ voxels, more than max_voxels = 3\."):
        tile_events(given(waveforms), tpc, max_voxels=3)
    with pytest.raises(ConfigError, match=r"^event 23: bad_channels names column 210"):
        tile_events(given(waveforms), tpc, bad_channels={23: [210]})
    with pytest.raises(ConfigError, match="event 99"):
        tile_events(given(waveforms), tpc, bad_channels={99: [1]})
    with pytest.raises(ConfigError, match="downsample"):
        tile_events(given(waveforms), tpc, downsample=(8, 4))


def test_the_page_about_it_is_right():
    """The examples of docs/tiling.md run, one after the other."""
    text = (Path(__file__).parents[2] / "docs" / "tiling.md").read_text(encoding="utf-8")
    section = text[text.index("## In Python") :].partition("\n## ")[0]
    names = {}
    for example in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(compile(example, "docs/tiling.md", "exec"), names)  # noqa: S102 - our own page
    assert len(names["voxels"]) > 0
    assert names["counts"] == [len(names["voxels"])] * 2
    assert names["images"].voxel_count.values.tolist()[0] == len(names["voxels"])
