"""The page of a localnet: served on loopback, and whatever is in its folder at the moment."""

import urllib.error
import urllib.request

import pytest

from localnet.page import PageServer


def read(url: str) -> tuple[int, str]:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.status, answer.read().decode()


def test_a_folder_is_served_while_it_changes(tmp_path) -> None:
    with PageServer(tmp_path / "site") as page:
        assert page.url.startswith("http://127.0.0.1:")
        assert "once the first window has been voted on" in read(page.url)[1]
        (tmp_path / "site" / "index.html").write_text("the run")
        (tmp_path / "site" / "window").mkdir()
        (tmp_path / "site" / "window" / "00000000.html").write_text("window 0")
        assert read(page.url) == (200, "the run")
        assert read(page.url + "window/00000000.html") == (200, "window 0")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            read(page.url + "../secret")
    with pytest.raises(urllib.error.URLError, match="refused"):
        read(page.url)


def test_two_localnets_have_a_page_each(tmp_path) -> None:
    with PageServer(tmp_path / "a") as one, PageServer(tmp_path / "b") as other:
        assert one.url != other.url
