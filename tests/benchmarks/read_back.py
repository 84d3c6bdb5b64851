"""A dataset pushed to the loopback Hub, read back by older versions of `datasets` in throw-away environments.

    python -m tests.benchmarks.read_back [--versions 2.21.0 3.6.0 4.0.0]

For each version: the four configs and both splits, plain and streaming, rows equal to the Parquet that was pushed. Exit code
1 if they are not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import pyarrow.parquet as pq

from reflectevo_data.schema import CONFIGS
from tests.data.dataset.test_push import READ_BACK, REPO, make_dataset
from tests.hub_write import WritableHub


# What these versions were released with, where they do not say so themselves.
PINS = {
    "2.21.0": ["numpy<2", "huggingface_hub<0.25", "pyarrow<18"],
    "3.6.0": ["huggingface_hub<1"],
    "4.0.0": ["huggingface_hub<1"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", nargs="+", default=list(PINS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, WritableHub() as hub:
        folder = Path(name)
        dataset = make_dataset(folder)
        push = (
            "import sys; from reflectevo_data.dataset.push import push_dataset; push_dataset(sys.argv[1], sys.argv[2])"
        )
        environment = os.environ | hub.environment(folder / "cache-push") | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        subprocess.run([sys.executable, "-c", push, str(dataset), REPO], env=environment, check=True)
        expected = {
            f"{config}/{split}": [
                row
                for path in sorted((dataset / config).glob(f"{split}-*"))
                for row in pq.read_table(path).to_pylist()
            ]
            for config in CONFIGS
            for split in ("train", "validation")
        }
        n_equal = 0
        for version in args.versions:
            home = folder / f"datasets-{version}"
            venv.create(home, with_pip=True)
            pip = [str(home / "bin" / "pip"), "install", "--quiet", f"datasets=={version}", *PINS.get(version, [])]
            subprocess.run(pip, check=True)
            done = subprocess.run(
                [str(home / "bin" / "python"), "-c", READ_BACK, REPO, *CONFIGS],
                env=os.environ | hub.environment(folder / f"cache-{version}"),
                capture_output=True,
                text=True,
            )
            if done.returncode:
                print(f"datasets {version}: failed: {done.stderr.strip().splitlines()[-1]}")  # noqa: T201
                continue
            read = {part: content["rows"] for part, content in json.loads(done.stdout).items()}
            equal = read == json.loads(json.dumps(expected))
            n_equal += equal
            n = sum(map(len, read.values()))
            print(f"datasets {version}: {n} rows of {len(read)} splits, {'equal' if equal else 'NOT EQUAL'}")  # noqa: T201
    sys.exit(n_equal < len(args.versions))


if __name__ == "__main__":
    main()
