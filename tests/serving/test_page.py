"""The page in a headless browser: it shows the answers of the endpoints."""

import os
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from browser import chromium, complaints, needs_browser
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait
from server import TIMEOUT, publish_bundle, serving, write_version

from recsys.bundle import BundleContent, IndexPlan, write_bundle
from recsys.releases import publish

pytestmark = needs_browser


@pytest.fixture
def browser(tmp_path: Path):
    with chromium(tmp_path) as driver:
        yield driver


def shown(browser, selector: str) -> list[str]:
    """The visible texts, read in one call, as an element may be replaced between two."""
    visible = "(element) => element.checkVisibility() ? element.innerText.trim() : ''"
    return browser.execute_script(
        f"return [...document.querySelectorAll(arguments[0])].map({visible})", selector
    )


def wait_for(browser, condition) -> None:
    WebDriverWait(browser, TIMEOUT, poll_frequency=0.05).until(lambda _: condition())


def titles(answer) -> list[str]:
    return [item["title"] for item in answer.json["items"]]


def test_a_user_a_click_and_the_curve(browser, tmp_path: Path):
    folder = publish_bundle(tmp_path / "bundles")
    with serving(folder) as server:
        browser.get(f"http://127.0.0.1:{server.port}/")
        wait_for(browser, lambda: len(shown(browser, "#recommended li")) == 10)
        first = server.ask("/v1/users?limit=12").json["users"][0]
        recommended = server.ask(f"/v1/users/{first}/recommendations?k=10")
        assert shown(browser, "#recommended li span:first-child") == titles(recommended)
        distances = [f"{-item['score']:.3f}" for item in recommended.json["items"]]
        assert shown(browser, "#recommended .d") == distances
        assert shown(browser, "#history li span:first-child") == titles(
            server.ask(f"/v1/users/{first}/history")
        )
        assert shown(browser, "#version") == ["v1"]

        pick = browser.find_elements(By.CSS_SELECTOR, "#some button")[4]
        user = pick.text
        pick.click()
        expected = titles(server.ask(f"/v1/users/{user}/recommendations?k=10"))
        wait_for(browser, lambda: shown(browser, "#recommended li span:first-child") == expected)

        browser.find_elements(By.CSS_SELECTOR, "#recommended li button")[1].click()
        item = server.ask(f"/v1/users/{user}/recommendations?k=10").json["items"][1]["item_id"]
        near = titles(server.ask(f"/v1/items/{item}/similar?k=10"))
        wait_for(browser, lambda: shown(browser, "#similar li span:first-child") == near)
        why = titles(server.ask(f"/v1/explanations?user_id={user}&item_id={item}&k=5"))
        assert shown(browser, "#why li span:first-child") == why

        assert len(browser.find_elements(By.CSS_SELECTOR, "#curve circle")) == 8
        assert len(browser.find_elements(By.CSS_SELECTOR, "#curve .chosen")) == 1
        assert "8 trees, search_k 400" in shown(browser, "#path")[0]
        save(browser, tmp_path, "page.png")

        ask_for(browser, "nobody")
        wait_for(browser, lambda: shown(browser, "#basis") == ["Popular items: this user is unknown"])
        assert shown(browser, "#history li") == []

        write_version(folder, "v2", seed=1)
        publish(folder, "v2")
        wait_for(browser, lambda: server.ask("/version").json["version"] == "v2")
        ask_for(browser, "107")
        wait_for(browser, lambda: shown(browser, "#version") == ["v2"])
        assert [line for line in complaints(browser) if "/v1/users/nobody/history" not in line] == []


def test_the_token_is_kept_for_the_session(browser, tmp_path: Path):
    with serving(publish_bundle(tmp_path / "bundles", text=True), RECSYS_TOKEN="s3cret") as server:
        browser.get(f"http://127.0.0.1:{server.port}/")
        field = browser.find_element(By.ID, "token")
        wait_for(browser, field.is_displayed)
        field.send_keys("wrong\n")
        wait_for(browser, lambda: "token" in shown(browser, "#problem")[0])
        assert shown(browser, "#recommended li") == []
        field.clear()
        field.send_keys("s3cret\n")
        wait_for(browser, lambda: len(shown(browser, "#recommended li")) == 10)
        assert not field.is_displayed()
        browser.refresh()
        wait_for(browser, lambda: len(shown(browser, "#recommended li")) == 10)
        browser.find_element(By.CSS_SELECTOR, "#recommended li button").click()  # an id with a slash
        wait_for(browser, lambda: len(shown(browser, "#similar li")) == 10)


def test_titles_are_text_and_never_markup(browser, tmp_path: Path):
    evil = "<img src=x onerror=document.title='owned'>"
    with serving(publish_bundle(tmp_path / "bundles", title=evil)) as server:
        browser.get(f"http://127.0.0.1:{server.port}/")
        wait_for(browser, lambda: len(shown(browser, "#recommended li")) == 10)
        assert shown(browser, "#recommended li span:first-child")[0] == evil
        assert browser.title == "recsys"
        assert browser.find_elements(By.CSS_SELECTOR, "#columns img") == []


def test_integer_ids_beyond_2_to_the_53_are_exact(browser, tmp_path: Path):
    above = 2**60 + 1
    with serving(publish_bundle(tmp_path / "bundles", above=above, title=None)) as server:
        browser.get(f"http://127.0.0.1:{server.port}/")
        wait_for(browser, lambda: len(shown(browser, "#recommended li")) == 10)
        users = [str(user) for user in server.ask("/v1/users?limit=12").json["users"]]
        assert int(users[0]) == 100 + above
        assert shown(browser, "#some button") == users
        browser.find_elements(By.CSS_SELECTOR, "#some button")[4].click()
        answer = server.ask(f"/v1/users/{users[4]}/recommendations?k=10").json
        wait_for(browser, lambda: shown(browser, "#recommended li span:first-child") == ids(answer))
        assert shown(browser, "#basis") == ["Recommended, nearest first"]
        assert shown(browser, "#some button.on") == [users[4]]
        assert shown(browser, "#history li span:first-child") == ids(
            server.ask(f"/v1/users/{users[4]}/history").json
        )
        item = ids(answer)[1]
        button = browser.find_elements(By.CSS_SELECTOR, "#recommended li button")[1]
        assert button.get_attribute("title") == item
        button.click()
        near = ids(server.ask(f"/v1/items/{item}/similar?k=10").json)
        wait_for(browser, lambda: shown(browser, "#similar li span:first-child") == near)
        why = ids(server.ask(f"/v1/explanations?user_id={users[4]}&item_id={item}&k=5").json)
        assert shown(browser, "#why li span:first-child") == why
        save(browser, tmp_path, "page-large-ids.png")
        ask_for(browser, users[7])
        expected = ids(server.ask(f"/v1/users/{users[7]}/recommendations?k=10").json)
        wait_for(browser, lambda: shown(browser, "#recommended li span:first-child") == expected)
        assert complaints(browser) == []


ODD = ["\t", "\n", " a  b ", "..", "007", "a/b", "line\nbreak", "ü?&#%25+", "寿司"]


def test_ids_of_any_text_work(browser, tmp_path: Path):
    odd_bundle(tmp_path / "bundles", sorted(ODD))
    with serving(tmp_path / "bundles") as server:
        browser.get(f"http://127.0.0.1:{server.port}/")
        wait_for(browser, lambda: len(shown(browser, "#some button")) == len(ODD))
        for at, user in enumerate(sorted(ODD)):
            browser.find_elements(By.CSS_SELECTOR, "#some button")[at].click()
            if user == "..":
                wait_for(browser, lambda: "use a batch request" in shown(browser, "#problem")[0])
                continue
            path = f"/v1/users/{quote(user, safe='')}/recommendations?k=10"
            expected = [f"thing {sorted(ODD).index(item)}" for item in ids(server.ask(path).json)]
            for _ in range(2):  # by its button, then by the text in the input
                wait_for(
                    browser, lambda all=expected: shown(browser, "#recommended li span:first-child") == all
                )
                assert shown(browser, "#basis") == ["Recommended, nearest first"]
                assert shown(browser, "#problem") == [""]
                browser.find_element(By.ID, "user").send_keys("\n")
        assert complaints(browser) == []


def odd_bundle(bundles: Path, names: list[str]) -> None:
    """Publish users and items of these ids; each user is at the place of one item and has no history."""
    n = len(names)
    vectors = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    write_bundle(
        bundles / "v1",
        BundleContent(
            user_vectors=vectors,
            item_vectors=vectors,
            user_ids=names,
            item_ids=names,
            seen=(np.zeros(n + 1, np.int64), np.empty(0, np.int32)),
            popular=np.arange(n, dtype=np.int32),
            titles=[f"thing {number}" for number in range(n)],
        ),
        IndexPlan(2, 100),
        info={},
    )
    publish(bundles, "v1")


def ids(answer) -> list[str]:
    return [str(item["item_id"]) for item in answer["items"]]


def ask_for(browser, user: str) -> None:
    field = browser.find_element(By.ID, "user")
    field.clear()
    field.send_keys(user + "\n")


def save(browser, folder: Path, name: str) -> None:
    """Save a screenshot in RECSYS_SCREENSHOTS, or else in the test's folder."""
    target = Path(os.environ.get("RECSYS_SCREENSHOTS", folder)) / name
    assert browser.save_screenshot(str(target))
    assert target.stat().st_size > 10_000
