"""Wire-Cell frames in HDF5: order of the events, tags, and files of strangers that reach outside themselves."""

import h5py
import numpy as np
import pytest

from larstore.errors import InputError
from preprocess.sources import open_source
from preprocess.testing import small_detector, small_waveforms, write_wirecell_hdf5


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return small_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture
def path(tmp_path, detector):
    return write_wirecell_hdf5(tmp_path / "run.h5", detector.tpc(1), small_waveforms(detector.tpc(1), 12))


def test_events_are_in_the_order_of_their_numbers(path, detector):
    """HDF5 lists 0, 1, 10, 11, 2 …"""
    with h5py.File(path, "r+") as file:
        file.move("11", "900")
        file.create_group("notes")
    source = open_source(path)
    assert source.n_events == 12
    found = list(source.events(detector.tpc(1)))
    assert [e.event for e in found] == list(range(12))
    assert [e.event_id for e in found] == [*range(11), 900]
    np.testing.assert_array_equal([e.waveform for e in found], small_waveforms(detector.tpc(1), 12))


def test_several_tags_need_a_choice(path, detector):
    tpc = detector.tpc(1)
    with h5py.File(path, "r+") as file:
        for ident in file:
            file[ident]["frame_label"] = np.zeros((210, 60), np.int8)  # without channels: no frame
    np.testing.assert_array_equal(next(open_source(path).events(tpc)).waveform, small_waveforms(tpc, 1)[0])
    with h5py.File(path, "r+") as file:
        for ident in file:
            for kind in ("channels", "tickinfo"):
                file[ident][f"{kind}_label"] = file[ident][f"{kind}_gauss"][()]
    with pytest.raises(InputError, match=r"several tags \(gauss, label\)\. Fix: choose one with the option tag"):
        next(open_source(path).events(tpc))
    assert next(open_source(path).events(tpc, tag="label")).waveform.max() == 0
    with pytest.raises(InputError, match=r"/0 has no frames of the tag 'raw'. Fix: choose one of gauss, label"):
        next(open_source(path).events(tpc, tag="raw"))


def damage_shape(group):
    del group["channels_gauss"]
    group["channels_gauss"] = np.arange(200)


def damage_link(group):
    del group["frame_gauss"]
    group["frame_gauss"] = h5py.ExternalLink("/etc/passwd", "/x")


def damage_soft_link(group):
    del group["frame_gauss"]
    group["frame_gauss"] = h5py.SoftLink("/1/frame_gauss")


def damage_external(group):
    del group["frame_gauss"]
    group.create_dataset("frame_gauss", (210, 60), "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def damage_virtual(group):
    del group["frame_gauss"]
    layout = h5py.VirtualLayout((210, 60), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (210, 60))
    group.create_virtual_dataset("frame_gauss", layout)


def damage_strings(group):
    del group["tickinfo_gauss"]
    group["tickinfo_gauss"] = "abc"


def damage_compound(group):
    del group["frame_gauss"]
    group["frame_gauss"] = np.zeros(3, [("a", "f4")])


def damage_huge(group):
    del group["frame_gauss"]
    group.create_dataset("frame_gauss", (210, 2**40), "f4", chunks=(210, 64))


def damage_huge_chunk(group):
    del group["frame_gauss"]
    group.create_dataset("frame_gauss", (210, 60), "f4", maxshape=(None, None), chunks=(2**14, 2**15))


def damage_group(group):
    del group["frame_gauss"]
    group.create_group("frame_gauss")


def damage_scalar(group):
    del group["frame_gauss"]
    group["frame_gauss"] = np.float32(3.0)


def damage_nan(group):
    group["frame_gauss"][5, 7] = np.nan


def damage_empty(group):
    del group["frame_gauss"]
    group["frame_gauss"] = h5py.Empty("f4")


DAMAGES = {
    damage_shape: r"shape \(210, 60\) for 200 channels",
    damage_link: "is a link",
    damage_soft_link: "is a link",
    damage_external: "stored outside the file",
    damage_virtual: "stored outside the file",
    damage_strings: "holds no plain numbers .dtype object",
    damage_compound: "holds no plain numbers",
    damage_huge: f"claims {210 * 2**42} bytes",
    damage_huge_chunk: f"claims {2**31} bytes",
    damage_group: "frame_gauss is missing",
    damage_scalar: r"shape \(\)",
    damage_nan: "event 0 is nan in row 7, column 5, 1 such",
    damage_empty: "holds no plain numbers",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_and_hostile_files(path, detector, damage):
    with h5py.File(path, "r+") as file:
        damage(file["0"])
    with pytest.raises(InputError, match=DAMAGES[damage]) as caught:
        list(open_source(path).events(detector.tpc(1)))
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "Fix: " in message
    assert "\n" not in message


def test_what_is_no_frame_file(tmp_path, detector):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.arange(3)
    with pytest.raises(InputError, match=r"a.h5: holds x. Fix: give one of: .*Wire-Cell frames in HDF5"):
        open_source(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_group("1")["mcpart"] = np.arange(3)
    with pytest.raises(InputError, match=r"b\.h5: holds 1"):
        open_source(tmp_path / "b.h5")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_group("1")["frame_gauss"] = np.zeros((3, 4))
    with pytest.raises(InputError, match="/1 has no channels or tickinfo for frame_gauss"):
        list(open_source(tmp_path / "c.h5").events(detector.tpc(1)))
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["1"] = h5py.SoftLink("/2")
    with pytest.raises(InputError, match="1 is not a group of this file"):
        open_source(tmp_path / "d.h5")
