"""The cache of blocks: shared by processes, each block asked for once, never larger than it may be."""

import multiprocessing
import os
from functools import partial

from fiber_data.blocks import BlockCache

CONTENT = os.urandom(1000)


def fetch(log, url, start, end):
    with log.open("a") as file:
        file.write(f"{url} {start}\n")
    return CONTENT[start:end]


def read_all(cache, first):
    places = [(first + step * 7) % 990 for step in range(200)]
    return all(cache.read("u", place, place + 10, "1") == CONTENT[place : place + 10] for place in places)


def held(folder):
    return sum(path.stat().st_size for path in folder.glob("*/*"))


def test_processes_ask_for_a_block_once(tmp_path):
    cache = BlockCache(tmp_path / "blocks", 10**6, 100, partial(fetch, tmp_path / "log"))
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(partial(read_all, cache), range(0, 800, 100)) == [True] * 8
    asked = (tmp_path / "log").read_text().splitlines()
    assert len(asked) == len(set(asked)) == 10
    assert held(tmp_path / "blocks") == 1000


def test_the_least_recently_used_makes_room(tmp_path):
    log = tmp_path / "log"
    cache = BlockCache(tmp_path / "blocks", 350, 100, partial(fetch, log))
    for place in (0, 100, 200, 0, 300, 0, 400, 0):
        assert cache.read("u", place + 5, place + 15, "1") == CONTENT[place + 5 : place + 15]
        assert held(tmp_path / "blocks") <= 350
    assert log.read_text().splitlines() == [f"u {place}" for place in (0, 100, 200, 300, 400)]
    assert cache.read("u", 95, 305, "1") == CONTENT[95:305]  # over several blocks
    cache.read("u", 0, 10, "2")
    assert log.read_text().count("u 0\n") == 2  # another version
    assert held(tmp_path / "blocks") <= 350


def test_many_processes_keep_within_the_size(tmp_path):
    cache = BlockCache(tmp_path / "blocks", 450, 100, partial(fetch, tmp_path / "log"))
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert all(pool.map(partial(read_all, cache), range(0, 900, 300)))
    assert 0 < held(tmp_path / "blocks") <= 450


def test_without_a_folder_nothing_is_kept(tmp_path):
    cache = BlockCache(tmp_path / "log" / "blocks", 1000, 100, lambda _url, start, end: CONTENT[start:end])
    (tmp_path / "log").touch()
    assert read_all(cache, 0)
