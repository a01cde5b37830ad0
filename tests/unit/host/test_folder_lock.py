from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import LIMIT_S, wait_until

from distreid.errors import StoreError
from distreid.host import folder_lock as lock
from distreid.host.folder_lock import Holder, hold, holders

HOLD = """
import sys, time
from pathlib import Path
from distreid.host.folder_lock import hold
with hold(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(120)
"""


def start(run: Path) -> subprocess.Popen[str]:
    """Another process that holds the folder."""
    job = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True
    )
    assert job.stdout is not None
    assert job.stdout.readline() == "held\n"
    return job


def end(job: subprocess.Popen[str]) -> None:
    job.kill()
    job.communicate()


def leave(run: Path, holder: Holder) -> Path:
    """The file of a job that ended without a word, or of one elsewhere."""
    run.mkdir(exist_ok=True)
    file = run / f"job-{holder.host}-{holder.pid}-0.lock"
    file.write_text(json.dumps(asdict(holder)))
    return file


def elsewhere() -> Holder:
    return replace(Holder.this_process(), host="node7", pid=1, machine="another boot")


def take(run: Path) -> list[str]:
    """Takes the folder and leaves it; gives what was said."""
    said: list[str] = []
    with hold(run, said.append):
        (mine,) = holders(run).values()
        assert mine.pid == os.getpid()
    assert holders(run) == {}
    return said


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead job of another machine is given up sooner."""
    monkeypatch.setattr(lock, "DEAD_AFTER_S", 2.0)
    monkeypatch.setattr(lock, "LOOK_S", 0.05)


def test_a_second_job_is_refused_with_the_first_ones_host_process_and_start(tmp_path: Path) -> None:
    first = start(tmp_path)
    try:
        (holder,) = holders(tmp_path).values()
        words = f"process {first.pid} on {holder.host} since {holder.started}"
        with pytest.raises(StoreError, match="another job is at work there") as caught:
            take(tmp_path)
        assert words in str(caught.value)
        assert list(holders(tmp_path).values()) == [holder]
    finally:
        end(first)


def test_the_folder_is_left_by_a_job_that_ends_and_by_one_that_fails(tmp_path: Path) -> None:
    take(tmp_path)
    with pytest.raises(KeyError), hold(tmp_path, print):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_folders_that_a_failing_job_made_and_left_empty_go_with_it(tmp_path: Path) -> None:
    new = tmp_path / "runs" / "new"
    with pytest.raises(KeyError), hold(new, print):
        raise KeyError
    assert not any(tmp_path.iterdir())
    new.parent.mkdir()
    with pytest.raises(KeyError), hold(new, print):
        raise KeyError
    assert list(tmp_path.iterdir()) == [new.parent] and not any(new.parent.iterdir())
    with pytest.raises(ZeroDivisionError), hold(new, print):
        1 / (new / "shard").write_text("")
    assert (new / "shard").exists()


def test_a_folder_that_goes_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, announce = tmp_path / "new", lock.Lock.announce

    def gone(self: lock.Lock) -> None:
        monkeypatch.undo()
        new.rmdir()
        announce(self)

    monkeypatch.setattr(lock.Lock, "announce", gone)
    take(new)
    assert new.is_dir()


def test_a_job_killed_on_this_machine_is_known_to_be_dead_at_once(tmp_path: Path) -> None:
    first = start(tmp_path)
    first.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
    assert len(holders(tmp_path)) == 1
    # It is not reaped yet: its number is taken still.
    assert take(tmp_path) == []
    end(first)


def test_a_stopped_job_is_alive(tmp_path: Path) -> None:
    first = start(tmp_path)
    try:
        first.send_signal(signal.SIGSTOP)
        with pytest.raises(StoreError, match=f"process {first.pid} on"):
            take(tmp_path)
    finally:
        end(first)


def test_a_recycled_process_number_is_not_taken_for_the_job(tmp_path: Path) -> None:
    leave(tmp_path, replace(Holder.this_process(), pid_start=1))
    assert take(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_job_of_another_user_is_alive_even_where_its_process_is_hidden() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        run.chmod(0o777)
        leave(run, replace(Holder.this_process(), pid_start=1))
        code = HOLD.replace("with hold", "import os; os.setuid(65534)\nwith hold")
        done = subprocess.run(
            [sys.executable, "-c", code.replace("120", "0"), folder],
            capture_output=True,
            text=True,
            check=False,
        )
    assert f"another job is at work there (process {os.getpid()} on" in done.stderr


@pytest.mark.usefixtures("quick")
def test_a_job_of_another_machine_without_a_sign_of_life_is_taken_for_dead(tmp_path: Path) -> None:
    leave(tmp_path, elsewhere())
    (said,) = take(tmp_path)
    assert said.startswith("is process 1 on node7 since ")
    assert said.endswith(" alive? waiting up to 2 s for a sign of it")


@pytest.mark.usefixtures("quick")
def test_several_dead_jobs_of_other_machines_are_awaited_together(tmp_path: Path) -> None:
    for host in ("node7", "node8", "node9"):
        leave(tmp_path, replace(elsewhere(), host=host))
    (said,) = take(tmp_path)
    assert all(host in said for host in ("node7", "node8", "node9"))
    assert holders(tmp_path) == {}


@pytest.mark.parametrize("hours", [-100, 0, 100])
def test_a_job_of_another_machine_that_gives_signs_is_alive_whatever_its_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    # The first sign ends the wait.
    monkeypatch.setattr(lock, "DEAD_AFTER_S", LIMIT_S)
    monkeypatch.setattr(lock, "LOOK_S", 0.05)
    file = leave(tmp_path, elsewhere())
    beat = (
        "import os, sys, time\n"
        "while True: now = time.time() + 3600 * int(sys.argv[2]);"
        "os.utime(sys.argv[1], (now, now)); time.sleep(0.2)"
    )
    other = subprocess.Popen([sys.executable, "-c", beat, str(file), str(hours)])
    try:
        before = lock.last_sign(file)
        wait_until(lambda: lock.last_sign(file) != before, other)
        with pytest.raises(StoreError, match=r"at work there \(process 1 on node7"):
            take(tmp_path)
    finally:
        other.kill()
        other.wait()


def test_a_job_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    with hold(tmp_path, print):
        (file,) = holders(tmp_path)
        os.utime(file, (0, 0))
        wait_until(lambda: lock.last_sign(file) > 0)


def test_a_folder_that_was_left_has_no_thread_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.01)
    before = threading.enumerate()
    take(tmp_path)
    wait_until(lambda: threading.enumerate() == before)


def test_a_job_that_was_taken_for_dead_says_so_at_its_end(tmp_path: Path) -> None:
    def lose() -> None:
        with hold(tmp_path, print):
            (file,) = holders(tmp_path)
            file.unlink()
            leave(tmp_path, elsewhere())

    with pytest.raises(StoreError, match=r"lost the folder to another \(process 1 on node7 since"):
        lose()


def test_a_damaged_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / "job-a-1-0.lock").write_text("{")
    with pytest.raises(StoreError, match=r"job-a-1-0\.lock: damaged; delete it if no job"):
        take(tmp_path)


def contend(run: Path, tries: int) -> tuple[int, int]:
    """Takes the folder again and again; how often it was had, and how often not alone."""
    had = crowded = 0
    for _ in range(tries):
        try:
            with hold(run, print):
                had += 1
                try:
                    os.close(os.open(run / "inside", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    crowded += 1
                time.sleep(0.02)
                (run / "inside").unlink(missing_ok=True)
        except StoreError:
            pass
    return had, crowded


def test_of_jobs_that_find_a_dead_ones_folder_together_exactly_one_has_it_at_a_time(
    tmp_path: Path,
) -> None:
    leave(tmp_path, replace(Holder.this_process(), pid_start=1))
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        found = pool.starmap(contend, [(tmp_path, 10)] * 4)
    assert sum(had for had, _ in found) >= 4
    assert sum(crowded for _, crowded in found) == 0
    assert holders(tmp_path) == {}
