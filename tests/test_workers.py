"""Computing in processes of their own: the same results, and none is lost when a process is."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from oasisvq.app import models, workers
from oasisvq.app.drawing import draw
from oasisvq.errors import OasisVQError

pytestmark = pytest.mark.slow

SETTINGS = {"seed": 3, "temperature": 1.0, "top_k": None, "level": 9, "grade": None}


@pytest.fixture
def pool(monkeypatch):
    """Workers, one at first."""
    monkeypatch.setattr(workers, "processors", lambda: 1)
    workers.start()
    yield workers._workers
    workers.stop()


@pytest.mark.parametrize("error", [RuntimeError("shut down"), EOFError(), OSError("no process")])
def test_where_no_process_can_be_started_the_caller_computes(pool, monkeypatch, error):
    def refuses(*_):
        raise error

    monkeypatch.setattr(pool.pool, "submit", refuses)
    monkeypatch.setattr(workers, "draw", lambda *_: ["here"])
    model = models.load_model("base")
    with ThreadPoolExecutor() as visitors:  # each is answered, and the place of the one before is free again
        waiting = [visitors.submit(workers.draw_apart, model, SETTINGS) for _ in range(3)]
        assert [one.result(timeout=30) for one in waiting] == ["here"] * 3
    assert pool._free == 1


def test_a_worker_draws_what_its_server_would_and_another_takes_over_when_it_is_killed(pool, monkeypatch):
    model = models.load_model("base")
    [here] = draw(model, [SETTINGS])
    asked = []
    monkeypatch.setattr(workers, "draw", lambda *_: asked.append("here") or [here])
    apart = workers.draw_apart(model, SETTINGS)
    assert not asked
    np.testing.assert_array_equal(apart.indices, here.indices)
    np.testing.assert_array_equal(apart.picture, here.picture)
    assert apart.frames == here.frames
    with monkeypatch.context() as changed:
        changed.setitem(model.info, "files", {})
        assert workers.draw_apart(model, SETTINGS) is here, "a worker has other weights"
    for process in pool.pool._processes:
        os.kill(process, signal.SIGKILL)
    assert workers.draw_apart(model, SETTINGS) is here
    assert len(asked) == 2
    assert workers._workers is None


def test_who_waits_at_the_same_time_is_drawn_together_and_gets_what_they_would_alone(pool, monkeypatch):
    model = models.load_model("base")
    sizes = []
    submit = pool.pool.submit
    monkeypatch.setattr(pool.pool, "submit", lambda f, *a: sizes.append(len(a[3])) or submit(f, *a))
    kinds = [SETTINGS | {"seed": seed, "level": seed + 5, "grade": 0.5 if seed % 2 else None} for seed in range(6)]
    kinds += [SETTINGS | {"temperature": 0.8}, SETTINGS | {"level": None}, SETTINGS | {"seed": -1}]
    with ThreadPoolExecutor(len(kinds)) as visitors:
        waiting = [visitors.submit(workers.draw_apart, model, settings) for settings in kinds]
    for settings, one in zip(kinds[:-1], waiting, strict=False):
        [alone] = draw(model, [settings])
        np.testing.assert_array_equal(one.result().indices, alone.indices)
        np.testing.assert_allclose(one.result().entropy, alone.entropy, rtol=1e-3)
        assert one.result().settings == settings
    with pytest.raises(OasisVQError, match="seed -1"):
        waiting[-1].result()
    assert sum(sizes) == len(kinds)
    assert 1 < max(sizes) <= 8
    assert len(sizes) < len(kinds)


def test_draws_go_before_the_bits_of_others_codes_and_bits_are_those_of_the_model(pool, monkeypatch):
    model = models.load_model("base")
    [here] = draw(model, [SETTINGS])
    expected = float(model.surprise(torch.from_numpy(here.indices)[None]).sum())
    jobs, first_is_in = [], threading.Event()
    submit = pool.pool.submit

    def noted(f, job, *rest):
        jobs.append(job.__name__)
        first_is_in.set()
        return submit(f, job, *rest)

    monkeypatch.setattr(pool.pool, "submit", noted)
    with ThreadPoolExecutor(4) as visitors:
        busy = visitors.submit(workers.draw_apart, model, SETTINGS | {"seed": 0})
        assert first_is_in.wait(60)
        bits = [visitors.submit(workers.bits_apart, model, here.indices) for _ in range(2)]
        while len(pool._waiting) < 2:
            time.sleep(0.001)
        late = visitors.submit(workers.draw_apart, model, SETTINGS)
        while not late.done() and len(pool._waiting) < 3:
            time.sleep(0.001)
        found = [one.result() for one in bits]
    assert busy.done()
    assert late.done()
    assert jobs == ["_draw", "_draw", "_bits"]
    assert found == pytest.approx([expected] * 2)
    workers.stop()
    assert workers.bits_apart(model, here.indices) == pytest.approx(expected)


class Out(Exception):
    """What no job is known to raise."""


def test_whatever_a_job_raises_its_requests_are_answered():
    pool = workers._Workers(1)
    broken = Future()
    broken.set_exception(Out())
    pool.pool.submit = lambda *_: broken
    request = workers._Request(workers._bits, (), "base", {}, None, Future())
    with ThreadPoolExecutor(1) as visitor:
        assert visitor.submit(pool.ask, request).result(10) is None
    assert pool._free == 1
    pool.pool.shutdown()


SERVER = """
from oasisvq.app import workers
if __name__ == "__main__":
    workers.start()
    workers._workers.pool.submit(int).result()
    print(*workers._workers.pool._processes, flush=True)
    input()
"""


def test_workers_end_with_a_server_that_is_killed(tmp_path):
    path = tmp_path / "server.py"
    path.write_text(SERVER)
    root = str(Path(workers.__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": root},
        text=True,
    ) as server:
        processes = [int(number) for number in server.stdout.readline().split()]
        server.kill()
    assert processes
    patience = time.monotonic() + 20
    while any(Path(f"/proc/{process}/stat").exists() for process in processes):
        assert time.monotonic() < patience, "a worker outlives its server"
        time.sleep(0.1)
