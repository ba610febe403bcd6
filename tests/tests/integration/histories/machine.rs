//! A machine with faults for one program and its children: its clock is off, its disk is slow or full.
//!
//! `tests/faults/shim.c` is built once, preloaded into the program and told by a file what is wrong at the moment.

use std::fs::File;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// As in `shim.c`: the size of the control file, and where its fields are.
const SIZE: u64 = 1024;
const OFFSET: u64 = 0;
const SYNC: u64 = 8;
const FULL: u64 = 16;
const SYNCED: u64 = 24;
const REFUSED: u64 = 32;
const FOLDER: u64 = 40;

/// The library, built by the C compiler that building the service needs as well.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("faults/shim.c");
        // Another process may build it at the same moment: each has a file of its own.
        let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{}.so", std::process::id()));
        let output = Command::new("cc")
            .args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o"])
            .args([&built, &source])
            .arg("-ldl")
            .output()
            .expect("a C compiler, as `cc`");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        built
    })
}

/// What is wrong with the machine, for the programs that were started with its variables. Nothing is at first.
pub(crate) struct Machine {
    dir: TempDir,
    control: File,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // PostgreSQL runs as another user.
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::copy(library(), dir.path().join("faults.so")).unwrap();
        let control = File::options().read(true).write(true).create_new(true).open(dir.path().join("control")).unwrap();
        control.set_len(SIZE).unwrap();
        control.set_permissions(PermissionsExt::from_mode(0o666)).unwrap();
        Self { dir, control }
    }

    /// What a program has to have in its environment.
    pub(crate) fn variables(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("LD_PRELOAD", self.dir.path().join("faults.so")),
            ("PORTREEVE_TEST_FAULTS", self.dir.path().join("control")),
        ]
    }

    fn set(&self, field: u64, value: i64) {
        self.control.write_all_at(&value.to_le_bytes(), field).unwrap();
    }

    fn get(&self, field: u64) -> i64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, field).unwrap();
        i64::from_le_bytes(bytes)
    }

    /// By how much the clock is off.
    pub(crate) fn set_clock_offset(&self, offset_us: i64) {
        self.set(OFFSET, offset_us);
    }

    /// How much longer it takes until something is on the disk.
    pub(crate) fn set_sync_delay(&self, delay: Duration) {
        self.set(SYNC, i64::try_from(delay.as_micros()).unwrap());
    }

    /// Leaves no room below a folder, or room again.
    pub(crate) fn set_full(&self, folder: Option<&Path>) {
        let folder = folder.map(|folder| folder.canonicalize().unwrap());
        if let Some(folder) = &folder {
            let mut bytes = folder.to_str().unwrap().as_bytes().to_vec();
            bytes.push(0);
            self.control.write_all_at(&bytes, FOLDER).unwrap();
        }
        self.set(FULL, i64::from(folder.is_some()));
    }

    /// How often something waited for the slow disk.
    pub(crate) fn synced(&self) -> i64 {
        self.get(SYNCED)
    }

    /// How often there was no room.
    pub(crate) fn refused(&self) -> i64 {
        self.get(REFUSED)
    }

    fn run(&self, python: &str) -> String {
        let output = Command::new("python3").args(["-c", python]).envs(self.variables()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The readings of a program under the library, in seconds: three of the clock that may be off, and the one that may not.
fn clocks(machine: &Machine) -> [f64; 4] {
    let read = "import ctypes, time
libc = ctypes.CDLL(None)
both = (ctypes.c_long * 2)()
libc.gettimeofday(both, None)
day = both[0] + both[1] / 1e6
libc.time.restype = ctypes.c_long
print(time.time(), day, libc.time(None), time.monotonic())";
    let told = machine.run(read);
    let numbers: Vec<f64> = told.split_whitespace().map(|number| number.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

#[test]
fn the_clock_is_off_and_can_be_stepped_but_the_one_that_only_goes_on_is_not() {
    let machine = Machine::new();
    let straight = clocks(&machine);
    for offset in [3_600_000_001, -86_400_999_999, 0] {
        machine.set_clock_offset(offset);
        let stepped = clocks(&machine);
        // Exact in whole microseconds, which a float of that size does not hold.
        let by =
            Duration::from_micros(offset.unsigned_abs()).as_secs_f64().copysign(if offset < 0 { -1.0 } else { 1.0 });
        for (clock, (stepped, straight)) in stepped.iter().zip(straight).take(3).enumerate() {
            let off = stepped - straight;
            assert!((off - by).abs() < 30.0, "clock {clock} is off by {off} and not {by}");
        }
        assert!(stepped[3] >= straight[3] && stepped[3] - straight[3] < 30.0, "{stepped:?} {straight:?}");
    }
}

#[test]
fn what_goes_to_the_disk_takes_longer() {
    let machine = Machine::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    let sync = format!(
        "import ctypes, os
libc = ctypes.CDLL(None)
file = os.open('{}', os.O_CREAT | os.O_RDWR)
os.write(file, b'x')
os.fsync(file)
os.fdatasync(file)
libc.sync_file_range(file, ctypes.c_long(0), ctypes.c_long(0), ctypes.c_uint(4))",
        file.display()
    );
    machine.run(&sync);
    assert_eq!(machine.synced(), 0);
    machine.set_sync_delay(Duration::from_millis(150));
    let start = Instant::now();
    machine.run(&sync);
    assert!(start.elapsed() >= Duration::from_millis(450), "{:?}", start.elapsed());
    assert_eq!(machine.synced(), 3);
}

#[test]
fn there_is_no_room_below_a_folder_and_room_elsewhere() {
    let machine = Machine::new();
    let (full, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Each way to write, and to make a file longer: those that failed for want of room.
    let ways = |dir: &Path| {
        let told = machine.run(&format!(
            "import ctypes, errno, os
file = os.open('{}', os.O_CREAT | os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
def real(name):
    def call():
        if getattr(libc, name)(file, ctypes.c_long(9)) != 0:
            raise OSError(ctypes.get_errno(), name)
    return call
def fallocate():
    if libc.fallocate(file, 0, ctypes.c_long(0), ctypes.c_long(9)) != 0:
        raise OSError(ctypes.get_errno(), 'fallocate')
ways = {{
    'write': lambda: os.write(file, b'x'), 'writev': lambda: os.writev(file, [b'x']),
    'pwrite': lambda: os.pwrite(file, b'x', 0), 'pwritev': lambda: os.pwritev(file, [b'x'], 0),
    'ftruncate': lambda: os.ftruncate(file, 9), 'ftruncate32': real('ftruncate'),
    'fallocate': fallocate, 'posix_fallocate': lambda: os.posix_fallocate(file, 0, 9),
}}
for name, way in ways.items():
    try:
        way()
    except OSError as error:
        print(name if error.errno == errno.ENOSPC else error)",
            dir.join("file").display()
        ));
        told.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(ways(full.path()), [""; 0]);
    machine.set_full(Some(full.path()));
    assert_eq!(
        ways(full.path()),
        ["write", "writev", "pwrite", "pwritev", "ftruncate", "ftruncate32", "fallocate", "posix_fallocate"]
    );
    assert_eq!(machine.refused(), 8);
    assert_eq!(ways(other.path()), [""; 0]);
    machine.set_full(None);
    assert_eq!(ways(full.path()), [""; 0]);
}
