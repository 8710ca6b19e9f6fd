"""Secrets are found in every spelling that a library may give them, and nothing else is touched."""

import base64
import gzip
import io
import json
import tarfile
from pathlib import Path
from urllib.parse import quote

import pytest

from template.doctor import bundle
from template.doctor.bundle import Member, as_json, listing, pack, tail, write_archive
from template.doctor.redaction import Censor, secrets_of_key_file
from template.errors import ConfigError
from template.secret import Secret

VALUE = 'k/9+"\u00e9 secret'
CENSOR = Censor([Secret(VALUE), Secret("short"), Secret("abcdef123456")])

SPELLINGS = {
    "plain": VALUE,
    "url": quote(VALUE, safe=""),
    "json": json.dumps({"a": VALUE}),
    "base64": base64.b64encode(VALUE.encode()).decode(),
    "hex": VALUE.encode().hex(),
    "HEX": VALUE.encode().hex().upper(),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_is_replaced(name: str) -> None:
    text = f"before {SPELLINGS[name]} after"
    assert CENSOR.holds_secret(text.encode())
    clean = CENSOR.clean(text)
    assert "<secret>" in clean
    assert clean.startswith("before ")
    assert clean.endswith(" after")
    assert not CENSOR.holds_secret(clean.encode())


def test_a_word_by_accident_is_no_secret() -> None:
    assert CENSOR.clean("a short text") == "a short text"


def test_a_secret_inside_another_leaves_no_rest() -> None:
    censor = Censor([Secret("abcdef"), Secret("abcdefghij")])
    assert censor.clean("abcdefghij abcdef") == "<secret> <secret>"


def test_all_but_the_public_parts_of_a_key_file_are_secret() -> None:
    text = json.dumps(
        {
            "ss58Address": "5Public",
            "publicKey": "0xaabbcc",
            "secretPhrase": "twelve words of a phrase",
            "privateKey": "0x112233445566",
            "nested": {"seed": ["0x99887766"]},
        }
    )
    found = {s.reveal() for s in secrets_of_key_file(text, ("ss58Address", "publicKey"))}
    assert found == {
        "twelve words of a phrase", "0x112233445566", "112233445566", "0x99887766", "99887766",
    }  # fmt: skip
    broken = {s.reveal() for s in secrets_of_key_file("not json at-all", ())}
    assert "at-all" in broken


def unpacked(data: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {
            m.name: (archive.extractfile(m) or io.BytesIO()).read().decode()
            for m in archive.getmembers()
        }


def test_an_archive_is_clean_and_the_same_twice() -> None:
    members = [
        Member(name="log.txt", text=f"key {VALUE} at wss://user:pw@host:1/token?x=1\n"),
        as_json("x.json", {"a": VALUE}),
    ]
    data = pack(members, CENSOR)
    assert data == pack(members, CENSOR)
    assert unpacked(data) == {
        "tessera-support/log.txt": "key <secret> at wss://host:1\n",
        "tessera-support/x.json": '{\n "a": "<secret>"\n}\n',
    }
    assert not CENSOR.holds_secret(gzip.decompress(data))


class Blind(Censor):
    """A censor that leaves every secret in the text."""

    def clean(self, text: str) -> str:
        return text


def test_a_secret_that_is_left_ends_the_archive() -> None:
    blind = Blind([Secret(VALUE)])
    for member in (Member(name="a", text=VALUE), Member(name=VALUE, text="a")):
        with pytest.raises(ConfigError, match="would hold a secret") as caught:
            pack([member], blind)
        assert member.name == VALUE or VALUE not in str(caught.value)


def test_a_long_file_keeps_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"line {number}\n" for number in range(1000)))
    assert tail(path, max_bytes=100).splitlines()[-1] == "line 999"
    assert len(tail(path, max_bytes=100)) <= 100
    assert tail(path, max_bytes=100).startswith("line ")
    assert tail(path, max_lines=2) == "line 998\nline 999\n"
    assert tail(tmp_path / "none") == "(none: No such file or directory)\n"
    monkeypatch.setattr(bundle, "MAX_FILE_BYTES", 10)
    assert unpacked(pack([Member(name="a", text="0123456789ab")], CENSOR)) == {
        "tessera-support/a": "23456789ab"
    }


def test_a_listing_has_names_and_sizes_alone(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_text("content")
    assert "             7 deep/file\n" in listing(tmp_path)
    assert "content" not in listing(tmp_path)
    assert listing(tmp_path, max_entries=0) == "\n"


def test_an_archive_is_for_this_user_alone(tmp_path: Path) -> None:
    write_archive(tmp_path / "a", b"x")
    write_archive(tmp_path / "a", b"yy")
    assert (tmp_path / "a").read_bytes() == b"yy"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="--bundle"):
        write_archive(tmp_path / "none" / "a", b"x")
