"""What a table says of the people: their clinical dementia rating (CDR)."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from oasisvq.errors import OasisVQError

_OASIS_ID = re.compile(r"OAS1_0*(\d+)_MR(\d+)")


def read_cdr(table: Path) -> dict[str, float]:
    """Clinical dementia rating by case from a table with the columns case and cdr, or OASIS-1's own with ID and CDR.

    OASIS-1's `OAS1_0042_MR1` is case 042. People without a rating (OASIS-1 rated nobody under 60) are left out.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            rows = [
                {
                    (key or "").strip().lower(): (value or "").strip()
                    for key, value in row.items()
                    if isinstance(value, str)
                }
                for row in csv.DictReader(lines)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OasisVQError(f"{table}: not a readable table ({error}): save it as comma-separated UTF-8 text") from error
    if not rows or "cdr" not in rows[0] or not {"case", "id"} & set(rows[0]):
        raise OasisVQError(f"{table}: needs a heading line with case (or ID) and cdr, and a line a person")
    found = {}
    for row in rows:
        oasis = _OASIS_ID.fullmatch(row.get("id", ""))
        case = f"{int(oasis[1]):03d}" if oasis else row.get("case", row.get("id", ""))
        if row.get("cdr", "") in ("", "N/A", "NA", "nan"):  # a short row has no such cell
            continue
        try:
            found[case] = float(row["cdr"])
        except ValueError as error:
            raise OasisVQError(f"{table}: case {case} has CDR {row['cdr']!r}: expected a number or nothing") from error
    return found
