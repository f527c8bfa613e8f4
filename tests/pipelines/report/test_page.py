"""The page about a run: the same bytes from the same files, nothing from outside, what a browser shows."""

import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from browser import chromium, complaints, needs_browser
from matplotlib.image import imread
from selenium.webdriver.common.by import By
from shop import Shop, failed, recsys

from pipelines.report import page

SECTIONS = (
    *("verdict", "results", "slices", "curves", "mining", "distances", "map", "search", "examples"),
    *("contracts", "certificate", "stages", "lineage"),
)
EVIL = "<script>alert(1)</script>"
GATE = {
    "verdict": "fail",
    "challenger": "b-2",
    "champion": "b-1",
    "metric": "ndcg@10",
    "margin": 0.02,
    "alpha": 0.1,
    "comparison": {
        "users": 200,
        "challenger": 0.3,
        "champion": 0.4,
        "difference": -0.1,
        "least": -0.12,
        "most": -0.08,
        "low": -0.13,
        "high": -0.07,
    },
    "guardrails": [
        {"name": "coverage", "value": 0.5, "allowed": 0.4, "holds": True, "words": "half of it"},
        {"name": "latency", "value": 4.0, "allowed": 3.0, "holds": False, "words": f"{EVIL} slow"},
    ],
    "reasons": [f"a loss of 2 % cannot be ruled out {EVIL}"],
    "notes": ["the champion does not say"],
}
OTHERS = {
    "gate": GATE,
    "contracts": {
        "measures": [
            {
                "contract": "max_user_psi",
                "measure": "psi of users",
                "value": 0.31,
                "least": None,
                "most": 0.25,
                "holds": False,
            },
            {
                "contract": "max_age_hours",
                "measure": "age",
                "value": 3.0,
                "least": None,
                "most": None,
                "holds": None,
            },
        ],
        "offending": {"max_user_psi": {"columns": ["user_id"], "rows": [[EVIL], [None]], "total": 7}},
    },
    "warm": {"from": "run-1", "items": {"movement": 0.125, "churn": 0.25}},
    "stages": [{"stage": "train", "status": "done", "rows": 12345, "seconds": 1.5, "peak_mib": 300}],
    "lineage": {"source_query": f"select '{EVIL}'", "fingerprint": "f00d", "versions": {"torch": "2.11"}},
}


class Outline(HTMLParser):
    """Tags in order, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def run(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run with every other file that a report reads, markup in its words."""
    folder = shutil.copytree(shop.run, tmp_path_factory.mktemp("told") / shop.run.name)
    for name, content in OTHERS.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["certificate"][0] |= {"holds": None, "evidence": "a log without times"}
    metrics["certificate"][1] |= {"says": EVIL}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    examples = json.loads((folder / "examples.json").read_text())
    examples[0]["recommended"][0]["title"] = examples[0]["favourites"][0] = EVIL
    (folder / "examples.json").write_text(json.dumps(examples))
    points = pl.read_parquet(folder / "map.parquet")
    about = pl.read_parquet_metadata(folder / "map.parquet")
    evil = points.with_columns(value=pl.col("value").replace("shelf 0", EVIL))
    evil.write_parquet(
        folder / "map.parquet", metadata={name: about[name] for name in about if name != "ARROW:schema"}
    )
    return folder


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return page.render(run)


def test_the_same_files_make_the_same_bytes_wherever_they_lie(run: Path, tmp_path: Path) -> None:
    first = page.write(run).read_bytes()
    assert page.write(run).read_bytes() == first
    elsewhere = shutil.copytree(run, tmp_path / "elsewhere" / "other name")
    (elsewhere / page.NAME).unlink()
    assert page.write(elsewhere).read_bytes() == first
    assert str(run.parent).encode() not in first
    assert [path.name for path in run.iterdir() if "partial" in path.name] == []


@pytest.mark.parametrize("name", ["curves", "distances", "results", "search"])
def test_the_page_holds_the_figures_of_the_folder(shop: Shop, name: str) -> None:
    assert (shop.run / f"{name}.svg").read_text(encoding="utf-8") in page.render(shop.run)


def test_it_loads_nothing(text: str) -> None:
    outline = Outline(text)
    assert {tag for tag, _ in outline.tags} & {"script", "link", "iframe", "object", "embed", "base"} == set()
    for _, attributes in outline.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert re.match(r"#|data:image/png;base64,", attributes.get(name) or "#")
    without_names = re.sub(r' xmlns(:\w+)?="[^"]+"', "", text)  # XML namespaces, which load nothing
    assert re.findall(r"url\((?!#)|@import|https?:", without_names) == []
    policies = [tag[1]["content"] for tag in outline.tags if "http-equiv" in tag[1]]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_figures_have_labels_and_unique_ids(text: str) -> None:
    outline = Outline(text)
    svgs = [attributes for tag, attributes in outline.tags if tag == "svg"]
    assert len(svgs) >= 10
    assert all(svg["role"] == "img" and len(svg["aria-label"] or "") > 20 for svg in svgs)
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:url\(|href=")#([\w-]+)', text)
    assert set(used) <= set(ids)


def test_numbers_are_those_of_the_files(run: Path, text: str) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    for system, means in metrics["test"].items():
        low, high = metrics["intervals"][system]["ndcg@10"]
        assert f"{means['ndcg@10']:.4f} [{low:.3f}, {high:.3f}]" in text
    for words in (
        "-0.1000 [-0.1300, -0.0700]",
        "12,345",
        "0.31",
        "f00d",
        "items.movement",
        "not bounded",
        "not claimed",
    ):
        assert words in text, words
    assert "run − champion" in text
    assert "90 % (champion), 95 % (spectral, popularity)" in text
    assert "minus champion -0.1000 [-0.1300, -0.0700], 90 %, at least -0.1200" in text
    counts = metrics["counts"]
    words = "{test.window_users_unknown} users and {test.window_items_unknown} items are unknown to the fit"
    for name in ("test.window_users_unknown", "test.window_items_unknown"):
        words = words.replace(f"{{{name}}}", f"{counts[name]:,}")
    assert words in text


@pytest.mark.parametrize("broken", ["none", "cut", "false"])
def test_results_without_a_certificate_are_not_shown(run: Path, tmp_path: Path, broken: str) -> None:
    bare = shutil.copytree(run, tmp_path / "bare", ignore=shutil.ignore_patterns("model.pt"))
    metrics = json.loads((bare / "metrics.json").read_text())
    statements = metrics.pop("certificate")
    if broken != "none":
        metrics["certificate"] = statements[1:] if broken == "cut" else [*statements]
    if broken == "false":
        statements[3]["holds"] = False
    (bare / "metrics.json").write_text(json.dumps(metrics))
    text = page.render(bare)
    assert text.count("these results have no complete leakage certificate") == 3
    for section in ("results", "slices"):
        assert "<table" not in text.partition(f'<section id="{section}">')[2].partition("</section>")[0]
    assert "run − " not in text
    assert f"{metrics['test']['model']['ndcg@10']:.4f} [" not in text


@pytest.mark.parametrize(
    ("verdict", "champion", "words"),
    [
        ("pass", "b-1", "Promoted"),
        ("pass", None, "Promoted: the first release"),
        ("fail", "b-1", "Not promoted"),
        ("unchanged", "b-1", "The champion already"),
    ],
)
def test_the_headline_is_the_gates(run: Path, verdict: str, champion: str | None, words: str) -> None:
    assert page.headline(GATE | {"verdict": verdict, "champion": champion}) == words


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("gate.json", "The gate has not judged the run"),
        ("contracts.json", "No contracts were checked"),
        ("stages.json", "No stages were timed"),
        ("lineage.json", "The training data are not known"),
        ("warm.json", "Drift and churn were not measured"),
        ("metrics.json", "There are no results"),
        ("targets.parquet", "There are no slices"),
        ("history.parquet", "There are no curves"),
        ("distances.json", "No distances were measured"),
        ("map.parquet", "There is no map"),
        ("examples.json", "There are no examples"),
        ("config.json", "The configuration is not known"),
        ("choice.json", ""),
        ("per_user.parquet", "There are no slices"),
    ],
)
def test_what_is_missing_or_cut_short_is_said(run: Path, tmp_path: Path, name: str, sentence: str) -> None:
    bare = shutil.copytree(run, tmp_path / "bare", ignore=shutil.ignore_patterns(name, "model.pt"))
    text = page.render(bare)
    assert sentence in text
    assert {attributes["id"] for tag, attributes in Outline(text).tags if tag == "section"} == set(SECTIONS)
    (bare / name).write_bytes((run / name).read_bytes()[:20])
    assert sentence in page.render(bare)


def test_an_empty_folder_has_a_page_too(tmp_path: Path) -> None:
    text = page.render(tmp_path)
    assert text.count('class="absent"') >= len(SECTIONS)


def test_the_command_prints_where_it_is(own_shop: Shop) -> None:
    ran = recsys("report", "--config", own_shop.config_file, "--run", own_shop.run.name)
    assert (ran.code, ran.out) == (0, f"{own_shop.run / 'report.html'}\n")
    assert (own_shop.run / "report.html").read_text() == page.render(own_shop.run)
    failed(recsys("report", "--config", own_shop.config_file, "--run", "nothing"), 2, "nothing")


@needs_browser
@pytest.mark.parametrize("width", [400, 1240])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it(run: Path, tmp_path: Path, width: int, scheme: str) -> None:
    path = page.write(run)
    with chromium(tmp_path) as browser:
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(path.as_uri())
        assert complaints(browser) == []
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        for name in SECTIONS:
            assert browser.find_element(By.ID, name).is_displayed()
        svgs = browser.find_elements(By.CSS_SELECTOR, "svg")
        assert len(svgs) >= 10
        for svg in svgs:
            assert svg.size["height"] > 60
            assert 200 < svg.size["width"] <= width
            assert svg.find_elements(By.CSS_SELECTOR, "text")
            shown = imread(io.BytesIO(svg.screenshot_as_png))[..., :3].mean(-1)  # (height, width), 0 to 1
            paper, ink = (shown.min(), shown.max()) if scheme == "dark" else (shown.max(), shown.min())
            assert abs(np.median(shown) - paper) < 0.1
            assert abs(ink - paper) > 0.6  # letters and lines are legible
            assert (paper < 0.15) == (scheme == "dark")
        image_width = "return document.querySelector('#map image').getBoundingClientRect().width"
        assert browser.execute_script(image_width) > 200
        shown = browser.find_element(By.TAG_NAME, "body").text
        assert shown.count(EVIL) >= 7
        ink = browser.execute_script("return getComputedStyle(document.body).color")
        assert (sum(map(int, re.findall(r"\d+", ink)[:3])) > 600) == (scheme == "dark")
        assert browser.save_screenshot(str(tmp_path / "page.png"))
