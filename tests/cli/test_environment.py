"""Variables of a bucket's keys: two for each key, or one."""

import pytest

from template.cli.environment import bucket_settings
from template.errors import ConfigError

WRITE_SECRET, READ_SECRET = "write-hunter2", "read-hunter2"
ENV = {
    "TESSERA_BUCKET_ENDPOINT": "http://127.0.0.1:9000",
    "TESSERA_BUCKET_WRITE_KEY_ID": "writer",
    "TESSERA_BUCKET_WRITE_SECRET": WRITE_SECRET,
    "TESSERA_BUCKET_READ_KEY_ID": "reader",
    "TESSERA_BUCKET_READ_SECRET": READ_SECRET,
}


def test_a_key_may_be_one_variable():
    paired = {k: v for k, v in ENV.items() if not k.startswith("TESSERA_BUCKET_WRITE")}
    paired["TESSERA_BUCKET_WRITE_KEY"] = f"writer:{WRITE_SECRET}"
    assert bucket_settings(paired) == bucket_settings(ENV)
    colon = bucket_settings(paired | {"TESSERA_BUCKET_WRITE_KEY": "writer:a:b"})
    assert colon.write.secret.reveal() == "a:b"
    for value, words in (("no-colon-hunter2", "ID:SECRET"), (":hunter2", "WRITE_KEY_ID")):
        with pytest.raises(ConfigError, match=words) as error:
            bucket_settings(paired | {"TESSERA_BUCKET_WRITE_KEY": value})
        assert "hunter2" not in str(error.value)
    with pytest.raises(ConfigError, match="both set"):
        bucket_settings({**ENV, "TESSERA_BUCKET_READ_KEY": "reader:hunter2"})
