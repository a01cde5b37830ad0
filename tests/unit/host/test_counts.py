from distreid.host.counts import counted


def test_one_is_not_many() -> None:
    assert counted(1, "image") == "1 image"
    assert counted(0, "image") == "0 images"
    assert counted(2_000, "query", "queries") == "2,000 queries"
