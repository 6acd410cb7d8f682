"""Convert what examples/prepare_math.py has written to verl's parquet files.

python examples/verl/to_parquet.py data data/verl
"""

import argparse
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet


def convert(source: Path, target: Path) -> int:
    """Write one file; return its number of rows."""
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines() if line]
    found = [
        {
            "data_source": row.get("datasource") or "math",
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(row["label"])},
            "extra_info": {"index": number},
        }
        for number, row in enumerate(rows)
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    pa.parquet.write_table(pa.Table.from_pylist(found), target)
    return len(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="with train.jsonl and eval.jsonl")
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    for ours, theirs in (("train.jsonl", "train.parquet"), ("eval.jsonl", "test.parquet")):
        print(f"{args.target / theirs}: {convert(args.source / ours, args.target / theirs)} problems")


if __name__ == "__main__":
    main()
