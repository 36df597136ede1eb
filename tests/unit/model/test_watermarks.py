import pytest

from fallow.model.watermarks import Watermarks, parse_watermarks


def test_shares_are_read_and_written_alike() -> None:
    assert parse_watermarks("90%:70%") == Watermarks(0.9, 0.7)
    assert parse_watermarks(Watermarks().text) == Watermarks()
    assert parse_watermarks("off") is None


@pytest.mark.parametrize(
    "text", ["", "85:80", "80%:85%", "80%:80%", "100%:90%", "0%:0%", "85%:80%\n", "85%", "x" * 100]
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"shares|less"):
        parse_watermarks(text)
