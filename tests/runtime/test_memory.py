from robustok.runtime.memory import peak_rss_gib


def test_the_peak_remembers_memory_that_was_given_back():
    before = peak_rss_gib()
    block = bytearray(b"x") * (300 * 2**20)
    during = peak_rss_gib()
    del block
    rounding = 0.01  # the kernel counts pages per thread and adds up now and then
    assert 0.01 < before <= during + rounding
    assert during > 0.29
    assert during - rounding < peak_rss_gib() < 64
