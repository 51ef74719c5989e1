"""The page of `josie serve` in Chromium: its policy, screens, keyboard and names, and what it says in trouble."""

import pytest

pytest.importorskip("websockets", reason="drives Chromium: josie[serve]")
pytest.importorskip("uvicorn", reason="runs the server: josie[serve]")

from chromium import EXECUTABLE, open_page
from page_server import run_server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(EXECUTABLE is None, reason="needs Chromium: apt-get install chromium"),
]
STATE = "document.body.dataset.state"
FOCUS = "document.activeElement.id"
NOTICE = "document.querySelector('#notice:not([hidden])')?.innerText ?? ''"


@pytest.fixture(scope="module")
def address():
    with run_server() as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with open_page(tmp_path_factory.mktemp("profile"), "--use-fake-ui-for-media-stream=deny") as page:
        yield page


@pytest.fixture
def page(browser, address):
    browser.requests.clear()
    browser.errors.clear()
    browser.emulate(1000, 800)
    browser.open(address)
    browser.wait_for(f"{STATE} === 'ready'")
    return browser


def test_all_requests_go_to_the_server_and_no_script_fails(page, address):
    page.wait_for("performance.getEntriesByType('resource').length > 10")
    origins = {url.split("://")[1].split("/")[0] for url in page.requests}
    assert origins == {address.split("/")[2]}
    assert not page.errors


def test_the_policy_is_strict(page):
    """No inline script runs."""
    script = """(() => { const made = document.createElement('script'); made.textContent = 'window.ran = true';
        document.head.append(made); return window.ran ?? false; })()"""
    assert page.evaluate(script) is False
    assert any("Content Security Policy" in error for error in page.errors)


@pytest.mark.parametrize(("width", "height"), [(360, 640), (320, 480), (1600, 900)])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen(page, width, height, scheme):
    page.emulate(width, height, scheme=scheme)
    for box in ("document.documentElement", "document.getElementById('conversation')"):
        assert page.evaluate(f"{box}.scrollWidth <= {box}.clientWidth")
    inside = """[...document.querySelectorAll('button, input')].every((each) => {
        if (!each.checkVisibility()) return true;
        const { left, right, top, bottom } = each.getBoundingClientRect();
        return left >= 0 && right <= innerWidth && top >= 0 && bottom <= innerHeight; })"""
    assert page.evaluate(inside)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper.strip("rgb()").split(","))) > 384) == (scheme == "light")


def test_motion_is_left_out_where_it_is_not_wanted(page):
    # In one expression: the page sets its state too, as events come.
    moving = "(document.body.dataset.state = 'thinking', document.getAnimations().length)"
    assert page.evaluate(moving) > 0
    page.emulate(1000, 800, motion="reduce")
    assert page.evaluate(moving) == 0


def test_everything_is_reached_by_the_keyboard(page):
    assert page.evaluate(FOCUS) == "microphone"  # the first thing to do
    seen = []
    for _ in range(8):
        page.press("Tab")
        seen.append(page.evaluate(FOCUS))
        ring = page.evaluate("""[...document.querySelectorAll(':focus-visible, :has(:focus-visible)')].some((each) =>
            getComputedStyle(each).outlineStyle !== 'none' && each.checkVisibility())""")
        assert ring or seen[-1] == ""  # the body, between the last and the first
    assert {"file", "camera", "message", "send", "conversation"} <= set(seen)


def test_controls_have_names(page):
    nodes = [node for node in page.call("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    named = ("button", "textbox", "image", "main", "dialog", "list")
    found = [(node["role"]["value"], node["name"]["value"]) for node in nodes if node["role"]["value"] in named]
    assert all(name for _, name in found)
    assert ("button", "Microphone") in found
    assert "status" in {node["role"]["value"] for node in nodes}


def test_a_denied_microphone_is_explained(page):
    page.click("#microphone")
    assert "may not use the microphone" in page.wait_for(NOTICE)
    assert page.evaluate(STATE) == "ready"
    page.click("#notice button")
    assert page.evaluate(NOTICE) == ""


def test_a_denied_camera_is_explained(page):
    page.click("#camera")
    assert "may not use the camera" in page.wait_for(NOTICE)


def test_a_file_that_is_no_image_is_refused(page, tmp_path):
    (tmp_path / "notes.txt").write_text("not an image")
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(tmp_path / "notes.txt")])
    assert "notes.txt” is not an image" in page.wait_for(NOTICE)
    assert page.evaluate("document.querySelectorAll('.turn').length") == 0


def test_a_key_is_asked_for_and_checked(browser):
    with run_server(api_key="sesame") as address:
        browser.open(address)
        browser.wait_for(f"{STATE} === 'key'")
        assert browser.evaluate(FOCUS) == "key"
        for key, state in {"not it": "key", "wrong": "key", "sesame": "ready"}.items():
            browser.write(key)
            browser.press("Enter")
            if state == "key":
                assert "API key" in browser.wait_for(NOTICE)
            browser.wait_for(f"{STATE} === '{state}'")
        browser.open(address)  # the tab keeps it
        browser.wait_for(f"{STATE} === 'ready'")


def test_a_lost_connection_is_told_and_made_again(browser):
    with run_server() as address:
        browser.open(address)
        browser.wait_for(f"{STATE} === 'ready'")
    browser.wait_for(f"{STATE} === 'error'")
    assert "tries again" in browser.wait_for(NOTICE)
    assert browser.evaluate("document.getElementById('microphone').disabled")
    with run_server(port=int(address.rstrip("/").rsplit(":", 1)[1])):
        browser.wait_for(f"{STATE} === 'ready'", 20)
        assert browser.evaluate(NOTICE) == ""


def test_a_full_server_says_so(browser):
    from websockets.sync.client import connect

    with (
        run_server(max_sessions=1) as address,
        connect(address.replace("http", "ws") + "v1/realtime", origin=address.rstrip("/")),
    ):
        browser.open(address)
        assert "as many as it takes" in browser.wait_for(NOTICE)
