from xrouter.auth.lru import Lru


def test_what_was_used_last_stays() -> None:
    lru: Lru[str, int] = Lru(2)
    lru.put("a", 1)
    lru.put("b", 2)
    assert lru.get("a") == 1
    lru.put("c", 3)
    assert [lru.get(key) for key in "abc"] == [1, None, 3]
    assert len(lru) == 2


def test_a_second_put_replaces_and_counts_as_use() -> None:
    lru: Lru[str, int] = Lru(2)
    lru.put("a", 1)
    lru.put("b", 2)
    lru.put("a", 3)
    lru.put("c", 4)
    assert "b" not in lru
    assert lru.get("a") == 3
    lru.drop("a")
    lru.drop("a")
    assert "a" not in lru
