#!/usr/bin/env python3
"""Makes the corpus of `beadle compact bench`: conversations that replay real edits between published versions of a crate.

    tests/corpus/make.py OUT [--only CRATE] [--manifest FILE] [--pin CRATE:OLD:NEW...]

What is real: the old and new source (from crates.io, pinned by SHA-256 in manifest.json), the edits between them, and the output of every
tool: files are read and changed, and `ls`, `grep`, `wc`, `rustfmt --check` and `rustc` are run, on a copy of the old source as it then is.
What is not: who calls. No model chose these calls, so nothing here says how well an agent works after a compaction; each record is marked
"replayed". Its words (prompts, replies) are written below, with facts and constraints that must be found again (the .probes.json beside
it).

The same crates and the same compiler give the same corpus. A pinned pair that gives fewer than 30 calls is left out, and an error. Crates come from cargo's own cache, or are brought there by `cargo fetch`.
Only the standard library of Python 3.9 or newer is needed, and rustc and rustfmt.
"""

import argparse
import difflib
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile
import uuid

HERE = pathlib.Path(__file__).resolve().parent
MOST_CALLS = 140
LEAST_CALLS = 30
TEXT = {".rs", ".toml", ".md"}
NAMESPACE = uuid.UUID("6f1c9a52-2d64-4a8f-9a53-7f0a9c1b7e11")


def cargo_home():
    return pathlib.Path(os.environ.get("CARGO_HOME", pathlib.Path.home() / ".cargo"))


def cached(name, version):
    return next(cargo_home().glob(f"registry/cache/*/{name}-{version}.crate"), None)


def fetch(name, version):
    """Lets cargo bring one pinned version into its cache."""
    with tempfile.TemporaryDirectory() as d:
        root = pathlib.Path(d)
        (root / "src").mkdir()
        (root / "src/lib.rs").write_text("")
        pin = version.split("+")[0]
        toml = f'[package]\nname = "corpus"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\n{name} = "={pin}"\n'
        (root / "Cargo.toml").write_text(toml)
        subprocess.run(["cargo", "fetch", "--quiet"], cwd=root, check=True)


def source(name, version, digest, into):
    path = cached(name, version)
    if path is None:
        fetch(name, version)
        path = cached(name, version)
    if path is None:
        sys.exit(f"{name} {version} is not in cargo's cache and could not be fetched")
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if digest is not None and found != digest:
        sys.exit(f"{path} has SHA-256 {found}; pinned is {digest}")
    with tarfile.open(path) as tar:
        for member in tar.getmembers():
            parts = pathlib.PurePosixPath(member.name).parts[1:]
            if not member.isfile() or not parts or ".." in parts:
                continue
            target = into.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(tar.extractfile(member).read())
    return found


def texts(root):
    """Text files by their path, without what cargo wrote into the package."""
    out = {}
    for path in sorted(root.rglob("*")):
        rel = path.relative_to(root).as_posix()
        if path.suffix in TEXT and path.is_file() and rel != "Cargo.toml":
            try:
                out[rel] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                pass
    return out


class Record:
    """A conversation in the form of Claude Code's own record."""

    def __init__(self, label):
        self.label, self.lines, self.parent, self.n, self.calls, self.now = label, [], None, 0, 0, 1767225600
        self.session = str(uuid.uuid5(NAMESPACE, label))

    def put(self, kind, message, more=None):
        self.n += 1
        self.now += 7
        ident = str(uuid.uuid5(NAMESPACE, f"{self.label}/{self.n}"))
        stamp = f"2026-01-{1 + self.now // 86400 % 28:02}T{self.now // 3600 % 24:02}:{self.now // 60 % 60:02}:{self.now % 60:02}.000Z"
        line = {"parentUuid": self.parent, "isSidechain": False, "type": kind, "message": message, "uuid": ident, "timestamp": stamp,
                "userType": "external", "entrypoint": "sdk-cli", "cwd": "/corpus", "sessionId": self.session, "version": "2.1.197",
                "replayed": True, **(more or {})}
        self.parent = ident
        self.lines.append(json.dumps(line, ensure_ascii=False, separators=(",", ":")))

    def user(self, text):
        self.put("user", {"role": "user", "content": text})

    def say(self, text):
        self.assistant([{"type": "text", "text": text}])

    def assistant(self, blocks):
        ident = "msg_" + hashlib.sha256(f"{self.label}/{self.n}".encode()).hexdigest()[:24]
        self.put("assistant", {"id": ident, "type": "message", "role": "assistant", "model": "replayed", "content": blocks})

    def call(self, tool, given, result, is_error=False):
        self.calls += 1
        ident = "toolu_" + hashlib.sha256(f"{self.label}/call/{self.calls}".encode()).hexdigest()[:24]
        self.assistant([{"type": "tool_use", "id": ident, "name": tool, "input": given}])
        content = [{"tool_use_id": ident, "type": "tool_result", "content": result, "is_error": is_error}]
        self.put("user", {"role": "user", "content": content})


class Replay:
    """One crate, changed from one version to the next in a folder of its own."""

    def __init__(self, name, old, new, work):
        self.name, self.old, self.new, self.work = name, old, new, work
        self.record = Record(f"{name} {old} {new}")
        self.shown, self.out = f"/corpus/{name}", work.parent / "out"

    def bash(self, *argv, sort=False):
        run = subprocess.run(argv, cwd=self.work, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
        # Where the folder is says nothing, and differs from run to run.
        out = self.settled(run.stdout + run.stderr)
        failed = run.returncode != 0
        if sort:
            # Folders are read in the file system's own order.
            out = "".join(sorted(out.splitlines(True)))
        text = (f"Exit code {run.returncode}\n" if failed else "") + (out if out else "(Bash completed with no output)")
        command = self.settled(" ".join(argv)) + (" | sort" if sort else "")
        self.record.call("Bash", {"command": command, "description": "look"}, text[:30000], failed)
        return failed

    def settled(self, text):
        text = text.replace(str(self.work), self.shown).replace(str(self.out), "/corpus/out")
        return re.sub(r"long-type-\d+", "long-type-0", text)

    def read(self, rel):
        lines = (self.work / rel).read_text(encoding="utf-8").splitlines()[:2000]
        text = "\n".join(f"{i:>6}\t{line}" for i, line in enumerate(lines, 1))
        self.record.call("Read", {"file_path": f"{self.shown}/{rel}"}, text)

    def write(self, rel, text):
        path = self.work / rel
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        self.record.call("Write", {"file_path": f"{self.shown}/{rel}", "content": text}, f"File created successfully at: {self.shown}/{rel}")

    def edits(self, rel, new):
        """One call for each changed part, with a line around it."""
        path = self.work / rel
        before, after = path.read_text(encoding="utf-8").splitlines(True), new.splitlines(True)
        shift = 0
        for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
            if tag == "equal":
                continue
            if self.record.calls >= MOST_CALLS:
                return
            lines = path.read_text(encoding="utf-8").splitlines(True)
            at, end = i1 + shift, i2 + shift
            start, stop = max(at - 1, 0), min(end + 1, len(lines))
            old_text = "".join(lines[start:stop])
            new_text = "".join(lines[start:at] + after[j1:j2] + lines[end:stop])
            path.write_text("".join(lines[:at] + after[j1:j2] + lines[end:]), encoding="utf-8")
            shift += (j2 - j1) - (i2 - i1)
            told = "".join(f"{start + n:>6}\t{line}" for n, line in enumerate(new_text.splitlines(True)[:40], 1))
            self.record.call("Edit", {"file_path": f"{self.shown}/{rel}", "old_string": old_text, "new_string": new_text},
                             f"The file {self.shown}/{rel} has been updated. Here's the result of running `cat -n` on a snippet:\n{told}")

    def check(self, rel):
        if (self.work / rel).suffix == ".rs":
            self.bash("rustfmt", "--check", "--edition", "2021", rel)
            self.bash("rustc", "--edition", "2021", "--crate-type", "lib", "--emit=metadata", "--out-dir", str(self.out), rel)

    def run(self, goal):
        r, name = self.record, self.name
        key = hashlib.sha256(r.label.encode()).hexdigest()
        ticket, port, reason = f"REL-{int(key[:6], 16)}", f"staging port {20000 + int(key[6:10], 16) % 40000}", f"issue {int(key[10:15], 16)}"
        limits = [f"Do not touch the LICENSE files of {name}.", f"Never rename a public item of {name} without saying so."]
        old = texts(self.work)
        changed = [p for p in sorted(set(old) | set(goal)) if old.get(p) != goal.get(p)]
        half = (len(changed) + 1) // 2
        r.user(f"Bring {name} from {self.old} to {self.new}. {limits[0]} The ticket is {ticket}.")
        self.bash("ls", "-R", ".")
        self.bash("wc", "-l", *[p for p in changed if p in old][:20])
        (self.work / "NOTES.md").write_text(f"# Notes\n\nThe {port} is the one that answers.\n", encoding="utf-8")
        self.read("NOTES.md")
        r.say(f"I decided to begin with the smallest files because {reason} asks for reviewable steps.")
        for part in (changed[:half], changed[half:]):
            for rel in part:
                if r.calls >= MOST_CALLS:
                    break
                stem = pathlib.PurePosixPath(rel).stem
                self.bash("grep", "-rn", "-m", "20", stem, "--include=*.rs", ".", sort=True)
                if rel in old:
                    self.read(rel)
                if rel not in goal:
                    (self.work / rel).unlink()
                    r.call("Bash", {"command": f"rm {rel}", "description": "remove"}, "(Bash completed with no output)")
                elif rel in old:
                    self.edits(rel, goal[rel])
                else:
                    self.write(rel, goal[rel])
                self.check(rel)
            if part is not changed[half:] and len(changed) > 1:
                r.say("The first half is done. Still need to do the second half.")
                r.user(f"Go on with the rest. {limits[1]}")
        untouched = [p for p in old if p not in changed and p.endswith(".rs")][:2]
        for rel in untouched:
            self.read(rel)
        if "src/lib.rs" in goal and r.calls < MOST_CALLS + 20:
            self.check("src/lib.rs")
        r.say(f"{name} is at {self.new}.")
        return {"label": "replayed", "calls": r.calls, "facts": [ticket, port, reason], "constraints": limits}


def main():
    args = argparse.ArgumentParser()
    args.add_argument("out", type=pathlib.Path)
    args.add_argument("--only")
    args.add_argument("--manifest", type=pathlib.Path, default=HERE / "manifest.json", help="what is pinned, in place of the file beside this one")
    args.add_argument("--pin", nargs="*", help="CRATE:OLD:NEW to try; prints manifest entries")
    args = args.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    manifest = json.loads(args.manifest.read_text()) if args.pin is None else []
    for pin in args.pin or []:
        name, old, new = pin.split(":")
        manifest.append({"crate": name, "old": old, "new": new})
    made, short = [], []
    for entry in manifest:
        name, old, new = entry["crate"], entry["old"], entry["new"]
        if args.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as d:
            work, goal = pathlib.Path(d) / "work", pathlib.Path(d) / "goal"
            digests = [source(name, v, entry.get(k), at) for v, k, at in ((old, "old_sha256", work), (new, "new_sha256", goal))]
            for lock in ("Cargo.lock", "Cargo.toml.orig", ".cargo_vcs_info.json"):
                for root in (work, goal):
                    (root / lock).unlink(missing_ok=True)
            replay = Replay(name, old, new, work)
            probes = replay.run(texts(goal))
        if probes["calls"] < LEAST_CALLS:
            short.append(f"{name} {old} {new}: only {probes['calls']} calls, and {LEAST_CALLS} are wanted")
            print(short[-1], file=sys.stderr)
            continue
        stem = f"{name}-{old.split('+')[0]}-{new.split('+')[0]}"
        (args.out / f"{stem}.jsonl").write_text("\n".join(replay.record.lines) + "\n", encoding="utf-8")
        (args.out / f"{stem}.probes.json").write_text(json.dumps(probes, indent=1) + "\n", encoding="utf-8")
        made.append({"crate": name, "old": old, "new": new, "old_sha256": digests[0], "new_sha256": digests[1]})
    if args.pin is not None:
        print("[\n" + ",\n".join(" " + json.dumps(m) for m in made) + "\n]")
    print(f"{len(made)} conversations in {args.out}", file=sys.stderr)
    if args.pin is None and short:
        sys.exit(f"pinned and not made: {'; '.join(short)}")
    if not made:
        sys.exit("nothing was made: no such crate is pinned, or none gave calls enough")


if __name__ == "__main__":
    main()
