"""The site of docs/: complete, built without a warning, its links lead somewhere, and it shows what GitHub shows."""

import ast
import inspect
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGES = ("larstore", "preprocess", "train")
ROOT_PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
BLOCKS = ("h1", "h2", "h3", "h4", "ul", "ol", "li", "pre", "table", "tr", "td", "img", "a")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


def entries(nav) -> list[str]:
    """Pages of mkdocs.yml's ``nav``."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in nav for page in entries(part if isinstance(part, str) else next(iter(part.values())))]


def test_every_page_is_in_the_navigation():
    pages = entries(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert len(pages) == len(set(pages))
    missing = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} - set(pages)
    assert not missing, f"not on the site: {', '.join(sorted(missing))}. Fix: a line in nav of mkdocs.yml"
    assert all((DOCS / page).exists() or page in ROOT_PAGES for page in pages)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_in_the_reference(package):
    page = (DOCS / "api" / f"{package}.md").read_text(encoding="utf-8")
    named = [name.removeprefix(f"{package}.") for name in re.findall(r"^::: (\S+)", page, re.MULTILINE)]
    assert len(named) == len(set(named))
    missing = set(import_module(package).__all__) - set(named)
    assert not missing, f"not in the reference: {missing}. Fix: a line '::: {package}.NAME' in docs/api/{package}.md"


def parameters(docstring: str) -> set[str]:
    """Names that a section ``Args:`` describes."""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", inspect.cleandoc(docstring), re.MULTILINE)
    lines = re.findall(r"^    (\w[\w, *]*):", section[1], re.MULTILINE) if section else []
    return {name.strip(" *") for line in lines for name in line.split(",")}


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_describe_parameters_that_exist(package):
    seen = 0
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or not ast.get_docstring(node):
                continue
            described = parameters(ast.get_docstring(node))
            functions = [node] if isinstance(node, ast.FunctionDef) else [*filter(is_init, node.body)]
            if not described or not functions:
                continue
            taken = {
                each.arg for function in functions for each in ast.walk(function.args) if isinstance(each, ast.arg)
            }
            seen += 1
            assert described <= taken, f"{path.relative_to(ROOT)}: {node.name}: {described - taken}"
    assert seen >= 5


def is_init(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name == "__init__"


class Html(HTMLParser):
    """Links, anchors, loaded files and the article's words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.words: list[str] = []
        self.blocks: Counter[str] = Counter()
        self._open: list[tuple[str, bool]] = []  # tag, whether its text counts
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag == "link" or "src" in values:
            self.loaded.append(values.get("href") or values.get("src") or "")
        if tag not in VOID:
            counts = bool(self._open and self._open[-1][1]) or tag == "article"
            hidden = tag in ("script", "style", "nav", "button", "svg") or values.get("class") == "headerlink"
            self._open.append((tag, counts and not hidden))
        if tag in BLOCKS and self._open and self._open[-1][1]:
            self.blocks[tag] += 1

    def handle_endtag(self, tag):
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if self._open and self._open[-1][1]:
            self.words += data.split()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """URI -> page of the built site, and its folder."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, {
        str(path.relative_to(folder)): Html(path.read_text(encoding="utf-8"))
        for path in folder.rglob("*.html")
        if path.name != "404.html"
    }


@pytest.mark.slow
def test_links_of_the_site_lead_somewhere(site):
    folder, pages = site
    seen = 0
    for uri, page in pages.items():
        for link in (*page.links, *page.loaded):
            parts = urlsplit(link)
            if parts.scheme or not (parts.path or parts.fragment):
                continue
            target = (folder / uri).parent / unquote(parts.path) if parts.path else folder / uri
            assert target.exists(), f"{uri}: {link}"
            if parts.fragment and target.suffix == ".html":
                known = pages[str(target.resolve().relative_to(folder.resolve()))].anchors
                assert unquote(parts.fragment) in known, f"{uri}: {link}"
                seen += 1
    assert seen > 200


@pytest.mark.slow
def test_the_site_needs_no_network(site):
    folder, pages = site
    for uri, page in pages.items():
        for link in page.loaded:
            assert not urlsplit(link).netloc, f"{uri} loads {link}"
    for path in folder.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//", path.read_text(encoding="utf-8")), path.name


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the site in")
def test_the_search_works_from_the_disk(site, tmp_path):
    folder, _ = site
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    command += ["--virtual-time-budget=20000", "--dump-dom", f"{folder.as_uri()}/api/train.html?q=recombination"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert re.search(r'class="md-search-result__meta">[1-9]\d* matching document', done.stdout)


@pytest.mark.slow
def test_the_site_shows_what_github_shows(site):
    """Python-Markdown reads lists, tables and code in its own way: word for word, a page is that of CommonMark."""
    _, pages = site
    commonmark = MarkdownIt("commonmark").enable("table")
    sources = {str(path.relative_to(DOCS)): path for path in DOCS.glob("*.md")}
    sources |= {uri: ROOT / name for uri, name in ROOT_PAGES.items()}
    for uri, source in sources.items():
        wanted = Html(f"<article>{commonmark.render(source.read_text(encoding='utf-8'))}</article>")
        shown = pages[uri.replace(".md", ".html")]
        assert "".join(shown.words) == "".join(wanted.words), uri
        assert shown.blocks == wanted.blocks, uri


@pytest.mark.slow
def test_the_reference_shows_docstrings(site):
    _, pages = site
    text = {package: " ".join(pages[f"api/{package}.html"].words) for package in PACKAGES}
    for package, module in ((package, import_module(package)) for package in PACKAGES):
        for name in module.__all__:
            assert f"{package}.{name}" in pages[f"api/{package}.html"].anchors
    assert "The images that fit all conditions; only the index is read" in text["larstore"]
    assert "ticks, y pixels and z pixels of a voxel" in text["preprocess"]
    assert "Parameters:" in text["train"]
    assert "Args:" not in "".join(text.values())
