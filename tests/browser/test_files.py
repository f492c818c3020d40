"""Files: between two pages, and between a page and the command line in both directions."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import pytest
from playwright.sync_api import Download

from tests.browser.conftest import ELSEWHERE, Running, Visit, running
from tests.browser.visitor import Visitor

SIZE = 100_000_000
COMMAND = [sys.executable, "-m", "tim_trio"]
DEADLINE_MS = 60_000

Process = subprocess.Popen[bytes]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 MB that are nowhere the same."""
    path = tmp_path_factory.mktemp("outbox") / "film.mp4"
    path.write_bytes(os.urandom(SIZE))
    return path


def beginning_of(path: Path, size: int, copy: Path) -> Path:
    """Make a file of another's first bytes."""
    with path.open("rb") as file:
        copy.write_bytes(file.read(size))
    return copy


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def send(page: Visitor, to: str, *paths: Path) -> None:
    page.page.fill("[name=to]", to)
    if paths:
        page.page.set_input_files("#file-picker", [str(path) for path in paths])
    page.page.click("[data-do=send]")


def wait_for_phase(page: Visitor, phase: str, name: str = "film.mp4") -> None:
    page.page.wait_for_selector(
        f"[data-name='{name}'][data-phase={phase}]", timeout=DEADLINE_MS, state="attached"
    )


def at_share(
    page: Visitor,
    share: float,
    name: str,
    deed: str = "",
    begin: Callable[[], object] = lambda: None,
) -> float:
    """Wait until so much of the file has come or gone, and at once do something in the page.

    Args:
        deed: the button to press, or "reload".
        begin: what has it come or go. The page looks out from before that: while a file is
            on its way a browser that is driven from outside may answer late.

    Returns:
        how much it was then.
    """
    page.evaluate(_LOOK_OUT, [name, share, deed])
    begin()
    found = page.page.wait_for_function(
        "() => Number(sessionStorage['test.share'])", timeout=DEADLINE_MS
    )
    return float(found.json_value())


_LOOK_OUT = """([name, share, deed]) => {
  sessionStorage["test.share"] = 0;
  let first = null; // it may have come far before: then it is to move on from there
  const timer = setInterval(() => {
    const row = document.querySelector(`[data-name="${name}"][data-phase=running]`);
    if (row === null) return;
    const now = row.querySelector("progress").value;
    first ??= now;
    if (now <= share || (deed === "cancel" && now <= first)) return;
    clearInterval(timer);
    sessionStorage["test.share"] = now;
    if (deed === "reload") location.reload();
    else if (deed !== "") row.querySelector(`[data-do=${deed}]`).click();
  }, 5);
}"""


def open_files(visit: Visit, server: Running, name: str, **options: object) -> Visitor:
    visitor = visit(server.page + "#files", name=name, **options)
    visitor.page.wait_for_selector("#file-picker", state="attached")
    return visitor


def test_between_two_pages(server: Running, visit: Visit, film: Path, tmp_path: Path) -> None:
    alice = open_files(visit, server, "alice")
    bob = open_files(visit, server, "bob")
    downloads: list[Download] = []
    bob.page.on("download", lambda download: downloads.append(download))
    send(alice, "bob", film)
    at_share(alice, 0.1, "film.mp4", "pause", lambda: bob.page.click("[data-do=accept]"))
    wait_for_phase(bob, "away")
    had = bob.evaluate("() => document.querySelector('progress').value")
    assert 0 < had < 0.9
    if os.environ.get("TIM_PHOTOGRAPH"):
        photograph(alice, bob, tmp_path)
        return  # taking it lasts longer than the rest of the file

    def goes_on(deed: str, begin: Callable[[], object]) -> float:
        """Check that it goes on where it was; do something in the receiver's page then."""
        now = at_share(bob, 0.001, "film.mp4", deed, begin)
        assert now >= had
        return now

    # What has come is there after a reload, and it goes on without a question.
    bob.page.reload()
    wait_for_phase(bob, "away")
    had = goes_on("cancel", lambda: alice.page.click("[data-do=resume]"))
    # Cancelled, it stays: sent again, its receiver is asked, and it goes on where it was.
    bob.page.wait_for_selector("text=What has come stays for a day")
    bob.check_view()
    alice.page.wait_for_selector("text=bob has cancelled.")
    alice.page.click("[data-do=again]")
    bob.page.wait_for_selector("text=It would go on where it was.")
    had = goes_on("cancel", lambda: bob.page.click("[data-do=accept]"))
    # Who has cancelled may think better of it, also after a reload.
    bob.page.wait_for_selector("[data-phase=over] [data-do=resume]")
    bob.page.reload()
    bob.page.wait_for_selector("[data-phase=over] [data-do=resume]")
    at_share(alice, 0.001, "film.mp4", "cancel", lambda: bob.page.click("[data-do=resume]"))
    # Cancelled by its sender and sent again, it goes on without a question.
    bob.page.wait_for_selector("text=alice has taken it back. What has come stays")
    goes_on("reload", lambda: alice.page.click("[data-do=again]"))
    wait_for_phase(bob, "done")
    wait_for_phase(alice, "done")
    wait_until(lambda: "film.mp4" in [each.suggested_filename for each in downloads], bob)
    saved = tmp_path / "saved"
    downloads[-1].save_as(saved)
    assert digest_of(saved) == digest_of(film)


def photograph(alice: Visitor, bob: Visitor, folder: Path) -> None:
    """Take the picture of a file that is coming, with an older one and a question beside it."""
    for name, size in (("Kitchen plans.pdf", 2_400_000), ("holiday-2026.zip", 8_400_000)):
        (folder / name).write_bytes(os.urandom(size))
        send(alice, "bob", folder / name)
        bob.page.wait_for_selector(f"[data-name='{name}'] [data-do=accept]")
    bob.page.click("[data-name='Kitchen plans.pdf'] [data-do=accept]")
    wait_for_phase(bob, "done", "Kitchen plans.pdf")
    alice.page.click("[data-name='film.mp4'] [data-do=resume]")
    at_share(bob, 0.3, "film.mp4")
    bob.photograph("files")


def test_between_a_page_and_the_command_line(
    server: Running, visit: Visit, film: Path, tmp_path: Path
) -> None:
    """Both directions at once, and each is interrupted: one by the page, one by the other side."""
    carol = open_files(visit, server, "carol")
    downloads: list[Download] = []
    carol.page.on("download", lambda download: downloads.append(download))
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    with ExitStack() as stack:
        receiver = receive(stack, server, inbox)
        theirs = ("send", film, "--to", "carol", "--name", "theirs.mp4")
        sender = start(stack, server, "dave", *theirs)
        accept = "[data-name='theirs.mp4'] [data-do=accept]"
        at_share(carol, 0.1, "theirs.mp4", "pause", lambda: carol.page.click(accept))
        at_share(carol, 0.1, "film.mp4", begin=lambda: send(carol, "dave", film))
        receiver.send_signal(signal.SIGINT)
        receiver.communicate(timeout=20)
        assert [path for path in inbox.iterdir() if path.name == "film.mp4"] == []
        wait_for_phase(carol, "away", "film.mp4")
        # Cancelled in the page, on either side, and sent again: it goes on where it was.
        receivers: list[Process] = []

        def receive_again() -> None:
            receivers.append(receive(stack, server, inbox))

        at_share(carol, 0.3, "film.mp4", "cancel", receive_again)
        _, said = receivers[0].communicate(timeout=20)
        assert b"carol has cancelled" in said
        carol.page.click("[data-name='film.mp4'] [data-do=again]")
        assert at_share(carol, 0, "film.mp4", begin=receive_again) > 0.2
        receiver = receivers[1]
        resume = "[data-name='theirs.mp4'] [data-do=resume]"
        had = at_share(carol, 0.2, "theirs.mp4", "cancel", lambda: carol.page.click(resume))
        _, said = sender.communicate(timeout=20)
        assert b"carol has cancelled" in said
        sender = start(stack, server, "dave", *theirs)
        now = at_share(carol, 0.001, "theirs.mp4", begin=lambda: carol.page.click(accept))
        assert now >= had
        for name in ("film.mp4", "theirs.mp4"):
            wait_for_phase(carol, "done", name)
        out, _ = receiver.communicate(timeout=20)
        assert out.decode().strip() == str(inbox / "film.mp4")
        _, said = sender.communicate(timeout=20)
        assert sender.returncode == 0, said
    assert digest_of(inbox / "film.mp4") == digest_of(film)
    wait_until(lambda: bool(downloads), carol)
    saved = tmp_path / "saved"
    downloads[0].save_as(saved)
    assert digest_of(saved) == digest_of(film)


def test_the_senders_page_is_reloaded(server: Running, visit: Visit) -> None:
    """It opens the file again by itself, where the browser lets it.

    The browser has no dialog here: a file of its own stands for one that a person would choose.
    """
    gina, hugo = (open_files(visit, server, name) for name in ("gina", "hugo"))
    gina.evaluate(_CHOOSE, 60)
    gina.page.fill("[name=to]", "hugo")
    gina.page.click("label[for=file-picker]")
    gina.page.click("[data-do=send]:enabled")
    hugo.page.wait_for_selector("[data-do=accept]")
    hugo.evaluate(_NOTE_SHARES)
    at_share(gina, 0.3, "own.bin", "reload", lambda: hugo.page.click("[data-do=accept]"))
    for visitor in (gina, hugo):
        wait_for_phase(visitor, "done", "own.bin")
    shares = hugo.evaluate("() => shares")
    assert shares == sorted(shares), "it began anew"
    assert any(0.2 < each < 1 for each in shares)
    # What has arrived needs not be opened again.
    gina.page.wait_for_function(_NOTHING_IS_KEPT)


_NOTE_SHARES = """() => {
  globalThis.shares = [];
  setInterval(() => {
    const row = document.querySelector("[data-name='own.bin'][data-phase=running]");
    if (row !== null) shares.push(row.querySelector("progress").value);
  }, 5);
}"""

#: A dialog that is answered with a file of so many MB.
_CHOOSE = """async megabytes => {
  const folder = await navigator.storage.getDirectory();
  const handle = await folder.getFileHandle("own.bin", { create: true });
  const writing = await handle.createWritable();
  const block = new Uint8Array(1_000_000);
  for (let at = 0; at < block.length; at += 50_000) {
    crypto.getRandomValues(block.subarray(at, at + 50_000));
  }
  for (let n = 0; n < megabytes; n++) {
    block[0] = n;
    await writing.write(block.slice());
  }
  await writing.close();
  globalThis.showOpenFilePicker = async () => [handle];
}"""

_NOTHING_IS_KEPT = """() => new Promise((resolve) => {
  const opening = indexedDB.open("tim_sending", 1);
  opening.onsuccess = () => {
    const database = opening.result;
    const counting = database.transaction("files").objectStore("files").count();
    counting.onsuccess = () => {
      database.close();
      resolve(counting.result === 0);
    };
  };
})"""


def test_questions_and_answers(server: Running, visit: Visit, tmp_path: Path) -> None:
    erin = open_files(visit, server, "erin")
    # The browser has no dialog here: a file of its own stands for one that a person would choose.
    frank = open_files(visit, server, "frank", size=(420, 800))
    frank.evaluate(
        """() => { globalThis.showSaveFilePicker = async ({ suggestedName }) => {
          globalThis.chosen = await (await navigator.storage.getDirectory())
            .getFileHandle(suggestedName, { create: true });
          return globalThis.chosen;
        }; }"""
    )
    hostile, plain, empty = "<img src=x onerror=alert(1)>.txt", "notes.txt", "empty.bin"
    contents = {hostile: b"no script", plain: os.urandom(300_000), empty: b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    send(erin, "frank", *(tmp_path / name for name in contents))
    # What a stranger calls a file is text, and what it will be called here is shown.
    frank.page.wait_for_selector("nav .count:has-text('3 new')")
    for language in ("zh", "en"):  # the count outlives a change of the language
        frank.page.select_option("header select", language)
    frank.page.wait_for_selector("nav .count:has-text('3 new')")
    safe = "_img src=x onerror=alert(1)_.txt"
    frank.page.click(f"[data-name='{safe}'] [data-do=decline]")
    assert frank.page.inner_text(f"[data-name='{safe}'] .name") == safe
    assert frank.page.locator("main img").count() == 0
    assert erin.page.locator("main img").count() == 0
    erin.page.wait_for_selector("text=frank does not want it.")
    frank.check_view()

    frank.page.click(f"[data-name='{plain}'] [data-do=accept_to]")
    frank.page.wait_for_selector("text=saved where you wanted it")
    assert frank.evaluate(
        """async () => {
          const bytes = new Uint8Array(await (await chosen.getFile()).arrayBuffer());
          const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
          return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
        }"""
    ) == digest_of(tmp_path / plain)
    # Nothing of it stays in the browser then.
    frank.page.wait_for_function(_KEPT, arg=0)

    with frank.page.expect_download() as download:
        frank.page.click(f"[data-name='{empty}'] [data-do=accept]")
    assert Path(download.value.path()).read_bytes() == b""
    wait_for_phase(erin, "done", empty)
    frank.page.wait_for_function(_KEPT, arg=1)
    frank.page.click(f"[data-name='{empty}'] [data-do=remove]")
    frank.page.wait_for_function(_KEPT, arg=0)

    erin.page.fill("[name=to]", "no account")
    erin.page.set_input_files("#file-picker", str(tmp_path / plain))
    erin.page.click("[data-do=send]")
    erin.page.wait_for_selector("text=This is no account's name")
    send(erin, "nobody-there")
    erin.page.wait_for_selector("text=nobody-there is not online.")
    # Choosing the same file again is all that a reload of the sender's page needs.
    erin.page.reload()
    erin.page.wait_for_selector("text=Choose the same file to go on")
    erin.page.set_input_files(f"[data-again='{plain}']", str(tmp_path / empty))
    erin.page.wait_for_selector("text=That is another file.")
    erin.page.set_input_files(f"[data-again='{plain}']", str(tmp_path / plain))
    erin.page.wait_for_selector("text=nobody-there is not online.")
    erin.check_view()
    erin.page.click(f"[data-name='{plain}'] [data-do=cancel]")
    erin.page.wait_for_selector("text=Cancelled.")


def test_a_page_that_is_no_secure_context_and_a_server_that_starts_anew(
    visit: Visit, film: Path, tmp_path: Path
) -> None:
    """Such a page has no files of its own: the browser's database keeps what comes."""
    large = beginning_of(film, 16_000_000, tmp_path / "large.bin")
    settings = ("--set", f"web_hosts={ELSEWHERE}")
    with running(*settings) as server:
        grace = open_files(visit, server, "grace")
        there = server.page.replace("127.0.0.1", ELSEWHERE)
        henry = open_files(visit, attrs.evolve(server, page=there), "henry")
        downloads: list[Download] = []
        henry.page.on("download", lambda download: downloads.append(download))
        assert not henry.evaluate("() => isSecureContext")
        send(grace, "henry", large)
        had = at_share(
            henry, 0, "large.bin", "reload", lambda: henry.page.click("[data-do=accept]")
        )
        # Nobody is asked again, and it goes on where it was.
        henry.page.wait_for_function(
            "had => document.querySelector('[data-name=\"large.bin\"] progress')?.value >= had",
            arg=had,
            timeout=DEADLINE_MS,
        )
    with running(*settings, web=urlsplit(server.page).netloc):
        wait_for_phase(henry, "done", "large.bin")
        wait_for_phase(grace, "done", "large.bin")
        wait_until(lambda: bool(downloads), henry)
        assert digest_of(Path(downloads[0].path())) == digest_of(large)
        # The browser's own, of attempts that failed and of a header that it leaves aside there.
        grace.complaints.clear()
        henry.complaints.clear()


#: How many files the browser keeps for this page.
_KEPT = """async count => {
  const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("tim_files");
  let found = 0;
  for await (const name of folder.keys()) found += name.endsWith(".part");
  return found === count;
}"""


def wait_until(condition: Callable[[], bool], page: Visitor) -> None:
    """Wait for what Playwright tells of."""
    deadline = time.monotonic() + DEADLINE_MS / 1000
    while not condition():
        assert time.monotonic() < deadline
        page.page.wait_for_timeout(20)


def start(stack: ExitStack, server: Running, account: str, *arguments: object) -> Process:
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments), "--server", server.tcp, "--account", account],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    stack.callback(process.communicate)
    stack.callback(process.kill)
    return process


def receive(stack: ExitStack, server: Running, inbox: Path) -> Process:
    """Start a receiver of one file, and wait until it can hear offers."""
    process = start(
        stack, server, "dave", "receive", "--dir", inbox, "--accept-from", "carol", "--once"
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith(b"receiving into")
    return process
