"""Wire-Cell frame archives, written by an independent few lines and by our writer, and read back."""

import io
import tarfile

import numpy as np
import pytest

from larstore.errors import ConfigError, InputError
from preprocess.simulation.write import COMPRESSIONS, Frame, write_frames, write_members
from preprocess.sources import open_source
from preprocess.testing import small_detector


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return small_detector(tmp_path_factory.mktemp("detector"))


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def write_tar(path, arrays, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, array in arrays:
            data = array if isinstance(array, bytes) else npy(array)
            info = tarfile.TarInfo(f"{name}.npy")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def event(ident, frame, channels, tag="gauss", tickinfo=(0.0, 500.0, 0.0)):
    label = f"{tag}_{ident}"
    return [
        (f"frame_{label}", frame),
        (f"channels_{label}", np.asarray(channels, np.int32)),
        (f"tickinfo_{label}", np.asarray(tickinfo, np.float64)),
    ]


def random_frame(seed, n_channels=210, n_ticks=50):
    return np.round(np.random.default_rng(seed).normal(100, 50, (n_channels, n_ticks))).astype(np.float32)


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("tag", ["gauss1", "a_tag_7", "*", ""])
def test_round_trip(tmp_path, detector, suffix, tag):
    tpc = detector.tpc(3)
    waveforms = [random_frame(seed).T for seed in range(3)]
    masks = {"bad": np.array([[211, 5, 9], [7, 0, 50]], np.int32)}
    frames = [Frame(10 * i, w, tpc.channels, -50_000.0, 500.0, 4, masks) for i, w in enumerate(waveforms)]
    path = tmp_path / f"run3{suffix}"
    write_frames(path, frames, tag)
    source = open_source(path)
    assert source.n_events == 3
    assert source.tpcs(detector) == [3]
    found = list(source.events(tpc, tag=tag or None))
    assert [e.event for e in found] == [0, 1, 2]
    assert [e.event_id for e in found] == [0, 10, 20]
    for e, waveform in zip(found, waveforms, strict=True):
        np.testing.assert_array_equal(e.waveform, waveform)
        assert e.waveform.dtype == np.float32
        assert e.waveform.flags.c_contiguous
        assert e.waveform.flags.writeable
        assert e.first_tick == 4
        np.testing.assert_array_equal(e.bad, [[1, 5, 9]])
        assert e.bad.dtype == np.int32
        assert e.notes == {"mask rows of channels outside the frame": 1}
        assert e.truth is None


def test_int16_scale_and_old_orientation(tmp_path, detector):
    frame = random_frame(1).astype(np.int16)
    for name, stored in (
        ("new", frame),
        ("old", np.ascontiguousarray(frame.T)),
        ("fortran", np.asfortranarray(frame)),
    ):
        write_tar(tmp_path / f"{name}.tar.gz", event(0, stored, range(210)))
        (found,) = open_source(tmp_path / f"{name}.tar.gz").events(detector.tpc(1), scale=2.5)
        np.testing.assert_array_equal(found.waveform, frame.T.astype(np.float32) * 2.5)


def test_missing_and_shuffled_channels(tmp_path, detector):
    channels = np.random.default_rng(0).permutation(210)[:200]
    frame = random_frame(2, 200)
    write_tar(tmp_path / "few.tar.gz", event(4, frame, channels, tickinfo=(0, 500, 3)))
    source = open_source(tmp_path / "few.tar.gz")
    missing = sorted(set(range(210)) - set(channels.tolist()))
    counts = [f"{name} {n - sum(lo <= c < lo + n for c in missing)}/{n}" for name, lo, n in
              (("u", 0, 80), ("v", 80, 80), ("w", 160, 50))]  # fmt: skip
    with pytest.raises(InputError, match=f"lacks channels of TPC 1 of small: {', '.join(counts)}. Fix: .*to bad"):
        next(source.events(detector.tpc(1)))
    (found,) = source.events(detector.tpc(1), missing_channels="bad")
    expected = np.zeros((50, 210), np.float32)
    for row, channel in enumerate(channels):
        expected[:, channel] = frame[row]
    np.testing.assert_array_equal(found.waveform, expected)
    assert found.bad.tolist() == [[channel, 3, 53] for channel in missing]
    assert found.notes == {"channels that the frame lacks": 10}


def test_several_tags_need_a_choice(tmp_path, detector):
    members = event(0, random_frame(0), range(210), "gauss") + event(0, random_frame(1), range(210), "wiener")
    members += event(1, random_frame(2), range(210), "gauss") + event(1, random_frame(3), range(210), "wiener")
    members.append(("summary_wiener_1", np.zeros(210)))
    write_tar(tmp_path / "two.tar.bz2", members, "w:bz2")
    source = open_source(tmp_path / "two.tar.bz2")
    assert source.n_events == 2
    with pytest.raises(InputError, match=r"several tags \(gauss, wiener\)\. Fix: .*tag"):
        list(source.events(detector.tpc(1)))
    found = [e.waveform for e in source.events(detector.tpc(1), tag="wiener")]
    np.testing.assert_array_equal(found, [random_frame(1).T, random_frame(3).T])
    with pytest.raises(InputError, match=r"no frames of the tag 'raw'.*gauss, wiener"):
        list(source.events(detector.tpc(1), tag="raw"))


def test_archives_sorted_by_name_are_read_too(tmp_path, detector):
    members = [m for i in range(3) for m in event(i, random_frame(i), range(210))]
    write_tar(tmp_path / "sorted.tar", sorted(members, key=lambda m: m[0]), "w")
    found = [e.waveform for e in open_source(tmp_path / "sorted.tar").events(detector.tpc(1))]
    np.testing.assert_array_equal(found, [random_frame(i).T for i in range(3)])


def test_events_come_one_by_one(tmp_path, detector):
    """The first event is there although the archive breaks off later; its number cannot shift."""
    members = [m for i in range(3) for m in event(i, random_frame(i), range(210))]
    del members[5]  # tickinfo of event 1
    write_tar(tmp_path / "gap.tar.gz", members)
    events = open_source(tmp_path / "gap.tar.gz").events(detector.tpc(1))
    assert next(events).event == 0
    with pytest.raises(InputError, match=r"tickinfo_gauss_1 is missing"):
        next(events)


BAD = {
    "late mask": (
        [*event(0, random_frame(0), range(210)), *event(1, random_frame(0), range(210)),
         ("chanmask_bad_0", np.zeros((1, 3), np.int32))],
        "event by event",
    ),
    "twice": (event(0, random_frame(0), range(210)) * 2, "twice"),
    "foreign channel": (event(0, random_frame(0), range(5, 215)),
                        "channel 210 .* is not one of TPC 1 .*5 such channels, and u 75/80, v 80/80, w 50/50"),
    "channel twice": (event(0, random_frame(0), [*range(209), 3]), "holds channel 3 twice"),
    "channel floats": ([event(0, random_frame(0), range(210))[0], ("channels_gauss_0", np.zeros(210)),
                        event(0, random_frame(0), range(210))[2]], "list of channel numbers"),
    "frame shape": (event(0, random_frame(0), range(200)), r"shape \(210, 50\) for 200 channels"),
    "frame 3d": (event(0, random_frame(0)[None], range(210)), r"shape \(1, 210, 50\)"),
    "objects": (event(0, np.array([None]), range(210)), "objects and pickles are not read"),
    "strings": (event(0, np.array(["a"]), range(210)), "plain numbers"),
    "tickinfo": (event(0, random_frame(0), range(210), tickinfo=(0, 500)), r"time ns, tick ns, first tick"),
    "first tick": (event(0, random_frame(0), range(210), tickinfo=(0, 500, -1)), "first tick -1"),
    "half tick": (event(0, random_frame(0), range(210), tickinfo=(0, 500, 0.5)), "whole numbers"),
    "tick length": (event(0, random_frame(0), range(210), tickinfo=(0, 0, 0)), "positive length"),
    "nan tick": (event(0, random_frame(0), range(210), tickinfo=(0, np.nan, 0)), "tickinfo_gauss_0 is"),
    "nan": (event(0, np.where(random_frame(0) > 200, np.nan, 1.0), range(210)), "event 0 is nan in row"),
    "inf": (event(0, np.full((210, 50), 1e39), range(210)), "event 0 is inf in row 0, column 0, 10500 such"),
    "mask shape": ([("chanmask_bad_0", np.zeros((3, 4), int)), *event(0, random_frame(0), range(210))], "chanmask"),
    "mask order": ([("chanmask_bad_0", np.array([[1, 9, 2]])), *event(0, random_frame(0), range(210))], r"1, 9, 2"),
    "mask range": ([("chanmask_bad_0", np.array([[1, -(2**63), 5]])), *event(0, random_frame(0), range(210))], "-9223"),
    "late tick": (event(0, random_frame(0), range(210), tickinfo=(0, 500, 2**31 - 9)), r"below 2\^31"),
    "no ticks": (event(0, random_frame(0, n_ticks=0), range(210)), "event 0 has no ticks"),
    "no frame": ([("channels_gauss_0", np.arange(210))], "frame_gauss_0 and tickinfo_gauss_0 is missing"),
    "nothing": ([("readme", np.arange(3))], "no member frame_"),
    "not npy": ([("frame_gauss_0", b"hello hello hello")], "wrong first bytes"),
    "short npy": ([("frame_gauss_0", npy(random_frame(0))[:-4])], "41996 bytes for"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_content(tmp_path, detector, case):
    members, message = BAD[case]
    path = tmp_path / "bad.tar"
    write_tar(path, members, "w")
    with pytest.raises(InputError, match=message) as caught:
        list(open_source(path).events(detector.tpc(1)))
    assert str(path) in str(caught.value)
    assert "Fix: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_decide_and_are_checked(tmp_path, detector):
    path = tmp_path / "batch2-reco_Mu_17_wire-TPC3.tar.gz"
    write_tar(path, event(0, random_frame(0), range(210, 420)))
    source = open_source(path)
    assert source.file_number() == 17
    assert source.file_number(r"batch(\d+)") == 2
    assert source.file_number(r"run(\d+)") is None
    assert source.tpcs(detector) == [3]
    assert source.inputs(3, ("depo",)) == [path]
    with pytest.raises(InputError, match="is of TPC 3, not 1"):
        list(source.events(detector.tpc(1)))
    with pytest.raises(ConfigError, match="no group"):
        source.file_number("run")
    with pytest.raises(ConfigError, match="regular expression"):
        source.file_number("(")
    with pytest.raises(InputError, match="is not a file number"):
        source.file_number("(Mu)")
    with pytest.raises(ConfigError, match="scale"):
        list(source.events(detector.tpc(3), scale=0.0))
    write_tar(tmp_path / "x_1_wire-TPC7.tar.gz", event(0, random_frame(0), range(210)))
    with pytest.raises(InputError, match="is of TPC 7, but small has 1, 3"):
        open_source(tmp_path / "x_1_wire-TPC7.tar.gz").tpcs(detector)


def test_tpcs_by_channels(tmp_path, detector):
    write_tar(tmp_path / "a.tar", event(0, random_frame(0), range(210, 420)), "w")
    assert open_source(tmp_path / "a.tar").tpcs(detector) == [3]
    write_tar(tmp_path / "b.tar", event(0, random_frame(0), range(100, 310)), "w")
    with pytest.raises(InputError, match="210 channels 100 … 309 are not those of one anode"):
        open_source(tmp_path / "b.tar").tpcs(detector)
    write_tar(tmp_path / "c.tar", [], "w")
    with pytest.raises(InputError, match="channels_<tag>_<ident>"):
        open_source(tmp_path / "c.tar").tpcs(detector)


def test_truth_beside_the_archive(tmp_path, detector):
    path = tmp_path / "s_1_wire-TPC1.tar.gz"
    write_tar(path, event(0, random_frame(0), range(210)) + event(1, random_frame(1), range(210)))
    truth = np.array([[1, 2, 3, 4.5, 9], [5, 6, 7, 8.5, 9]])
    np.savez(tmp_path / "s_1_depoElectron-TPC1.npz", truth, np.empty((0, 4)))
    first, second = open_source(path).events(detector.tpc(1), ("energy", "depo", "depoElectron"))
    np.testing.assert_array_equal(first.truth, truth[:, :4])
    assert second.truth.shape == (0, 4)
    assert open_source(path).inputs(1, ("depo", "depoElectron"))[1].name == "s_1_depoElectron-TPC1.npz"
    (first, _) = open_source(path).events(detector.tpc(1), ("depo",))
    assert first.truth is None
    assert first.notes == {"no truth file": 1}


def test_what_is_no_source(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_source(tmp_path / "none.tar")
    with pytest.raises(InputError, match="is a folder"):
        open_source(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="no known format"):
        open_source(tmp_path / "notes.txt")
    np.savez(tmp_path / "other.npz", x=np.arange(3))
    with pytest.raises(InputError, match="holds x"):
        open_source(tmp_path / "other.npz")


def test_writer_leaves_no_half_file(tmp_path):
    def members():
        yield "frame_a_0.npy", b"123"
        raise KeyError("stop")

    with pytest.raises(KeyError):
        write_members(tmp_path / "half.tar.gz", members())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="unknown suffix"):
        write_members(tmp_path / "x.rar", [])
