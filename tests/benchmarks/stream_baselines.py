"""What a stream is measured against: DataLoaders over npz files and HDF5 files with the same images and batches."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from larstore.records import ImageRecord
from train.streaming.samples import Batch, Task
from train.streaming.stream import ImageStream

ARRAYS = ("coords", "charge", "truth")


class ForgetfulStream(ImageStream):
    """A stream that keeps no chunk from one epoch to the next: of a large store, none would be left."""

    def tasks(self, worker: int = 0, n_workers: int = 1) -> tuple[Iterable[Task], Callable[[Task], Batch]]:
        """See `ImageStream`; in workers, too."""
        for reader in self.readers:
            reader.reopen()
        return super().tasks(worker, n_workers)


class ImageFiles(Dataset):
    """Images by number; a subclass says how one is read. What is read becomes what a stream's batch holds."""

    def __init__(self, n_images: int) -> None:
        self.n_images = n_images

    def __len__(self) -> int:
        return self.n_images

    def __getitem__(self, number: int) -> tuple[np.ndarray, ...]:
        return self.read(number)

    def read(self, number: int) -> tuple[np.ndarray, ...]:
        """coords, charge and truth of an image."""
        raise NotImplementedError

    def loader(self, batch_size: int, workers: int, shuffle: bool, seed: int = 0) -> DataLoader:
        """As people write it: torch's own sampler and workers, with our batches."""
        return DataLoader(
            self,
            batch_size=batch_size,
            shuffle=shuffle,
            num_workers=workers,
            collate_fn=collate,
            persistent_workers=workers > 0,
            multiprocessing_context="forkserver" if workers else None,
            generator=torch.Generator().manual_seed(seed),
        )


def collate(images: Sequence[tuple[np.ndarray, ...]]) -> dict[str, Any]:
    """A batch of coordinates with the image's number, features, target and weight."""
    coords, charge, truth = ([np.asarray(image[i]) for image in images] for i in range(3))
    number = np.repeat(np.arange(len(images)), [len(c) for c in coords])
    target = np.concatenate(truth)[:, None]
    known = np.isfinite(target)
    return {
        "coords": torch.from_numpy(np.column_stack([np.concatenate(coords).astype(np.int64), number])),
        "features": torch.from_numpy(np.concatenate(charge)),
        "target": torch.from_numpy(np.where(known, target, np.float32(0))),
        "weight": torch.from_numpy(known.astype(np.float32)),
    }


class NpzImages(ImageFiles):
    """A ``savez_compressed`` an image."""

    def __init__(self, folder: Path, images: Sequence[ImageRecord]) -> None:
        super().__init__(len(images))
        folder.mkdir()
        self.folder = folder
        for number, image in enumerate(images):
            np.savez_compressed(folder / f"{number}.npz", **{name: getattr(image, name) for name in ARRAYS})

    def read(self, number: int) -> tuple[np.ndarray, ...]:
        """One file."""
        with np.load(self.folder / f"{number}.npz") as file:
            return tuple(file[name] for name in ARRAYS)


class GzipImages(ImageFiles):
    """A group an image in one HDF5 file, each array compressed with gzip: what people use."""

    def __init__(self, path: Path, images: Sequence[ImageRecord]) -> None:
        super().__init__(len(images))
        self.path = path
        self.file: h5py.File | None = None
        with h5py.File(path, "w") as file:
            for number, image in enumerate(images):
                for name in ARRAYS:
                    file.create_dataset(f"{number}/{name}", data=getattr(image, name), compression="gzip")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"file": None}

    def read(self, number: int) -> tuple[np.ndarray, ...]:
        """Three data sets; the file is opened once in each process."""
        self.file = self.file or h5py.File(self.path)
        return tuple(self.file[f"{number}/{name}"][:] for name in ARRAYS)


class PlainImages(ImageFiles):
    """All images one after another in contiguous arrays of one HDF5 file, uncompressed."""

    def __init__(self, path: Path, images: Sequence[ImageRecord]) -> None:
        super().__init__(len(images))
        self.path = path
        self.arrays: list[h5py.Dataset] = []
        self.start = np.cumsum([0, *(len(image.coords) for image in images)])
        with h5py.File(path, "w") as file:
            for name in ARRAYS:
                file[name] = np.concatenate([getattr(image, name) for image in images])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"arrays": []}

    def read(self, number: int) -> tuple[np.ndarray, ...]:
        """Three slices."""
        if not self.arrays:
            file = h5py.File(self.path)
            self.arrays = [file[name] for name in ARRAYS]
        return tuple(array[self.start[number] : self.start[number + 1]] for array in self.arrays)
