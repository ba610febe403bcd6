#!/usr/bin/env python3
"""One page of what the verification programme found: tests/assurance/report.py [-o FILE] [--json]

It is made of what the programme left behind and nothing else: figures that tests wrote when they had passed and how each
step ended, both in target/assurance, and the sources, where each promise is named by whatever holds or attacks it. What
did not run is shown as not run. Exits with 0 when all that ran has passed, with 1 when something failed, with 2 when
nothing is known.
"""

import argparse
import datetime
import html
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FIGURES = ROOT / "target" / "assurance"
TESTS = "tests/tests/integration"

# A layer: its name, the files that are part of it, the steps of the programme that run it, and how to run it alone.
SUITE = "cargo test --release -p tests --test integration"
LAYERS = [
    ("code", ["host/src/**/*.rs", "guest-policy/**/src/**/*.rs"], [], ""),
    ("SQL", ["migrations/**/*.sql"], [], ""),
    ("tables", [f"{TESTS}/matrix.rs", f"{TESTS}/rules.rs", "guest-policy/core/tests/it/*.rs"], ["sqlite", "postgres"], f"{SUITE} matrix rules"),
    ("surfaces", [f"{TESTS}/{n}.rs" for n in ("catalogue", "surfaces", "no_effect", "trust", "revoke", "samples")], ["sqlite", "postgres"], f"{SUITE} surfaces"),
    ("store", [f"{TESTS}/{n}.rs" for n in ("audit", "store", "locks", "work", "work_claims", "work_leases", "replay", "idempotency")], ["sqlite", "postgres"], f"{SUITE} audit"),
    ("stateful", [f"{TESTS}/stateful/**/*.rs"], ["sqlite", "postgres"], f"{SUITE} stateful"),
    ("histories", [f"{TESTS}/histories/**/*.rs", "tests/src/history/**/*.rs"], ["sqlite", "postgres"], f"{SUITE} histories"),
    ("crash", [f"{TESTS}/crash.rs", f"{TESTS}/crash_points/**/*.rs"], ["sqlite", "postgres"], f"{SUITE} crash"),
    ("differential", [f"{TESTS}/differential/*.rs", "guest-policy/core/tests/it/equiv.rs"], ["sqlite"], f"{SUITE} differential"),
    ("database", [f"{TESTS}/postgres/**/*.rs"], ["sqlite"], f"{SUITE} postgres"),
    ("sandbox", [f"{TESTS}/cage.rs", f"{TESTS}/swap/*.rs"], ["sqlite", "postgres"], f"{SUITE} cage swap"),
    ("models", ["formal/Coordination.tla", "formal/MC.tla"], ["models"], "formal/check"),
    ("traces", [f"{TESTS}/trace.rs", "formal/Trace.tla"], ["sqlite", "postgres"], f"{SUITE} trace"),
    ("fuzz", ["tests/src/fuzzing/**/*.rs", f"{TESTS}/corpora.rs"], ["sqlite", "fuzz"], f"{SUITE} corpora"),
    ("bugs", ["tests/mutants/*.patch"], ["bugs"], "tests/mutants/run"),
]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("-o", "--out", type=Path, default=FIGURES / "report.html", help="where the page goes")
    options.add_argument("--json", action="store_true", help="print what the page is made of, for a program")
    given = options.parse_args()
    if given.json:
        print(json.dumps(matrix(steps_of(FIGURES / "steps.jsonl")), indent=2))
        return
    steps, figures = steps_of(FIGURES / "steps.jsonl"), figures_of(FIGURES)
    if not steps and not figures:
        sys.exit("tests/assurance/report.py: nothing ran: there is nothing in target/assurance")
    page = page_of(promises(), steps, figures)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(page, encoding="utf-8")
    failed = [name for name, step in steps.items() if step["result"] != "passed"]
    print(f"{given.out}: {len(steps)} step(s), {len(figures)} set(s) of figures" + (f"; FAILED: {', '.join(failed)}" if failed else ""))
    sys.exit(1 if failed else 0)


def steps_of(path):
    """How each step ended, the last time that it ran."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return {step["step"]: step for step in map(json.loads, lines)}


def figures_of(folder):
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def promises():
    """Rows of the table of promises: name, what it says, what holds it."""
    section = (ROOT / "docs/assurance.md").read_text().split("## Promises")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if re.match(r"\| [A-Z]+ \|", line)]
    if not rows:
        sys.exit("tests/assurance/report.py: docs/assurance.md lists no promises")
    return rows


def places(promise, globs):
    """Where files of a layer name a promise, as a comment does."""
    found = []
    for pattern in globs:
        for path in sorted(ROOT.glob(pattern)):
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
                if re.search(rf"(^|[^A-Za-z_`]){promise}(:|, [A-Z]+.*:)|^invariant: .*\b{promise}\b", line):
                    found.append(f"{path.relative_to(ROOT)}:{number}")
    return found


def matrix(steps):
    """What the page shows of each layer: its files, how it ended, and where it names each promise."""
    layers = []
    for name, globs, names, command in LAYERS:
        files = sorted({str(path.relative_to(ROOT)) for pattern in globs for path in ROOT.glob(pattern)})
        unmatched = [pattern for pattern in globs if not list(ROOT.glob(pattern))]
        found = {promise: places(promise, globs) for promise, *_ in promises()}
        layers.append({"layer": name, "files": files, "unmatched": unmatched, "steps": names, "result": outcome(names, steps), "rerun": command, "promises": found})
    return layers


def outcome(names, steps):
    known = [steps[name]["result"] for name in names if name in steps]
    if not names:
        return "stated"
    if not known:
        return "not run"
    if any(result != "passed" for result in known):
        return "failed"
    return "passed" if len(known) == len(names) else "passed in part"


def page_of(rows, steps, figures):
    escape = html.escape
    commit = said("git", "rev-parse", "--short=12", "HEAD") + (" with changes" if said("git", "status", "--porcelain") else "")
    head = "".join(f"<th>{escape(name)}</th>" for name, *_ in LAYERS)
    body = []
    for promise, says, held in rows:
        cells = []
        for _, globs, names, _ in LAYERS:
            found, result = places(promise, globs), outcome(names, steps)
            shown = f"{len(found)} · {result}" if found else "–"
            cells.append(f'<td class="{result.replace(" ", "-") if found else "none"}" title="{escape(chr(10).join(found))}">{shown}</td>')
        body.append(f"<tr><th title='{escape(says)} Held by: {escape(held)}.'>{promise}</th>{''.join(cells)}</tr>")
    promised = "".join(f"<dt>{p}</dt><dd>{escape(says)} <small>Held by {escape(held)}.</small></dd>" for p, says, held in rows)
    again = "".join(f"<tr><td>{escape(n)}</td><td><code>{escape(c)}</code></td></tr>" for n, _, _, c in LAYERS if c)
    ran = "".join(
        f"<tr class='{s['result']}'><td>{escape(n)}</td><td>{s['result']}</td><td>{s.get('tests') or ''}</td><td>{s['seconds']} s</td><td><code>{escape(s['command'])}</code></td></tr>"
        for n, s in steps.items()
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Portreeve: assurance</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 110rem; padding: 0 1rem; color: #1a1a1a }}
table {{ border-collapse: collapse; margin: .5rem 0 1.5rem }} td, th {{ border: 1px solid #bbb; padding: .2rem .5rem; text-align: left; vertical-align: top }}
.passed {{ background: #dcf3dc }} .failed {{ background: #f8d0d0 }} .not-run, .passed-in-part {{ background: #f6edc8 }} .stated {{ background: #eef2f8 }} .none {{ color: #999 }}
dt {{ font-weight: 600 }} code {{ font-size: 13px }} pre {{ background: #f5f5f5; padding: .5rem; overflow-x: auto }}
</style>
<h1>Portreeve: what was verified</h1>
<p>Commit {escape(commit)}, {datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} processors, {escape(platform.system())}.
A cell says in how many places of that layer the promise is named by what holds or attacks it, and how the layer ended in this run;
the places are shown when the pointer rests on it.</p>
<h2>Promises and layers</h2>
<table><tr><th></th>{head}</tr>{''.join(body)}</table>
<dl>{promised}</dl>
<h2>What ran</h2>
<table><tr><th>step</th><th>result</th><th>tests</th><th>time</th><th>command</th></tr>{ran}</table>
<h2>Figures</h2>{''.join(figures_table(layer, of) for layer, of in by_layer(figures))}
<h2>To run a layer again</h2>
<table>{again}</table>
<p>Random runs print their seed; <code>PORTREEVE_SEED=N</code> repeats one, and <code>PORTREEVE_TEST_STORE=postgres</code> takes the other store.
<code>tests/run --long</code> runs all of it for hours.</p>
</html>
"""


def by_layer(figures):
    layers = {}
    for name, of in figures.items():
        layers.setdefault(of.get("layer", name), []).append((name, of))
    return sorted(layers.items())


def figures_table(layer, entries):
    columns = []
    for _, of in entries:
        columns += [key for key in of if key not in columns and key != "layer"]
    head = "".join(f"<th>{html.escape(key)}</th>" for key in columns)
    lines = "".join("<tr>" + "".join(f"<td>{shown(of.get(key, ''))}</td>" for key in columns) + "</tr>" for _, of in entries)
    return f"<h3>{html.escape(layer)}</h3><table><tr>{head}</tr>{lines}</table>"


def shown(value):
    if isinstance(value, dict):
        return "<br>".join(f"{html.escape(str(k))}: {shown(v)}" for k, v in value.items())
    if isinstance(value, list):
        return "<br>".join(shown(item) for item in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return html.escape(str(value))


def said(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


if __name__ == "__main__":
    main()
