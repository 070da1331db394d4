"""What a store's writers do, recorded for the replay of crashes, and how the next writer goes on."""

import larstore
from larstore.commit import lagging_children
from larstore.locks import Lock
from larstore.records import Failure, InputFile
from larstore.root import read_root
from larstore.testing import add_images, make_geometry, make_image
from tests.store.crash_replay import STORE, booted, recorded

EXTRA = make_image(99, 0, 1, 8)
CHECKPOINT = {"checkpoint_sha256": "c" * 64}


def new_store(path, **settings):
    larstore.create(path, geometry=make_geometry(n_wires=1), provenance={}, shard_rows=32, chunk_rows=8, **settings)


def go_on(store, handed):
    """The next writer: no block is handed out twice, and what it adds is all that is added."""
    before = larstore.open(store)
    with larstore.StoreWriter(store) as writer:
        spec = writer.reserve()
        if spec.first_shard < handed:
            return f"shard {spec.first_shard} is handed out again"
        writer.commit([larstore.write_block(store, spec, [EXTRA])])
    added = larstore.diff(store, before)
    if added != [f"(99, 0, 1): in {store}, not in {before.path}"]:
        return f"the next commit changed {added}"
    report = larstore.verify(store)
    lagging = [n for n in lagging_children(store, read_root(store)) if not n.startswith("predictions/")]
    return str(report.problems[0]) if report.problems else f"{lagging} lag" if lagging else None


def reserve(store, handed):
    """The short form of ``go_on``."""
    with larstore.StoreWriter(store) as writer:
        first = writer.reserve().first_shard
    with Lock(store, "root", beat=False):
        pass
    return f"shard {first} is handed out again" if first < handed else None


def take_over(top):
    """A writer dies with blocks that it handed out; the next one has handed out none when the crash comes."""
    new_store(top / STORE)
    with booted("long before"):
        dead = larstore.StoreWriter(top / STORE).__enter__()
        dead.reserve(3)
        dead._lock._stop.set()
    with recorded(top, 0, handed=3) as recording, larstore.StoreWriter(top / STORE):
        recording.promise(0)
    return recording


def heartbeat(top):
    """A lock's file is written anew by its heartbeat, and carries the mark of what was handed out."""
    new_store(top / STORE)
    with recorded(top, 0) as recording, larstore.StoreWriter(top / STORE) as writer:
        writer.reserve(3)
        recording.promise(0, handed=3)
        writer._lock.beat()
    return recording


def predict(store, name="p", groups=None):
    """Predict what is left of all images, a group at a time; ``groups``: that many at most."""
    opened = larstore.open(store)
    with larstore.PredictionWriter(store, name, CHECKPOINT) as writer:
        for shard, images in writer.groups(opened.select())[:groups]:
            writer.write(shard, [(image, image.charge[:, 0] / 2) for image in images])
        writer.commit()


def predict_and_go_on(store, handed):
    predict(store)
    opened = larstore.open(store)
    for image in opened.select():
        if image.score("p").tobytes() != (image.charge[:, 0] / 2).tobytes():
            return f"scores of {image.key} differ"
    return reserve(store, handed)


def create_and_go_on(store, handed):
    if not store.exists():
        new_store(store)
    return go_on(store, handed)


def images_of_every_kind(top):
    """A commit of two blocks, truth with columns, pixels, a failure, beside a commit that is there."""
    new_store(top / STORE, truth_columns=["collected", "pdg"], pixels=True)
    settings = {"truth_columns": ["pdg"], "pixels": True}
    add_images(top / STORE, [make_image(0, 0, 1, 10, **settings)], [InputFile("a", 0, 1, "0" * 64)])
    with recorded(top, 1, handed=1) as recording:
        with larstore.StoreWriter(top / STORE) as writer:
            receipts = []
            for file in (1, 2):
                spec = writer.reserve(2)
                recording.promise(1, handed=spec.first_shard + 2)
                image = make_image(file, 0, 1, 10 + file, input=f"b{file}", **settings)
                receipts.append(larstore.write_block(top / STORE, spec, [image], [InputFile("b", file, 1, "1" * 64)]))
            writer.commit(receipts, [Failure(3, 1, "c", "no wires")])
            recording.promise(2)
        recording.promise(2)
    return recording


def first_images(top):
    """The first commit of a store, into directories that are not there yet."""
    new_store(top / STORE)
    with recorded(top, 0) as recording, larstore.StoreWriter(top / STORE) as writer:
        spec = writer.reserve()
        recording.promise(0, handed=1)
        writer.commit([larstore.write_block(top / STORE, spec, [make_image(0, 0, 1, 20)], [InputFile("a", 0, 1, "0")])])
        recording.promise(1)
    return recording


def redo_and_delete(top):
    """An image that takes the place of another one, then a deletion."""
    new_store(top / STORE)
    add_images(top / STORE, [make_image(0, e, 1, 9) for e in (0, 1)])
    with larstore.StoreWriter(top / STORE) as writer:
        writer.reserve()  # in vain
    with recorded(top, 1, handed=2) as recording, larstore.StoreWriter(top / STORE) as writer:
        spec = writer.reserve()
        recording.promise(1, handed=3)
        writer.commit([larstore.write_block(top / STORE, spec, [make_image(0, 0, 1, 12, seed=1)])])
        recording.promise(2)
        writer.delete([(0, 1, 1)])
        recording.promise(3)
    return recording


def prediction(top):
    """Two commits of one prediction."""
    new_store(top / STORE)
    for file in (0, 1):
        add_images(top / STORE, [make_image(file, 0, 1, 20)])
    with recorded(top, 2, handed=2) as recording:
        predict(top / STORE, groups=1)
        recording.promise(3)
        predict(top / STORE)
        recording.promise(4)
    return recording


def creation(top):
    """A store is there whole, or not at all."""
    top.mkdir(exist_ok=True)
    with recorded(top, None) as recording:
        new_store(top / STORE)
        recording.promise(0)
    return recording


# Scenario -> what the next writer does: all that it can, and in short.
SCENARIOS = {
    images_of_every_kind: (go_on, reserve),
    first_images: (go_on, reserve),
    redo_and_delete: (go_on, reserve),
    take_over: (go_on, reserve),
    heartbeat: (go_on, reserve),
    prediction: (predict_and_go_on, predict_and_go_on),
    creation: (create_and_go_on, create_and_go_on),
}


def made(scenario, tmp_path):
    """The recording of a scenario."""
    top = tmp_path / "top"
    top.mkdir()
    return scenario(top)
