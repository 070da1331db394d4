"""A reader of stores for little-endian machines, written from docs/format.md alone: numpy, json, blosc, crc32c."""

import hashlib
import json
from pathlib import Path

import crc32c
import numpy as np
from numcodecs import blosc


class PlainStore:
    def __init__(self, path):
        self.path, root = Path(path), json.loads(Path(path, "zarr.json").read_bytes())
        self.nodes, self.about = root["consolidated_metadata"]["metadata"], root["attributes"]["larstore"]
        seal, text = self.about.pop("sha256"), json.dumps(root, sort_keys=True, separators=(",", ":"))
        assert (self.about["format_version"], hashlib.sha256(text.encode()).hexdigest()) == (1, seal)
        self.index = {node[6:]: self.column(node) for node in self.nodes if node.startswith("index/")}
        keys = np.stack([self.index[name] for name in ("file", "event", "tpc")], axis=1).tolist()
        last = {tuple(key): row for row, key in enumerate(keys)}
        self.images = {key: row for key, row in last.items() if not self.index["deleted"][row]}

    def checked(self, blob, path):
        assert int.from_bytes(blob[-4:], "little") == crc32c.crc32c(blob[:-4]), f"{path}: checksum does not match"
        return blob[:-4]

    def column(self, path):
        (rows,), (size,) = self.nodes[path]["shape"], self.nodes[path]["chunk_grid"]["configuration"]["chunk_shape"]
        files, found, kind = [f"{path}/c/{k}" for k in range(-(-rows // size))], [], self.nodes[path]["data_type"]
        chunks = [blosc.decompress(self.checked((self.path / file).read_bytes(), path)) for file in files]
        for data, at in ((data, 4) for data in chunks if kind == "string"):
            while at < len(data):
                found.append(data[at + 4 : at + 4 + int.from_bytes(data[at : at + 4], "little")].decode())
                at += 4 + int.from_bytes(data[at : at + 4], "little")
        return found[:rows] if kind == "string" else np.frombuffer(b"".join(chunks), kind)[:rows]

    def rows(self, path, start, stop):
        node, inner = self.nodes[path], self.nodes[path]["codecs"][0]["configuration"]["codecs"]
        C, n, width = self.about["chunk_rows"], self.about["shard_rows"] // self.about["chunk_rows"], node["shape"][1:]
        kind, order = node["data_type"], "CF"[inner[0]["name"] == "transpose"]
        pieces = [np.empty((0, *width), kind)]
        for chunk in range(start // C, -(-stop // C) if stop > start else 0):
            shard = (self.path / path / f"c/{chunk // n}{'/0' * len(width)}").read_bytes()
            index = np.frombuffer(self.checked(shard[-16 * n - 4 :], path), "<u8").reshape(-1, 2)
            offset, size = index[chunk % n].tolist()
            data = blosc.decompress(self.checked(shard[offset : offset + size], path))
            values = np.frombuffer(data, kind).reshape((C, *width), order=order)
            pieces.append(values[max(start - chunk * C, 0) : stop - chunk * C])
        return np.concatenate(pieces)

    def array(self, key, path, kind="voxel"):
        start, count = (int(self.index[f"{kind}_{what}"][self.images[key]]) for what in ("start", "count"))
        if not path.startswith("predictions/"):
            return self.rows(path, start, start + count)
        out, size = np.full(count, np.nan), self.about["shard_rows"]
        for first, last in self.nodes[path]["attributes"]["done"]:
            begin, end = max(start, first * size), min(start + count, (last + 1) * size)
            out[begin - start : max(begin, end) - start] = self.rows(f"{path}/score", begin, end)
        return out
