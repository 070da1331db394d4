"""`larstore browse`: what it answers, what it refuses, and that Ctrl-C ends it."""

import http.client
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import typer
from typer.testing import CliRunner

import larstore
from larstore.errors import ConfigError, InputError, StoreError
from larstore.testing import make_store
from tests.train.test_display import references
from train.cli import view
from train.results.display.browsing import Browser
from train.results.display.listing import Listing, one_range
from train.results.display.serving import BrowseServer


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("browse") / "run.zarr", n_files=4, n_events=3, tpcs=(1, 5), n_voxels=50)


@pytest.fixture(scope="module")
def server(store):
    with serving(Browser(larstore.open(store).select())) as found:
        yield found


@contextmanager
def serving(browser):
    with BrowseServer(browser) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def get(server, path, method="GET", **headers):
    """Status, headers and text for a path as it is, below the token or from the root."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()
    finally:
        connection.close()


def asked(server, path):
    status, _, text = get(server, f"/{server.token}/{path}")
    return status, json.loads(text)


def test_the_list_is_paged_and_searched(server):
    status, all_ = asked(server, "images.json?count=5&start=20")
    assert status == 200
    assert (all_["total"], all_["start"], len(all_["rows"])) == (24, 20, 4)
    assert all_["names"][:4] == ["file", "event", "tpc", "voxel_count"]
    assert all_["rows"][-1][:4] == [3, 2, 5, 50]
    _, some = asked(server, "images.json?file=1:2&event=0&tpc=5")
    assert [row[:3] for row in some["rows"]] == [[1, 0, 5], [2, 0, 5]]
    assert asked(server, "images.json?file=77")[1]["rows"] == []
    for wrong in ("file=x", "start=-1", "tpc=1:2:3", "file=__import__"):
        status, error = asked(server, f"images.json?{wrong}")
        assert status == 400
        assert "Fix:" in error["error"]


def test_a_page_of_a_large_store_is_made_of_its_rows_alone(store, monkeypatch):
    """No table of all images is made, nor any image read."""
    listing = Listing(larstore.open(store).select())
    monkeypatch.setattr(larstore.store.Store, "read_rows", None)
    monkeypatch.setattr(larstore.store.Store, "index", property(lambda self: 1 / 0))
    assert len(listing.rows({"count": "100000"})["rows"]) == 24
    assert listing.part({"file": "2"}) is listing.part({"file": "2"}), "a search is done once"


def test_an_event_is_stepped_to(server, store):
    status, event = asked(server, "event.json?position=1&file=2&tpc=1")
    assert status == 200
    assert event["key"] == [2, 1, 1]
    _, _, page = get(server, f"/{server.token}/view?file=2&event=1&tpc=5")
    assert '{"total": 24, "start": 15, "address": "event.json?prediction=-"}' in page
    _, _, page = get(server, f"/{server.token}/view?file=2&position=3")
    assert '{"total": 6, "start": 3, "address": "event.json?file=2&prediction=-"}' in page
    assert references(page) == ["data:,", "plotly.js"]
    status, error = asked(server, "view?file=9&event=0&tpc=1")
    assert status == 400
    assert "take one that there is" in error["error"]
    assert asked(server, "event.json?position=24")[0] == 400


def test_plotly_comes_from_the_installed_package_once(server):
    status, headers, text = get(server, f"/{server.token}/plotly.js")
    assert status == 200
    assert "max-age" in headers["Cache-Control"]
    assert "plotly.js v" in text[:200]
    _, headers, text = get(server, f"/{server.token}/", "HEAD")
    assert text == ""
    assert headers["Cache-Control"] == "no-store"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


@pytest.mark.parametrize(
    "path",
    ["/", "/TOKEN", "/x/", "/TOKENx/", "/TOKEN/../TOKEN/", "/TOKEN/../../etc/passwd", "/TOKEN//etc/passwd",
     "/TOKEN/%2e%2e/%2e%2e/etc/passwd", "/TOKEN/static/page.css", "/TOKEN/zarr.json", "/TOKEN/view/", "/é/"],
)  # fmt: skip
def test_other_paths_are_refused(server, path):
    path = path.replace("TOKEN", server.token)
    with socket.create_connection(server.server_address) as raw:
        raw.sendall(f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.split(b" ", 2)[1] == b"404"
    assert server.token.encode() not in answer or path.startswith(f"/{server.token}/")
    assert b"root:" not in answer


def test_an_image_that_is_not_served_is_refused(store):
    with serving(Browser(larstore.open(store).select(files=(1, 2)))) as server:
        status, error = asked(server, "view?file=0&event=0&tpc=1")
        assert get(server, f"/{server.token}/view?file=1&event=0&tpc=1")[0] == 200
    assert status == 400
    assert "image (0, 0, 1) is not served. Fix: " in error["error"]


def test_malformed_addresses_and_broken_connections_leave_no_traceback(store, capfd):
    with serving(Browser(larstore.open(store).select())) as server:
        with socket.create_connection(server.server_address, timeout=30) as raw:
            raw.sendall(b"GET http://[/ HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
            assert raw.recv(65536).split(b" ", 2)[1] == b"404"
        with socket.create_connection(server.server_address, timeout=30) as raw:
            raw.sendall(b"GET /x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert raw.recv(1), "the server waits for the next request now"
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed by a reset
        deadline = time.monotonic() + 30
        while any("process_request" in each.name for each in threading.enumerate()) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "Traceback" not in capfd.readouterr().err


def test_other_methods_and_other_sites_are_refused(server):
    for method in ("POST", "PUT", "DELETE"):
        assert get(server, f"/{server.token}/", method)[0] == 501
    for host in ("example.org", "example.org:80", "127.0.0.1.example.org", ""):
        assert get(server, f"/{server.token}/", Host=host)[0] == 404
    assert get(server, f"/{server.token}/", Host="localhost:9999")[0] == 200, "through a tunnel with another port"
    assert server.server_address[0] == "127.0.0.1"


def test_damage_is_told(store, tmp_path):
    path = shutil.copytree(store, tmp_path / "run.zarr")
    shard = next(file for file in (path / "voxels/charge/c").rglob("*") if file.is_file())
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    with serving(Browser(larstore.open(path).select())) as server:
        found = [asked(server, f"event.json?position={i}") for i in range(24)]
    damaged = [error for status, error in found if status == 500]
    assert damaged
    assert "Fix:" in damaged[0]["error"]


def test_predictions_are_chosen(tmp_path):
    path = make_store(tmp_path / "run.zarr", n_files=1)
    for name in ("one", "two"):
        with larstore.PredictionWriter(path, name, {"checkpoint_sha256": "a" * 64}) as writer:
            for shard, images in writer.groups(larstore.open(path).select()):
                writer.write(shard, [(image, image.truth * 0 + (name == "two")) for image in images])
            writer.commit()
    part = larstore.open(path).select()
    with serving(Browser(part, prediction="two")) as server:
        assert asked(server, "event.json?position=0")[1]["cut"]["kept"][-1] == 100
        assert asked(server, "event.json?position=0&prediction=one")[1]["cut"]["kept"][-1] == 0
        assert asked(server, "event.json?position=0&prediction=-")[1]["cut"] is None
        assert "known: one, two" in asked(server, "event.json?position=0&prediction=x")[1]["error"]
        page = get(server, f"/{server.token}/view?position=0")[2]
    assert '<option value="two" selected>' in page
    with pytest.raises(StoreError, match="no prediction 'x'"):
        Browser(part, prediction="x")


def test_a_taken_port_is_refused(server, store):
    port = server.server_address[1]
    with pytest.raises(ConfigError, match=rf"port {port}: .*Fix: another --port, or 0"):
        BrowseServer(server.browser, port)


def test_ranges():
    assert one_range(" 7 ", "file") == (7, 7)
    assert one_range("1:20", "file") == (1, 20)
    assert one_range("", "file") is None
    with pytest.raises(InputError, match=r"event = '1-2': is no number\. Fix: for example 701, or 701:950"):
        one_range("1-2", "event")


def test_ctrl_c_ends_it(store):
    code = "import typer; from train.browse_cli import browse_command; typer.run(browse_command)"
    before = {path: path.stat().st_mtime_ns for path in Path(store).rglob("*")}
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(store), "--no-open"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        url = urlsplit(process.stdout.readline().strip())
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
        connection.request("GET", url.path + "images.json")
        assert json.loads(connection.getresponse().read())["total"] == 24
        process.send_signal(signal.SIGINT)  # while the connection is still open
        out, err = process.communicate(timeout=60)
        connection.close()
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    assert out == ""
    assert err.splitlines() == ["Ctrl-C ends it.", "stopped"]
    assert {path: path.stat().st_mtime_ns for path in Path(store).rglob("*")} == before, "nothing is written"


def test_wrong_usage_of_view(store, tmp_path):
    app = typer.Typer()
    app.command()(view)
    out = str(tmp_path / "event.html")
    run = CliRunner().invoke
    for words in ([], ["1", "0"], ["1", "0", "1", "--files", "1"], ["--files", "1", "--next", "3"]):
        assert run(app, [str(store), *words, "-o", out]).exit_code == 2
    done = run(app, [str(store), "1", "0", "1", "--next", "2", "-o", out])
    assert done.exit_code == 0, done.output
    assert 'id="event-2"' in Path(out).read_text(encoding="utf-8")
    assert run(app, [str(store), "--files", "1:2", "--tpcs", "5", "-o", out]).exit_code == 0
    assert 'id="event-5"' in Path(out).read_text(encoding="utf-8")
