"""The page, looked at by a browser without a head: what it shows is what the endpoints say."""

import os
from pathlib import Path

import pytest
from browser import chromium, complaints, needs_browser
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait
from server import PATIENCE, bundles_of, released, serving

from recsys.releases import publish

pytestmark = needs_browser


@pytest.fixture
def browser(tmp_path: Path):
    with chromium(tmp_path) as driver:
        yield driver


def shown(browser, selector: str) -> list[str]:
    """The visible texts at one moment: asked for one by one, an element may be replaced before its turn."""
    visible = "(element) => element.checkVisibility() ? element.innerText.trim() : ''"
    return browser.execute_script(
        f"return [...document.querySelectorAll(arguments[0])].map({visible})", selector
    )


def wait_for(browser, condition) -> None:
    WebDriverWait(browser, PATIENCE, poll_frequency=0.05).until(lambda _: condition())


def titles(answer) -> list[str]:
    return [item["title"] for item in answer.json["items"]]


def test_a_user_a_click_and_the_curve(browser, tmp_path: Path):
    folder = bundles_of(tmp_path / "bundles")
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
        wait_for(browser, lambda: shown(browser, "#basis") == ["Popular: this user is unknown"])
        assert shown(browser, "#history li") == []

        released(folder, "v2", seed=1)
        publish(folder, "v2")
        wait_for(browser, lambda: server.ask("/version").json["version"] == "v2")
        ask_for(browser, "107")
        wait_for(browser, lambda: shown(browser, "#version") == ["v2"])
        assert [line for line in complaints(browser) if "/v1/users/nobody/history" not in line] == []


def test_the_page_asks_for_the_token_and_keeps_it_for_the_session(browser, tmp_path: Path):
    with serving(bundles_of(tmp_path / "bundles", text=True), RECSYS_TOKEN="s3cret") as server:
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
    with serving(bundles_of(tmp_path / "bundles", title=evil)) as server:
        browser.get(f"http://127.0.0.1:{server.port}/")
        wait_for(browser, lambda: len(shown(browser, "#recommended li")) == 10)
        assert shown(browser, "#recommended li span:first-child")[0] == evil
        assert browser.title == "recsys"
        assert browser.find_elements(By.CSS_SELECTOR, "#columns img") == []


def ask_for(browser, user: str) -> None:
    field = browser.find_element(By.ID, "user")
    field.clear()
    field.send_keys(user + "\n")


def save(browser, folder: Path, name: str) -> None:
    """A screenshot beside the test's other files, or where RECSYS_SCREENSHOTS says."""
    target = Path(os.environ.get("RECSYS_SCREENSHOTS", folder)) / name
    assert browser.save_screenshot(str(target))
    assert target.stat().st_size > 10_000
