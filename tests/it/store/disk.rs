//! A disk that lies: an SQLite VFS over the ordinary one that remembers what was never synced, so that a test can cut the power.
//!
//! What is modelled, for every file that SQLite opens in a folder with a [`Disk`]:
//! - a write or truncation is durable only after a sync of that file; at the cut each of the others is kept, lost or torn at 512 bytes;
//! - a new file's name is durable after its folder was synced, which SQLite's own VFS does at the first sync of a journal or log,
//!   and a removed one is gone only then;
//! - after a failed sync the unsynced writes are lost for good although readers still see them, and the next sync succeeds (Linux).
//!
//! The `-shm` file does not outlive the power; a test may put rubbish in its place. Real syncs are left out: the model is the disk.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs};

/// The name to give to `Engine::vfs`.
pub const VFS: &str = "lying-disk";
const SECTOR: usize = 512;

/// xorshift: rounds must be the same on every machine.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n.max(1)
    }
}

#[derive(Clone)]
enum Op {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

#[derive(Clone, Default)]
struct File {
    durable: Vec<u8>,
    pending: Vec<Op>,
    /// The name is on disk.
    named: bool,
    /// Removed, which is on disk only after the folder's sync.
    removed: bool,
}

/// What fails next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// I/O error.
    Error,
    /// No space left.
    Full,
}

/// What becomes of unsynced writes at the cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Lost,
    Kept,
    /// Each write by itself, so that later ones may be there without earlier ones.
    Some,
    /// Each sector by itself.
    Torn,
}

#[derive(Default)]
pub struct Disk {
    files: BTreeMap<PathBuf, File>,
    /// Writes, truncations and syncs so far.
    pub calls: u64,
    /// Call at which the power goes.
    pub cut_at: Option<u64>,
    pub off: bool,
    /// First call that fails, how many do, and how.
    pub fault: Option<(u64, u64, Fault)>,
    pub faults_hit: u64,
}

static DISKS: Mutex<BTreeMap<PathBuf, Disk>> = Mutex::new(BTreeMap::new());

fn disks() -> MutexGuard<'static, BTreeMap<PathBuf, Disk>> {
    DISKS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts a disk under a folder. Files that are there already are durable.
pub fn insert(dir: &Path) {
    register();
    let mut disk = Disk::default();
    for name in ["beadle.db", "beadle.db-wal", "beadle.db-journal"] {
        let path = dir.join(name);
        if let Ok(durable) = std::fs::read(&path) {
            disk.files.insert(path, File { durable, named: true, ..File::default() });
        }
    }
    disks().insert(dir.to_owned(), disk);
}

/// Speaks to a folder's disk.
pub fn with<T>(dir: &Path, f: impl FnOnce(&mut Disk) -> T) -> T {
    f(disks().get_mut(dir).expect("a disk under this folder"))
}

/// After the store has gone: writes what the disk would hold into `to`, which is put on a disk of its own.
pub fn after_the_cut(from: &Path, to: &Path, fate: Fate, random: &mut Random) {
    let disk = disks().remove(from).expect("a disk under this folder");
    // why: the key's own folder sync comes after everything that SQLite did to names until then.
    let synced = from.join("host.key").exists();
    for (path, mut file) in disk.files {
        let keep_name = file.named || synced || random.below(2) == 0;
        let is_gone = file.removed && (synced || random.below(2) == 0);
        if !keep_name || is_gone {
            continue;
        }
        for op in std::mem::take(&mut file.pending) {
            keep(&mut file.durable, op, fate, random);
        }
        std::fs::write(to.join(path.file_name().expect("a name")), &file.durable).expect("a file");
    }
    for name in ["host.key", "beadle.db"] {
        // The database file is made, and its folder synced, by the store itself.
        if !to.join(name).exists() && from.join(name).exists() {
            let bytes = if name == "host.key" { std::fs::read(from.join(name)).expect("a key") } else { Vec::new() };
            std::fs::write(to.join(name), bytes).expect("a file");
        }
    }
    if random.below(2) == 0 {
        std::fs::write(to.join("beadle.db-shm"), vec![0xA5; 32 << 10]).expect("a file");
    }
    insert(to);
}

fn keep(into: &mut Vec<u8>, op: Op, fate: Fate, random: &mut Random) {
    match fate {
        Fate::Lost => {}
        Fate::Kept => apply(into, op),
        Fate::Some => {
            if random.below(2) == 0 {
                apply(into, op);
            }
        }
        Fate::Torn => match op {
            Op::Write(at, bytes) => {
                let mut from = 0;
                while from < bytes.len() {
                    let end = bytes.len().min(from + SECTOR - (at + from) % SECTOR);
                    if random.below(2) == 0 {
                        apply(into, Op::Write(at + from, bytes[from..end].to_vec()));
                    }
                    from = end;
                }
            }
            op => apply(into, op),
        },
    }
}

fn apply(into: &mut Vec<u8>, op: Op) {
    match op {
        Op::Truncate(len) => into.resize(len, 0),
        Op::Write(at, bytes) => {
            if into.len() < at + bytes.len() {
                into.resize(at + bytes.len(), 0);
            }
            into[at..at + bytes.len()].copy_from_slice(&bytes);
        }
    }
}

impl Disk {
    /// Counts a call; an error when it fails or the power is off.
    fn call(&mut self, error: c_int) -> Result<(), c_int> {
        self.calls += 1;
        if self.cut_at.is_some_and(|n| self.calls >= n) {
            self.off = true;
        }
        if self.off {
            return Err(error);
        }
        match self.fault {
            Some((first, count, fault)) if self.calls >= first && self.calls < first.saturating_add(count) => {
                self.faults_hit += 1;
                Err(if fault == Fault::Full && error != ffi::SQLITE_IOERR_FSYNC { ffi::SQLITE_FULL } else { error })
            }
            _ => Ok(()),
        }
    }

    fn file(&mut self, path: &Path) -> &mut File {
        self.files.entry(path.to_owned()).or_default()
    }

    fn sync_names(&mut self) {
        self.files.retain(|_, f| !f.removed);
        self.files.values_mut().for_each(|f| f.named = true);
    }
}

/// Runs `f` on the disk of `path`.
fn on<T>(path: &Path, f: impl FnOnce(&mut Disk) -> T) -> T {
    let dir = path.parent().unwrap_or(path);
    f(disks().entry(dir.to_owned()).or_default())
}

/// Our part of a file; SQLite's own follows in the same allocation.
#[repr(C)]
struct Ours {
    base: sqlite3_file,
    path: *mut PathBuf,
    /// A journal or log that this handle made: its first sync syncs the folder too.
    made: bool,
}

fn real_vfs() -> *mut sqlite3_vfs {
    // SAFETY: plain call; the default VFS is always there.
    unsafe { ffi::sqlite3_vfs_find(std::ptr::null()) }
}

/// The wrapped file behind one of ours.
unsafe fn inner(f: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: `szOsFile` makes room for both, one after the other.
    unsafe { f.cast::<u8>().add(size_of::<Ours>()).cast() }
}

unsafe fn path_of<'a>(f: *mut sqlite3_file) -> &'a Path {
    // SAFETY: `open` put a live path there, which `close` takes.
    unsafe { &*(*f.cast::<Ours>()).path }
}

/// Calls the wrapped file's method of that name.
macro_rules! pass {
    ($f:expr, $method:ident $(, $arg:expr)*) => {{
        // SAFETY: the wrapped file was opened by SQLite's own VFS, which has every method of version 2.
        unsafe { let i = inner($f); ((*(*i).pMethods).$method.expect("a method"))(i $(, $arg)*) }
    }};
}

unsafe extern "C" fn open(_: *mut sqlite3_vfs, name: ffi::sqlite3_filename, f: *mut sqlite3_file, flags: c_int, out: *mut c_int) -> c_int {
    let real = real_vfs();
    // SAFETY: SQLite gives room of `szOsFile` bytes, a name (temporary files, which have none, are in memory) and valid pointers.
    unsafe {
        (*f).pMethods = std::ptr::null();
        if name.is_null() {
            // A temporary file: the store keeps those in memory.
            return ffi::SQLITE_CANTOPEN;
        }
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(CStr::from_ptr(name).to_bytes()));
        let is_new = !path.exists();
        let r = ((*real).xOpen.expect("a method"))(real, name, inner(f), flags, out);
        if r != ffi::SQLITE_OK {
            return r;
        }
        let made = is_new && flags & (ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_MAIN_JOURNAL) != 0;
        on(&path, |d| {
            if is_new {
                *d.file(&path) = File::default();
            } else if !d.files.contains_key(&path) {
                // Made by the store itself, which synced its folder.
                *d.file(&path) = File { durable: std::fs::read(&path).unwrap_or_default(), named: true, ..File::default() };
            }
        });
        let ours = f.cast::<Ours>();
        (*ours).path = Box::into_raw(Box::new(path));
        (*ours).made = made;
        (*f).pMethods = &METHODS;
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(f: *mut sqlite3_file) -> c_int {
    let r = pass!(f, xClose);
    // SAFETY: made by `open`, closed once.
    drop(unsafe { Box::from_raw((*f.cast::<Ours>()).path) });
    r
}

unsafe extern "C" fn read(f: *mut sqlite3_file, to: *mut c_void, n: c_int, at: sqlite3_int64) -> c_int {
    pass!(f, xRead, to, n, at)
}

unsafe extern "C" fn write(f: *mut sqlite3_file, from: *const c_void, n: c_int, at: sqlite3_int64) -> c_int {
    // SAFETY: SQLite gives `n` readable bytes.
    let (path, bytes) = unsafe { (path_of(f), std::slice::from_raw_parts(from.cast::<u8>(), n.unsigned_abs() as usize)) };
    if let Err(e) = on(path, |d| d.call(ffi::SQLITE_IOERR_WRITE)) {
        return e;
    }
    let r = pass!(f, xWrite, from, n, at);
    if r == ffi::SQLITE_OK {
        let at = usize::try_from(at).expect("an offset");
        on(path, |d| d.file(path).pending.push(Op::Write(at, bytes.to_vec())));
    }
    r
}

unsafe extern "C" fn truncate(f: *mut sqlite3_file, len: sqlite3_int64) -> c_int {
    // SAFETY: one of our files.
    let path = unsafe { path_of(f) };
    if let Err(e) = on(path, |d| d.call(ffi::SQLITE_IOERR_TRUNCATE)) {
        return e;
    }
    let r = pass!(f, xTruncate, len);
    if r == ffi::SQLITE_OK {
        on(path, |d| d.file(path).pending.push(Op::Truncate(usize::try_from(len).expect("a length"))));
    }
    r
}

unsafe extern "C" fn sync(f: *mut sqlite3_file, _: c_int) -> c_int {
    // SAFETY: one of our files.
    let (path, made) = unsafe { (path_of(f), &mut (*f.cast::<Ours>()).made) };
    on(path, |d| {
        if let Err(e) = d.call(ffi::SQLITE_IOERR_FSYNC) {
            if !d.off {
                d.file(path).pending.clear();
            }
            return e;
        }
        let file = d.file(path);
        for op in std::mem::take(&mut file.pending) {
            apply(&mut file.durable, op);
        }
        if std::mem::take(made) {
            d.sync_names();
        }
        ffi::SQLITE_OK
    })
}

unsafe extern "C" fn file_size(f: *mut sqlite3_file, len: *mut sqlite3_int64) -> c_int {
    pass!(f, xFileSize, len)
}
unsafe extern "C" fn lock(f: *mut sqlite3_file, how: c_int) -> c_int {
    pass!(f, xLock, how)
}
unsafe extern "C" fn unlock(f: *mut sqlite3_file, how: c_int) -> c_int {
    pass!(f, xUnlock, how)
}
unsafe extern "C" fn check_reserved(f: *mut sqlite3_file, out: *mut c_int) -> c_int {
    pass!(f, xCheckReservedLock, out)
}
unsafe extern "C" fn file_control(f: *mut sqlite3_file, op: c_int, arg: *mut c_void) -> c_int {
    // why: a size hint would let the wrapped file grow without a write that we see.
    if op == ffi::SQLITE_FCNTL_SIZE_HINT || op == ffi::SQLITE_FCNTL_CHUNK_SIZE {
        return ffi::SQLITE_OK;
    }
    pass!(f, xFileControl, op, arg)
}
unsafe extern "C" fn sector_size(f: *mut sqlite3_file) -> c_int {
    pass!(f, xSectorSize)
}
unsafe extern "C" fn characteristics(f: *mut sqlite3_file) -> c_int {
    pass!(f, xDeviceCharacteristics)
}
unsafe extern "C" fn shm_map(f: *mut sqlite3_file, page: c_int, size: c_int, extend: c_int, out: *mut *mut c_void) -> c_int {
    pass!(f, xShmMap, page, size, extend, out)
}
unsafe extern "C" fn shm_lock(f: *mut sqlite3_file, offset: c_int, n: c_int, flags: c_int) -> c_int {
    pass!(f, xShmLock, offset, n, flags)
}
unsafe extern "C" fn shm_barrier(f: *mut sqlite3_file) {
    pass!(f, xShmBarrier)
}
unsafe extern "C" fn shm_unmap(f: *mut sqlite3_file, delete: c_int) -> c_int {
    pass!(f, xShmUnmap, delete)
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    // Without memory-mapped pages, which would be written past us.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, name: *const c_char, sync_dir: c_int) -> c_int {
    let real = real_vfs();
    // SAFETY: the name is a C string.
    let path = PathBuf::from(std::ffi::OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()));
    if on(&path, |d| d.off) {
        return ffi::SQLITE_IOERR_DELETE;
    }
    // SAFETY: plain delegation.
    let r = unsafe { ((*real).xDelete.expect("a method"))(real, name, 0) };
    if r == ffi::SQLITE_OK {
        on(&path, |d| {
            d.file(&path).removed = true;
            if sync_dir != 0 {
                d.sync_names();
            }
        });
    }
    r
}

fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: a copy of the default VFS with other methods for opening and deleting; it and its name live for ever.
        unsafe {
            let mut vfs = *real_vfs();
            vfs.pNext = std::ptr::null_mut();
            vfs.zName = c"lying-disk".as_ptr();
            vfs.szOsFile += c_int::try_from(size_of::<Ours>()).expect("small");
            vfs.xOpen = Some(open);
            vfs.xDelete = Some(delete);
            assert_eq!(ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0), ffi::SQLITE_OK);
        }
    });
}
