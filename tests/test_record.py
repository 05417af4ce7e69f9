"""Records say under what circumstances they were measured."""

import json
import re
from pathlib import Path

import pytest
import torch

from oasisvq.measure import record


def test_a_record_says_when_on_what_and_from_which_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(86400 * 365))
    record.write_record(tmp_path / "new" / "one.json", {"rows": [1]})
    found = json.loads((tmp_path / "new" / "one.json").read_text())
    assert found["rows"] == [1]
    told = found["measured"]
    assert told["date"] == "1971-01-01"
    assert told["threads"] == torch.get_num_threads()
    assert told["processor"]
    assert told["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", told["commit"])
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert record.circumstances()["date"] > "2026"
