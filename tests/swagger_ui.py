#!/usr/bin/env python3
"""Clicks through Swagger UI as a newcomer would, against the real binary on a fresh folder.

    tests/swagger_ui.py path/to/tertulia [screenshot.png]

Every request is sent as the page fills it in: only the receipt is pasted. The first difference
ends it with exit code 1. The page must work offline: a request to another host is a failure.

Needs a Chromium (Debian: `chromium`) and `playwright` from PyPI, no browser of its own.
"""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Error, expect, sync_playwright

PORT = int(os.environ.get("SWAGGER_UI_PORT", "17440"))
CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
START_SECONDS = 30
STEP_MS = 30_000
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
]


class Differs(Exception):
    """Something is not as expected."""


def want(ok, text):
    if not ok:
        raise Differs(text)


class Node:
    """A node on a fresh folder; gone, with its folder, at the end."""

    def __init__(self, binary):
        self.binary = Path(binary).resolve()

    def __enter__(self):
        self.folder = Path(tempfile.mkdtemp())
        env = {name: value for name, value in os.environ.items() if "TERTULIA" not in name}
        env |= {"TERTULIA_DATA_DIR": "data", "TERTULIA_HTTP__LISTEN": f"127.0.0.1:{PORT}"}
        self.process = None
        try:
            with open(self.folder / "log", "wb") as log:
                self.process = subprocess.Popen(
                    [self.binary, "serve"], cwd=self.folder, env=env, stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE, stderr=log)
            self.docs = self.announced("/docs/")
        except BaseException:
            self.stop()
            raise
        return self

    def announced(self, end):
        """The address that the node prints when it is ready."""
        out, text = self.process.stdout.fileno(), b""
        deadline = time.monotonic() + START_SECONDS
        while True:
            # Only whole lines: the last may go on.
            for word in b" ".join(text.split(b"\n")[:-1]).decode(errors="replace").split():
                if word.startswith("https://") and word.endswith(end):
                    return word
            left = deadline - time.monotonic()
            want(left > 0, f"the node does not say where {end} is after {START_SECONDS} s")
            if select.select([out], [], [], left)[0]:
                more = os.read(out, 65_536)
                want(more, f"the node ended while starting:\n{self.log()}")
                text += more

    def log(self):
        lines = (self.folder / "log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-20:])

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __exit__(self, kind, error, trace):
        if isinstance(error, (Differs, Error, AssertionError)):
            print(self.log(), file=sys.stderr)
        self.stop()


class Ui:
    """The page, and what a user does on it."""

    def __init__(self, browser, url):
        self.url, self.host = url, urlsplit(url).netloc
        self.faults = []
        size = {"width": 1280, "height": 900}
        context = browser.new_context(ignore_https_errors=True, viewport=size)
        context.route(lambda _: True, self.gate)
        self.page = page = context.new_page()
        page.set_default_timeout(STEP_MS)
        page.on("pageerror", lambda error: self.faults.append(f"the page threw: {error}"))
        page.on("websocket", lambda socket: self.faults.append(f"a socket to {socket.url}"))
        # What the content policy forbids never becomes a request: the browser only complains.
        page.on("console", lambda line: line.type == "error" and self.faults.append(line.text))
        page.goto(url)
        self.loaded()

    def gate(self, route):
        url = urlsplit(route.request.url)
        if (url.scheme, url.netloc) == ("https", self.host):
            route.continue_()
        else:
            self.faults.append(f"the page asked another host: {route.request.url}")
            route.abort()

    def loaded(self):
        expect(self.page.locator(".opblock").first).to_be_visible(timeout=STEP_MS)
        self.check()

    def check(self):
        want(not self.faults, "; ".join(self.faults))

    def block(self, operation):
        return self.page.locator(f".opblock[id$='-{operation}']")

    def open(self, operation):
        """Opens an operation: what it takes can be filled in at once."""
        block = self.block(operation)
        block.locator(".opblock-summary-control").click()
        if block.get_by_role("button", name="Try it out").is_visible():
            raise Differs(f"{operation}: \"Try it out\" is not open from the start")
        expect(block.locator("button.execute")).to_be_visible(timeout=STEP_MS)
        return block

    def close(self, operation):
        block = self.block(operation)
        block.locator(".opblock-summary-control").click()
        expect(block.locator(".opblock-body")).to_have_count(0, timeout=STEP_MS)

    def example(self, operation):
        """The body that the page filled in."""
        return json.loads(self.block(operation).locator("textarea.body-param__text").input_value())

    def run(self, operation, status, authorization=None, keep_open=False, **fields):
        """Opens an operation, executes it as it stands but for `fields`, and reads the answer."""
        block = self.open(operation)
        for name, value in fields.items():
            block.locator(f"tr[data-param-name='{name}'] input").fill(value)
        with self.page.expect_request(lambda r: "/v1/" in r.url, timeout=STEP_MS) as sent:
            block.locator("button.execute").click()
        method, path = sent.value.method, urlsplit(sent.value.url).path
        answer = block.locator("table.live-responses-table tbody > tr.response")
        expect(answer.locator(".response-col_status")).not_to_be_empty(timeout=STEP_MS)
        shown = " ".join(answer.locator(".response-col_status").inner_text().split())
        text = answer.locator(".response-col_description .highlight-code code").first
        body = text.inner_text() if text.count() else ""
        if len(path) > 60:
            path = path[:40] + "…"
        print(f"  {operation:<18} {method:<6} {path:<44} {shown}")
        want(shown == str(status), f"{operation}: wanted {status}, the page shows {shown}: {body}")
        header = sent.value.all_headers().get("authorization")
        want(header == authorization, f"{operation}: wanted {authorization}, sent {header}")
        self.check()
        if not keep_open:
            self.close(operation)
        return json.loads(body) if body else None

    def dialog(self):
        self.page.locator(".auth-wrapper > button.authorize").click()
        expect(self.page.locator(".modal-ux")).to_be_visible(timeout=STEP_MS)

    def leave_dialog(self):
        self.page.locator(".modal-ux .close-modal").click()
        expect(self.page.locator(".modal-ux")).to_have_count(0, timeout=STEP_MS)

    def scheme(self, name):
        named = self.page.locator(f"h4 code:text-is('{name}')")
        return self.page.locator(".modal-ux .auth-container").filter(has=named)

    def authorize(self, name, **fields):
        scheme = self.scheme(name)
        for field, value in fields.items():
            scheme.locator(f"#auth-{name}-{field}").fill(value)
        scheme.locator("button.authorize[type=submit]").click()
        self.is_authorized(name, True)
        print(f"  Authorize          {name}")

    def log_out(self, name):
        self.scheme(name).get_by_role("button", name="Remove authorization").click()
        self.is_authorized(name, False)
        print(f"  Logout             {name}")

    def is_authorized(self, name, yes):
        out = self.scheme(name).get_by_role("button", name="Remove authorization")
        expect(out).to_have_count(1 if yes else 0, timeout=STEP_MS)


def walk(ui, screenshot):
    title = ui.page.locator(".info .title").inner_text()
    want(title.startswith("Tertulia"), f"the title is {title}")

    ui.open("register_user")
    registration = ui.example("register_user")
    ui.close("register_user")
    name, password = registration["username"], registration["password"]
    want(name == "alice", f"the example registers {name}")
    ui.run("register_user", 201)

    ui.dialog()
    ui.is_authorized("basic", False)
    ui.is_authorized("bearer", False)
    ui.authorize("basic", username=name, password=password)
    ui.leave_dialog()
    basic = "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()

    ui.run("put_queue", 201, basic)
    ui.run("send_messages", 201, basic)
    received = ui.run("receive_messages", 200, basic, keep_open=True)["messages"]
    want(len(received) == 1, f"received {len(received)} messages")
    ui.run("ack_message", 204, basic, receipt=received[0]["receipt"])

    token = ui.run("create_session", 201)["token"]
    ui.dialog()
    ui.log_out("basic")
    ui.authorize("bearer", value=token)
    ui.leave_dialog()
    bearer = f"Bearer {token}"
    me = ui.run("get_current_user", 200, bearer)
    want(me["username"] == name, f"logged in as {me['username']}")

    if screenshot:
        ui.page.screenshot(path=screenshot, full_page=True)
    ui.page.reload()
    ui.loaded()
    print("  reload")
    ui.dialog()
    ui.is_authorized("basic", False)
    ui.is_authorized("bearer", True)
    ui.leave_dialog()
    ui.run("get_current_user", 200, bearer)


def end(*_):
    raise SystemExit(143)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    screenshot = sys.argv[2] if len(sys.argv) == 3 else None
    signal.signal(signal.SIGTERM, end)
    try:
        with Node(sys.argv[1]) as node, sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=FLAGS, timeout=STEP_MS)
            print(node.docs)
            walk(Ui(browser, node.docs), screenshot)
            browser.close()
    except (Differs, Error, AssertionError) as error:
        sys.exit(f"swagger_ui: {error}")
    print("swagger_ui: all as expected, no other host asked")


if __name__ == "__main__":
    main()
